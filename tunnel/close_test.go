package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// The server closes what a lost tunnel leaves behind. That must not pass for the program's own Close.
func TestLostTunnelIsNotClosedHere(t *testing.T) {
	h := newTestHost(t, unlimited)
	for range 200 {
		cut, dial := cuttable()
		cfg := h.config()
		cfg.NetDial = dial
		client, err := tunnel.Dial(t.Context(), h.url, cfg)
		if err != nil {
			t.Fatal(err)
		}
		server, err := h.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a, b := pipe(t, client, server)
		var streams sync.WaitGroup
		streams.Go(func() { io.Copy(io.Discard, a) })
		streams.Go(func() { // a writer notices the loss too, beside the reader
			for {
				if _, err := b.Write([]byte("x")); err != nil {
					return
				}
			}
		})
		cut()
		for _, end := range []*tunnel.Tunnel{server, client} {
			waitDone(t, end)
			if err := end.Err(); !errors.Is(err, tunnel.ErrTruncated) {
				t.Fatalf("a lost tunnel ended with %v, want %v", err, tunnel.ErrTruncated)
			}
		}
		client.Close()
		streams.Wait()
	}
}

// closeWithin is how long Close may take, whatever the other end does.
const closeWithin = 3 * time.Second

// Close is bounded in time and leaves nothing behind: the bubble would not end.
func TestCloseIsBounded(t *testing.T) {
	situations := []struct {
		name        string
		ahead, back flow // to the other end, and from it
		writing     bool // a large write is under way
	}{
		{"nothing is wrong", passes, passes, false},
		{"in the middle of a write", passes, passes, true},
		{"the other end never reads", stops, stops, false},
		{"the other end never reads, in the middle of a write", stops, stops, true},
		{"the other end never answers", vanishes, stops, false},
		{"the other end never answers, in the middle of a write", vanishes, stops, true},
		{"the other end answers and never reads", stops, passes, false},
	}
	closings := []struct {
		name  string
		close func(*tunnel.Tunnel) error
	}{
		{"Close", (*tunnel.Tunnel).Close},
		{"CloseWith", func(t *tunnel.Tunnel) error { return t.CloseWith(tunnel.GoingAway, "restart") }},
	}
	for _, s := range situations {
		for _, c := range closings {
			for _, who := range []string{"client", "server"} {
				t.Run(fmt.Sprintf("%s by the %s, %s", c.name, who, s.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := newMemoryHost(t, nil)
						v := newValve(t, h)
						client, server := h.dial(t)
						end, other := client, server
						if who == "server" {
							end, other = server, client
						}
						a, b := pipe(t, end, other)
						if who == "client" {
							v.set(s.ahead, s.back)
						} else {
							v.set(s.back, s.ahead)
						}
						var work sync.WaitGroup
						if s.writing {
							work.Go(func() {
								if _, err := a.Write(make([]byte, 8<<20)); err == nil {
									t.Error("a write that cannot have succeeded")
								}
							})
							synctest.Wait()
						}
						begin := time.Now()
						err := c.close(end)
						var lost *tunnel.CloseError
						undelivered := errors.As(err, &lost) && lost.Code == tunnel.SessionLost
						switch {
						case c.name == "Close" && s.ahead != passes && s.writing && !undelivered:
							t.Errorf("Close of what did not arrive says %v", err)
						case err != nil && (!undelivered || c.name != "Close" || s.ahead == passes):
							t.Error(err)
						}
						if took := time.Since(begin); took > closeWithin {
							t.Errorf("it took %v", took)
						}
						work.Wait()
						<-end.Done()
						if err := end.Err(); c.name == "Close" && !errors.Is(err, net.ErrClosed) {
							t.Errorf("this end: %v, want %v", err, net.ErrClosed)
						}
						if _, err := end.OpenStream(t.Context(), tunnel.Request{Kind: tunnel.KindApp}); !errors.Is(err, net.ErrClosed) {
							t.Errorf("a stream after that: %v, want %v", err, net.ErrClosed)
						}
						if _, err := a.Write([]byte("x")); err == nil {
							t.Error("a write after that succeeded")
						}
						// The stream was not finished, so that its end is not clean either.
						if _, err := io.Copy(io.Discard, b); err == nil {
							t.Error("the other end's stream came to a clean end")
						}
						<-other.Done()
						if err := other.Err(); s.ahead != passes && err == io.EOF {
							t.Errorf("the other end was told nothing and says %v", err)
						}
					})
				})
			}
		}
	}
}

