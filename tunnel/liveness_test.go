package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// How soon a dead connection is noticed, and what makes a client try again, in fake time.

// A liveHost is a server and a client on a network whose wires can go dead, and the client's fake host.
type liveHost struct {
	*host
	net  *wireLog
	cfg  *tunnel.Config
	down atomic.Bool // dials fail

	mu    sync.Mutex
	slept time.Duration // how far the wall clock has run ahead
	addrs string
	dials int
}

func newLiveHost(t *testing.T, limits tunnel.Limits) *liveHost {
	h := &liveHost{net: newWireLog(), addrs: "192.0.2.7"}
	h.host = newNetworkHost(t, h.net.Network, func(s *tunnel.Server) { s.ResumeFor, s.Limits = time.Hour, limits })
	h.cfg = h.config()
	h.cfg.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		h.mu.Lock()
		h.dials++
		h.mu.Unlock()
		if h.down.Load() {
			return nil, errors.New("no route")
		}
		return h.net.dial(ctx, network, addr)
	}
	h.cfg.SetHost(tunnel.TestHost{
		Clock: func() (time.Time, time.Duration) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return time.Now().Add(h.slept), time.Duration(time.Now().UnixNano())
		},
		Addrs: func() string {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.addrs
		},
	})
	return h
}

func (h *liveHost) tunnels(t *testing.T) (client, server *tunnel.Tunnel) {
	t.Helper()
	client, err := tunnel.Dial(t.Context(), h.url, h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = h.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return client, server
}

// blackhole lets nothing through the present wire any more, and nobody knows.
func (h *liveHost) blackhole() {
	w, _ := h.net.last()
	w.Stall(tunneltest.ToServer)
	w.Stall(tunneltest.ToClient)
}

func (h *liveHost) tries() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dials
}

// within waits for the tunnel to be connected or not, and checks that it takes between least and most.
func within(t *testing.T, what string, tun *tunnel.Tunnel, connected bool, least, most time.Duration) {
	t.Helper()
	begin := time.Now()
	for {
		st, changed := tun.Status()
		if st.Connected == connected {
			break
		}
		select {
		case <-changed:
		case <-time.After(time.Hour):
			t.Fatalf("%s: not within an hour", what)
		}
	}
	if took := time.Since(begin); took < least || took > most {
		t.Errorf("%s took %v, want from %v to %v", what, took, least, most)
	}
}

const slack = 100 * time.Millisecond

// An idle dead connection is noticed within 35 s at both ends, and not before a ping was due.
func TestDeadWhileIdle(t *testing.T) {
	for _, end := range []string{"client", "server"} {
		synctest.Test(t, func(t *testing.T) {
			h := newLiveHost(t, tunnel.Limits{})
			client, server := h.tunnels(t)
			time.Sleep(time.Hour + 7*time.Second)
			if st := client.Stats(); st.Resumes != 0 {
				t.Fatalf("%d resumes of an idle connection", st.Resumes)
			}
			h.down.Store(end == "server") // or the client would take over before the server notices
			h.blackhole()
			if end == "client" {
				within(t, "noticing", client, false, 5*time.Second, 35*time.Second)
				within(t, "coming back", client, true, 0, time.Second)
			} else {
				within(t, "noticing at the server", server, false, 5*time.Second, 35*time.Second)
				h.down.Store(false)
				client.Reconnect()
				within(t, "coming back", server, true, 0, 20*time.Second)
			}
		})
	}
}

// With data that is not acknowledged it takes 15 s at most, whichever end sends.
func TestDeadWithData(t *testing.T) {
	for _, end := range []string{"client", "server"} {
		for _, earlier := range []time.Duration{0, 100 * time.Millisecond, 4900 * time.Millisecond, 5100 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				h := newLiveHost(t, tunnel.Limits{})
				client, server := h.tunnels(t)
				a, b := pipe(t, client, server)
				tun, writer := client, a
				if end == "server" {
					tun, writer = server, b
					h.down.Store(true)
				}
				time.Sleep(time.Minute)
				writer.Write([]byte("acknowledged"))
				time.Sleep(earlier)
				h.blackhole()
				writer.Write([]byte("lost"))
				within(t, "noticing at the "+end, tun, false, 5*time.Second, 15*time.Second+slack)
				h.down.Store(false)
				client.Reconnect()
				within(t, "coming back", tun, true, 0, 20*time.Second)
				got := make([]byte, len("acknowledgedlost"))
				reader := map[bool]io.Reader{true: b, false: a}[end == "client"]
				if _, err := io.ReadFull(reader, got); err != nil || string(got) != "acknowledgedlost" {
					t.Errorf("the %s's data came as %q, %v", end, got, err)
				}
			})
		}
	}
}

