package forward_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

const mib = 1 << 20

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// A network is one kind of socket at each end.
type network struct{ name, local, target string }

var networks = []network{{"tcp to tcp", "tcp", "tcp"}, {"tcp to unix", "tcp", "unix"}, {"unix to tcp", "unix", "tcp"}, {"unix to unix", "unix", "unix"}}

// forwarded makes a target of one kind, a forward to it of another, and returns how to connect.
func forwarded(t testing.TB, n network, f *forward.Forwarder, serve func(net.Conn)) (*forward.Listener, *pair, func() halfCloser) {
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
	allow := "connect=" + to
	if n.target == "unix" {
		allow = "connect=unix:" + to
	}
	p := newPair(t, &forward.Exit{}, allow)
	f.Dialer = p
	l := listen(t, f, spec+to)
	return l, p, func() halfCloser { return dial(t, n.local, l.Local().Listen.Addr).(halfCloser) }
}

// shortDir is a temporary folder whose path leaves room for the name of a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// One side sends, says that it has finished, and then gets 1 MiB from the other, and the same with
// the sides exchanged.
func TestHalfClose(t *testing.T) {
	reply := randomBytes(mib)
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			t.Run("local first", func(t *testing.T) {
				_, _, connect := forwarded(t, n, &forward.Forwarder{}, func(c net.Conn) {
					if got, err := io.ReadAll(c); err != nil || string(got) != "question" {
						t.Errorf("target got %q, %v", got, err)
					}
					c.Write(reply)
				})
				c := connect()
				io.WriteString(c, "question")
				c.CloseWrite()
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, reply) {
					t.Errorf("got %d bytes, %v; want the %d of the reply", len(got), err, len(reply))
				}
			})
			t.Run("target first", func(t *testing.T) {
				received := make(chan []byte, 1)
				_, _, connect := forwarded(t, n, &forward.Forwarder{}, func(c net.Conn) {
					io.WriteString(c, "greeting")
					c.(halfCloser).CloseWrite()
					got, err := io.ReadAll(c)
					if err != nil {
						t.Errorf("target: %v", err)
					}
					received <- got
				})
				c := connect()
				if got, err := io.ReadAll(c); err != nil || string(got) != "greeting" {
					t.Fatalf("got %q, %v", got, err)
				}
				c.Write(reply)
				c.CloseWrite()
				if got := <-received; !bytes.Equal(got, reply) {
					t.Errorf("target got %d bytes, want %d", len(got), len(reply))
				}
			})
		})
	}
}

// Bytes arrive as they were sent, both ways at once, on many connections.
func TestBothWays(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			_, p, connect := forwarded(t, n, &forward.Forwarder{}, echo)
			data := randomBytes(3 * mib)
			var wg sync.WaitGroup
			for range 8 {
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
			if err := p.client.Err(); err != nil {
				t.Errorf("the tunnel ended: %v", err)
			}
		})
	}
}

func wantReset(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	n, err := io.Copy(io.Discard, c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes, then: got %v, want ECONNRESET", n, err)
	}
}

// A tunnel that is lost resets the sockets at both of its ends: nobody takes what came so far for
// all there was.
func TestLostTunnel(t *testing.T) {
	for _, how := range []string{"closed by the client", "closed by the server", "cut"} {
		t.Run(how, func(t *testing.T) {
			far := make(chan net.Conn, 1)
			over := make(chan struct{})
			_, p, connect := forwarded(t, networks[0], &forward.Forwarder{}, func(c net.Conn) {
				io.WriteString(c, "the first part")
				far <- c
				<-over
			})
			defer close(over)
			c := connect()
			if _, err := io.ReadFull(c, make([]byte, 14)); err != nil {
				t.Fatal(err)
			}
			target := <-far
			switch how {
			case "closed by the client":
				p.client.Close()
			case "closed by the server":
				p.server.CloseWith(tunnel.GoingAway, "")
			case "cut":
				p.wire.Close()
			}
			wantReset(t, c)
			wantReset(t, target)
		})
	}
}

