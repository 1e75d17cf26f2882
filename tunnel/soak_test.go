package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// Clients live for days of fake time on bad connections: they are cut every ten minutes on average, in all
// ways, are without a network for a while, sleep through the night, and come back too late now and then.

const (
	soakCuts      = 10 * time.Minute // mean time between two faults of a client
	soakResumeFor = 10 * time.Minute
)

// A soakCount is what has happened to all clients.
type soakCount struct {
	mu                                    sync.Mutex
	cells, faults, resumes, expired, dead int
	epochs, resent                        uint64
}

func (c *soakCount) add(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func TestSoak(t *testing.T) {
	clients := sample(3, 2, 50)
	span := time.Duration(sample(24, 6, 7*24)) * time.Hour
	groups := min(runtime.GOMAXPROCS(0), clients) // a bubble each
	rng := newTestRand(t)
	var all soakCount
	begin := time.Now()
	t.Run("groups", func(t *testing.T) {
		for g := range groups {
			seed := rng.Uint64()
			n := clients / groups
			if g < clients%groups {
				n++
			}
			t.Run("", func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { soak(t, n, span, seed, &all) })
			})
		}
	})
	t.Logf("%d clients for %v took %v: %d cells, %d faults, %d resumes, %d bytes sent again, %d keys, %d tunnels expired",
		clients, span, time.Since(begin).Round(time.Millisecond), all.cells, all.faults, all.resumes, all.resent, all.epochs, all.expired)
	if all.dead > 0 {
		t.Errorf("%d tunnels were lost that should not have been", all.dead)
	}
	if all.faults < clients*int(span/soakCuts)/3 || all.resumes < all.faults/2 || all.resent == 0 || all.epochs < uint64(all.resumes) {
		t.Error("fault not exercised")
	}
}

func soak(t *testing.T, clients int, span time.Duration, seed uint64, all *soakCount) {
	net := newWireLog()
	h := newNetworkHost(t, net.Network, func(s *tunnel.Server) { s.ResumeFor = soakResumeFor })
	var serving, living sync.WaitGroup
	serving.Go(func() {
		for {
			tun, err := h.Accept(context.Background())
			if err != nil {
				return
			}
			serving.Go(func() { echoStreams(tun) })
		}
	})
	for i := range clients {
		c := &soaker{
			h: h, net: net, all: all, rng: rand.New(rand.NewPCG(seed, uint64(i))), seed: seed + uint64(i),
			end: time.Now().Add(span), identity: newTestIdentity(t),
		}
		if err := h.peers.Add(keys.Peer{Name: fmt.Sprint("client-", i), Key: c.identity.Public()}); err != nil {
			t.Fatal(err)
		}
		living.Go(func() {
			if err := c.live(); err != nil {
				t.Errorf("client %d of the seed %d: %v", i, seed, err)
			}
		})
	}
	living.Wait()
	time.Sleep(soakResumeFor + time.Minute)
	if n, m := h.Connections(), len(h.Tunnels()); n+m+h.Sessions()+h.Unconfirmed()+h.KeptBytes() != 0 {
		t.Errorf("%d connections, %d tunnels, %d sessions, %d unconfirmed connections and %d bytes are left",
			n, m, h.Sessions(), h.Unconfirmed(), h.KeptBytes())
	}
	h.Close()
	serving.Wait()
}

// echoStreams sends back what comes over each stream.
func echoStreams(tun *tunnel.Tunnel) {
	var echoing sync.WaitGroup
	defer echoing.Wait()
	for {
		in, err := tun.AcceptStream(context.Background())
		if err != nil {
			return
		}
		echoing.Go(func() {
			s, err := in.Accept()
			if err != nil {
				return
			}
			if _, err := io.Copy(s, s); err != nil {
				s.Reset(tunnel.Cancelled)
				return
			}
			s.CloseWrite()
		})
	}
}

// A soaker is one client.
type soaker struct {
	h        *host
	net      *wireLog
	all      *soakCount
	rng      *rand.Rand
	seed     uint64
	end      time.Time
	identity *keys.Identity

	mu       sync.Mutex
	wire     *tunneltest.Wire
	conn     *quietConn
	downTo   time.Time     // no network before
	downFrom time.Time     // since when there has been none
	slept    time.Duration // the wall clock is ahead by so much
	longest  time.Duration // without a network, of the present tunnel
}

func (c *soaker) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	down := time.Now().Before(c.downTo)
	c.mu.Unlock()
	if down {
		return nil, errors.New("no route")
	}
	w, conn, err := c.net.dialWire(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wire, c.conn = w, conn
	return conn, nil
}

func (c *soaker) clock() (time.Time, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	return now.Add(c.slept), time.Duration(now.UnixNano())
}

