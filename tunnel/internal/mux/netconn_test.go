package mux_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// What golang.org/x/net/nettest.TestConn asks of a net.Conn, in fake time. The module is not a
// dependency; the checks are few.

var (
	past  = time.Unix(1, 0)
	never = time.Time{}
)

func testConn(t *testing.T, name string, f func(t *testing.T, a, b *mux.Stream)) {
	t.Run(name, func(t *testing.T) {
		for _, swap := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				c, s := newTestPair(t, mux.Config{}, mux.Config{})
				a, b := openPair(t, c, s)
				if swap {
					a, b = b, a
				}
				f(t, a, b)
			})
		}
	})
}

func wantTimeout(t testing.TB, n int, err error) {
	t.Helper()
	var timeout interface{ Timeout() bool }
	if n != 0 || !errors.Is(err, errDeadline) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %d, %v, want a timeout", n, err)
	}
}

// exhaust writes until no more is taken.
func exhaust(t testing.TB, s *mux.Stream) {
	t.Helper()
	check(t, s.SetWriteDeadline(time.Now().Add(time.Second)))
	_, err := s.Write(make([]byte, 64<<20))
	wantErr(t, err, errDeadline)
	check(t, s.SetWriteDeadline(never))
}

func TestConn(t *testing.T) {
	testConn(t, "BasicIO", func(t *testing.T, a, b *mux.Stream) {
		want := make([]byte, 8<<20)
		rand.NewChaCha8([32]byte{}).Read(want)
		go func() {
			if _, err := io.Copy(onlyWriter{a}, bytes.NewReader(want)); err != nil {
				t.Error(err)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		check(t, b.Close())
	})

	testConn(t, "PingPong", func(t *testing.T, a, b *mux.Stream) {
		var wg sync.WaitGroup
		play := func(s *mux.Stream) {
			buf := make([]byte, 8)
			for {
				if _, err := io.ReadFull(s, buf); err != nil {
					if err != io.EOF {
						t.Error(err)
					}
					break
				}
				n := binary.LittleEndian.Uint64(buf)
				if n == 1000 {
					break
				}
				binary.LittleEndian.PutUint64(buf, n+1)
				if _, err := s.Write(buf); err != nil {
					t.Error(err)
				}
				if n+1 == 1000 {
					break
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		wg.Go(func() { play(a) })
		wg.Go(func() { play(b) })
		if _, err := a.Write(make([]byte, 8)); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})

	testConn(t, "RacyRead", func(t *testing.T, a, b *mux.Stream) {
		go io.Copy(onlyWriter{b}, rand.NewChaCha8([32]byte{}))
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				buf1, buf2 := make([]byte, 1024), make([]byte, 1024)
				for i := range 100 {
					n, err := a.Read(buf1)
					copy(buf2, buf1[:n]) // the race detector looks on
					if err != nil && !errors.Is(err, errDeadline) {
						t.Error(err)
					}
					if i%10 == 0 {
						a.SetReadDeadline(time.Now().Add(time.Millisecond))
					}
				}
			})
		}
		wg.Wait()
	})

	testConn(t, "RacyWrite", func(t *testing.T, a, b *mux.Stream) {
		go io.Copy(io.Discard, b)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for i := range 100 {
					_, err := a.Write(make([]byte, 1024))
					if err != nil && !errors.Is(err, errDeadline) {
						t.Error(err)
					}
					if i%10 == 0 {
						a.SetWriteDeadline(time.Now().Add(time.Millisecond))
					}
				}
			})
		}
		wg.Wait()
	})

	testConn(t, "ReadTimeout", func(t *testing.T, a, b *mux.Stream) {
		check(t, a.SetReadDeadline(past))
		n, err := a.Read(make([]byte, 10))
		wantTimeout(t, n, err)
		write(t, a, "the other way works")
		check(t, a.SetReadDeadline(never))
		write(t, b, "and so does this again")
		readFull(t, a, "and so does this again")
	})

	testConn(t, "WriteTimeout", func(t *testing.T, a, b *mux.Stream) {
		check(t, a.SetWriteDeadline(past))
		n, err := a.Write(make([]byte, 10))
		wantTimeout(t, n, err)
		write(t, b, "the other way works")
		readFull(t, a, "the other way works")
		check(t, a.SetWriteDeadline(never))
		write(t, a, "and so does this again")
		readFull(t, b, "and so does this again")
	})

	testConn(t, "PastTimeout", func(t *testing.T, a, b *mux.Stream) {
		write(t, b, "already here")
		synctest.Wait()
		check(t, a.SetDeadline(past))
		n, err := a.Write(make([]byte, 10))
		wantTimeout(t, n, err)
		n, err = a.Read(make([]byte, 10))
		wantTimeout(t, n, err)
		check(t, a.SetDeadline(never))
		readFull(t, a, "already here")
	})

	testConn(t, "PresentTimeout", func(t *testing.T, a, b *mux.Stream) {
		exhaust(t, a)
		var wg sync.WaitGroup
		wg.Go(func() { n, err := a.Read(make([]byte, 10)); wantTimeout(t, n, err) })
		wg.Go(func() { n, err := a.Write(make([]byte, 10)); wantTimeout(t, n, err) })
		synctest.Wait() // both are blocked
		check(t, a.SetDeadline(past))
		wg.Wait()
	})

	testConn(t, "FutureTimeout", func(t *testing.T, a, b *mux.Stream) {
		exhaust(t, a)
		start := time.Now()
		check(t, a.SetDeadline(start.Add(100*time.Millisecond)))
		var wg sync.WaitGroup
		wg.Go(func() { n, err := a.Read(make([]byte, 10)); wantTimeout(t, n, err) })
		wg.Go(func() { n, err := a.Write(make([]byte, 10)); wantTimeout(t, n, err) })
		wg.Wait()
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		check(t, a.SetDeadline(never)) // and both ways work again
		go io.Copy(io.Discard, b)
		write(t, a, text(1<<20))
	})

	testConn(t, "DeadlineMoves", func(t *testing.T, a, b *mux.Stream) {
		start := time.Now()
		check(t, a.SetReadDeadline(start.Add(time.Second)))
		done := make(chan struct{})
		go func() { n, err := a.Read(make([]byte, 10)); wantTimeout(t, n, err); close(done) }()
		synctest.Wait()
		check(t, a.SetReadDeadline(start.Add(3*time.Second)))
		<-done
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("it took %v", d)
		}
	})

	testConn(t, "CloseTimeout", func(t *testing.T, a, b *mux.Stream) {
		exhaust(t, a)
		var wg sync.WaitGroup
		for _, call := range []func([]byte) (int, error){a.Read, a.Write} {
			wg.Go(func() {
				_, err := call(make([]byte, 10))
				if !errors.Is(err, errClosed) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		check(t, a.Close())
		wg.Wait()
	})

	testConn(t, "ConcurrentMethods", func(t *testing.T, a, b *mux.Stream) {
		go io.Copy(b, b)
		var wg sync.WaitGroup
		for range 100 {
			for _, call := range []func(){
				func() { a.Read(make([]byte, 1024)) },
				func() { a.Write(make([]byte, 1024)) },
				func() { a.SetDeadline(time.Now().Add(10 * time.Millisecond)) },
				func() { a.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) },
				func() { a.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)) },
			} {
				wg.Go(call)
			}
		}
		wg.Wait()
	})

	testConn(t, "EmptyCalls", func(t *testing.T, a, b *mux.Stream) {
		for _, call := range []func([]byte) (int, error){a.Read, a.Write} {
			if n, err := call(nil); n != 0 || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
		}
		check(t, a.Close())
		for _, call := range []func([]byte) (int, error){a.Read, a.Write} {
			if _, err := call(nil); !errors.Is(err, errClosed) {
				t.Errorf("after Close: got %v", err)
			}
		}
	})
}