// A target that resets resets the local program's socket, after what it sent before; and the other
// way round.
func TestReset(t *testing.T) {
	t.Run("by the target", func(t *testing.T) {
		ready := make(chan struct{})
		f := &forward.Forwarder{}
		ev := make(events, 10)
		f.Events = func(e forward.Event) { ev <- e }
		_, _, connect := forwarded(t, networks[0], f, func(c net.Conn) {
			io.WriteString(c, "part")
			<-ready
			c.(*net.TCPConn).SetLinger(0)
		})
		c := connect()
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "part" {
			t.Fatalf("got %q, %v", b, err)
		}
		close(ready)
		wantReset(t, c)
		ev.next(t, forward.Opened)
		if e := ev.next(t, forward.Closed); e.Err == nil || e.In != 4 {
			t.Errorf("event: %+v; want an error after 4 bytes", e)
		}
	})
	t.Run("by the local program", func(t *testing.T) {
		result := make(chan error, 1)
		ready := make(chan struct{})
		_, _, connect := forwarded(t, networks[0], &forward.Forwarder{}, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 4))
			close(ready)
			_, err := io.Copy(io.Discard, c)
			result <- err
		})
		c := connect()
		io.WriteString(c, "part")
		<-ready
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("target: got %v, want ECONNRESET", err)
		}
	})
	// A server that answers without reading all of the request, and closes: the kernel resets the
	// connection. The program must not see a clean end.
	t.Run("by a target that did not read", func(t *testing.T) {
		_, _, connect := forwarded(t, networks[0], &forward.Forwarder{}, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 1))
		})
		c := connect()
		written := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 8*mib))
			written <- err
		}()
		// The kernel tells a reset once, to the reader or to the writer.
		_, rerr := io.Copy(io.Discard, c)
		if werr := <-written; !errors.Is(rerr, syscall.ECONNRESET) && !errors.Is(werr, syscall.ECONNRESET) {
			t.Errorf("reading: %v, writing: %v; want ECONNRESET of one of them", rerr, werr)
		}
	})
}

// A program that stops reading holds up its own stream alone.
func TestSlowReader(t *testing.T) {
	_, _, connect := forwarded(t, networks[0], &forward.Forwarder{}, func(c net.Conn) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err == nil && b[0] == 'x' {
			io.Copy(c, zeros{})
		}
		c.Write([]byte("y"))
	})
	for range 4 {
		stuck := connect()
		stuck.Write([]byte("x"))
		if _, err := io.ReadFull(stuck, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		c := connect()
		c.Write([]byte("z"))
		if got, err := io.ReadAll(c); err != nil || string(got) != "y" {
			t.Fatalf("beside stuck connections: got %q, %v", got, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What the far end could not do arrives as a code, and resets the local program.
func TestRefused(t *testing.T) {
	closed := target(t, "tcp", "127.0.0.1:0", func(net.Conn) {}).String()
	nobody := refusing(t)
	dir := shortDir(t)
	tests := []struct {
		name, target string
		code         tunnel.Code
		text         string
	}{
		{"refused", nobody, tunnel.RefusedByTarget, nobody + ": connection refused"},
		{"no such socket", dir + "/none", tunnel.NoSuchTarget, dir + "/none: no such socket"},
		{"no such name", "gone.example:80", tunnel.NoSuchTarget, "gone.example: no such host"},
		{"not allowed", closed, tunnel.NotAllowed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, &forward.Exit{Resolver: &resolver{}},
				"connect="+nobody, "connect=unix:"+dir+"/none", "connect=gone.example:80")
			ev := make(events, 10)
			ln := listen(t, &forward.Forwarder{Dialer: p, Events: func(e forward.Event) { ev <- e }}, "0:"+tt.target)
			// The reset may come before connect has returned.
			if c, err := net.Dial("tcp", ln.Local().Listen.Addr); err == nil {
				defer c.Close()
				wantReset(t, c)
			} else if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("connecting: %v", err)
			}
			e := ev.next(t, forward.Refused)
			var se *tunnel.StreamError
			if !errors.As(e.Err, &se) || se.Code != tt.code || tt.text != "" && se.Text != tt.text {
				t.Errorf("got %v, want %v: %s", e.Err, tt.code, tt.text)
			}
			if e.Local != ln.Local() {
				t.Errorf("event for %v, want %v", e.Local, ln.Local())
			}
		})
	}
}

// dialFailures are what a dial may end in, and the codes that the other end learns.
func TestDialFailures(t *testing.T) {
	tests := []struct {
		err  error
		code tunnel.Code
	}{
		{syscall.ECONNREFUSED, tunnel.RefusedByTarget},
		{syscall.EHOSTUNREACH, tunnel.Unreachable},
		{syscall.ENETUNREACH, tunnel.Unreachable},
		{syscall.EACCES, tunnel.Unreachable},
		{syscall.ENOENT, tunnel.NoSuchTarget},
		{syscall.ETIMEDOUT, tunnel.Timeout},
		{syscall.EMFILE, tunnel.TooMany},
		{context.DeadlineExceeded, tunnel.Timeout},
		{errNotDialled, tunnel.Unreachable},
	}
	for _, tt := range tests {
		exit := &forward.Exit{Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: tt.err}
		}}
		p := newPair(t, exit, "connect=192.0.2.1:80")
		st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: "192.0.2.1:80"})
		if err != nil {
			t.Fatal(err)
		}
		var se *tunnel.StreamError
		if err := st.Opened(testContext(t)); !errors.As(err, &se) || se.Code != tt.code || !strings.HasPrefix(se.Text, "192.0.2.1:80: ") {
			t.Errorf("%v: got %v, want %v", tt.err, err, tt.code)
		}
	}
}

