package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything in a test may take; what takes longer hangs.
const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func permissions(t testing.TB, texts ...string) (list []keys.Permission) {
	t.Helper()
	for _, text := range texts {
		p, err := keys.ParsePermission(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// A pair is a client and a server with a tunnel between them, over a real socket.
type pair struct {
	client, server *tunnel.Tunnel
	peers          *keys.PeerSet
	exit           *forward.Exit
	exited         chan error // what Serve returned
	wire           net.Conn   // the network connection under the tunnel
}

// newPair makes a tunnel whose far end lets the client do what the permissions say.
func newPair(t testing.TB, exit *forward.Exit, allow ...string) *pair {
	t.Helper()
	ctx := testContext(t)
	sid, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	cid, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{peers: new(keys.PeerSet), exit: exit, exited: make(chan error, 1)}
	if err := p.peers.Add(keys.Peer{Name: "laptop", Key: cid.Public(), Allow: permissions(t, allow...)}); err != nil {
		t.Fatal(err)
	}
	srv := &tunnel.Server{Identity: sid, Peers: p.peers, ResumeFor: -1} // a lost connection is a lost tunnel
	hs := httptest.NewServer(srv)
	url := "ws" + strings.TrimPrefix(hs.URL, "http")
	if p.client, err = tunnel.Dial(ctx, url, &tunnel.Config{
		Identity: cid, ServerKey: sid.Public(),
		NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			p.wire, err = new(net.Dialer).DialContext(ctx, network, addr)
			return p.wire, err
		},
	}); err != nil {
		t.Fatal(err)
	}
	if p.server, err = srv.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	go func() { p.exited <- exit.Serve(context.Background(), p.server) }()
	t.Cleanup(func() {
		p.client.Close()
		select {
		case <-p.exited:
		case <-time.After(patience):
			t.Error("the exit did not end with its tunnel")
		}
		srv.Close()
		hs.Close()
		cid.Wipe()
	})
	return p
}

// Tunnel makes a pair a [forward.Dialer].
func (p *pair) Tunnel(context.Context) (*tunnel.Tunnel, error) { return p.client, nil }

// events collects what a Forwarder tells.
type events chan forward.Event

func (e events) next(t testing.TB, want forward.EventKind) forward.Event {
	t.Helper()
	select {
	case got := <-e:
		if got.Kind != want {
			t.Fatalf("event: got %+v, want kind %v", got, want)
		}
		return got
	case <-time.After(patience):
		t.Fatalf("no event came, want kind %v", want)
	}
	panic("unreachable")
}

// listen starts a local forward and returns where it listens.
func listen(t testing.TB, f *forward.Forwarder, spec string) *forward.Listener {
	t.Helper()
	l, err := forward.ParseLocal(spec)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := f.Listen(l)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, f, ln)
	return ln
}

// serve has a listener serve until the test ends.
func serve(t testing.TB, f *forward.Forwarder, ln *forward.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- ln.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if d, ok := f.Dialer.(*pair); ok {
			d.client.Close()
		}
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("the listener did not end")
		}
	})
}

// target serves each connection to a listener of its own with f.
func target(t testing.TB, network, addr string, f func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				f(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr()
}

func dial(t testing.TB, network, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// resolver is a [forward.Resolver] that gives each answer in turn, then the last again.
type resolver struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	asked   int
}

func (r *resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	list := r.answers[host]
	if len(list) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(list) > 1 {
		r.answers[host] = list[1:]
	}
	return list[0], nil
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

var errNotDialled = errors.New("not dialled in this test")

func echo(c net.Conn) {
	io.Copy(c, c)
	c.(halfCloser).CloseWrite()
}
