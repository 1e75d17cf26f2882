package secure_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// pair is a client's and a server's Conn over a network in memory. It must be made inside a bubble,
// and both must be closed there.
type pair struct {
	client, server *secure.Conn
	listener       net.Listener
	http           *http.Server
}

func newTestPair(t testing.TB, max int, padding secure.Padding) *pair {
	t.Helper()
	network := tunneltest.NewNetwork()
	return newPairOver(t, network, network.Dial, max, padding)
}

// newPairOver is newTestPair over any network. dial reaches the listener, whatever the address.
func newPairOver(t testing.TB, l net.Listener, dial func(ctx context.Context, network, address string) (net.Conn, error), max int, padding secure.Padding) *pair {
	t.Helper()
	clientID, serverID := newTestIdentity(t), newTestIdentity(t)
	p := &pair{listener: l}
	accepted := make(chan *secure.Conn, 1)
	handler := func(w http.ResponseWriter, r *http.Request) {
		hello, ok := wsconn.ParseRequest(r, secure.HelloSize)
		if !ok {
			t.Error("the request is not a good one")
			return
		}
		opened, err := secure.OpenHello(&secure.Config{Identity: serverID, Max: max, Padding: padding}, hello)
		if err != nil {
			t.Error(err)
			return
		}
		if opened.Peer != clientID.Public() {
			t.Errorf("peer is %v, want %v", opened.Peer, clientID.Public())
		}
		answer, e, err := opened.Accept([]byte{1})
		if err != nil {
			t.Error(err)
			return
		}
		ws, err := wsconn.Accept(w, r, wsconn.EncodeHello(answer), max)
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- secure.New(ws, e, secure.Timing{})
	}
	p.http = &http.Server{Handler: http.HandlerFunc(handler)}
	go p.http.Serve(l)

	cfg := &secure.Config{Identity: clientID, Max: max, Padding: padding}
	hello, text, err := secure.NewHello(cfg, serverID.Public(), "ws://server/", []byte{0}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws, answer, err := wsconn.Dial(t.Context(), "ws://server/", wsconn.EncodeHello(text), &wsconn.DialConfig{NetDial: dial, Max: max})
	if err != nil {
		t.Fatal(err)
	}
	sealed, ok := wsconn.DecodeHello(answer.Hello, secure.AnswerSize)
	if !ok {
		t.Fatal("the answer has no hello")
	}
	e, err := hello.Finish(sealed, true)
	if err != nil {
		t.Fatal(err)
	}
	p.client, p.server = secure.New(ws, e, secure.Timing{}), <-accepted
	started := make(chan error, 1)
	go func() { started <- p.server.Start(context.Background(), nil) }()
	if err := p.client.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) close() {
	p.http.Close()
	p.listener.Close()
	p.client.Kill(net.ErrClosed)
	p.server.Kill(net.ErrClosed)
}

func newTestIdentity(t testing.TB) *keys.Identity {
	t.Helper()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func write(c *secure.Conn, p []byte) error {
	buf := append(make([]byte, message.Headroom), p...)
	return c.WriteMessage(context.Background(), buf, message.Headroom)
}

func TestMessagesOfAllSizes(t *testing.T) {
	for _, padding := range []secure.Padding{secure.PadNone, secure.PadBlock, secure.PadPadme} {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPair(t, secure.DefaultMax, padding)
			defer p.close()
			max := p.client.MaxMessage()
			sizes := []int{1, 2, 63, 64, 65, 4096, 16384, 65535, 65536, max - 3, max - 2, max - 1, max}
			for _, way := range []struct{ from, to *secure.Conn }{{p.client, p.server}, {p.server, p.client}} {
				go func() {
					for _, n := range sizes {
						if err := write(way.from, bytes.Repeat([]byte{byte(n)}, n)); err != nil {
							t.Error(err)
						}
					}
				}()
				for _, n := range sizes {
					m, err := way.to.ReadMessage(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(m, bytes.Repeat([]byte{byte(n)}, n)) {
						t.Fatalf("padding %d: a message of %d bytes came as one of %d", padding, n, len(m))
					}
				}
			}
			if err := write(p.client, make([]byte, max+1)); !errors.Is(err, message.ErrTooLarge) {
				t.Errorf("one byte too many: %v, want %v", err, message.ErrTooLarge)
			}
		})
	}
}

func TestCloseReachesTheOtherEnd(t *testing.T) {
	tests := []struct {
		name   string
		code   message.Code
		reason string
		want   error
	}{
		{"clean", message.OK, "", io.EOF},
		{"with a reason", message.GoingAway, "restart", &message.CloseError{Code: message.GoingAway, Reason: "restart", Remote: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newTestPair(t, secure.DefaultMax, secure.PadNone)
				defer p.close()
				begin := time.Now()
				go p.client.Close(test.code, test.reason)
				_, err := p.server.ReadMessage(t.Context())
				if err == nil || err.Error() != test.want.Error() {
					t.Errorf("the other end reads %v, want %v", err, test.want)
				}
				<-p.client.Done()
				if took := time.Since(begin); took > 3*time.Second {
					t.Errorf("closing took %v", took)
				}
				if _, err := p.client.ReadMessage(t.Context()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("this end reads %v, want %v", err, net.ErrClosed)
				}
				if err := write(p.client, []byte("x")); !errors.Is(err, net.ErrClosed) {
					t.Errorf("this end writes %v, want %v", err, net.ErrClosed)
				}
			})
		})
	}
}