// The allowed addresses are tried in order, each in its share of the time, and a target that does
// not answer holds up nobody else.
func TestDialInOrder(t *testing.T) {
	answering := target(t, "tcp", "127.0.0.1:0", echo).String()
	var mu sync.Mutex
	var tried []string
	hang := make(chan struct{})
	exit := &forward.Exit{
		Timeout:  2 * time.Second,
		Resolver: &resolver{answers: map[string][][]netip.Addr{"db.internal": {addrs("192.0.2.1", "127.0.0.1", "192.0.2.2", "192.0.2.3")}}},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			tried = append(tried, addr)
			mu.Unlock()
			switch {
			case strings.HasPrefix(addr, "192.0.2.1:"):
				<-ctx.Done() // no answer
				return nil, ctx.Err()
			case strings.HasPrefix(addr, "192.0.2.2:"):
				return net.Dial("tcp", answering)
			case strings.HasPrefix(addr, "192.0.2.9:"):
				select {
				case <-hang:
				case <-ctx.Done():
				}
			}
			return nil, syscall.ECONNREFUSED
		},
	}
	p := newPair(t, exit, "connect=192.0.2.0/24:80")
	slow, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: "192.0.2.9:80"})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	defer close(hang)
	start := time.Now()
	st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: "db.internal:80"})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Opened(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("took %v: the first address had more than its share of 2 s", took)
	}
	st.Write([]byte("hello"))
	st.CloseWrite()
	if got, err := io.ReadAll(st); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	mu.Lock()
	defer mu.Unlock()
	var of []string
	for _, a := range tried {
		if a != "192.0.2.9:80" {
			of = append(of, a)
		}
	}
	if got, want := strings.Join(of, " "), "192.0.2.1:80 192.0.2.2:80"; got != want {
		t.Errorf("tried %s, want %s: 127.0.0.1 is not allowed, the last is not needed", got, want)
	}
}

// A dialer that has no tunnel for a while.
type absent struct{ tunnels chan *tunnel.Tunnel }

