package forward_test

import (
	"context"
	"io"
	"net"
	"testing"

	"waxwire.example/waxwire/tunnel/forward"
)

// sink takes all that comes over each connection, and says when one has ended.
func sink(b *testing.B) (addr string, ended <-chan int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	done := make(chan int64, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 256<<10)
				var n int64
				for {
					k, err := c.Read(buf)
					n += int64(k)
					if err != nil {
						done <- n
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String(), done
}

// copier is a plain hop through user space: what a forward cannot be faster than.
func copier(b *testing.B, target string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer out.Close()
				// Readers and writers without the kernel's short cuts, as ours have to be.
				io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 64<<10))
			}()
		}
	}()
	return l.Addr().String()
}

// BenchmarkForward moves bulk through a forward, and through two plain hops beside it: the ratio is
// what sealing, framing and multiplexing cost.
func BenchmarkForward(b *testing.B) {
	const piece = 1 << 20
	run := func(b *testing.B, addr string, ended <-chan int64) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		p := make([]byte, piece)
		b.SetBytes(piece)
		b.ReportAllocs()
		n := int64(0)
		for b.Loop() {
			if _, err := c.Write(p); err != nil {
				b.Fatal(err)
			}
			n += piece
		}
		c.(*net.TCPConn).CloseWrite()
		if got := <-ended; got != n {
			b.Fatalf("%d bytes arrived of %d", got, n)
		}
	}
	b.Run("plain", func(b *testing.B) {
		target, ended := sink(b)
		run(b, copier(b, copier(b, target)), ended)
	})
	b.Run("sealed", func(b *testing.B) {
		target, ended := sink(b)
		p := newPair(b, &forward.Exit{}, "connect="+target)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		f := &forward.Forwarder{Dialer: p}
		local, err := forward.ParseLocal("127.0.0.1:0:" + target)
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
		fl, err := f.Listen(local)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan struct{})
		go func() { defer close(served); fl.Serve(ctx) }()
		defer func() { fl.Close(); cancel(); <-served }()
		run(b, fl.Local().Listen.Addr, ended)
	})
}
