package mux_test

import (
	"context"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// A gateConn lets messages through one at a time, when the test says so, and fails the test if two
// are written at once.
type gateConn struct {
	message.Conn
	t      testing.TB
	gate   chan struct{} // nil: open
	took   atomic.Int64  // nanoseconds of each message
	inside atomic.Int32
}

func (g *gateConn) WriteMessage(ctx context.Context, buf []byte, off int) error {
	if g.inside.Add(1) != 1 {
		g.t.Error("two messages are written at once")
	}
	defer g.inside.Add(-1)
	if off < message.Headroom {
		g.t.Errorf("headroom of %d", off)
	}
	if took := time.Duration(g.took.Load()); took > 0 {
		<-time.After(took)
	}
	if g.gate != nil {
		select {
		case <-g.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// The layers below may overwrite all of it.
	msg := append([]byte(nil), buf[off:]...)
	clear(buf)
	return g.Conn.WriteMessage(ctx, msg, 0)
}

// frames reads one message and returns its frames.
func frames(p *handPeer) []mux.Frame {
	p.t.Helper()
	msg, err := p.conn.ReadMessage(context.Background())
	check(p.t, err)
	var all []mux.Frame
	for len(msg) > 0 {
		f, rest, err := mux.ParseFrame(msg)
		check(p.t, err)
		all = append(all, f)
		msg = rest
	}
	return all
}

// newGatedPeer is newHandPeer with a gate before each message of the Mux.
func newGatedPeer(t testing.TB, gate chan struct{}) (*mux.Mux, *handPeer) {
	t.Helper()
	a, b := message.Pipe(1024, largest)
	m := mux.New(&gateConn{Conn: a, t: t, gate: gate}, mux.Config{})
	t.Cleanup(func() {
		b.Close(message.OK, "")
		m.Close(message.OK, "")
	})
	return m, &handPeer{t: t, conn: b}
}

// gated opens n streams of the peer and returns them, with credit for everything.
func gated(t testing.TB, m *mux.Mux, p *handPeer, gate chan struct{}, n int) []*mux.Stream {
	t.Helper()
	var all []*mux.Stream
	for i := range n {
		p.write(mux.Open(uint64(2*i+1), 1, 1<<40, ""))
		s, err := m.Accept(context.Background())
		check(t, err)
		check(t, s.Accept())
		all = append(all, s)
		if gate != nil {
			gate <- struct{}{}
		}
		p.expect(mux.TypeOpened, s.ID())
	}
	return all
}

// A 64-byte echo beside bulk streams waits for the message that is being written and is in the
// next: counted in messages, not in time.
func TestSmallWritesAreNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		m, p := newGatedPeer(t, gate)
		const bulk = 8
		streams := gated(t, m, p, gate, bulk+1)
		for _, s := range streams[:bulk] {
			go s.Write(make([]byte, 64<<20))
		}
		echo := streams[bulk]
		go func() {
			for {
				if _, err := echo.Write([]byte(text(64))); err != nil {
					return
				}
			}
		}()
		var sent [bulk]int
		for i := range 200 {
			synctest.Wait() // everybody who wants to write stands in line
			gate <- struct{}{}
			echoes, seen := 0, map[uint64]bool{}
			for _, f := range frames(p) {
				if f.Type != mux.TypeData || seen[f.ID] {
					t.Fatalf("message %d: type %d of stream %d, at most one DATA frame of each", i, f.Type, f.ID)
				}
				seen[f.ID] = true
				if f.ID == echo.ID() {
					echoes += len(f.Body)
				} else {
					sent[f.ID/2] += len(f.Body)
				}
			}
			if i >= 2 && echoes != 64 {
				t.Fatalf("message %d carries %d bytes of the echo, want 64", i, echoes)
			}
		}
		least, most := sent[0], sent[0]
		for _, n := range sent {
			least, most = min(least, n), max(most, n)
		}
		t.Logf("bulk: %d to %d KiB each", least>>10, most>>10)
		if least == 0 || float64(most) > 1.1*float64(least)+128<<10 {
			t.Errorf("bulk streams got %v", sent)
		}
	})
}

// The other way round: many small writers do not starve bulk.
func TestBulkIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		m, p := newGatedPeer(t, gate)
		streams := gated(t, m, p, gate, 101)
		bulk := streams[100]
		go bulk.Write(make([]byte, 64<<20))
		for _, s := range streams[:100] {
			go func() {
				for {
					if _, err := s.Write(make([]byte, 4<<10)); err != nil {
						return
					}
				}
			}()
		}
		got := 0
		for i := range 100 {
			synctest.Wait()
			gate <- struct{}{}
			for _, f := range frames(p) {
				if f.ID == bulk.ID() {
					got += len(f.Body)
				}
			}
			if i > 10 && got < i*2<<10 {
				t.Fatalf("after %d messages, %d bytes of bulk", i, got)
			}
		}
	})
}