// onlyWriter hides the other methods from io.Copy.
type onlyWriter struct{ io.Writer }

// With a write deadline, a Write can leave although the conn takes nothing.
func TestWriteDeadlineOnAStalledConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(0, largest)
		m := mux.New(a, mux.Config{Client: true})
		s, err := m.Open(t.Context(), 1, nil)
		check(t, err)
		(&handPeer{t: t, conn: b}).expect(mux.TypeOpen, 1)
		synctest.Wait() // nobody writes
		start := time.Now()
		check(t, s.SetWriteDeadline(start.Add(time.Second)))
		for range 2 { // the first is in the message that nobody takes
			_, err = s.Write(make([]byte, 4<<10))
		}
		if !errors.Is(err, errDeadline) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		b.Close(message.OK, "")
		check(t, m.Close(message.OK, ""))
	})
}

// Close returns when the goroutines have ended.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(0, largest)
		defer b.Close(message.OK, "")
		m := mux.New(slowEnd{a}, mux.Config{})
		start := time.Now()
		check(t, m.Close(message.OK, ""))
		if d := time.Since(start); d != 200*time.Millisecond {
			t.Errorf("Close took %v, the reading loop 200ms", d)
		}
	})
}

// A slowEnd takes a while to notice its end.
type slowEnd struct{ message.Conn }

func (c slowEnd) ReadMessage(ctx context.Context) ([]byte, error) {
	m, err := c.Conn.ReadMessage(ctx)
	if err != nil {
		<-time.After(200 * time.Millisecond)
	}
	return m, err
}

// A Mux that is closed, from several goroutines at once, ends every call.
func TestMuxCloseEndsEveryCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		a, b := openPair(t, c, s)
		exhaust(t, a)
		undecided, err := c.Open(t.Context(), 1, nil)
		check(t, err)
		errs := make(chan error)
		for _, call := range []func() error{
			func() error { _, err := a.Read(make([]byte, 1)); return err },
			func() error { _, err := a.Write(make([]byte, 1)); return err },
			func() error { _, err := a.WriteTo(io.Discard); return err },
			func() error { return undecided.Opened(t.Context()) },
			func() error { _, err := undecided.Read(make([]byte, 1)); return err },
			func() error { _, err := c.Accept(t.Context()); return err },
			func() error { <-c.Done(); return c.Err() },
		} {
			go func() { errs <- call() }()
		}
		synctest.Wait()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { c.Close(message.OK, "bye") })
		}
		for range 7 {
			wantErr(t, <-errs, errClosed)
		}
		wg.Wait()
		_, err = c.Open(t.Context(), 1, nil)
		wantErr(t, err, errClosed)
		_, err = a.Write([]byte("x"))
		wantErr(t, err, errClosed)
		<-s.Done()
		_, err = io.Copy(io.Discard, b)
		if err == nil {
			t.Error("a stream that was cut looks whole")
		}
	})
}