// A host that has been asleep finds out within ten seconds that its connection is dead, and has another.
func TestSuspend(t *testing.T) {
	for offset := range 20 {
		synctest.Test(t, func(t *testing.T) {
			h := newLiveHost(t, tunnel.Limits{})
			client, _ := h.tunnels(t)
			time.Sleep(time.Minute + time.Duration(offset)*time.Second)
			h.blackhole() // while it sleeps; its timers stand still
			h.mu.Lock()
			h.slept = 8 * time.Hour
			h.mu.Unlock()
			begin := time.Now()
			for client.Stats().Resumes == 0 && time.Since(begin) < time.Minute {
				time.Sleep(slack)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("%d s into its rhythm: connected again after %v", offset, took)
			}
		})
	}
}

// A host that has been asleep keeps a connection that lives.
func TestSuspendOfALiveConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLiveHost(t, tunnel.Limits{})
		client, server := h.tunnels(t)
		a, b := pipe(t, client, server)
		for range 10 {
			h.mu.Lock()
			h.slept += 8 * time.Hour
			h.addrs += "x"
			h.mu.Unlock()
			time.Sleep(time.Minute)
			a.Write([]byte("x"))
			if _, err := b.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if n := client.Stats().Resumes; n != 0 {
			t.Errorf("%d resumes", n)
		}
	})
}

// Other addresses mean that the connection may be dead: that is found out at once.
func TestMove(t *testing.T) {
	for offset := range 20 {
		synctest.Test(t, func(t *testing.T) {
			h := newLiveHost(t, tunnel.Limits{})
			client, _ := h.tunnels(t)
			time.Sleep(time.Minute + time.Duration(offset)*time.Second)
			h.blackhole()
			h.mu.Lock()
			h.addrs = "198.51.100.1"
			h.mu.Unlock()
			within(t, "noticing", client, false, 0, 21*time.Second)
			within(t, "coming back", client, true, 0, time.Second)
		})
	}
}

// While a client waits before its next try, other addresses, having been asleep, and Reconnect each make it
// try at once.
func TestWhatEndsTheWait(t *testing.T) {
	events := map[string]func(h *liveHost, client *tunnel.Tunnel){
		"addresses": func(h *liveHost, _ *tunnel.Tunnel) { h.addrs = "198.51.100.1" },
		"sleep":     func(h *liveHost, _ *tunnel.Tunnel) { h.slept = time.Hour },
		"Reconnect": func(_ *liveHost, client *tunnel.Tunnel) { client.Reconnect() },
	}
	for name, happen := range events {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newLiveHost(t, tunnel.Limits{})
				client, _ := h.tunnels(t)
				h.down.Store(true)
				w, _ := h.net.last()
				w.Cut(tunneltest.LossReset)
				for { // until it has long to wait
					st, changed := client.Status()
					if !st.Connected && time.Until(st.Next) > 6*time.Second {
						break
					}
					<-changed
				}
				before, begin := h.tries(), time.Now()
				h.mu.Lock()
				happen(h, client)
				h.mu.Unlock()
				for h.tries() == before {
					time.Sleep(slack)
				}
				if took := time.Since(begin); took > 2*time.Second+slack {
					t.Errorf("it tried after %v", took)
				}
				h.down.Store(false)
				within(t, "coming back", client, true, 0, 20*time.Second)
			})
		})
	}
}

// Reconnect finds out within seconds that a connection is dead.
func TestReconnectWhileConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLiveHost(t, tunnel.Limits{})
		client, _ := h.tunnels(t)
		time.Sleep(time.Minute)
		client.Reconnect()
		time.Sleep(10 * time.Second)
		if n := client.Stats().Resumes; n != 0 {
			t.Errorf("%d resumes of a connection that lives", n)
		}
		h.blackhole()
		client.Reconnect()
		within(t, "noticing", client, false, 0, 5*time.Second+slack)
		within(t, "coming back", client, true, 0, time.Second)
	})
}
