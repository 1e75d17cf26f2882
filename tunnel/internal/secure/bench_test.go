package secure_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/secure"
)

// newLoopbackPair is newTestPair over a real socket.
func newLoopbackPair(t testing.TB) *pair {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
	p := newPairOver(t, l, dial, secure.DefaultMax, secure.PadNone)
	t.Cleanup(p.close)
	return p
}

// A batch is n records of a size from one end to the other, until the last has been opened.
type batch func(n, size int) error

// between sends batches from one Conn to another.
func between(from, to *secure.Conn) batch {
	buf := make([]byte, message.Headroom+from.MaxMessage()+cipher.Overhead)
	return func(n, size int) error {
		sent := make(chan error, 1)
		go func() {
			for range n {
				if err := from.WriteMessage(context.Background(), buf[:message.Headroom+size], message.Headroom); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for range n {
			if _, err := to.ReadMessage(context.Background()); err != nil {
				return err
			}
		}
		return <-sent
	}
}

// sealedTCP is what a record costs without WebSocket: a length, the sealed bytes, one write.
func sealedTCP(b *testing.B) batch {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { here.Close(); there.Close() })

	sealer, opener := newRecords(b)
	out, in := make([]byte, 4+secure.DefaultMax+cipher.Overhead), make([]byte, secure.DefaultMax+cipher.Overhead)
	r := bufio.NewReaderSize(there, 4<<10)
	return func(n, size int) error {
		sent := make(chan error, 1)
		plaintext := make([]byte, size)
		go func() {
			for range n {
				record, err := sealer.Seal(out[:4], plaintext)
				if err == nil {
					binary.BigEndian.PutUint32(record, uint32(len(record)-4))
					_, err = here.Write(record)
				}
				if err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for range n {
			if _, err := io.ReadFull(r, in[:4]); err != nil {
				return err
			}
			record := in[:binary.BigEndian.Uint32(in)]
			if _, err := io.ReadFull(r, record); err != nil {
				return err
			}
			if _, err := opener.Open(record[:0], record); err != nil {
				return err
			}
		}
		return <-sent
	}
}

// newRecords returns the two ends of one direction.
func newRecords(t testing.TB) (*cipher.Sealer, *cipher.Opener) {
	t.Helper()
	client, server := newTestIdentity(t), newTestIdentity(t)
	a, err := cipher.NewHandshake(cipher.HandshakeConfig{Pattern: cipher.IKhfs, Initiator: true, Static: client, RemoteStatic: server.Public()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := cipher.NewHandshake(cipher.HandshakeConfig{Pattern: cipher.IKhfs, Static: server})
	if err != nil {
		t.Fatal(err)
	}
	for from, to := a, b; !a.Done(); from, to = to, from {
		msg, err := from.WriteMessage(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.ReadMessage(nil, msg); err != nil {
			t.Fatal(err)
		}
	}
	sealer, _, err := a.Split(cipher.AES256GCM)
	if err != nil {
		t.Fatal(err)
	}
	_, opener, err := b.Split(cipher.AES256GCM)
	if err != nil {
		t.Fatal(err)
	}
	return sealer, opener
}

// BenchmarkRecordConn moves sealed records over loopback, each way (up is masked, down is not), beside
// the same records without WebSocket. "ratio" takes turns between the three, so that it means something
// on a busy host: the goodput should be at least 0.85 of what it is without WebSocket, for large records.
func BenchmarkRecordConn(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1KiB", 1 << 10}, {"16KiB", 16 << 10}, {"64KiB", 64 << 10}, {"128KiB", 128<<10 - 64}} {
		run := func(name string, batch func(b *testing.B) batch) {
			b.Run(size.name+"/"+name, func(b *testing.B) {
				send := batch(b)
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				b.ResetTimer()
				if err := send(b.N, size.n); err != nil {
					b.Fatal(err)
				}
			})
		}
		run("tcp", sealedTCP)
		run("up", func(b *testing.B) batch { p := newLoopbackPair(b); return between(p.client, p.server) })
		run("down", func(b *testing.B) batch { p := newLoopbackPair(b); return between(p.server, p.client) })

		b.Run(size.name+"/ratio", func(b *testing.B) {
			p := newLoopbackPair(b)
			batches := [...]batch{sealedTCP(b), between(p.client, p.server), between(p.server, p.client)}
			var took, cpu [len(batches)]time.Duration
			for b.Loop() {
				for i, send := range batches {
					start, used := time.Now(), cpuTime()
					if err := send(8<<20/size.n, size.n); err != nil {
						b.Fatal(err)
					}
					took[i] += time.Since(start)
					cpu[i] += cpuTime() - used
				}
			}
			for i, way := range []string{"up", "down"} {
				b.ReportMetric(took[0].Seconds()/took[i+1].Seconds(), way+"/tcp")
				if cpu[0] > 0 {
					b.ReportMetric(cpu[i+1].Seconds()/cpu[0].Seconds(), way+"/tcp-CPU")
				}
			}
		})
	}
}

// A record allocates what the WebSocket library does for a message, and nothing beside it.
func TestRecordAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and empties pools at random")
	}
	for _, up := range []bool{true, false} {
		p := newLoopbackPair(t)
		name, from, to := "down", p.server, p.client
		if up {
			name, from, to = "up", p.client, p.server
		}
		opened := make(chan error)
		go func() {
			for {
				_, err := to.ReadMessage(context.Background())
				opened <- err
				if err != nil {
					return
				}
			}
		}()
		for _, size := range []int{64, 16 << 10, from.MaxMessage()} {
			buf := make([]byte, message.Headroom+size)
			got := testing.AllocsPerRun(200, func() {
				if err := from.WriteMessage(context.Background(), buf, message.Headroom); err != nil {
					t.Fatal(err)
				}
				if err := <-opened; err != nil {
					t.Fatal(err)
				}
			})
			t.Logf("%s, %d bytes: %.1f", name, size, got)
			if got > 3 {
				t.Errorf("%s: a record of %d bytes allocates %.1f times, want 3 at most", name, size, got)
			}
		}
		to.Kill(net.ErrClosed)
		<-opened
	}
}
