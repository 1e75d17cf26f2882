package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// What a server keeps for clients that are away, and when it stops.

// away has a client lose its connection and not come back, until down is false again.
func (h *liveHost) away(t *testing.T) {
	t.Helper()
	h.down.Store(true)
	w, _ := h.net.last()
	w.Cut(tunneltest.LossReset)
	synctest.Wait()
}

// A stayer is a client with a switch of its own.
type stayer struct {
	client, server *tunnel.Tunnel
	gone           atomic.Bool // its dials fail
}

// stay connects another client, of h's key or, with a name, of one of its own.
func (h *liveHost) stay(t *testing.T, name string) *stayer {
	t.Helper()
	s, cfg := new(stayer), h.config()
	cfg.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if s.gone.Load() {
			return nil, errors.New("no route")
		}
		return h.net.dial(ctx, network, addr)
	}
	if name != "" {
		cfg.Identity = newTestIdentity(t)
		if err := h.peers.Add(keys.Peer{Name: name, Key: cfg.Identity.Public()}); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.client, err = tunnel.Dial(t.Context(), h.url, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.client.Close() })
	if s.server, err = h.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// leave cuts the newest connection, which has to be this one's.
func (s *stayer) leave(h *liveHost) {
	s.gone.Store(true)
	w, _ := h.net.last()
	w.Cut(tunneltest.LossReset)
	synctest.Wait()
}

func wantLost(t *testing.T, who string, tun *tunnel.Tunnel) {
	t.Helper()
	select {
	case <-tun.Done():
	default:
		t.Fatalf("%s has not ended", who)
	}
	var closed *tunnel.CloseError
	if err := tun.Err(); !errors.As(err, &closed) || closed.Code != tunnel.SessionLost {
		t.Errorf("%s ended with %v, want %v", who, err, tunnel.SessionLost)
	}
}

// A client that comes back within the time finds its tunnel, and one second later not.
func TestExpiry(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newLiveHost(t, tunnel.Limits{}) // which keeps tunnels for an hour
			client, server := h.tunnels(t)
			a, b := pipe(t, client, server)
			h.away(t)
			b.Write([]byte("kept"))
			time.Sleep(time.Hour - 16*time.Second)
			if n := len(h.Tunnels()); n != 1 || h.Connections() != 0 || server.Err() != nil {
				t.Fatalf("%d tunnels, %d connections, %v", n, h.Connections(), server.Err())
			}
			if late {
				time.Sleep(17 * time.Second)
				wantLost(t, "the server's tunnel", server)
				if h.KeptBytes() != 0 || h.Sessions() != 0 || len(h.Tunnels()) != 0 {
					t.Errorf("%d bytes, %d sessions and %d tunnels are left", h.KeptBytes(), h.Sessions(), len(h.Tunnels()))
				}
			}
			h.down.Store(false)
			time.Sleep(15500 * time.Millisecond) // the longest wait between two tries
			if late {
				wantLost(t, "the client's tunnel", client)
				if _, err := io.ReadAll(a); err == nil {
					t.Error("a stream ended cleanly with a lost session")
				}
				h.tunnels(t) // a new one can be had
				return
			}
			got := make([]byte, 4)
			if _, err := io.ReadFull(a, got); err != nil || string(got) != "kept" {
				t.Errorf("got %q, %v", got, err)
			}
			time.Sleep(2 * time.Hour)
			if err := server.Err(); err != nil {
				t.Errorf("a tunnel that was away once ended with %v", err)
			}
		})
	}
}

