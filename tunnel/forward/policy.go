package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// A Resolver looks names up. [net.Resolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// A verdict is what the policy makes of a request: what to dial, or why not.
type verdict struct {
	network string
	addrs   []string // in order; each was allowed as it stands
	code    tunnel.Code
	text    string
}

func refuse(code tunnel.Code, text string) verdict { return verdict{code: code, text: text} }

// judge decides whether peer may reach the target of a request, and by which addresses. Whatever
// is dialled afterwards must be one of them, as they stand: a name is never looked up twice, so
// that it cannot mean one thing to the policy and another to the dial.
func (e *Exit) judge(ctx context.Context, peer keys.Peer, req tunnel.Request) verdict {
	switch req.Kind {
	case tunnel.KindTCP:
		return e.judgeTCP(ctx, peer, req.Target)
	case tunnel.KindUnix:
		if problem := checkPath(req.Target); problem != "" {
			return refuse(tunnel.NotAllowed, problem)
		}
		if !peer.AllowsUnix(req.Target) {
			return refuse(tunnel.NotAllowed, notAllowedText(peer))
		}
		return verdict{network: "unix", addrs: []string{req.Target}}
	}
	return refuse(tunnel.NotAllowed, "this kind of stream is not forwarded here")
}

func (e *Exit) judgeTCP(ctx context.Context, peer keys.Peer, target string) verdict {
	addr, problem := parseTarget(target)
	if problem == "" && addr.Network != "tcp" {
		problem = "not HOST:PORT"
	}
	if problem != "" {
		return refuse(tunnel.NotAllowed, problem)
	}
	if len(peer.Allow) == 0 { // such a peer has no business with our resolver either
		return refuse(tunnel.NotAllowed, notAllowedText(peer))
	}
	host, port, _ := net.SplitHostPort(addr.Addr)
	n, _ := strconv.ParseUint(port, 10, 16) // parseTarget has looked at it

	var candidates []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		candidates = []netip.Addr{literal}
	} else {
		candidates, err = e.resolver().LookupNetIP(ctx, "ip", host)
		if err != nil {
			// Whether a name exists is told only to a peer that may connect to that name.
			if !peer.AllowsConnect(host, netip.AddrPortFrom(nowhere, uint16(n)), false) {
				return refuse(tunnel.NotAllowed, notAllowedText(peer))
			}
			return refuse(lookupFailure(host, err))
		}
	}
	v := verdict{network: "tcp"}
	for _, a := range candidates {
		a = a.Unmap()
		if a.Zone() != "" {
			continue
		}
		ap := netip.AddrPortFrom(a, uint16(n))
		if e.allows(peer, host, ap) && !slices.Contains(v.addrs, ap.String()) {
			v.addrs = append(v.addrs, ap.String())
		}
	}
	if len(v.addrs) == 0 {
		return refuse(tunnel.NotAllowed, notAllowedText(peer))
	}
	return v
}

// nowhere stands for an address that no rule would name: it is from a range for documentation.
var nowhere = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// allows asks the peer's permissions. Listing our own addresses costs a system call or two, so it
// is done only where the answer depends on it.
func (e *Exit) allows(peer keys.Peer, host string, ap netip.AddrPort) bool {
	switch {
	case peer.AllowsConnect(host, ap, true): // a rule names it, guarded or not
		return true
	case !peer.AllowsConnect(host, ap, false):
		return false
	}
	return !guarded(ap.Addr()) && !e.isOwn(ap.Addr())
}

// Addresses that no rule with a * reaches, beside those that netip can tell by itself.
var guardedPrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),          // this host, as many systems read it
	netip.MustParsePrefix("255.255.255.255/32"), // everybody on the link
	netip.MustParsePrefix("fd00:ec2::254/128"),  // a cloud's metadata service; its others are link-local
}

// guarded says whether an address is one of those that stand for the host itself or its link.
func guarded(a netip.Addr) bool {
	a = a.Unmap()
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return true
	}
	return slices.ContainsFunc(guardedPrefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isOwn says whether an address is one of this host's. If they cannot be listed it is.
func (e *Exit) isOwn(a netip.Addr) bool {
	own, err := e.ownAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(own, func(o netip.Addr) bool { return o.Unmap().WithZone("") == a })
}

func interfaceAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, nil
}

func lookupFailure(host string, err error) (tunnel.Code, string) {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return tunnel.NoSuchTarget, host + ": no such host"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &dns) && dns.IsTimeout:
		return tunnel.Timeout, host + ": the name was not resolved in time"
	}
	return tunnel.Unreachable, host + ": the name could not be resolved"
}

// What a refusal says is read by a person and by [Permitted]: "NAME may connect to A, B".
const (
	mayConnect = " may connect to "
	mayListen  = " may listen on "
)

// maxText is the longest text that fits a refusal. PROTOCOL.md §4.
const maxText = 120

// notAllowedText tells a peer its name here and what it may reach, as far as that fits.
func notAllowedText(peer keys.Peer) string { return mayText(peer, mayConnect, "connect=") }

func mayText(peer keys.Peer, may, word string) string {
	var b strings.Builder
	b.WriteString(peer.Name + may)
	sep := ""
	for _, p := range peer.Allow {
		target, ok := strings.CutPrefix(p.String(), word)
		if !ok {
			continue
		}
		if b.Len()+len(sep)+len(target) > maxText-len(", …") {
			b.WriteString(sep + "…")
			return b.String()
		}
		b.WriteString(sep + target)
		sep = ", "
	}
	if sep == "" {
		b.WriteString("nothing")
	}
	return b.String()
}

// clip cuts a text to what fits a refusal, between two characters.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	n := maxText - len("…")
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

// Permitted reads the text of a refusal that an [Exit] made for want of a permission: the name by
// which the other end knows this peer, and what it may connect to, or listen on.
func Permitted(text string) (name string, targets []string, ok bool) {
	name, list, ok := strings.Cut(text, mayConnect)
	if !ok {
		name, list, ok = strings.Cut(text, mayListen)
	}
	if !ok || keys.ValidName(name) != nil {
		return "", nil, false
	}
	if list == "nothing" {
		return name, nil, true
	}
	return name, strings.Split(list, ", "), true
}