// An idle connection stays alive by its pings, changes its keys, and notices within 35 s that the
// other end is gone.
func TestIdleForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPair(t, secure.DefaultMax, secure.PadNone)
		defer p.close()
		ended := make(chan error, 2)
		read := func(c *secure.Conn) {
			_, err := c.ReadMessage(context.Background())
			ended <- err
		}
		go read(p.client)
		go read(p.server)
		time.Sleep(24 * time.Hour) // fake
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
		if n := p.client.Epochs(); n < 500 {
			t.Errorf("the client changed its key %d times in a day, want one change every two or three minutes", n)
		}
		if n := p.server.Epochs(); n < 500 {
			t.Errorf("the server changed its key %d times", n)
		}
		go p.client.Close(message.OK, "")
		<-ended
		<-ended
	})
}

func TestDeadPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPair(t, secure.DefaultMax, secure.PadNone)
		defer p.close()
		// Nobody reads at the server, so no PING is answered and, the pipe having no buffer, none is
		// taken: a dead peer.
		begin := time.Now()
		_, err := p.client.ReadMessage(t.Context())
		if !errors.Is(err, message.ErrTruncated) {
			t.Errorf("read %v, want %v", err, message.ErrTruncated)
		}
		if took := time.Since(begin); took > 35*time.Second || took < 15*time.Second {
			t.Errorf("noticed after %v, want 18 to 35 s", took)
		}
	})
}

// However often a program asks, the other end gets no more PINGs than it puts up with.
func TestPingsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPair(t, secure.DefaultMax, secure.PadNone)
		defer p.close()
		go p.client.ReadMessage(context.Background())
		go p.server.ReadMessage(context.Background())
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				for range 200 {
					if _, err := p.client.Ping(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	})
}

// A client that asks for a sign of life as soon as it is connected, as the command does before it says that
// it is ready, waits for round trips and nothing else.
func TestFirstPingIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPair(t, secure.DefaultMax, secure.PadNone)
		defer p.close()
		go p.client.ReadMessage(context.Background())
		go p.server.ReadMessage(context.Background())
		begin := time.Now()
		if _, err := p.client.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("it took %v over a network that takes no time", took)
		}
	})
}

// Both ends come to know the round-trip time as soon as somebody asks, not only after a silence: a
// server's windows would never grow on a long path.
func TestRTTIsMeasuredWhenAsked(t *testing.T) {
	p := newLoopbackPair(t)
	for _, c := range []*secure.Conn{p.client, p.server} {
		go func() {
			for {
				if _, err := c.ReadMessage(context.Background()); err != nil {
					return
				}
			}
		}()
	}
	for name, c := range map[string]*secure.Conn{"client": p.client, "server": p.server} {
		for end := time.Now().Add(10 * time.Second); c.RTT() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the %s never knew", name)
			}
		}
	}
}