// The same for plain conns.
func TestConnCloseIsBounded(t *testing.T) {
	for _, ahead := range []flow{passes, stops, vanishes} {
		for _, back := range []flow{passes, stops} {
			for _, writing := range []bool{false, true} {
				t.Run(fmt.Sprint(ahead, back, writing), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := newMemoryHost(t, func(s *tunnel.Server) { s.PlainConns = true })
						v := newValve(t, h)
						client, server := h.dialConn(t)
						var work sync.WaitGroup
						work.Go(func() {
							for {
								if _, err := server.ReadMessage(context.Background()); err != nil {
									return
								}
							}
						})
						v.set(ahead, back)
						if writing {
							work.Go(func() {
								for client.WriteMessage(context.Background(), make([]byte, 100_000)) == nil && ahead == stops {
								}
							})
							synctest.Wait()
						}
						begin := time.Now()
						client.Close()
						if took := time.Since(begin); took > closeWithin {
							t.Errorf("it took %v", took)
						}
						if err := client.Err(); !errors.Is(err, net.ErrClosed) {
							t.Errorf("Err is %v, want %v", err, net.ErrClosed)
						}
						server.Close()
						work.Wait()
					})
				})
			}
		}
	}
}

// dialConn connects the enrolled client with a plain conn.
func (h *host) dialConn(t testing.TB) (client, server *tunnel.Conn) {
	t.Helper()
	client, err := tunnel.DialConn(t.Context(), h.url, h.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = h.AcceptConn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// Server.Close and Shutdown are bounded whatever the clients do, those in the middle of their handshake
// too.
func TestServerCloseIsBounded(t *testing.T) {
	for _, flow := range []flow{passes, stops, vanishes} {
		t.Run(fmt.Sprint(flow), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newMemoryHost(t, nil)
				v := newValve(t, h)
				var clients []*tunnel.Tunnel
				for range 5 {
					c, _ := h.dial(t)
					clients = append(clients, c)
				}
				// One that never sends its first record.
				silent, err := h.netDial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer silent.Close()
				fmt.Fprint(silent, upgrade("server", newHello(t, h.client, h.serverKey(), h.url)))
				if status, _, _ := readAnswer(t, silent); status != 101 {
					t.Fatal(status)
				}
				v.set(passes, flow)
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := h.Shutdown(ctx); err != nil {
					t.Errorf("there was no stream to wait for: %v", err)
				}
				h.Close()
				if took := time.Since(begin); took > closeWithin {
					t.Errorf("it took %v", took)
				}
				if _, err := h.Accept(t.Context()); err != tunnel.ErrServerClosed {
					t.Errorf("Accept: %v, want %v", err, tunnel.ErrServerClosed)
				}
				for _, c := range clients {
					<-c.Done()
					// Nothing was under way: where the network lets it, all ends in order.
					if err := c.Err(); flow == passes && err != io.EOF || flow != passes && !errors.Is(err, tunnel.ErrTruncated) {
						t.Errorf("a client is told %v", err)
					}
				}
			})
		})
	}
}

