package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// An erasurePath is a way in which a connection ends, and how the child goes it. run marks the moment
// at which the keys are alive, and returns when both ends are over.
type erasurePath struct {
	name   string
	stage  stage
	server func(*tunnel.Server) // nil: nothing to change
	run    func(*child)
}

// A stage says which secrets are alive at the mark.
type stage int

const (
	connected   stage = iota // the keys of the records, and nothing of the handshake
	hello                    // the client's handshake, which waits for its answer
	handshaking              // the keys of the records at one end, those of the handshake at the other
	resumed                  // the keys of the latest connection, and of none before it
	resting                  // there is no connection
)

var erasurePaths = []erasurePath{
	{name: "client closes", run: connPath(func(c *child, client, _ *tunnel.Conn) { client.Close() })},
	{name: "server closes", run: connPath(func(c *child, _, server *tunnel.Conn) { server.Close() })},
	{name: "closed with a code", run: func(c *child) {
		c.padding = tunnel.PadPadme
		connPath(func(c *child, _, server *tunnel.Conn) { server.CloseWith(tunnel.GoingAway, "restart") })(c)
	}, server: func(s *tunnel.Server) { s.Padding = tunnel.PadBlock }},
	{name: "TCP reset", run: func(c *child) {
		tcp := c.wire()
		connPath(func(c *child, _, _ *tunnel.Conn) {
			tcp().SetLinger(0)
			tcp().Close()
		})(c)
	}},
	{name: "WebSocket close frame", run: relayPath(tunneltest.ToServer, nil, masked(0x88, 0x03, 0xe8))},
	{name: "forged record to the server", run: relayPath(tunneltest.ToServer, flipped, nil)},
	{name: "forged record to the client", run: relayPath(tunneltest.ToClient, flipped, nil)},
	{name: "text message", run: relayPath(tunneltest.ToServer, nil, masked(0x81, []byte("text")...))},
	{name: "message too large", run: relayPath(tunneltest.ToServer, nil, []byte{0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})},
	{name: "read deadline", run: func(c *child) {
		client, server := c.conns()
		c.live()
		ctx, cancel := context.WithDeadline(context.Background(), time.Now().Add(20*time.Millisecond))
		defer cancel()
		if _, err := client.ReadMessage(ctx); !errors.Is(err, context.DeadlineExceeded) {
			c.Fatalf("read %v", err)
		}
		c.wait(client, server)
	}},
	{name: "context cancelled", run: func(c *child) {
		client, server := c.conns()
		ctx, cancel := context.WithCancel(context.Background())
		c.working.Go(func() { client.ReadMessage(ctx) })
		c.live()
		cancel()
		c.wait(client, server)
	}},
	{name: "ping timeout", run: func(c *child) {
		c.wire()
		v := newValve(c, c.h)
		c.shorten(secure.Timing{Ping: 100 * time.Millisecond, Pong: 700 * time.Millisecond})
		connPath(func(*child, *tunnel.Conn, *tunnel.Conn) { v.set(vanishes, vanishes) })(c)
	}},
	{name: "write error", run: func(c *child) {
		c.wire()
		v := newValve(c, c.h)
		c.shorten(secure.Timing{Write: 500 * time.Millisecond})
		connPath(func(c *child, client, _ *tunnel.Conn) {
			v.set(stops, passes)
			if err := client.WriteMessage(context.Background(), make([]byte, 100_000)); !errors.Is(err, tunnel.ErrTruncated) {
				c.Fatalf("wrote: %v", err)
			}
			v.set(passes, passes)
		})(c)
	}},
	{name: "panic in a message handler", run: panicInHandler},
	{name: "server Close", run: connPath(func(c *child, _, _ *tunnel.Conn) { c.h.Close() })},

	{name: "tunnel: client closes", run: tunnelPath(func(c *child, client, _ *tunnel.Tunnel) { client.Close() })},
	{name: "tunnel: server closes", run: func(c *child) {
		c.padding = tunnel.PadPadme
		tunnelPath(func(c *child, _, server *tunnel.Tunnel) { server.CloseWith(tunnel.GoingAway, "restart") })(c)
	}, server: func(s *tunnel.Server) { s.Padding = tunnel.PadBlock }},
	{name: "tunnel: panic in a stream's handler", run: panicInStream},
	{name: "tunnel: Shutdown", run: tunnelPath(func(c *child, _, _ *tunnel.Tunnel) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := c.h.Shutdown(ctx); err == nil { // the streams are open
			c.Fatal("Shutdown had nothing to cut")
		}
	})},
	{name: "tunnel: server Close", run: tunnelPath(func(c *child, _, _ *tunnel.Tunnel) { c.h.Close() })},
	{name: "tunnel: signal, drained", run: drained},
	{name: "tunnel: permission refused", run: refused},
	{name: "tunnel: peer removed", run: tunnelPath(func(c *child, _, _ *tunnel.Tunnel) { c.check(c.h.peers.Remove("laptop")) }),
		server: func(s *tunnel.Server) { s.SetTiming(secure.Timing{}, 20*time.Millisecond) }},
	{name: "tunnel: after four rekeys", run: rekeyed},
	{name: "tunnel: resumed twice", stage: resumed, run: resumedTwice,
		server: func(s *tunnel.Server) { s.ResumeFor = time.Minute }},
	{name: "tunnel: forwarded port", run: forwarded},
	{name: "tunnel: enrolled by an invite", run: enrolled, server: func(s *tunnel.Server) {
		s.Invites = openInvites{s.Peers.(*keys.PeerSet)}
	}},

	{name: "handshake: wrong server key", stage: hello, run: dialPath(tunneltest.ToServer, func(c *child, d *dialling) {
		other := newTestIdentity(c)
		d.cfg.ServerKey = other.Public()
		d.after = other.Wipe
	})},
	{name: "handshake: unknown client", stage: hello, run: dialPath(tunneltest.ToServer, func(c *child, d *dialling) {
		stranger := newTestIdentity(c)
		d.cfg.Identity = stranger
		d.after = stranger.Wipe
	})},
	{name: "handshake: context cancelled", stage: hello, run: dialPath(tunneltest.ToServer, func(c *child, d *dialling) {
		d.change = func(head []byte) []byte { d.cancel(); return nil }
	})},
	{name: "handshake: cut before the server has the hello", stage: hello, run: dialPath(tunneltest.ToServer, func(c *child, d *dialling) {
		d.change = func(head []byte) []byte { d.cut(); return nil }
	})},
	{name: "handshake: cut, with an invite", stage: hello, run: dialPath(tunneltest.ToServer, func(c *child, d *dialling) {
		invite := newChildInvite(c)
		d.cfg.Invite, d.after = invite.Secret(), invite.Wipe
		d.change = func(head []byte) []byte { d.cut(); return nil }
	})},
	{name: "handshake: damaged hello", stage: hello, run: dialPath(tunneltest.ToServer, func(c *child, d *dialling) {
		d.change = damaged
	})},
	{name: "handshake: the upgrade fails", stage: hello, run: func(c *child) {
		// Behind a middleware that lets nobody take the connection over.
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.live()
			c.h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
		}))
		c.Cleanup(web.Close)
		var answer *tunnel.AnswerError
		if _, err := tunnel.DialConn(c.Context(), "ws"+strings.TrimPrefix(web.URL, "http")+"/wax", c.config()); !errors.As(err, &answer) || answer.Status != 500 {
			c.Fatalf("the dial: %v", err)
		}
	}},
	{name: "handshake: cut before the client has the answer", stage: handshaking, run: dialPath(tunneltest.ToClient, func(c *child, d *dialling) {
		d.change, d.unconfirmed = func(head []byte) []byte { d.cut(); return nil }, true
	})},
	{name: "handshake: half an answer", stage: handshaking, run: dialPath(tunneltest.ToClient, func(c *child, d *dialling) {
		d.change, d.unconfirmed = func(head []byte) []byte {
			time.AfterFunc(20*time.Millisecond, d.cut)
			return head[:len(head)/2]
		}, true
	})},
	{name: "handshake: damaged answer", stage: handshaking, run: dialPath(tunneltest.ToClient, func(c *child, d *dialling) {
		d.change, d.unconfirmed = damaged, true
	})},
	{name: "handshake: repeated hello", stage: handshaking, run: func(c *child) {
		request := upgrade(c.h.addr, newHello(c, c.h.client, c.h.serverKey(), c.h.url))
		for _, want := range []int{101, 404} {
			conn := rawDial(c, c.h.addr)
			_, err := io.WriteString(conn, request)
			c.check(err)
			if status, _, _ := readAnswer(c, conn); status != want {
				c.Fatalf("the answer is %d, want %d", status, want)
			}
			if want == 101 {
				c.live()
				defer c.neverConfirmed()
			}
			defer conn.Close()
		}
	}},
	{name: "handshake: cut before the first record", run: firstRecord(true)},
	{name: "handshake: no first record in time", run: firstRecord(false),
		server: func(s *tunnel.Server) { s.Limits.ConfirmTimeout = 300 * time.Millisecond }},
}

