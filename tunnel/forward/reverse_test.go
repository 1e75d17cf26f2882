package forward_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

const anyPort = "listen=127.0.0.1:*"

// reversed makes a target of one kind, a reverse forward to it from another, and returns how to connect.
func reversed(t testing.TB, n network, serve func(net.Conn)) (*guest, *holding, func() halfCloser) {
	t.Helper()
	dir := shortDir(t)
	addr, spec := "127.0.0.1:0", "0:"
	if n.target == "unix" {
		addr = filepath.Join(dir, "t")
	}
	if n.local == "unix" {
		spec = filepath.Join(dir, "l") + ":"
	}
	to := target(t, n.target, addr, serve).String()
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", anyPort, "listen=unix:"+filepath.Join(dir, "l")))
	held := g.mustHold(spec + to)
	return g, held, func() halfCloser { return dial(t, n.local, held.addr()).(halfCloser) }
}

// Both ways at once, on many connections, and half-close in either order.
func TestReverse(t *testing.T) {
	data := randomBytes(mib)
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			g, held, connect := reversed(t, n, echo)
			var wg sync.WaitGroup
			for range 4 {
				c := connect()
				wg.Go(func() {
					c.Write(data)
					c.CloseWrite()
				})
				wg.Go(func() {
					if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
						t.Errorf("got %d bytes, %v; want the %d that were sent", len(got), err, len(data))
					}
				})
			}
			wg.Wait()
			want := forward.Stats{Total: 4, In: 4 * mib, Out: 4 * mib}
			eventually(t, "all have ended", func() bool { return held.Stats() == want })
			if got := g.reverser.Stats(); got != want {
				t.Errorf("of all: %+v, want %+v", got, want)
			}
			if !held.Listening() {
				t.Error("it does not listen any more")
			}
			held.cancel()
			if err := held.wait(t); !errors.Is(err, context.Canceled) || held.Listening() {
				t.Errorf("ended with %v, listening %v", err, held.Listening())
			}
			if n.local == "unix" {
				eventually(t, "the socket is removed", func() bool { _, err := os.Lstat(held.addr()); return err != nil })
				return
			}
			wantClosed(t, held.addr())
		})
		t.Run(n.name+", target first", func(t *testing.T) {
			received := make(chan []byte, 1)
			_, _, connect := reversed(t, n, func(c net.Conn) {
				io.WriteString(c, "greeting")
				c.(halfCloser).CloseWrite()
				got, _ := io.ReadAll(c)
				received <- got
			})
			c := connect()
			if got, err := io.ReadAll(c); err != nil || string(got) != "greeting" {
				t.Fatalf("got %q, %v", got, err)
			}
			c.Write(data)
			c.CloseWrite()
			if got := <-received; !bytes.Equal(got, data) {
				t.Errorf("target got %d bytes, want %d", len(got), len(data))
			}
		})
	}
}

// Resets pass through, and a tunnel that is lost resets the sockets at both of its ends and closes what
// was listened on.
func TestReverseReset(t *testing.T) {
	t.Run("by the target", func(t *testing.T) {
		_, _, connect := reversed(t, networks[0], func(c net.Conn) {
			io.ReadFull(c, make([]byte, 1))
			c.(*net.TCPConn).SetLinger(0)
		})
		c := connect()
		io.WriteString(c, "x")
		wantReset(t, c)
	})
	t.Run("lost tunnel", func(t *testing.T) {
		far, over := make(chan net.Conn, 1), make(chan struct{})
		g, held, connect := reversed(t, networks[0], func(c net.Conn) { far <- c; <-over })
		defer close(over)
		c := connect()
		target := <-far
		g.tun.Close()
		wantReset(t, c)
		wantReset(t, target)
		held.wait(t)
		wantClosed(t, held.addr())
	})
}

// What cannot be connected here is refused, told here and not there.
func TestReverseTargetDown(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", anyPort))
	ev := make(events, 10)
	g.reverser.Events = func(e forward.Event) { ev <- e }
	nobody := closedPort(t)
	held := g.mustHold("0:" + nobody)
	if c, err := net.Dial("tcp", held.addr()); err == nil {
		defer c.Close()
		wantReset(t, c)
	}
	e := ev.next(t, forward.Refused)
	var se *tunnel.StreamError
	if !errors.As(e.Err, &se) || se.Code != tunnel.RefusedByTarget || se.Text != nobody+": connection refused" {
		t.Errorf("got %v", e.Err)
	}
	if e.Local != forward.Local(held.Remote()) {
		t.Errorf("event for %v, want %v", e.Local, held.Remote())
	}
	if got, want := held.Stats(), (forward.Stats{Total: 1, Refused: 1}); got != want {
		t.Errorf("Stats: %+v, want %+v", got, want)
	}
}