// What the ends read and what goes over the wire at each end of a connection. PROTOCOL.md §5.1.
func TestCloseTable(t *testing.T) {
	type ends struct {
		client, server *tunnel.Conn
		valve          *valve
		cut            func()
	}
	remote := func(c tunnel.Code, reason string) error {
		return &tunnel.CloseError{Code: c, Reason: reason, Remote: true}
	}
	tests := []struct {
		name           string
		act            func(t *testing.T, e *ends)
		client, server error
		codes          [2][]int // WebSocket close codes, to the server and to the client
		within         time.Duration
	}{
		{"1, 2: the client closes", func(_ *testing.T, e *ends) { e.client.Close() },
			net.ErrClosed, io.EOF, [2][]int{{1000}, {1000}}, 0},
		{"1, 2: the server closes", func(_ *testing.T, e *ends) { e.server.Close() },
			io.EOF, net.ErrClosed, [2][]int{{1000}, {1000}}, 0},
		{"1, 2: with a code and a text", func(_ *testing.T, e *ends) { e.server.CloseWith(tunnel.GoingAway, "later") },
			remote(tunnel.GoingAway, "later"), net.ErrClosed, [2][]int{{1000}, {1000}}, 0},
		{"1, 2: with a code that nobody knows", func(_ *testing.T, e *ends) { e.client.CloseWith(7777, "") },
			net.ErrClosed, remote(7777, ""), [2][]int{{1000}, {1000}}, 0},
		{"1: both at once", func(_ *testing.T, e *ends) {
			var both sync.WaitGroup
			both.Go(func() { e.client.Close() })
			both.Go(func() { e.server.Close() })
			both.Wait()
		}, nil, nil, [2][]int{nil, nil}, closeWithin},
		{"3: EOF", func(_ *testing.T, e *ends) { e.cut() },
			tunnel.ErrTruncated, tunnel.ErrTruncated, [2][]int{{}, {}}, 0},
		{"3: no answer to a PING", func(_ *testing.T, e *ends) { e.valve.set(vanishes, vanishes) },
			tunnel.ErrTruncated, tunnel.ErrTruncated, [2][]int{{}, {}}, 35 * time.Second},
		{"3: a write that is not taken", func(_ *testing.T, e *ends) {
			e.valve.set(stops, passes)
			if err := e.client.WriteMessage(context.Background(), make([]byte, 100_000)); !errors.Is(err, tunnel.ErrTruncated) {
				t.Errorf("the write: %v, want %v", err, tunnel.ErrTruncated)
			}
			e.valve.set(passes, passes)
		}, tunnel.ErrTruncated, tunnel.ErrTruncated, [2][]int{{}, {}}, 35 * time.Second},
		{"7: a handler panics, and its deferred call aborts", func(t *testing.T, e *ends) {
			defer func() {
				if r := recover(); r != "a bug" {
					t.Errorf("the program recovered %v", r)
				}
			}()
			defer e.server.Abort()
			panic("a bug")
		}, tunnel.ErrTruncated, net.ErrClosed, [2][]int{{}, {}}, 0},
		{"7: the context of a write ends", func(_ *testing.T, e *ends) {
			e.valve.set(stops, passes)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if err := e.client.WriteMessage(ctx, make([]byte, 100_000)); err == nil {
				t.Error("the write succeeded")
			}
			e.valve.set(passes, passes)
		}, tunnel.ErrTruncated, tunnel.ErrTruncated, [2][]int{{}, {}}, 2 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newMemoryHost(t, func(s *tunnel.Server) { s.PlainConns = true })
				e := &ends{valve: newValve(t, h)}
				dial := h.netDial
				h.netDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := dial(ctx, network, addr)
					e.cut = func() { c.Close() }
					return c, err
				}
				e.client, e.server = h.dialConn(t)
				got := make([]error, 2)
				var readers sync.WaitGroup
				for i, c := range []*tunnel.Conn{e.client, e.server} {
					readers.Go(func() { _, got[i] = c.ReadMessage(context.Background()) })
				}
				synctest.Wait()
				begin := time.Now()
				test.act(t, e)
				readers.Wait()
				<-e.client.Done()
				<-e.server.Done()
				if took, want := time.Since(begin), test.within+linger; took > want {
					t.Errorf("it took %v, want at most %v", took, want)
				}
				for i, want := range []error{test.client, test.server} {
					who, c := "client", e.client
					if i == 1 {
						who, c = "server", e.server
					}
					if want != nil && !sameEnd(got[i], want) {
						t.Errorf("the %s read %v, want %v", who, got[i], want)
					}
					if err := c.Err(); !sameEnd(err, got[i]) {
						t.Errorf("the %s's Err is %v, but it read %v", who, err, got[i])
					}
					if _, err := c.ReadMessage(context.Background()); !sameEnd(err, got[i]) {
						t.Errorf("the %s read %v, and then %v: the first error is final", who, got[i], err)
					}
					if err := c.WriteMessage(context.Background(), []byte("x")); err == nil || err == io.EOF {
						t.Errorf("the %s's write after the end: %v", who, err)
					}
					if _, err := c.Ping(t.Context()); err == nil || err == io.EOF {
						t.Errorf("the %s's Ping after the end: %v", who, err)
					}
				}
				for d, want := range test.codes {
					way := tunneltest.Direction(d)
					if codes := e.valve.closeCodes(t, way); want != nil && !slices.Equal(codes, want) {
						t.Errorf("WebSocket close codes %v: %v, want %v", way, codes, want)
					}
				}
			})
		})
	}
}