func (c *soaker) mean(d time.Duration) time.Duration {
	return time.Duration(c.rng.ExpFloat64() * float64(d))
}

// live has one tunnel after another, as a program would.
func (c *soaker) live() error {
	cfg := &tunnel.Config{Identity: c.identity, ServerKey: c.h.serverKey(), NetDial: c.dial}
	cfg.SetHost(tunnel.TestHost{Clock: c.clock, Addrs: func() string { return "" }})
	for n := uint64(0); time.Now().Before(c.end); n++ {
		tun, err := tunnel.Dial(context.Background(), c.h.url, cfg)
		if err != nil {
			time.Sleep(5 * time.Second)
			continue
		}
		c.mu.Lock()
		c.longest = 0
		c.mu.Unlock()
		err = c.use(tun, n)
		tun.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// use carries cells over a tunnel until it ends or the time is over. Only a tunnel that was without a
// network for too long may be lost.
func (c *soaker) use(tun *tunnel.Tunnel, n uint64) error {
	s, err := tun.OpenStream(context.Background(), tunnel.Request{Kind: tunnel.KindApp})
	if err != nil {
		return err
	}
	defer time.AfterFunc(time.Until(c.end)+24*time.Hour, func() { // what has not come by then never will
		tun.CloseWith(tunnel.Cancelled, "")
	}).Stop()
	cells := tunneltest.Cells{Seed: c.seed, Stream: uint32(n)}
	checker, writer := cells.Checker(), cells.Writer(s, c.rng)
	came := make(chan error, 1)
	go func() {
		_, err := io.Copy(checker, s)
		came <- err
	}()
	fault := time.After(c.mean(soakCuts))
	var before tunnel.Stats
	for time.Now().Before(c.end) && tun.Err() == nil {
		select {
		case <-time.After(c.mean(2 * time.Minute)):
			if err := writer.Send(1 + c.rng.Uint64N(20)); err != nil && tun.Err() == nil {
				return fmt.Errorf("write: %w", err)
			}
		case <-fault:
			c.doHarm()
			fault = time.After(c.mean(soakCuts))
		case <-tun.Done():
		}
		st := tun.Stats()
		if st.SentBytes < before.SentBytes || st.ReceivedBytes < before.ReceivedBytes || st.Epochs < before.Epochs ||
			st.Resumes < before.Resumes || st.RetransmittedBytes < before.RetransmittedBytes {
			return fmt.Errorf("counters went from %+v to %+v", before, st)
		}
		before = st
	}
	c.all.add(func() {
		c.all.cells += int(writer.Sent())
		c.all.resumes += int(before.Resumes)
		c.all.resent += before.RetransmittedBytes
		c.all.epochs += before.Epochs
	})
	s.CloseWrite()
	if err := <-came; err == nil {
		return checker.Finish(writer.Sent())
	}
	if _, err := checker.Write(nil); err != nil { // what has come is right all the same
		return err
	}
	c.mu.Lock()
	longest := c.longest
	c.mu.Unlock()
	c.all.add(func() {
		c.all.expired++
		if longest < soakResumeFor-time.Minute {
			c.all.dead++
		}
	})
	var closed *tunnel.CloseError
	if err := tun.Err(); longest < soakResumeFor-time.Minute || !errors.As(err, &closed) || closed.Code != tunnel.SessionLost {
		return fmt.Errorf("the tunnel was lost after %v without a network: %v", longest, err)
	}
	return nil
}

// doHarm is one fault.
func (c *soaker) doHarm() {
	c.all.add(func() { c.all.faults++ })
	c.mu.Lock()
	defer c.mu.Unlock()
	away := time.Duration(0)
	switch kind := c.rng.IntN(60); {
	case kind < 16:
		c.wire.Cut(tunneltest.LossEOF)
	case kind < 32:
		c.wire.Cut(tunneltest.LossReset)
	case kind < 42: // the server does not see it
		c.conn.vanish()
	case kind < 52: // nobody does
		c.wire.Stall(tunneltest.ToServer)
		c.wire.Stall(tunneltest.ToClient)
	case kind < 58:
		away = c.mean(2 * time.Minute)
	default: // a night, cut short as each try costs a handshake; the monotonic clock would stand still meanwhile
		away = soakResumeFor + c.mean(20*time.Minute)
		c.slept += away
	}
	if away > 0 {
		c.wire.Cut(tunneltest.LossReset)
		now := time.Now()
		if now.After(c.downTo.Add(time.Minute)) { // it has been back
			c.downFrom = now
		}
		c.downTo = now.Add(away)
		c.longest = max(c.longest, c.downTo.Sub(c.downFrom))
	}
}