func (a *absent) Tunnel(ctx context.Context) (*tunnel.Tunnel, error) {
	select {
	case tun := <-a.tunnels:
		return tun, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A connection that comes while there is no tunnel waits for one, or for so long.
func TestWaitForTunnel(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	p := newPair(t, &forward.Exit{}, "connect="+to)
	t.Run("comes", func(t *testing.T) {
		d := &absent{tunnels: make(chan *tunnel.Tunnel)}
		f := &forward.Forwarder{Dialer: d}
		c := dial(t, "tcp", listen(t, f, "0:"+to).Local().Listen.Addr).(halfCloser)
		io.WriteString(c, "early")
		c.CloseWrite()
		d.tunnels <- p.client
		if got, err := io.ReadAll(c); err != nil || string(got) != "early" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("does not come", func(t *testing.T) {
		ev := make(events, 1)
		f := &forward.Forwarder{Dialer: &absent{}, Wait: 50 * time.Millisecond, Events: func(e forward.Event) { ev <- e }}
		c := dial(t, "tcp", listen(t, f, "0:"+to).Local().Listen.Addr)
		wantReset(t, c)
		if e := ev.next(t, forward.Failed); !errors.Is(e.Err, context.DeadlineExceeded) {
			t.Errorf("event: %v", e.Err)
		}
		if s := f.Stats(); s != (forward.Stats{Total: 1}) {
			t.Errorf("Stats: %+v", s)
		}
	})
	t.Run("a dead one first", func(t *testing.T) {
		q := newPair(t, &forward.Exit{}, "connect="+to)
		q.client.Close()
		d := &absent{tunnels: make(chan *tunnel.Tunnel, 2)}
		d.tunnels <- q.client
		d.tunnels <- p.client
		c := dial(t, "tcp", listen(t, &forward.Forwarder{Dialer: d}, "0:"+to).Local().Listen.Addr).(halfCloser)
		io.WriteString(c, "again")
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "again" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// Stats add up, and Serve ends with its context while open connections go on.
func TestServeEnds(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	p := newPair(t, &forward.Exit{}, "connect="+to)
	f := &forward.Forwarder{Dialer: p}
	spec, err := forward.ParseLocal("0:" + to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := f.Listen(spec)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx) }()
	c := dial(t, "tcp", l.Local().Listen.Addr).(halfCloser)
	roundTrip(t, c, "before")
	if s := f.Stats(); s.Open != 1 || s.Total != 1 || s.Waiting != 0 {
		t.Errorf("Stats with one open: %+v", s)
	}
	cancel()
	roundTrip(t, c, "after")
	c.CloseWrite()
	io.Copy(io.Discard, c)
	c.Close()
	p.client.Close()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Serve did not return")
	}
	if s := f.Stats(); s.Open != 0 || s.In != 11 || s.Out != 11 {
		t.Errorf("Stats at the end: %+v; want 11 bytes each way", s)
	}
}

func roundTrip(t testing.TB, c net.Conn, text string) {
	t.Helper()
	io.WriteString(c, text)
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("got %q, %v; want %q", b, err, text)
	}
}

func TestListenTCP(t *testing.T) {
	f := &forward.Forwarder{Dialer: &absent{}}
	l, err := f.Listen(forward.Local{Listen: tcp("127.0.0.1:0"), Target: tcp("x:1")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, port, err := net.SplitHostPort(l.Local().Listen.Addr)
	if err != nil || host != "127.0.0.1" || port == "0" {
		t.Errorf("listens on %s, want a port of 127.0.0.1", l.Local().Listen.Addr)
	}
	if _, err := f.Listen(l.Local()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the same port again: got %v, want EADDRINUSE", err)
	}
}

func TestListenUnix(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes of files mean nothing on Windows")
	}
	f := &forward.Forwarder{Dialer: &absent{}}
	spec := func(path string) forward.Local { return forward.Local{Listen: unix(path), Target: tcp("x:1")} }
	empty := func(t *testing.T, dir string) {
		t.Helper()
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left over: %v", left)
		}
	}
	t.Run("mode", func(t *testing.T) {
		dir := shortDir(t)
		l, err := f.Listen(spec(dir + "/s"))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(dir + "/s")
		if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
			t.Errorf("the socket: %v, %v; want 0600", info.Mode(), err)
		}
		if list, _ := os.ReadDir(dir); len(list) != 1 {
			t.Errorf("in the folder: %v", list)
		}
		l.Close()
		empty(t, dir)
	})
	t.Run("in use", func(t *testing.T) {
		dir := shortDir(t)
		l, err := f.Listen(spec(dir + "/s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := f.Listen(spec(dir + "/s")); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second listener: got %v, want EADDRINUSE", err)
		}
		c := dial(t, "unix", dir+"/s")
		c.Close()
	})
	t.Run("stale", func(t *testing.T) {
		dir := shortDir(t)
		old, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		old.SetUnlinkOnClose(false)
		old.Close()
		l, err := f.Listen(spec(dir + "/s"))
		if err != nil {
			t.Fatal(err)
		}
		dial(t, "unix", dir+"/s")
		l.Close()
		empty(t, dir)
	})
	t.Run("another file", func(t *testing.T) {
		dir := shortDir(t)
		if err := os.WriteFile(dir+"/s", []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Listen(spec(dir + "/s")); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("got %v", err)
		}
		if b, err := os.ReadFile(dir + "/s"); err != nil || string(b) != "precious" {
			t.Errorf("the file is now %q, %v", b, err)
		}
	})
	t.Run("no such folder", func(t *testing.T) {
		if _, err := f.Listen(spec(shortDir(t) + "/no/s")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("replaced by another program", func(t *testing.T) {
		dir := shortDir(t)
		l, err := f.Listen(spec(dir + "/s"))
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(dir + "/s")
		if err := os.WriteFile(dir+"/s", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := os.Lstat(dir + "/s"); err != nil {
			t.Errorf("what somebody else put there was removed: %v", err)
		}
	})
}

// A peer whose file is gone while its tunnel is up can open nothing more.
func TestPeerGone(t *testing.T) {
	p := newPair(t, &forward.Exit{Peer: func(tun *tunnel.Tunnel) keys.Peer { return keys.Peer{Name: "laptop"} }}, "connect=*:*")
	st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: "198.51.100.1:80"})
	if err != nil {
		t.Fatal(err)
	}
	var se *tunnel.StreamError
	if err := st.Opened(testContext(t)); !errors.As(err, &se) || se.Code != tunnel.NotAllowed || se.Text != "laptop may connect to nothing" {
		t.Errorf("got %v", err)
	}
}

// Each listener counts its own connections, the forwarder those of all.
func TestStats(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	other := target(t, "tcp", "127.0.0.1:0", echo).String()
	p := newPair(t, &forward.Exit{}, "connect="+to)
	ev := make(events, 10)
	f := &forward.Forwarder{Dialer: p, Events: func(e forward.Event) { ev <- e }}
	open, denied := listen(t, f, "0:"+to), listen(t, f, "0:"+other)
	c := dial(t, "tcp", open.Local().Listen.Addr)
	roundTrip(t, c, "hello")
	ev.next(t, forward.Opened)
	if d, err := net.Dial("tcp", denied.Local().Listen.Addr); err == nil { // the reset may come first
		defer d.Close()
	}
	ev.next(t, forward.Refused)
	for _, tt := range []struct {
		name      string
		got, want forward.Stats
	}{
		{"open", open.Stats(), forward.Stats{Open: 1, Total: 1}},
		{"denied", denied.Stats(), forward.Stats{Total: 1, Refused: 1}},
		{"all", f.Stats(), forward.Stats{Open: 1, Total: 2, Refused: 1}},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, tt.got, tt.want)
		}
	}
	c.Close()
	ev.next(t, forward.Closed)
	if got, want := open.Stats(), (forward.Stats{Total: 1, In: 5, Out: 5}); got != want {
		t.Errorf("at the end: %+v, want %+v", got, want)
	}
}