func connPath(end func(c *child, client, server *tunnel.Conn)) func(*child) {
	return func(c *child) {
		client, server := c.conns()
		c.read(client)
		c.live()
		end(c, client, server)
		c.wait(client, server)
	}
}

func tunnelPath(end func(c *child, client, server *tunnel.Tunnel)) func(*child) {
	return func(c *child) {
		client, server, _ := c.tunnels()
		c.unread(client, server)
		c.unread(server, client)
		c.live()
		end(c, client, server)
		c.wait(client, server)
	}
}

// relayPath lets a middlebox change one message that goes way, or put bytes of its own after it.
func relayPath(way tunneltest.Direction, change func([]byte) []byte, after []byte) func(*child) {
	return func(c *child) {
		var armed atomic.Bool
		c.relay(&tunneltest.Relay{
			Frame: func(d tunneltest.Direction, _ int, p []byte) ([][]byte, bool) {
				if d == way && change != nil && armed.Load() {
					p = change(p)
				}
				return [][]byte{p}, false
			},
			After: func(d tunneltest.Direction, _ int) []byte {
				if d == way && armed.Load() {
					return after
				}
				return nil
			},
		})
		client, server := c.conns()
		c.read(client)
		c.live()
		armed.Store(true)
		c.check(client.WriteMessage(context.Background(), []byte("x")))
		c.wait(client, server)
	}
}

