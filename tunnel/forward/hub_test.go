package forward_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// A hub is a server that many clients may connect to.
type hub struct {
	t     testing.TB
	url   string
	srv   *tunnel.Server
	peers *keys.PeerSet
	exit  *forward.Exit
	wg    sync.WaitGroup
	raw   chan *tunnel.Tunnel // instead of the exit, if not nil
}

func newHub(t testing.TB, exit *forward.Exit) *hub {
	t.Helper()
	sid, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{t: t, peers: new(keys.PeerSet), exit: exit}
	h.srv = &tunnel.Server{Identity: sid, Peers: h.peers}
	hs := httptest.NewServer(h.srv)
	h.url = "ws" + strings.TrimPrefix(hs.URL, "http")
	h.wg.Go(func() {
		for {
			tun, err := h.srv.Accept(context.Background())
			if err != nil {
				return
			}
			if h.raw != nil {
				h.raw <- tun
				continue
			}
			h.wg.Go(func() { h.exit.Serve(context.Background(), tun) })
		}
	})
	t.Cleanup(func() {
		h.srv.Close()
		hs.Close()
		h.wg.Wait()
	})
	return h
}

// A guest is a client of a hub, with its reverse forwards.
type guest struct {
	h        *hub
	tun      *tunnel.Tunnel
	reverser *forward.Reverser

	mu   sync.Mutex
	wire net.Conn
	dead bool // it cannot reach the server any more
}

func (h *hub) enrol(name string, allow ...string) *keys.Identity {
	h.t.Helper()
	id, err := keys.Generate()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(id.Wipe)
	if err := h.peers.Add(keys.Peer{Name: name, Key: id.Public(), Allow: permissions(h.t, allow...)}); err != nil {
		h.t.Fatal(err)
	}
	return id
}

var errCut = errors.New("cut off in this test")

// connect makes a tunnel of a client with this identity.
func (h *hub) connect(id *keys.Identity) *guest {
	h.t.Helper()
	return h.connectWith(id, &forward.Reverser{})
}

func (h *hub) connectWith(id *keys.Identity, r *forward.Reverser) *guest {
	h.t.Helper()
	g := &guest{h: h, reverser: r}
	tun, err := tunnel.Dial(testContext(h.t), h.url, &tunnel.Config{
		Identity: id, ServerKey: h.srv.Identity.Public(),
		NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.dead {
				return nil, errCut
			}
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			g.wire = c
			return c, err
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	g.tun = tun
	served := make(chan struct{})
	go func() {
		g.reverser.Serve(context.Background(), tun)
		close(served)
	}()
	h.t.Cleanup(func() {
		g.cut(false)
		tun.Close()
		<-served
	})
	return g
}

// cut breaks the client's connection, for good or not.
func (g *guest) cut(dead bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dead = dead
	g.wire.Close()
}

// A holding is a reverse forward that is up.
type holding struct {
	*forward.Reverse
	ended  chan error
	cancel func()
}

// hold asks for a reverse forward and waits until it is up, or returns why not.
func (g *guest) hold(spec string) (*holding, error) {
	g.h.t.Helper()
	m, err := forward.ParseRemote(spec)
	if err != nil {
		g.h.t.Fatal(err)
	}
	return g.holdAgain(g.reverser.Forward(m))
}

func (g *guest) holdAgain(v *forward.Reverse) (*holding, error) {
	ctx, cancel := context.WithCancel(context.Background())
	h := &holding{Reverse: v, ended: make(chan error, 1), cancel: cancel}
	ready := make(chan struct{})
	go func() { h.ended <- v.Hold(ctx, g.tun, func() { close(ready) }) }()
	g.h.t.Cleanup(cancel)
	select {
	case <-ready:
		return h, nil
	case err := <-h.ended:
		return nil, err
	case <-time.After(patience):
		g.h.t.Fatal("nothing came of it")
		panic("unreachable")
	}
}

// mustHold is hold that must not fail.
func (g *guest) mustHold(spec string) *holding {
	g.h.t.Helper()
	h, err := g.hold(spec)
	if err != nil {
		g.h.t.Fatal(err)
	}
	return h
}

func (h *holding) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-h.ended:
		return err
	case <-time.After(patience):
		t.Fatal("it has not ended")
	}
	panic("unreachable")
}

// addr is where the other end listens.
func (h *holding) addr() string { return h.Remote().Listen.Addr }

// eventually waits for something that happens soon.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !f(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// wantClosed says that nobody listens at an address any more.
func wantClosed(t testing.TB, addr string) {
	t.Helper()
	eventually(t, addr+" is closed", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}
