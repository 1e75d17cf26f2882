package tunnel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// host is a server on a loopback port with one enrolled client.
type host struct {
	*tunnel.Server
	peers  *keys.PeerSet
	url    string
	addr   string
	client *keys.Identity
	log    *logBuffer

	netDial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: TCP
}

func newTestHost(t testing.TB, change func(*tunnel.Server)) *host {
	t.Helper()
	h := newTestServer(t, change)
	web := httptest.NewUnstartedServer(h.Server)
	web.Config = h.HTTPServer()
	web.Start()
	h.addr = web.Listener.Addr().String()
	h.url = "ws://" + h.addr + "/wax"
	t.Cleanup(func() {
		h.Close()
		web.Close()
	})
	return h
}

// newMemoryHost is newTestHost over a network in memory, for fake time.
func newMemoryHost(t testing.TB, change func(*tunnel.Server)) *host {
	t.Helper()
	return newNetworkHost(t, tunneltest.NewNetwork(), change)
}

// newNetworkHost is newMemoryHost over the test's own network.
func newNetworkHost(t testing.TB, network *tunneltest.Network, change func(*tunnel.Server)) *host {
	t.Helper()
	h := newTestServer(t, change)
	h.url, h.netDial = "ws://server/wax", network.Dial
	web := h.HTTPServer()
	var serving sync.WaitGroup
	serving.Go(func() { web.Serve(network) })
	t.Cleanup(func() {
		h.Close()
		web.Close()
		network.Close()
		serving.Wait()
	})
	return h
}

// newTestServer is a server that is not served yet.
func newTestServer(t testing.TB, change func(*tunnel.Server)) *host {
	t.Helper()
	h := &host{peers: new(keys.PeerSet), client: newTestIdentity(t), log: new(logBuffer)}
	h.peers.Add(keys.Peer{Name: "laptop", Key: h.client.Public()})
	h.Server = &tunnel.Server{
		Identity: newTestIdentity(t), Peers: h.peers, Path: "/wax",
		ResumeFor: -1, // a lost connection is the end: what goes on after it is the matter of resume_test.go
		Logger:    slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(h.Server)
	}
	return h
}

func (h *host) config() *tunnel.Config {
	return &tunnel.Config{Identity: h.client, ServerKey: h.serverKey(), NetDial: h.netDial}
}

func (h *host) serverKey() keys.PublicKey { return h.Identity.Public() }

