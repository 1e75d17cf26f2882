package forward

import (
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
