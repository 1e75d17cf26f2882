package mux_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// This file holds one test for each row in which the multiplexers that were measured before this
// one was written lost data, hung or grew.

// Row "half-close": the other direction goes on for as long as it likes.
func TestHalfClose(t *testing.T) {
	for _, opener := range []string{"opener closes first", "acceptor closes first"} {
		t.Run(opener, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := newTestPair(t, mux.Config{}, mux.Config{})
				first, second := openPair(t, c, s)
				if opener != "opener closes first" {
					first, second = second, first
				}
				write(t, first, "question")
				check(t, first.CloseWrite())
				got, err := io.ReadAll(second)
				check(t, err)
				if string(got) != "question" {
					t.Fatalf("got %q", got)
				}
				<-time.After(time.Hour) // no limit by default
				answer := text(1 << 20)
				go send(t, second, answer)
				got, err = io.ReadAll(first)
				check(t, err)
				if string(got) != answer {
					t.Fatalf("got %d bytes, want %d", len(got), len(answer))
				}
				if n := c.Streams() + s.Streams(); n != 0 {
					t.Errorf("%d streams left", n)
				}
				if _, err := first.Write([]byte("x")); err == nil {
					t.Error("Write after CloseWrite")
				}
			})
		})
	}
}

// Row "peer closes fully while we write": the Write ends at once.
func TestPeerClosesWhileWeWrite(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*mux.Stream) error
		code message.Code
	}{
		{"Close", (*mux.Stream).Close, message.Cancelled},
		{"Reset", func(s *mux.Stream) error { return s.Reset(message.RefusedByTarget) }, message.RefusedByTarget},
		{"CloseRead", func(s *mux.Stream) error { return s.CloseRead(message.Timeout) }, message.Timeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := newTestPair(t, mux.Config{}, mux.Config{})
				local, remote := openPair(t, c, s)
				start := time.Now()
				go func() {
					synctest.Wait() // the Write is blocked: nobody reads
					if err := tt.end(remote); err != nil {
						t.Error(err)
					}
				}()
				n, err := local.Write(make([]byte, 1<<20))
				wantStreamError(t, err, tt.code, true)
				if n != 256<<10 {
					t.Errorf("Write took %d bytes, the window is 256 KiB", n)
				}
				if d := time.Since(start); d != 0 {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// Row "20,000 opens nobody accepts": they are refused, at once, and nothing is kept of them.
func TestOpensNobodyAcceptsAreRefused(t *testing.T) {
	const opens = 20000
	c, s := newTestPair(t, mux.Config{MaxStreams: opens, SessionWindow: 1 << 30}, mux.Config{})
	heap := func() uint64 {
		runtime.GC()
		var st runtime.MemStats
		runtime.ReadMemStats(&st)
		return st.HeapAlloc
	}
	before, goroutines := heap(), runtime.NumGoroutine()
	refused := 0
	var waiting []*mux.Stream
	for range opens {
		st, err := c.Open(t.Context(), 1, []byte("localhost:80"))
		check(t, err)
		waiting = append(waiting, st)
		if len(waiting) <= 256 {
			continue
		}
		// The first 256 are undecided for good; those after them are answered.
		err = st.Opened(t.Context())
		if e := wantStreamError(t, err, message.TooMany, true); !e.Refused {
			t.Fatal("not marked as refused")
		}
		_, err = st.Read(make([]byte, 1))
		wantStreamError(t, err, message.TooMany, true)
		refused++
		waiting = waiting[:256]
	}
	if refused != opens-256 {
		t.Errorf("%d refused, want %d", refused, opens-256)
	}
	if st := s.Stats(); st.Pending != 256 || st.Streams != 256 || int(st.Refused) != refused {
		t.Errorf("the other end holds %+v", st)
	}
	if n := runtime.NumGoroutine(); n > goroutines+5 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	if grown := int64(heap()) - int64(before); grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	// The queue is intact: Accept gives all 256, in order, and they work.
	for i := range 256 {
		st, err := s.Accept(t.Context())
		check(t, err)
		if st.ID() != waiting[i].ID() || string(st.Request()) != "localhost:80" {
			t.Fatalf("Accept %d: stream %d, want %d", i, st.ID(), waiting[i].ID())
		}
		check(t, st.Accept())
		check(t, waiting[i].Opened(t.Context()))
		check(t, st.Close())
		check(t, waiting[i].Close())
	}
}

// Row "a stream nobody reads": the others go on.
func TestStreamNobodyReadsHoldsUpItselfAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		var stalled []*mux.Stream
		for range 32 {
			local, remote := openPair(t, c, s)
			stalled = append(stalled, local)
			go local.Write(make([]byte, 1<<20)) // ends when the test closes the Mux
			go remote.Write(make([]byte, 1<<20))
		}
		synctest.Wait()
		local, remote := openPair(t, c, s)
		want := text(8 << 20)
		go send(t, local, want)
		got, err := io.ReadAll(remote)
		check(t, err)
		if string(got) != want {
			t.Fatalf("got %d bytes, want %d", len(got), len(want))
		}
		if held := s.Stats().WindowHeld; held > 32<<20 {
			t.Errorf("held: %d", held)
		}
		// One that is stalled can still be given up.
		check(t, stalled[0].Reset(message.Cancelled))
		synctest.Wait()
		if n := s.Streams(); n != 32 {
			t.Errorf("%d streams at the other end, want 32", n)
		}
	})
}