// A key may have so many tunnels that are away. Past that the one goes that has been away the longest.
func TestDetachedTunnelsOfAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLiveHost(t, tunnel.Limits{PerPeer: 3})
		var all []*stayer
		for i := range 5 {
			all = append(all, h.stay(t, ""))
			all[i].leave(h)
			time.Sleep(time.Second)
			for k, s := range all {
				if ended := s.server.Err() != nil; ended != (k <= i-3) {
					t.Errorf("with %d away, tunnel %d has ended: %v, %v", i+1, k, ended, s.server.Err())
				}
			}
		}
		for i, s := range all {
			s.gone.Store(false)
			if i < 2 {
				wantLost(t, "an old tunnel", s.server)
			}
		}
		time.Sleep(20 * time.Second)
		for i, s := range all {
			if up := s.client.Err() == nil; up != (i >= 2) {
				t.Errorf("the client of tunnel %d: %v", i, s.client.Err())
			}
		}
		if n := h.Connections(); n != 3 {
			t.Errorf("%d connections, want 3", n)
		}
	})
}

// A key that has all connections that it may have can still resume.
func TestResumeAtTheLimitOfAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLiveHost(t, tunnel.Limits{PerPeer: 1})
		first, _ := h.tunnels(t)
		h.away(t)
		down := first // it stays away while another one of the key connects
		h.down.Store(false)
		second, err := tunnel.Dial(t.Context(), h.url, h.config())
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		time.Sleep(time.Minute)
		if st, _ := down.Status(); !st.Connected {
			t.Errorf("the first tunnel is not back: %+v", st)
		}
		var refused *tunnel.RefusedError
		if _, err := tunnel.Dial(t.Context(), h.url, h.config()); !errors.As(err, &refused) || refused.Reason != tunnel.TooManySessions {
			t.Errorf("one more: %v, want %v", err, tunnel.TooManySessions)
		}
	})
}

// Who is removed loses also the tunnels that are away, and learns it when it comes back.
func TestRemovedWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLiveHost(t, tunnel.Limits{})
		client, server := h.tunnels(t)
		h.away(t)
		time.Sleep(time.Minute)
		h.peers.Remove("laptop")
		time.Sleep(2 * time.Second)
		if server.Err() == nil || len(h.Tunnels()) != 0 || h.Sessions() != 0 {
			t.Errorf("the server's tunnel: %v; %d tunnels, %d sessions", server.Err(), len(h.Tunnels()), h.Sessions())
		}
		h.down.Store(false)
		time.Sleep(16 * time.Second)
		var refused *tunnel.RefusedError
		if err := client.Err(); !errors.As(err, &refused) || refused.Reason != tunnel.NotEnrolled {
			t.Errorf("the client's tunnel: %v, want %v", err, tunnel.NotEnrolled)
		}
	})
}

// When all that tunnels may keep is spent, those go that are away, of the key that has the most, and what
// is connected goes on.
func TestKeptBytesOfAll(t *testing.T) {
	const total = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		h := newLiveHost(t, tunnel.Limits{KeptBytes: total})
		chunk := make([]byte, 40<<10)
		var all []*stayer
		for i := range 10 {
			s := h.stay(t, fmt.Sprint("peer-", i))
			all = append(all, s)
			_, b := pipe(t, s.client, s.server)
			s.leave(h)
			go func() {
				for range 5 {
					if _, err := b.Write(chunk); err != nil {
						return
					}
				}
			}()
			time.Sleep(200 * time.Millisecond)
			if n := h.KeptBytes(); n > total+20*(len(chunk)+128) {
				t.Errorf("%d bytes are kept", n)
			}
		}
		lost := 0
		for _, s := range all {
			if s.server.Err() != nil {
				wantLost(t, "a tunnel that was away", s.server)
				lost++
			}
		}
		if lost == 0 || lost > 5 {
			t.Errorf("%d of %d tunnels that were away have been ended", lost, len(all))
		}

		s := h.stay(t, "connected")
		a, b := pipe(t, s.client, s.server)
		go func() {
			for range 100 {
				b.Write(chunk)
			}
			b.CloseWrite()
		}()
		if n, err := io.Copy(io.Discard, a); n != 100*int64(len(chunk)) || err != nil {
			t.Errorf("%d bytes came through a server that keeps much, %v", n, err)
		}
	})
}