func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func wantStreamError(t testing.TB, err error, code tunnel.Code, text string) {
	t.Helper()
	var se *tunnel.StreamError
	if !errors.As(err, &se) || !se.Remote || se.Code != code || se.Text != text {
		t.Errorf("got %v, want %v: %q", err, code, text)
	}
}

// What a peer may listen on, and what it is told.
func TestReversePolicy(t *testing.T) {
	dir := shortDir(t)
	h := newHub(t, &forward.Exit{})
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }(closedPort(t))
	tests := []struct {
		allow, listen string
		ok            bool
	}{
		{"listen=127.0.0.1:" + port, port, true},
		{"listen=127.0.0.1:" + port, "localhost:" + port, true},
		{"listen=127.0.0.1:" + port, "0", false},
		{"listen=127.0.0.1:" + port, "127.0.0.2:" + port, false},
		{"listen=127.0.0.1:" + port, "*:" + port, false},
		{"listen=127.0.0.1:" + port, "0.0.0.0:" + port, false},
		{"listen=127.0.0.1:" + port, dir + "/s", false},
		{"listen=127.0.0.0/8:1024-65535", port, true},
		{"listen=127.0.0.0/8:1024-65535", "80", false},
		{"listen=127.0.0.1:*", "0", true},
		{"listen=127.0.0.1:*", "80", false},
		{"listen=*:*", "1023", false},
		{"listen=*:*", "*:0", true},
		{"listen=0.0.0.0:*", "0.0.0.0:0", true},
		{"listen=0.0.0.0:*", "*:0", false},
		{"listen=[::]:*", "*:0", false},
		{"connect=*:*", port, false},
		{"listen=unix:" + dir + "/s", dir + "/s", true},
		{"listen=unix:" + dir + "/s", dir + "/t", false},
		{"listen=unix:" + dir + "/s", "0", false},
		{"message", "0", false},
	}
	for i, tt := range tests {
		t.Run(tt.allow+" "+tt.listen, func(t *testing.T) {
			name := fmt.Sprintf("laptop%d", i)
			g := h.connect(h.enrol(name, tt.allow))
			held, err := g.hold(tt.listen + ":x:1")
			if tt.ok {
				if err != nil {
					t.Fatal(err)
				}
				held.cancel()
				held.wait(t)
				if held.Remote().Listen.Network == "tcp" {
					wantClosed(t, held.addr())
				}
				return
			}
			may, ok := strings.CutPrefix(tt.allow, "listen=")
			if !ok {
				may = "nothing"
			}
			wantStreamError(t, err, tunnel.NotAllowed, name+" may listen on "+may)
			if got, list, ok := forward.Permitted(name + " may listen on " + may); !ok || got != name || may != strings.Join(list, "") && may != "nothing" {
				t.Errorf("Permitted: %s, %v, %v", got, list, ok)
			}
		})
	}
}

// One family is one family: a permission for 0.0.0.0 opens nothing on IPv6.
func TestReverseOneFamily(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("this host has no IPv6")
	} else {
		l.Close()
	}
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", "listen=*:*"))
	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	for spec, want := range map[string][2]bool{"0.0.0.0:0": {true, false}, "[::]:0": {false, true}, "*:0": {true, true}} {
		held := g.mustHold(spec + ":" + to)
		_, port, _ := net.SplitHostPort(held.addr())
		for i, host := range []string{"127.0.0.1", "::1"} {
			c, err := net.Dial("tcp", net.JoinHostPort(host, port))
			if (err == nil) != want[i] {
				t.Errorf("%s listens, dialling %s: %v", held.Remote(), host, err)
			}
			if err == nil {
				c.Close()
			}
		}
	}
}