// Row "write 60 KB, close stream, close session": nothing is lost, in any of many runs, whether the
// stream was accepted before the end came or not.
func TestWriteThenCloseLosesNothing(t *testing.T) {
	want := make([]byte, 60<<10)
	rand.NewChaCha8([32]byte{1}).Read(want)
	for range 100 {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		n, err := local.Write(want)
		if n != len(want) || err != nil {
			t.Fatal(n, err)
		}
		check(t, local.Close())
		check(t, c.Close(message.OK, ""))
		got, err := io.ReadAll(remote)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		<-s.Done()
		wantErr(t, s.Err(), io.EOF)
	}
}

// The same before the other end has accepted: what may be sent early is not lost either.
func TestOpenWriteCloseLosesNothing(t *testing.T) {
	want := text(mux.EarlyData)
	for range 100 {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, err := c.Open(t.Context(), 9, []byte("to"))
		check(t, err)
		write(t, local, want)
		check(t, local.Close())
		check(t, c.Close(message.OK, ""))
		<-s.Done()
		remote, err := s.Accept(t.Context())
		check(t, err)
		check(t, remote.Accept())
		got, err := io.ReadAll(remote)
		if err != nil || string(got) != want {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		check(t, remote.Close())
		_, err = s.Accept(t.Context())
		wantErr(t, err, io.EOF)
	}
}

// Row "one stream, RTT 50 ms", over live Muxes: see also TestWindowFollowsBandwidthTimesDelay.
func TestLongPathIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt, rate, total = 50 * time.Millisecond, 200 << 20, 256 << 20
		a, b := newLongPath(rtt, rate)
		c, s := newTestPairOver(t, a, b, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		start := time.Now()
		go func() {
			piece := make([]byte, 64<<10)
			for range total / len(piece) {
				local.Write(piece)
			}
			local.CloseWrite()
		}()
		n, err := io.Copy(io.Discard, remote)
		if n != total || err != nil {
			t.Fatal(n, err)
		}
		got := float64(total) / time.Since(start).Seconds() / (1 << 20)
		t.Logf("%.0f MiB/s of %d", got, rate>>20)
		if got < 0.7*rate/(1<<20) { // slow start included
			t.Errorf("%.0f MiB/s of %d", got, rate>>20)
		}
	})
}

// A longPath delays what is written on it by half a round trip, and takes it at a rate.
type longPath struct {
	message.Conn
	rtt  time.Duration
	rate float64
	late chan lateMessage
	once sync.Once
	gone chan struct{}
}

type lateMessage struct {
	at  time.Time
	buf []byte
}

func newLongPath(rtt time.Duration, rate float64) (a, b message.Conn) {
	x, y := message.Pipe(0, largest)
	return newLongEnd(x, rtt, rate), newLongEnd(y, rtt, rate)
}

func newLongEnd(conn message.Conn, rtt time.Duration, rate float64) message.Conn {
	p := &longPath{Conn: conn, rtt: rtt, rate: rate, late: make(chan lateMessage, 1<<16), gone: make(chan struct{})}
	go func() {
		for {
			select {
			case m := <-p.late:
				select {
				case <-time.After(time.Until(m.at)):
				case <-p.gone:
					return
				}
				p.Conn.WriteMessage(context.Background(), m.buf, 0)
			case <-p.gone:
				return
			}
		}
	}()
	return p
}

func (p *longPath) RTT() time.Duration { return p.rtt }

func (p *longPath) WriteMessage(ctx context.Context, buf []byte, off int) error {
	msg := bytes.Clone(buf[off:])
	<-time.After(time.Duration(float64(len(msg)) / p.rate * 1e9))
	p.late <- lateMessage{time.Now().Add(p.rtt / 2), msg}
	return nil
}

func (p *longPath) Close(code message.Code, reason string) error {
	p.once.Do(func() { close(p.gone) })
	return p.Conn.Close(code, reason)
}

// "Reads never waiting for writes": both ends write all they can and neither reads until it has
// written, over a conn that holds nothing.
func TestReadsNeverWaitForWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(0, largest)
		c, s := newTestPairOver(t, a, b, mux.Config{}, mux.Config{})
		want := text(4 << 20)
		done := make(chan struct{})
		for range 4 {
			local, remote := openPair(t, c, s)
			for _, st := range []*mux.Stream{local, remote} {
				go send(t, st, want)
				go func() {
					got, err := io.ReadAll(st)
					if err != nil || string(got) != want {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
					done <- struct{}{}
				}()
			}
		}
		for range 8 {
			<-done
		}
	})
}

// "A session close that flushes": what Writes had returned for is there, although the other end's
// link is slow, and the close is bounded although nobody reads.
func TestSessionCloseFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		var remotes []*mux.Stream
		want := text(100 << 10)
		for range 8 {
			local, remote := openPair(t, c, s)
			write(t, local, want)
			check(t, local.CloseWrite())
			remotes = append(remotes, remote)
		}
		unfinished, remote := openPair(t, c, s)
		write(t, unfinished, "not all of it")
		check(t, c.Close(message.OK, ""))
		for _, r := range remotes {
			got, err := io.ReadAll(r)
			if err != nil || string(got) != want {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
		}
		// What was not finished must not look as if it was.
		_, err := io.ReadAll(remote)
		wantStreamError(t, err, message.Cancelled, true)
	})
}

func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(0, largest)
		c := mux.New(a, mux.Config{Client: true, CloseTimeout: 700 * time.Millisecond})
		defer b.Close(message.OK, "")
		st, err := c.Open(t.Context(), 1, nil)
		check(t, err)
		failed := make(chan error)
		go func() {
			_, err := st.Write([]byte("nobody reads this conn"))
			failed <- err
		}()
		synctest.Wait()
		start := time.Now()
		check(t, c.Close(message.OK, ""))
		if d := time.Since(start); d != 700*time.Millisecond {
			t.Errorf("Close took %v", d)
		}
		<-failed // whatever it says, it ends
		wantErr(t, c.Err(), errClosed)
	})
}
