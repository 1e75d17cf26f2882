package tunnel

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"waxwire.example/waxwire/keys"
)

const (
	handshakeWait  = time.Second // for one's turn to be computed
	maxSources     = 65536       // sources and keys that are remembered at once, each
	refusalsPerSec = 20          // sealed refusals; beyond it, strangers get a 503
)

// admission bounds what clients cost that have not proved themselves. It is a server's first door:
// nothing is looked at, let alone computed, before it lets a request in.
type admission struct {
	limits Limits
	slots  chan struct{} // handshakes at once

	refusals *rate.Limiter

	mu          sync.Mutex
	unconfirmed int
	sources     map[netip.Prefix]*source
	peers       map[keys.PublicKey]*peerRates
}

// peerRates are those of one key.
type peerRates struct{ begin, resume *rate.Limiter }

// source is one network address that asks.
type source struct {
	rate        *rate.Limiter
	unconfirmed int
}

func newAdmission(l Limits) *admission {
	return &admission{
		limits:   l,
		slots:    make(chan struct{}, min(bound(l.Handshakes, 2*runtime.GOMAXPROCS(0)), 1<<16)),
		refusals: rate.NewLimiter(refusalsPerSec, refusalsPerSec),
		sources:  make(map[netip.Prefix]*source),
		peers:    make(map[keys.PublicKey]*peerRates),
	}
}

// enter lets one more unconfirmed client of a source in. If it does, leave must be called once.
func (a *admission) enter(from netip.Prefix) (leave func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[from]
	if s == nil {
		if len(a.sources) >= maxSources && !a.forgetLocked() {
			return nil, false
		}
		s = &source{rate: newLimiter(a.limits.SourceRate, 100, a.limits.SourceBurst, 400)}
		a.sources[from] = s
	}
	if !s.rate.Allow() || s.unconfirmed >= bound(a.limits.UnconfirmedPerSource, 16) || a.dropLocked() {
		return nil, false
	}
	a.unconfirmed++
	s.unconfirmed++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.unconfirmed--
		s.unconfirmed--
	}), true
}

// dropLocked turns clients away at random from half of the bound on, more of them the fuller it gets,
// so that a flood does not shut everybody else out (as sshd's MaxStartups does).
func (a *admission) dropLocked() bool {
	max := bound(a.limits.Unconfirmed, 512)
	if a.unconfirmed >= max {
		return true
	}
	half := max / 2
	if a.unconfirmed < half {
		return false
	}
	share := 0.3 + 0.7*float64(a.unconfirmed-half)/float64(max-half)
	return rand.Float64() < share
}

// forgetLocked makes room among the sources: those that have been quiet long enough to have their
// whole burst back lose nothing by it.
func (a *admission) forgetLocked() bool {
	for p, s := range a.sources {
		if s.unconfirmed == 0 && s.rate.Tokens() >= float64(s.rate.Burst()) {
			delete(a.sources, p)
		}
	}
	return len(a.sources) < maxSources
}

// peer charges a key for a connection: a new one, or one that goes on where another was lost.
func (a *admission) peer(key keys.PublicKey, resume bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.peers[key]
	if r == nil {
		if len(a.peers) >= maxSources {
			clear(a.peers)
		}
		r = &peerRates{
			begin:  newLimiter(a.limits.PeerRate, 20, a.limits.PeerBurst, 50),
			resume: newLimiter(a.limits.ResumeRate, 50, a.limits.ResumeBurst, 100),
		}
		a.peers[key] = r
	}
	if resume {
		return r.resume.Allow()
	}
	return r.begin.Allow()
}

func newLimiter(perSecond, standard, burst, standardBurst int) *rate.Limiter {
	limit := rate.Inf
	if perSecond >= 0 {
		limit = rate.Limit(bound(perSecond, standard))
	}
	return rate.NewLimiter(limit, bound(burst, standardBurst))
}

// compute waits a moment for a turn to compute a handshake. If it gets one, done must be called.
func (a *admission) compute(ctx context.Context) (done func(), ok bool) {
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, true
	default:
	}
	t := time.NewTimer(handshakeWait)
	defer t.Stop()
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, true
	case <-t.C:
	case <-ctx.Done():
	}
	return nil, false
}

// sourceOf is who asks: the address of the connection, or what a trusted proxy says of it. Of IPv6 a
// /64 counts as one, since that is what one subscriber gets.
func sourceOf(r *http.Request, proxies []netip.Prefix) netip.Prefix {
	addr := parseHost(r.RemoteAddr)
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	// Proxies append, so the last entry that no trusted proxy vouches for is the client.
	for i := len(forwarded) - 1; i >= 0 && trusted(addr, proxies); i-- {
		next := parseHost(strings.TrimSpace(forwarded[i]))
		if !next.IsValid() {
			break
		}
		addr = next
	}
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // the zero prefix for what has no address: a unix socket
	return p
}

func trusted(addr netip.Addr, proxies []netip.Prefix) bool {
	for _, p := range proxies {
		if p.Contains(addr) || !p.IsValid() && !addr.IsValid() {
			return true
		}
	}
	return false
}

// parseHost reads an address with or without a port.
func parseHost(s string) netip.Addr {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}