// sameEnd says whether two errors are the same end of a connection.
func sameEnd(got, want error) bool {
	var a, b *tunnel.CloseError
	if errors.As(got, &a) && errors.As(want, &b) {
		return *a == *b
	}
	return errors.Is(got, want)
}

// A reader whose context ends has given up the connection; the other end is not told that all is well.
func TestReadContextEndsConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newMemoryHost(t, func(s *tunnel.Server) { s.PlainConns = true })
		client, server := h.dialConn(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.ReadMessage(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("this end read %v, want %v", err, context.DeadlineExceeded)
		}
		if _, err := server.ReadMessage(t.Context()); !errors.Is(err, tunnel.ErrTruncated) {
			t.Errorf("the other end read %v, want %v", err, tunnel.ErrTruncated)
		}
		<-client.Done()
	})
}

// A program that panics while it serves a stream, and recovers, takes down the stream that it left
// half-written, and its tunnel if it gives that up: neither ends cleanly at the other end.
func TestPanicInAHandler(t *testing.T) {
	h := newTestHost(t, nil)
	client, server := h.dial(t)
	a, b := pipe(t, client, server)
	func() {
		defer func() { recover() }()
		defer server.CloseWith(tunnel.Internal, "")
		b.Write([]byte("half an ans"))
		panic("a bug")
	}()
	if got, err := io.ReadAll(a); err == nil {
		t.Errorf("the stream came to a clean end after %q", got)
	}
	waitDone(t, client)
	var closed *tunnel.CloseError
	if err := client.Err(); !errors.As(err, &closed) || closed.Code != tunnel.Internal || !closed.Remote {
		t.Errorf("the client's tunnel ended with %v, want the code %v", err, tunnel.Internal)
	}
}

// A read deadline of a stream ends that read, and nothing else.
func TestStreamDeadlineEndsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newMemoryHost(t, nil)
		client, server := h.dial(t)
		a, b := pipe(t, client, server)
		a.SetReadDeadline(time.Now().Add(time.Second))
		begin := time.Now()
		var timeout net.Error
		if _, err := a.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(begin) != time.Second {
			t.Errorf("read %v after %v, want a timeout after 1 s", err, time.Since(begin))
		}
		a.SetReadDeadline(time.Time{})
		if _, err := b.Write([]byte("late")); err != nil {
			t.Error(err)
		}
		p := make([]byte, 4)
		if _, err := io.ReadFull(a, p); err != nil || string(p) != "late" {
			t.Errorf("then it read %q, %v", p, err)
		}
	})
}

// Close may come from anywhere, any number of times, while everything else is under way.
func TestCloseFromEverywhere(t *testing.T) {
	h := newTestHost(t, unlimited)
	for range 20 {
		client, server := h.dial(t)
		a, b := pipe(t, client, server)
		var all sync.WaitGroup
		all.Go(func() { io.Copy(io.Discard, a) })
		all.Go(func() { io.Copy(a, bytes.NewReader(make([]byte, 1<<20))) })
		all.Go(func() { io.Copy(b, b) })
		begin := time.Now()
		for _, end := range []*tunnel.Tunnel{client, server} {
			for range 4 {
				all.Go(func() { end.Close() })
				all.Go(func() { end.CloseWith(tunnel.GoingAway, "") })
				all.Go(func() { end.Rekey(); end.Stats(); end.Err(); end.Ping(t.Context()) })
				all.Go(func() { end.OpenStream(t.Context(), tunnel.Request{Kind: tunnel.KindApp}) })
				all.Go(func() { end.AcceptStream(t.Context()) })
			}
		}
		all.Wait()
		// Whoever waits for the other end's END sees that it will not come.
		if took := time.Since(begin); took > 1500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		for _, end := range []*tunnel.Tunnel{client, server} {
			if end.Err() == nil {
				t.Error("a tunnel that was closed has no Err")
			}
		}
	}
}