// What is in use stays so, for other programs and for other peers.
func TestReverseInUse(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	g, other := h.connect(h.enrol("laptop", anyPort, "listen=*:*")), h.connect(h.enrol("desk", anyPort, "listen=*:*"))
	taken := target(t, "tcp", "127.0.0.1:0", echo).String()
	_, err := g.hold(taken + ":x:1")
	wantStreamError(t, err, tunnel.Unreachable, taken+": in use")
	_, err = g.hold("192.0.2.1:0:x:1")
	wantStreamError(t, err, tunnel.Unreachable, "192.0.2.1:0: not an address of that host")

	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	held := g.mustHold("0:" + to)
	_, err = other.hold(held.addr() + ":x:1")
	wantStreamError(t, err, tunnel.Unreachable, held.addr()+": in use by another peer")
	_, port, _ := net.SplitHostPort(held.addr())
	for _, spec := range []string{"*:" + port, "0.0.0.0:" + port} {
		_, err = other.hold(spec + ":x:1")
		wantStreamError(t, err, tunnel.Unreachable, spec+": in use by another peer")
	}
	roundTrip(t, dial(t, "tcp", held.addr()), "still there")
	held.cancel()
	held.wait(t)
	var again *holding
	eventually(t, "it is free", func() bool { again, err = other.hold(held.addr() + ":" + to); return err == nil })
	roundTrip(t, dial(t, "tcp", again.addr()), "of another peer now")
}

// The newest request of a key has what it asks for: a client that was restarted need not wait until its
// last session is given up, and what came in the meantime is not lost.
func TestReverseTakeOver(t *testing.T) {
	for _, how := range []string{"alive", "dead"} {
		t.Run(how, func(t *testing.T) {
			h := newHub(t, &forward.Exit{})
			id := h.enrol("laptop", anyPort)
			first := h.connect(id)
			held := first.mustHold("0:" + target(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
				io.WriteString(c, "first")
				io.Copy(io.Discard, c)
			}).String())
			open := dial(t, "tcp", held.addr())
			if _, err := io.ReadFull(open, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			var early net.Conn
			if how == "dead" {
				first.cut(true)
				eventually(t, "the server has noticed", func() bool { return h.srv.Connections() == 0 })
				early = dial(t, "tcp", held.addr())
			}
			start := time.Now()
			second := h.connect(id)
			again := second.mustHold(held.addr() + ":" + target(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
				io.WriteString(c, "second")
				c.(halfCloser).CloseWrite()
				io.Copy(io.Discard, c)
			}).String())
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			for _, c := range []net.Conn{dial(t, "tcp", again.addr()), early} {
				if c == nil {
					continue
				}
				c.(halfCloser).CloseWrite()
				if got, err := io.ReadAll(c); err != nil || string(got) != "second" {
					t.Errorf("got %q, %v", got, err)
				}
			}
			if how == "dead" {
				first.cut(false) // it may come back: the session is still kept
				first.tun.Reconnect()
			}
			if err := held.wait(t); err != forward.ErrTakenOver {
				t.Errorf("the first ended with %v", err)
			}
			open.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := open.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("what the first had open: %d, %v; want it open", n, err)
			}
		})
	}
	t.Run("of a part", func(t *testing.T) {
		h := newHub(t, &forward.Exit{})
		g := h.connect(h.enrol("laptop", "listen=*:*"))
		to := target(t, "tcp", "127.0.0.1:0", echo).String()
		held := g.mustHold("0:" + to)
		_, port, _ := net.SplitHostPort(held.addr())
		again := g.mustHold("*:" + port + ":" + to)
		if err := held.wait(t); err != forward.ErrTakenOver {
			t.Errorf("the first ended with %v", err)
		}
		roundTrip(t, dial(t, "tcp", held.addr()), "all of it")
		if again.addr() != ":"+port {
			t.Errorf("listens on %s", again.addr())
		}
	})
}

// A lost connection leaves what is listened on alone, and a connection that comes meanwhile waits.
func TestReverseResume(t *testing.T) {
	g, held, connect := reversed(t, networks[0], echo)
	before := connect()
	roundTrip(t, before, "before")
	g.cut(true)
	eventually(t, "the server has noticed", func() bool { return g.h.srv.Connections() == 0 })
	during := connect()
	g.cut(false)
	g.tun.Reconnect()
	roundTrip(t, during, "during")
	roundTrip(t, before, "after")
	select {
	case err := <-held.ended:
		t.Errorf("it ended: %v", err)
	default:
	}
	if g.tun.Stats().Resumes == 0 {
		t.Error("nothing was resumed")
	}
}