func flipped(record []byte) []byte {
	record[len(record)/2] ^= 1
	return record
}

// masked is a WebSocket frame from a client, under a mask of zeros.
func masked(opcode byte, payload ...byte) []byte {
	return append([]byte{opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
}

// panicInHandler: the program that embeds the server panics while it has a message in hand, and
// recovers.
func panicInHandler(c *child) {
	handler := func(conn *tunnel.Conn) (recovered any) {
		defer func() { recovered = recover() }()
		done := false
		defer func() {
			if done {
				conn.Close()
			} else {
				conn.Abort()
			}
		}()
		for {
			m, err := conn.ReadMessage(context.Background())
			if err != nil {
				done = true
				return nil
			}
			if string(m) == "panic" {
				panic("a bug in the handler")
			}
			c.check(conn.WriteMessage(context.Background(), m))
		}
	}
	for i := range 2 { // the program goes on: the next client is served as the first one
		client, err := tunnel.DialConn(c.Context(), c.h.url, c.config())
		c.check(err)
		server, err := c.h.AcceptConn(c.Context())
		c.check(err)
		c.working.Go(func() {
			if r := handler(server); r != "a bug in the handler" {
				c.Fatalf("the program recovered %v", r)
			}
			server.ReadMessage(context.Background())
		})
		for j := range erasureRecords {
			c.check(client.WriteMessage(c.Context(), c.fill(j)))
			_, err := client.ReadMessage(c.Context())
			c.check(err)
		}
		if i == 0 {
			c.live()
		}
		c.check(client.WriteMessage(c.Context(), []byte("panic")))
		if _, err := client.ReadMessage(context.Background()); !errors.Is(err, tunnel.ErrTruncated) {
			c.Fatalf("the other end of a handler that panicked reads %v, want %v", err, tunnel.ErrTruncated)
		}
		c.wait(client, server)
	}
}

// panicInStream is the same with a tunnel: the stream breaks and the tunnel ends with a code.
func panicInStream(c *child) {
	client, server, _ := c.tunnels()
	a, b := pipe(c, client, server)
	c.working.Go(func() {
		defer func() {
			if r := recover(); r != "a bug in the handler" {
				c.Fatalf("the program recovered %v", r)
			}
		}()
		defer server.CloseWith(tunnel.Internal, "")
		_, err := io.ReadFull(b, make([]byte, 5))
		c.check(err)
		panic("a bug in the handler")
	})
	c.live()
	a.Write([]byte("panic")) // the tunnel may be over before this returns
	if _, err := io.ReadAll(a); err == nil {
		c.Fatal("the stream came to a clean end")
	}
	c.wait(client, server)
	var closed *tunnel.CloseError
	if err := client.Err(); !errors.As(err, &closed) || closed.Code != tunnel.Internal {
		c.Fatalf("the client's tunnel ended with %v", err)
	}
}

// drained: a process that serves gets a signal, lets the streams finish and closes.
func drained(c *child) {
	client, server, stream := c.tunnels()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	defer signal.Stop(signals)
	c.working.Go(func() {
		<-signals
		c.check(c.h.Shutdown(context.Background()))
		c.h.Close()
	})
	c.live()
	self, err := os.FindProcess(os.Getpid())
	c.check(err)
	c.check(self.Signal(syscall.SIGTERM))
	c.talk(stream, 3) // what is open goes on
	c.check(stream.CloseWrite())
	_, err = io.Copy(io.Discard, stream)
	c.check(err)
	c.wait(client, server)
}

func refused(c *child) {
	client, server, _ := c.tunnels()
	c.live()
	stream, err := client.OpenStream(c.Context(), tunnel.Request{Kind: tunnel.KindTCP, Target: "localhost:22"})
	c.check(err)
	in, err := server.AcceptStream(c.Context())
	c.check(err)
	c.check(in.Refuse(tunnel.NotAllowed, "not allowed"))
	var no *tunnel.StreamError
	if err := stream.Opened(c.Context()); !errors.As(err, &no) || no.Code != tunnel.NotAllowed {
		c.Fatalf("the verdict is %v", err)
	}
	client.Close()
	c.wait(client, server)
}

// rekeyed: only the keys of the last epoch are found while the tunnel is up.
func rekeyed(c *child) {
	client, server, stream := c.tunnels()
	for range 4 {
		c.check(client.Rekey())
		c.check(server.Rekey())
		c.talk(stream, 6)
	}
	c.live()
	client.Close()
	c.wait(client, server)
}

// resumedTwice: a session outlives its connections, their keys do not. While it is up, only those of the
// latest connection are found.
func resumedTwice(c *child) {
	tcp := c.wire()
	client, server, stream := c.tunnels()
	for n := range uint64(2) {
		tcp().SetLinger(0)
		tcp().Close()
		c.talk(stream, 6)
		if resumes := [2]uint64{client.Stats().Resumes, server.Stats().Resumes}; resumes != [2]uint64{n + 1, n + 1} {
			c.Fatalf("the ends have resumed %d times, want %d", resumes, n+1)
		}
	}
	c.live()
	client.Close()
	c.wait(client, server)
}

type upTunnel struct{ tun *tunnel.Tunnel }

func (u upTunnel) Tunnel(context.Context) (*tunnel.Tunnel, error) { return u.tun, nil }

// forwarded: the data goes through the buffers of both ends of a forwarded port.
func forwarded(c *child) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	c.check(err)
	c.Cleanup(func() { target.Close() })
	address := target.Addr().String()
	permission, err := keys.ParsePermission("connect=" + address)
	c.check(err)
	c.check(c.h.peers.Remove("laptop"))
	c.check(c.h.peers.Add(keys.Peer{Name: "laptop", Key: c.h.client.Public(), Allow: []keys.Permission{permission}}))

	client, err := tunnel.Dial(c.Context(), c.h.url, c.config())
	c.check(err)
	server, err := c.h.Accept(c.Context())
	c.check(err)
	c.working.Go(func() { new(forward.Exit).Serve(context.Background(), server) })
	local, err := forward.ParseLocal("0:" + address)
	c.check(err)
	listener, err := (&forward.Forwarder{Dialer: upTunnel{client}}).Listen(local)
	c.check(err)
	c.working.Go(func() { listener.Serve(context.Background()) })
	near, err := net.Dial("tcp", listener.Local().Listen.Addr)
	c.check(err)
	far, err := target.Accept()
	c.check(err)

	for i := range erasureRecords {
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			sent := c.fill(i)
			_, err := way[0].Write(sent)
			c.check(err)
			_, err = io.ReadFull(way[1], echoed[:len(sent)])
			c.check(err)
		}
	}
	c.live()
	client.Close()
	listener.Close()
	for _, conn := range []net.Conn{near, far} {
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	c.wait(client, server)
}

// A dialling is a handshake that does not succeed.
type dialling struct {
	cfg         *tunnel.Config
	cancel      func()
	cut         func()
	change      func(head []byte) []byte // what becomes of the request or answer; nil: nothing
	unconfirmed bool                     // the server has keys and waits for the first record
	after       func()
}

// dialPath stops a handshake at the request or the answer, marks it and lets prepare decide how it goes
// on.
func dialPath(at tunneltest.Direction, prepare func(*child, *dialling)) func(*child) {
	return func(c *child) {
		tcp := c.wire()
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		d := &dialling{cfg: c.config(), cancel: cancel, cut: func() { tcp().Close() }}
		prepare(c, d)
		c.relay(&tunneltest.Relay{Head: func(way tunneltest.Direction, head []byte) []byte {
			if way == at {
				c.live()
				if d.change != nil {
					return d.change(head)
				}
			}
			return head
		}})
		if _, err := tunnel.DialConn(ctx, c.h.url, d.cfg); err == nil {
			c.Fatal("the handshake succeeded")
		}
		if d.unconfirmed {
			c.neverConfirmed()
		}
		if d.after != nil {
			d.after()
		}
	}
}

// neverConfirmed waits until the server has given up a client that proved nothing.
func (c *child) neverConfirmed() {
	eventually(c, "the server gives up", func() bool { return strings.Contains(c.h.log.String(), "never confirmed") })
}

// damaged changes one character in the middle of the hello.
func damaged(head []byte) []byte {
	at := strings.Index(string(head), "Waxwire-Hello: ") + 500
	if head[at] != 'A' {
		head[at] = 'A'
	} else {
		head[at] = 'B'
	}
	return head
}

// firstRecord: both ends have the keys of the records, but the client's first one does not arrive.
func firstRecord(cut bool) func(*child) {
	return func(c *child) {
		marked := make(chan struct{})
		c.relay(&tunneltest.Relay{Frame: func(d tunneltest.Direction, number int, p []byte) ([][]byte, bool) {
			if d == tunneltest.ToServer && number == 0 {
				c.live()
				close(marked)
			}
			return nil, cut
		}})
		client, err := tunnel.DialConn(c.Context(), c.h.url, c.config())
		c.check(err)
		<-marked
		c.read(client)
		c.neverConfirmed()
		c.wait(client)
	}
}
