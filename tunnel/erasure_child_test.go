package tunnel_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// This file is the process whose memory TestErasure searches: this test binary, built with the tag
// erasetrace and started with erasureChildEnv set to the suite and the name of a path. It uses a real
// tunnel over loopback. Beside the secrets, which package erase traces, it writes
//
//	MARK live    the connection, or the handshake, is under way
//	MARK wiped   it has ended
//	MARK gc      the endpoints are closed and the garbage collector has run
//
// and waits after each for a line on its standard input: "go on", or "end" after the last one.

const erasureChildEnv = "WAXWIRE_ERASURE_CHILD"

// traceFile is where secrets and marks go: erase.Trace is told the same number.
const traceFile = 3

// child is one repetition of a path in the process that is searched.
type child struct {
	*childTB
	suite   cipher.Suite
	answers *bufio.Reader
	marks   *os.File
	h       *host
	timing  secure.Timing
	padding tunnel.Padding
	working sync.WaitGroup // what has to end before the connection is over
}

// What the application holds is static, so that it can be cleared for certain.
var (
	canary  [256]byte
	message [9000]byte
	echoed  [9000]byte
)

func erasureChild(what string) {
	suite, name, _ := strings.Cut(what, "/")
	c := &child{answers: bufio.NewReader(os.Stdin), marks: os.NewFile(traceFile, "trace")}
	fmt.Sscan(suite, (*uint8)(&c.suite))
	for _, p := range append(erasurePaths, keyFiles, underCollection) {
		if p.name == name {
			for c.repeat(p) {
			}
			return
		}
	}
	fmt.Fprintf(os.Stderr, "there is no path %q\n", name)
	os.Exit(2)
}

// repeat does a path once, with keys and endpoints of its own, and returns whether to do it again.
func (c *child) repeat(p erasurePath) bool {
	c.childTB = newChildTB()
	c.timing, c.padding = secure.Timing{}, tunnel.PadNone
	rand.Read(canary[:])
	erase.Trace("canary", canary[:])
	c.h = newTestHost(c, func(s *tunnel.Server) {
		log := s.Logger
		unlimited(s)
		s.Logger = log // some paths wait for a line of it
		s.Suite, s.PlainConns = c.suite, true
		if p.server != nil {
			p.server(s)
		}
	})
	p.run(c)
	c.working.Wait()
	c.forgetCanary()
	c.mark("wiped")
	c.cleanup() // closes the server, which wipes its identity
	c.h.client.Wipe()
	c.h = nil
	runtime.GC()
	runtime.GC()
	return c.mark("gc") != "end"
}

// mark says where the child is and waits to be searched.
func (c *child) mark(name string) (answer string) {
	fmt.Fprintf(c.marks, "MARK %s\n", name)
	answer, err := c.answers.ReadString('\n')
	if err != nil {
		os.Exit(3) // the parent has gone
	}
	return strings.TrimSpace(answer)
}

// live is the mark at which the present keys must be found. Afterwards the application has no
// plaintext left that it wants to be found.
func (c *child) live() {
	c.mark("live")
	c.forgetCanary()
}

func (c *child) forgetCanary() {
	clear(canary[:])
	clear(message[:])
	clear(echoed[:])
}

// fill makes the n-th message of the application: canaries, end to end.
func (c *child) fill(n int) []byte {
	m := message[:[...]int{300, 1000, 9000}[n%3]]
	for at := 0; at < len(m); at += copy(m[at:], canary[:]) {
	}
	return m
}

func (c *child) config() *tunnel.Config {
	cfg := c.h.config()
	cfg.Padding = c.padding
	cfg.SetTiming(c.timing)
	return cfg
}

// shorten replaces the delays of both ends.
func (c *child) shorten(t secure.Timing) {
	c.timing = t
	c.h.SetTiming(t, 0)
}

const erasureRecords = 200 // each way, before a connection is searched

// conns connects both ends by plain Conns and moves records. The server's end goes on to echo what
// comes; the client's is not read any more until somebody calls read.
func (c *child) conns() (client, server *tunnel.Conn) {
	client, err := tunnel.DialConn(c.Context(), c.h.url, c.config())
	c.check(err)
	server, err = c.h.AcceptConn(c.Context())
	c.check(err)
	c.working.Go(func() { c.echo(server) })
	for i := range erasureRecords {
		sent := c.fill(i)
		c.check(client.WriteMessage(c.Context(), sent))
		got, err := client.ReadMessage(c.Context())
		c.check(err)
		if !bytes.Equal(got, sent) {
			c.Fatal("the echo is another message")
		}
	}
	return client, server
}