// Control frames go ahead of data, also of data that waited longer, and CREDITs add up.
func TestControlAheadOfData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		m, p := newGatedPeer(t, gate)
		streams := gated(t, m, p, gate, 3)
		for _, s := range streams {
			go s.Write(make([]byte, 8<<20))
		}
		synctest.Wait() // a message is being written
		in := make([]byte, 192<<10)
		p.write(mux.Data(1, len(in)/2))
		p.write(mux.Data(1, len(in)/2))
		for i := range 3 { // three times a quarter of the window
			_, err := io.ReadFull(streams[0], in[i*len(in)/3:(i+1)*len(in)/3])
			check(t, err)
		}
		p.write(mux.Open(99, 1, 1, ""))
		s, err := m.Accept(t.Context())
		check(t, err)
		check(t, s.Refuse(message.NotAllowed, ""))
		check(t, streams[2].Reset(message.Cancelled))
		synctest.Wait()
		gate <- struct{}{}
		frames(p) // what was being written
		gate <- struct{}{}
		var got []uint64
		for _, f := range frames(p) {
			got = append(got, f.Type)
			if f.Type == mux.TypeCredit && (f.ID != 1 || f.N != uint64(len(in))) {
				t.Errorf("CREDIT %+v, want %d in one", f, len(in))
			}
		}
		want := []uint64{mux.TypeRefused, mux.TypeReset, mux.TypeStop, mux.TypeCredit, mux.TypeData, mux.TypeData}
		if len(got) != len(want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
	})
}

// A lone stream has a whole message for itself; messages grow under backlog while the conn takes
// them quickly, and shrink when it does not.
func TestMessageSizeAdapts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(0, largest)
		g := &gateConn{Conn: a, t: t}
		m := mux.New(g, mux.Config{})
		p := &handPeer{t: t, conn: b}
		s := gated(t, m, p, nil, 1)[0]
		var wg sync.WaitGroup
		wg.Go(func() { s.Write(make([]byte, 64<<20)) })
		for _, tt := range []struct {
			name     string
			took     time.Duration
			min, max int
		}{
			{"between at first", 4 * time.Millisecond, 16<<10 - 32, 16 << 10},
			{"quick", time.Millisecond, largest - 32, largest},
			{"between stays", 4 * time.Millisecond, largest - 32, largest},
			{"slow", 20 * time.Millisecond, 16<<10 - 32, 16 << 10},
			{"quick again", time.Millisecond, largest - 32, largest},
		} {
			g.took.Store(int64(tt.took))
			size := 0
			for range 20 {
				f := frames(p)
				if len(f) != 1 {
					t.Fatalf("%d frames for one stream", len(f))
				}
				size = len(f[0].Body)
			}
			if size < tt.min || size > tt.max {
				t.Errorf("%s: messages carry %d, want %d to %d", tt.name, size, tt.min, tt.max)
			}
		}
		b.Close(message.OK, "")
		m.Close(message.OK, "")
		wg.Wait()
	})
}

// However many OPENs wait, no DATA goes ahead of the OPEN of its stream.
func TestDataNeverAheadOfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(0, mux.MinMessage)
		m := mux.New(a, mux.Config{})
		p := &handPeer{t: t, conn: b}
		const n = 50
		var wg sync.WaitGroup
		for range n {
			s, err := m.Open(t.Context(), 1, []byte(text(1000)))
			check(t, err)
			wg.Go(func() { s.Write([]byte(text(10))) })
		}
		synctest.Wait()
		open, data := map[uint64]bool{}, 0
		for data < 10*n {
			f := p.next()
			switch {
			case f.Type == mux.TypeOpen:
				open[f.ID] = true
			case !open[f.ID]:
				t.Fatalf("frame of type %d before OPEN of stream %d", f.Type, f.ID)
			default:
				data += len(f.Body)
			}
		}
		wg.Wait()
		b.Close(message.OK, "")
		m.Close(message.OK, "")
	})
}

// One DATA frame a stream and message, also where there is room for more.
func TestOneFrameAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		m, p := newGatedPeer(t, gate)
		streams := gated(t, m, p, gate, 3)
		go streams[0].Write(make([]byte, 64<<20))
		for range 30 { // messages grow
			gate <- struct{}{}
			frames(p)
		}
		synctest.Wait()
		go streams[1].Write(make([]byte, 10<<10))
		go streams[2].Write(make([]byte, 5<<10))
		synctest.Wait()
		for range 4 {
			gate <- struct{}{}
			seen := map[uint64]bool{}
			for _, f := range frames(p) {
				if seen[f.ID] {
					t.Fatalf("two frames of stream %d", f.ID)
				}
				seen[f.ID] = true
			}
		}
	})
}

// Many Writes at once leave in few messages, and never two messages at once.
func TestWritesCombine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		m, p := newGatedPeer(t, gate)
		streams := gated(t, m, p, gate, 100)
		var wg sync.WaitGroup
		for _, s := range streams {
			wg.Go(func() { s.Write([]byte("small")) })
		}
		n := 0
		for messages := 1; n < 100; messages++ {
			synctest.Wait()
			gate <- struct{}{}
			n += len(frames(p))
			if messages > 2 {
				t.Fatalf("%d of 100 Writes are in %d messages", n, messages)
			}
		}
		wg.Wait()
	})
}