// Another session asks again; where any port would do, for the one that it had.
func TestReverseAgain(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	id := h.enrol("laptop", anyPort)
	g := h.connect(id)
	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	held := g.mustHold("0:" + to)
	was := held.addr()
	g.tun.Close()
	held.wait(t)
	again, err := h.connect(id).holdAgain(held.Reverse)
	if err != nil || again.addr() != was {
		t.Fatalf("again: %v, %v; want %s", again, err, was)
	}
	again.cancel()
	again.wait(t)
	wantClosed(t, was)
	l, err := net.Listen("tcp", was) // somebody else has it now
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	third, err := h.connect(id).holdAgain(held.Reverse)
	if err != nil || third.addr() == was {
		t.Fatalf("a third time: %v, %v", third, err)
	}
}

// A permission that is gone ends the listening at the next connection.
func TestReverseRevoked(t *testing.T) {
	var revoked atomic.Bool
	h := newHub(t, &forward.Exit{Peer: func(tun *tunnel.Tunnel) keys.Peer {
		p := tun.Peer()
		if revoked.Load() {
			p.Allow = nil
		}
		return p
	}})
	g := h.connect(h.enrol("laptop", anyPort))
	held := g.mustHold("0:" + target(t, "tcp", "127.0.0.1:0", echo).String())
	revoked.Store(true)
	if c, err := net.Dial("tcp", held.addr()); err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	}
	wantStreamError(t, held.wait(t), tunnel.NotAllowed, "")
	wantClosed(t, held.addr())
}

func TestStopListening(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", anyPort))
	held := g.mustHold("0:" + target(t, "tcp", "127.0.0.1:0", echo).String())
	c := dial(t, "tcp", held.addr())
	roundTrip(t, c, "before")
	h.exit.StopListening()
	if got := h.srv.Tunnels()[0].Stats().Streams; got != 1 {
		t.Errorf("%d streams are left, want the connection's", got)
	}
	wantStreamError(t, held.wait(t), tunnel.GoingAway, "")
	wantClosed(t, held.addr())
	roundTrip(t, c, "after")
	_, err := g.hold("0:x:1")
	wantStreamError(t, err, tunnel.GoingAway, "")
}

// Without a target each connection says where it goes, and this end connects it.
func TestReverseDynamic(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", anyPort))
	ev := make(events, 10)
	g.reverser.Events = func(e forward.Event) { ev <- e }
	to, down := target(t, "tcp", "127.0.0.1:0", echo).String(), closedPort(t)
	held := g.mustHold("0")
	c, reply := socksDial(t, held.addr(), 1, to)
	if reply != 0 {
		t.Fatalf("reply %d", reply)
	}
	roundTrip(t, c, "hello")
	c.(halfCloser).CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	ev.next(t, forward.Opened)
	if e := ev.next(t, forward.Closed); e.Local.Target.Addr != to || e.In != 5 || e.Out != 5 || e.Err != nil {
		t.Errorf("event: %+v", e)
	}
	c = dial(t, "tcp", held.addr())
	io.WriteString(c, "CONNECT "+to+" HTTP/1.0\r\n\r\nearly")
	c.(halfCloser).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "HTTP/1.1 200 Connection established\r\n\r\nearly" {
		t.Errorf("got %q, %v", got, err)
	}
	ev.next(t, forward.Opened)
	ev.next(t, forward.Closed)
	if _, reply := socksDial(t, held.addr(), 1, down); reply != 5 {
		t.Errorf("reply %d, want 5", reply)
	}
	ev.next(t, forward.Refused)
	if _, r := connectDial(t, held.addr(), down); r.StatusCode != 502 {
		t.Errorf("status %s, want 502", r.Status)
	}
	ev.next(t, forward.Refused)
	c = dial(t, "tcp", held.addr())
	io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("got %q, %v; want nothing", got, err)
	}
	ev.next(t, forward.Unclear)
	if got, want := held.Stats(), (forward.Stats{Total: 5, Refused: 2, In: 10, Out: 10}); got != want {
		t.Errorf("Stats: %+v, want %+v", got, want)
	}

	// One that says nothing is given up in time, one that has spoken has all the time there is.
	h2 := newHub(t, &forward.Exit{})
	r := &forward.Reverser{}
	const limit = 200 * time.Millisecond
	forward.SetProxyTimeout(r, limit)
	held = h2.connectWith(h2.enrol("laptop", anyPort), r).mustHold("0")
	c, reply = socksDial(t, held.addr(), 1, to)
	if reply != 0 {
		t.Fatalf("reply %d", reply)
	}
	silent := dial(t, "tcp", held.addr())
	if got, err := io.ReadAll(silent); err != nil || len(got) > 0 {
		t.Errorf("got %q, %v; want nothing", got, err)
	}
	roundTrip(t, c, "later")
}
