package forward

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Connections that wait for data hold no buffers.
func TestIdleHoldsNoBuffer(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there the reader cannot wait without a buffer")
	}
	if raceEnabled {
		t.Skip("under the race detector a sync.Pool drops a part of what it is given")
	}
	var made atomic.Int64
	old := buffers.New
	buffers.New = func() any { made.Add(1); return old() }
	defer func() { buffers.New = old }()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const conns = 200
	var wg sync.WaitGroup
	read := make(chan int, conns)
	var clients []net.Conn
	for range conns {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(20 * time.Second))
		wg.Go(func() {
			defer s.Close()
			r := newReader(s)
			b, err := r.read()
			if err != nil {
				t.Error(err)
			}
			read <- len(b)
			r.done()
			if _, err := r.read(); err != io.EOF {
				t.Errorf("at the end: %v", err)
			}
			r.done()
		})
	}
	for i, c := range clients { // one after another: one buffer would do for all of them
		c.Write(make([]byte, i+1))
		if n := <-read; n != i+1 {
			t.Errorf("read %d bytes, want %d", n, i+1)
		}
		c.Close()
	}
	wg.Wait()
	// The pool may lose some to the collector.
	if n := made.Load(); n > conns/2 {
		t.Errorf("%d buffers were made for %d connections of which one at a time had data", n, conns)
	}
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "short", string(make([]byte, maxText))} {
		if got := clip(s); got != s {
			t.Errorf("clip(%q) = %q", s, got)
		}
	}
	long := ""
	for len(long) <= maxText {
		long += "ä"
	}
	for _, s := range []string{long, "x" + long, "xy" + long} {
		if got := clip(s); len(got) > maxText || len(got) < maxText-4 || got[len(got)-3:] != "…" {
			t.Errorf("clip(%q) = %q (%d bytes)", s, got, len(got))
		}
	}
}

// The kernel tells a reset once. If a write was told, the read after it sees an end of file, which
// must not be taken for a clean one.
func TestResetToldToWriter(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux says what became of a connection")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := func() (near, far *net.TCPConn) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []net.Conn{c, s} {
			c.SetDeadline(time.Now().Add(20 * time.Second))
			t.Cleanup(func() { c.Close() })
		}
		return c.(*net.TCPConn), s.(*net.TCPConn)
	}
	atEnd := func(c *net.TCPConn) {
		t.Helper()
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("read %d bytes, %v; want the end", n, err)
		}
	}

	near, far := connect()
	far.SetLinger(0)
	far.Close()
	for err = nil; err == nil; {
		_, err = near.Write([]byte("x"))
	}
	atEnd(near)
	if s := (&splicer{local: near}); !s.wasReset() {
		t.Error("a reset that a write was told of is taken for a clean end")
	}

	near, far = connect()
	far.CloseWrite()
	atEnd(near)
	s := &splicer{local: near}
	if s.wasReset() {
		t.Error("a half-close is taken for a reset")
	}
	s.finished.Store(true)
	near.CloseWrite()
	atEnd(far)
	if s.wasReset() {
		t.Error("an end of both ways is taken for a reset")
	}
}

// A buffer that goes back to the pool holds nothing of the connection that used it.
func TestBuffersAreCleared(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	for name, ends := range map[string][2]net.Conn{"socket": {tcp, accepted}, "without a descriptor": {near, far}} {
		t.Run(name, func(t *testing.T) {
			defer ends[0].Close()
			defer ends[1].Close()
			go ends[0].Write([]byte("plaintext"))
			r := newReader(ends[1])
			b, err := r.read()
			if err != nil || string(b) != "plaintext" {
				t.Fatalf("read %q, %v", b, err)
			}
			r.done()
			if len(bytes.Trim(b, "\x00")) != 0 {
				t.Errorf("the buffer went back with %q", b)
			}
		})
	}
}