// Ownership of the writing side changes hands in all orders, with deadlines, resets and closes in
// between: never two messages at once, and nobody is left waiting.
func TestOwnershipIsNeverShared(t *testing.T) {
	a, b := message.Pipe(1, largest)
	ga, gb := &gateConn{Conn: a, t: t}, &gateConn{Conn: b, t: t}
	c, s := newTestPairOver(t, ga, gb, mux.Config{Window: 32 << 10, MaxWindow: 64 << 10}, mux.Config{Window: 32 << 10, MaxWindow: 64 << 10})
	var wg sync.WaitGroup
	for i := range 24 {
		local, remote := openPair(t, c, s)
		for _, st := range []*mux.Stream{local, remote} {
			wg.Go(func() {
				buf := make([]byte, 1<<(6+i%12))
				for k := range 60 {
					switch {
					case i%3 == 1:
						st.SetWriteDeadline(time.Now().Add(time.Duration(k%5) * 100 * time.Microsecond))
					case i%3 == 2 && k == 50 && st == local:
						st.Reset(message.Cancelled)
					}
					st.Write(buf)
				}
				st.Close()
			})
			wg.Go(func() {
				io.Copy(io.Discard, st)
			})
		}
	}
	wg.Wait()
	check(t, c.Err())
	check(t, s.Err())
}

// The hot path allocates next to nothing: a message here and there from the pool.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and empties pools at random")
	}
	for _, size := range []int{64, 64 << 10} {
		a, b := newRingPipe()
		c, s := newTestPairOver(t, a, b, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		out, in := []byte(strings.Repeat("x", size)), make([]byte, size)
		got := testing.AllocsPerRun(200, func() {
			if _, err := local.Write(out); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(remote, in); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%d bytes: %.1f", size, got)
		if got >= 1 {
			t.Errorf("Write and Read of %d bytes allocate %.1f times", size, got)
		}
	}
}

// A ringEnd is an end of a message.Pipe that does not allocate: it has two buffers each way.
type ringEnd struct {
	message.Conn // Close, MaxMessage
	free, full   chan []byte
	in           *ringEnd
	last         []byte
	closed       chan struct{}
	once         sync.Once
}

func newRingPipe() (a, b message.Conn) {
	x, y := message.Pipe(0, largest)
	left, right := &ringEnd{Conn: x}, &ringEnd{Conn: y}
	for _, e := range []*ringEnd{left, right} {
		e.free, e.full, e.closed = make(chan []byte, 2), make(chan []byte, 2), make(chan struct{})
		for range 2 {
			e.free <- make([]byte, 0, largest)
		}
	}
	left.in, right.in = right, left
	return left, right
}

func (e *ringEnd) RTT() time.Duration { return 100 * time.Microsecond }

func (e *ringEnd) WriteMessage(ctx context.Context, buf []byte, off int) error {
	select {
	case b := <-e.free:
		e.full <- append(b[:0], buf[off:]...)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *ringEnd) ReadMessage(ctx context.Context) ([]byte, error) {
	if e.last != nil {
		e.in.free <- e.last
		e.last = nil
	}
	select {
	case e.last = <-e.in.full:
		return e.last, nil
	case <-e.closed:
		return nil, io.EOF
	}
}

func (e *ringEnd) Close(code message.Code, reason string) error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

func BenchmarkStreams(b *testing.B) {
	for _, bb := range []struct {
		name          string
		streams, size int
	}{
		{"1/64B", 1, 64}, {"1/64KiB", 1, 64 << 10}, {"8/64B", 8, 64}, {"8/64KiB", 8, 64 << 10},
	} {
		b.Run(bb.name, func(b *testing.B) {
			x, y := newRingPipe()
			c, s := newTestPairOver(b, x, y, mux.Config{}, mux.Config{})
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range bb.streams {
				local, remote := openPair(b, c, s)
				wg.Go(func() {
					p := make([]byte, bb.size)
					for left.Add(-1) >= 0 {
						if _, err := local.Write(p); err != nil {
							b.Error(err)
							return
						}
					}
					local.CloseWrite()
				})
				wg.Go(func() {
					if _, err := remote.WriteTo(io.Discard); err != nil {
						b.Error(err)
					}
				})
			}
			b.SetBytes(int64(bb.size))
			b.ReportAllocs()
			wg.Wait()
			st := c.Stats()
			b.ReportMetric(float64(st.BytesSent)/float64(st.MessagesSent), "B/message")
		})
	}
}

func BenchmarkEcho(b *testing.B) {
	for _, streams := range []int{1, 64} {
		b.Run(map[int]string{1: "1", 64: "64"}[streams], func(b *testing.B) {
			x, y := newRingPipe()
			c, s := newTestPairOver(b, x, y, mux.Config{}, mux.Config{})
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range streams {
				local, remote := openPair(b, c, s)
				wg.Go(func() { io.Copy(remote, remote); remote.Close() })
				wg.Go(func() {
					p := make([]byte, 64)
					for left.Add(-1) >= 0 {
						local.Write(p)
						io.ReadFull(local, p)
					}
					local.CloseWrite()
				})
			}
			b.ReportAllocs()
			wg.Wait()
			runtime.KeepAlive(c)
		})
	}
}