func (c *child) echo(conn *tunnel.Conn) {
	for {
		m, err := conn.ReadMessage(context.Background())
		if err != nil || conn.WriteMessage(context.Background(), m) != nil {
			conn.ReadMessage(context.Background()) // after a write that failed: lets the last message go
			return
		}
	}
}

// read reads until the end of a Conn.
func (c *child) read(conn *tunnel.Conn) {
	c.working.Go(func() {
		for {
			if _, err := conn.ReadMessage(context.Background()); err != nil {
				return
			}
		}
	})
}

// An ended is a Conn or a Tunnel.
type ended interface {
	Done() <-chan struct{}
	Err() error
}

// wait returns when all ends are over.
func (c *child) wait(ends ...ended) {
	c.waitFor(ends...)
	c.working.Wait()
}

func (c *child) waitFor(ends ...ended) {
	for _, e := range ends {
		select {
		case <-e.Done():
		case <-time.After(20 * time.Second):
			c.Fatal("a connection does not end")
		}
	}
}

// tunnels connects both ends by Tunnels and moves data through a stream, which the server goes on to
// echo.
func (c *child) tunnels() (client, server *tunnel.Tunnel, stream *tunnel.Stream) {
	client, err := tunnel.Dial(c.Context(), c.h.url, c.config())
	c.check(err)
	server, err = c.h.Accept(c.Context())
	c.check(err)
	a, b := pipe(c, client, server)
	c.working.Go(func() {
		io.Copy(b, b)
		b.Close()
	})
	c.talk(a, erasureRecords)
	return client, server, a
}

// talk sends messages through something that echoes them.
func (c *child) talk(through io.ReadWriter, n int) {
	for i := range n {
		sent := c.fill(i)
		_, err := through.Write(sent)
		c.check(err)
		_, err = io.ReadFull(through, echoed[:len(sent)])
		c.check(err)
		if !bytes.Equal(sent, echoed[:len(sent)]) {
			c.Fatal("the echo is another message")
		}
	}
}

// unread leaves data in a stream that nobody reads.
func (c *child) unread(from, to *tunnel.Tunnel) {
	a, _ := pipe(c, from, to)
	_, err := a.Write(c.fill(2))
	c.check(err)
	_, err = from.Ping(c.Context()) // what was sent before has arrived
	c.check(err)
}

// wire makes the client connect in a way that can be cut or reset behind its back.
func (c *child) wire() (tcp func() *net.TCPConn) {
	var conn net.Conn
	c.h.netDial = func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return conn, err
	}
	return func() *net.TCPConn { return conn.(*net.TCPConn) }
}

// relay puts a middlebox between the ends.
func (c *child) relay(r *tunneltest.Relay) {
	c.h.url = "ws://" + r.Start(c, c.h.addr) + "/wax"
}

func (c *child) check(err error) {
	if err != nil {
		c.Fatal(err)
	}
}

// childTB is what the helpers of the tests need of a testing.TB.
type childTB struct {
	testing.TB // nil: what is not below must not be called
	ctx        context.Context
	cancel     context.CancelFunc
	cleanups   []func()
}

func newChildTB() *childTB {
	t := &childTB{}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

func (t *childTB) Helper()                      {}
func (t *childTB) Context() context.Context     { return t.ctx }
func (t *childTB) Cleanup(f func())             { t.cleanups = append(t.cleanups, f) }
func (t *childTB) Errorf(f string, args ...any) { t.Fatalf(f, args...) }
func (t *childTB) Fatalf(f string, args ...any) { t.Fatal(fmt.Sprintf(f, args...)) }

func (t *childTB) Fatal(args ...any) {
	_, file, line, _ := runtime.Caller(1)
	for i := 2; strings.HasSuffix(file, "erasure_child_test.go"); i++ {
		_, file, line, _ = runtime.Caller(i)
	}
	fmt.Fprintf(os.Stderr, "%s:%d: %s\n", file, line, fmt.Sprint(args...))
	os.Exit(1)
}

func (t *childTB) cleanup() {
	t.cancel()
	for len(t.cleanups) > 0 {
		last := len(t.cleanups) - 1
		f := t.cleanups[last]
		t.cleanups = t.cleanups[:last]
		f()
	}
}