// dial connects the enrolled client and returns both ends.
func (h *host) dial(t testing.TB) (client, server *tunnel.Tunnel) {
	t.Helper()
	client, err := tunnel.Dial(t.Context(), h.url, h.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// pipe opens a stream from one end to the other.
func pipe(t testing.TB, from, to *tunnel.Tunnel) (*tunnel.Stream, *tunnel.Stream) {
	t.Helper()
	a, err := from.OpenStream(t.Context(), tunnel.Request{Kind: tunnel.KindApp, Target: "test"})
	if err != nil {
		t.Fatal(err)
	}
	in, err := to.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if in.Request() != (tunnel.Request{Kind: tunnel.KindApp, Target: "test"}) {
		t.Errorf("the request arrived as %v", in.Request())
	}
	b, err := in.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func newTestIdentity(t testing.TB) *keys.Identity {
	t.Helper()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestStreamBothWaysWithHalfClose(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305} {
		t.Run(suite.String(), func(t *testing.T) {
			h := newTestHost(t, func(s *tunnel.Server) { s.Suite = suite })
			client, server := h.dial(t)
			if client.Suite() != suite || client.Binding() != server.Binding() {
				t.Errorf("suite %v, want %v; bindings %x and %x", client.Suite(), suite, client.Binding(), server.Binding())
			}
			for _, way := range [][2]*tunnel.Tunnel{{client, server}, {server, client}} {
				a, b := pipe(t, way[0], way[1])
				data := make([]byte, 3<<20)
				rand.Read(data)
				sent := make(chan error, 1)
				go func() {
					_, err := a.Write(data)
					if err == nil {
						err = a.CloseWrite()
					}
					sent <- err
				}()
				got, err := io.ReadAll(b)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d of %d bytes arrived, error %v", len(got), len(data), err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				// The other way goes on after the end of the first.
				go func() {
					b.Write(data[:1<<20])
					b.CloseWrite()
				}()
				if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, data[:1<<20]) {
					t.Fatalf("after the half-close %d bytes arrived, error %v", len(got), err)
				}
			}
		})
	}
}

// With padding, lengths of what is sent come from few classes, and the data is the same.
func TestPaddingBlursLengths(t *testing.T) {
	for _, padding := range []tunnel.Padding{tunnel.PadBlock, tunnel.PadPadme} {
		h := newTestHost(t, func(s *tunnel.Server) { s.Padding, s.PlainConns = padding, true })
		cfg := h.config()
		cfg.Padding = padding
		client, err := tunnel.DialConn(t.Context(), h.url, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := h.AcceptConn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lengths := make(map[uint64]bool)
		before := uint64(0)
		for n := 1000; n < 1064; n++ {
			if err := client.WriteMessage(t.Context(), make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			m, err := server.ReadMessage(t.Context())
			if err != nil || len(m) != n {
				t.Fatalf("%d bytes came as %d, error %v", n, len(m), err)
			}
			_, received := server.Bytes()
			if n > 1000 { // the first time there may be a PING beside it
				lengths[received-before] = true
			}
			before = received
		}
		if len(lengths) > 4 {
			t.Errorf("padding %d leaves %d different lengths of 63", padding, len(lengths))
		}
		ended := make(chan error, 1)
		go func() {
			_, err := server.ReadMessage(context.Background())
			ended <- err
		}()
		client.Close()
		if err := <-ended; err != io.EOF {
			t.Errorf("the server reads %v, want %v", err, io.EOF)
		}
	}
}

func TestCloseIsCleanOnBothEnds(t *testing.T) {
	h := newTestHost(t, nil)
	client, server := h.dial(t)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := client.Err(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the closing end: %v, want %v", err, net.ErrClosed)
	}
	waitDone(t, server)
	if err := server.Err(); err != io.EOF {
		t.Errorf("the other end: %v, want %v", err, io.EOF)
	}
}

func TestLostConnectionIsNeverClean(t *testing.T) {
	h := newTestHost(t, nil)
	cfg := h.config()
	var raw net.Conn
	cfg.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		raw = c
		return c, err
	}
	client, err := tunnel.Dial(t.Context(), h.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	server, err := h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, b := pipe(t, client, server)
	if _, err := a.Write([]byte("half a")); err != nil {
		t.Fatal(err)
	}
	raw.Close()
	got, err := io.ReadAll(b)
	if err == nil {
		t.Errorf("the stream ended cleanly after %q", got)
	}
	for _, end := range []*tunnel.Tunnel{client, server} {
		waitDone(t, end)
		if err := end.Err(); !errors.Is(err, tunnel.ErrTruncated) {
			t.Errorf("tunnel ended with %v, want %v", err, tunnel.ErrTruncated)
		}
	}
}

func TestRemovedPeerIsCutOff(t *testing.T) {
	h := newTestHost(t, nil)
	client, _ := h.dial(t)
	begin := time.Now()
	h.peers.Remove("laptop")
	waitDone(t, client)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	var closed *tunnel.CloseError
	if err := client.Err(); !errors.As(err, &closed) || closed.Code != tunnel.PeerRemoved || !closed.Remote {
		t.Errorf("the removed client got %v, want the code %v", err, tunnel.PeerRemoved)
	}
	var refused *tunnel.RefusedError
	if _, err := tunnel.Dial(t.Context(), h.url, h.config()); !errors.As(err, &refused) || refused.Reason != tunnel.NotEnrolled {
		t.Errorf("dialling again: %v, want %v", err, tunnel.NotEnrolled)
	}
}

func TestRefusals(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) {
		s.URLs = []string{"ws://only.example/wax"}
		s.Limits.PerPeer = 1
	})
	other := newTestIdentity(t)
	tests := []struct {
		name   string
		change func(*tunnel.Config)
		url    string
		want   string
	}{
		{"another server key", func(c *tunnel.Config) { c.ServerKey = other.Public() }, h.url, tunnel.ErrNotFound.Error()},
		{"another path", nil, "ws://" + h.addr + "/", tunnel.ErrNotFound.Error()},
		{"another service", func(c *tunnel.Config) { c.Service = "x" }, h.url, tunnel.ErrNotFound.Error()},
		{"unknown client", func(c *tunnel.Config) { c.Identity = other }, h.url, "tunnel: refused by the server: this key is not enrolled"},
		{"unexpected url", nil, h.url, "tunnel: refused by the server: the server does not go by this URL"},
		{"no key", func(c *tunnel.Config) { c.ServerKey = keys.PublicKey{} }, h.url, "tunnel: Config.ServerKey is missing: a server is only trusted by its key"},
		{"not a WebSocket URL", nil, "http://" + h.addr + "/wax", "tunnel: the URL must be ws://HOST[:PORT]/PATH or wss://…"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := h.config()
			if test.change != nil {
				test.change(cfg)
			}
			tun, err := tunnel.Dial(t.Context(), test.url, cfg)
			if err == nil {
				tun.Close()
				t.Fatal("let in")
			}
			if err.Error() != test.want {
				t.Errorf("got %q, want %q", err, test.want)
			}
		})
	}
}

func waitDone(t testing.TB, tun *tunnel.Tunnel) {
	t.Helper()
	select {
	case <-tun.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the tunnel has not ended after 10 s")
	}
}
