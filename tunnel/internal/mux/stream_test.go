package mux_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// PROTOCOL.md §7: data may follow OPEN at once, at most 16 KiB before OPENED.
func TestWriteBeforeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		s, err := m.Open(t.Context(), 3, []byte("to"))
		check(t, err)
		wrote := make(chan int)
		go func() {
			n, err := s.Write(make([]byte, 100<<10))
			if err != nil {
				t.Error(err)
			}
			wrote <- n
		}()
		if f := p.expect(mux.TypeOpen, 2); f.Kind != 3 || string(f.Body) != "to" || f.N != 256<<10 {
			t.Errorf("got %+v", f)
		}
		sent := 0
		for sent < mux.EarlyData {
			sent += len(p.expect(mux.TypeData, 2).Body)
		}
		synctest.Wait()
		if got := m.Stats().BytesSent; sent != mux.EarlyData || got != mux.EarlyData {
			t.Errorf("%d bytes came, %d were sent before OPENED", sent, got)
		}
		p.write(mux.Opened(2, 40<<10)) // the total, from 0
		for sent < 40<<10 {
			sent += len(p.expect(mux.TypeData, 2).Body)
		}
		synctest.Wait()
		if got := m.Stats().BytesSent; sent != 40<<10 || got != 40<<10 {
			t.Errorf("%d bytes came, %d were sent with a window of 40 KiB", sent, got)
		}
		check(t, s.Opened(t.Context()))
		p.write(mux.Credit(2, 60<<10))
		for sent < 100<<10 {
			sent += len(p.expect(mux.TypeData, 2).Body)
		}
		if n := <-wrote; n != 100<<10 {
			t.Errorf("Write took %d", n)
		}
	})
}

// OPEN and what is written at once leave in one message: a new connection costs one round trip.
func TestOpenAndDataShareAMessage(t *testing.T) {
	a, b := message.Pipe(16, largest)
	defer b.Close(message.OK, "")
	// The writer goroutine may be quicker than the Write now and then; not nearly always.
	shared := 0
	m := mux.New(a, mux.Config{Client: true})
	defer m.Close(message.OK, "")
	for range 100 {
		s, err := m.Open(t.Context(), 1, []byte("x:1"))
		check(t, err)
		write(t, s, "GET")
		p := &handPeer{t: t, conn: b}
		p.expect(mux.TypeOpen, s.ID())
		if len(p.rest) > 0 {
			shared++
		}
		p.expect(mux.TypeData, s.ID())
	}
	t.Logf("%d of 100", shared)
	if shared < 10 {
		t.Errorf("%d of 100 streams began with one message", shared)
	}
}

func TestRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, err := c.Open(t.Context(), 1, []byte("db:5432"))
		check(t, err)
		blocked := make(chan error, 2)
		go func() { _, err := local.Write(make([]byte, 1<<20)); blocked <- err }()
		go func() { _, err := local.Read(make([]byte, 1)); blocked <- err }()
		remote, err := s.Accept(t.Context())
		check(t, err)
		_, err = remote.Read(make([]byte, 1))
		wantErr(t, err, mux.ErrUndecided)
		_, err = remote.Write([]byte("x"))
		wantErr(t, err, mux.ErrUndecided)
		wantErr(t, remote.CloseWrite(), mux.ErrUndecided)
		wantErr(t, remote.CloseRead(0), mux.ErrUndecided)
		// Multi-byte runes are not cut.
		check(t, remote.Refuse(message.NoSuchTarget, "x"+strings.Repeat("é", 200)))
		wantErr(t, remote.Refuse(message.NoSuchTarget, ""), mux.ErrDecided)
		wantErr(t, remote.Accept(), mux.ErrDecided)
		wantErr(t, local.Accept(), mux.ErrDecided)
		for _, err := range []error{local.Opened(t.Context()), <-blocked, <-blocked} {
			e := wantStreamError(t, err, message.NoSuchTarget, true)
			if !e.Refused || e.Text != "x"+strings.Repeat("é", 127) {
				t.Errorf("got %+v", e)
			}
		}
		_, err = local.Write([]byte("x"))
		wantStreamError(t, err, message.NoSuchTarget, true)
		_, err = remote.Write([]byte("x"))
		wantStreamError(t, err, message.NoSuchTarget, false)
		check(t, local.Close())
		check(t, remote.Close())
		synctest.Wait()
		if c.Streams()+s.Streams() != 0 || s.Stats().WindowHeld+c.Stats().WindowHeld != 0 {
			t.Errorf("left: %+v and %+v", c.Stats(), s.Stats())
		}
	})
}

// Reset drops both ways at both ends, and says why.
func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		write(t, local, "never read")
		write(t, remote, "never read")
		errs := make(chan error, 2)
		go func() { _, err := remote.Write(make([]byte, 1<<20)); errs <- err }()
		synctest.Wait()
		check(t, local.Reset(message.Unreachable))
		wantStreamError(t, <-errs, message.Unreachable, true)
		_, err := remote.Read(make([]byte, 1))
		wantStreamError(t, err, message.Unreachable, true)
		_, err = local.Read(make([]byte, 1))
		wantStreamError(t, err, message.Unreachable, false)
		_, err = local.Write([]byte("x"))
		wantStreamError(t, err, message.Unreachable, false)
		check(t, local.Reset(message.Timeout)) // again: nothing
		check(t, local.Close())
		check(t, remote.Close())
		synctest.Wait()
		if c.Stats().WindowHeld+s.Stats().WindowHeld != 0 || remote.Held()+local.Held() != 0 {
			t.Errorf("left: %+v and %+v", c.Stats(), s.Stats())
		}
	})
}

// After FIN, nothing more of that direction is said: a STOP that crossed it gets no RESET.
func TestStopAfterFinNeedsNoReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		p.write(mux.Open(1, 1, 1<<20, ""))
		s := p.accept(m)
		check(t, s.CloseWrite())
		p.expect(mux.TypeFin, 1)
		p.write(mux.Stop(1, message.Cancelled))
		synctest.Wait()
		check(t, s.Reset(message.Timeout)) // the FIN stands; the rest is stopped
		p.expect(mux.TypeStop, 1)
		p.write(mux.Open(3, 1, 1<<20, ""))
		p.accept(m) // nothing came between
	})
}

// PROTOCOL.md §7: "STOP: the reader wants no more: the writer answers RESET".
func TestStopIsAnsweredWithReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		p.write(mux.Open(1, 1, 1<<20, ""))
		s := p.accept(m)
		p.write(mux.Stop(1, message.Timeout))
		if f := p.expect(mux.TypeReset, 1); f.Code != message.Timeout {
			t.Errorf("answered with %v", f.Code)
		}
		_, err := s.Write([]byte("x"))
		wantStreamError(t, err, message.Timeout, true)
		p.write(mux.DataOf(1, "the other way goes on"), mux.Fin(1))
		got, err := io.ReadAll(s)
		check(t, err)
		if string(got) != "the other way goes on" {
			t.Errorf("got %q", got)
		}

		// To one that waits for its verdict, the RESET comes after OPENED.
		p.write(mux.Open(3, 1, 1<<20, ""), mux.Stop(3, message.Timeout))
		s, err = m.Accept(t.Context())
		check(t, err)
		synctest.Wait()
		check(t, s.Accept())
		p.expect(mux.TypeOpened, 3)
		p.expect(mux.TypeReset, 3)
	})
}

// Close sends what was written, then FIN; STOP only if the other end has not finished.
func TestCloseSaysWhatIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		p.write(mux.Open(1, 1, 1<<20, ""))
		s := p.accept(m)
		write(t, s, "bye")
		check(t, s.Close())
		p.expect(mux.TypeData, 1)
		got := []uint64{p.next().Type, p.next().Type}
		if !(got[0] == mux.TypeFin && got[1] == mux.TypeStop || got[1] == mux.TypeFin && got[0] == mux.TypeStop) {
			t.Errorf("got frames %v, want FIN and STOP", got)
		}
		_, err := s.Read(make([]byte, 1))
		wantErr(t, err, errClosed)
		_, err = s.Write([]byte("x"))
		wantErr(t, err, errClosed)
		wantErr(t, s.SetDeadline(time.Time{}), errClosed)
		check(t, s.Close())

		p.write(mux.Open(3, 1, 1<<20, ""), mux.DataOf(3, "unread"), mux.Fin(3))
		s = p.accept(m)
		check(t, s.Close())
		p.expect(mux.TypeFin, 3)

		p.write(mux.Open(5, 1, 1<<20, "")) // Close without Accept refuses
		s, err = m.Accept(t.Context())
		check(t, err)
		check(t, s.Close())
		p.expect(mux.TypeRefused, 5)

		p.write(mux.Open(7, 1, 1<<20, ""))
		p.accept(m) // nothing came between
	})
}

// A Write that Close interrupts has sent a part: the other end must not take it for the whole.
func TestCloseDuringWriteResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		done := make(chan error)
		go func() { _, err := local.Write(make([]byte, 1<<20)); done <- err }()
		synctest.Wait()
		check(t, local.Close())
		wantErr(t, <-done, errClosed)
		_, err := io.ReadAll(remote)
		wantStreamError(t, err, message.Cancelled, true)
	})
}

// CloseWrite while another goroutine Writes: all of that Write comes first.
func TestCloseWriteDuringWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		want := text(1 << 20)
		go func() {
			if n, err := local.Write([]byte(want)); n != len(want) || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		}()
		synctest.Wait()
		check(t, local.CloseWrite())
		_, err := local.Write([]byte("more"))
		if err == nil {
			t.Error("Write after CloseWrite")
		}
		got, err := io.ReadAll(remote)
		check(t, err)
		if string(got) != want {
			t.Errorf("got %d bytes, want %d", len(got), len(want))
		}
	})
}

// CloseWrite, then the Write that was first runs into its deadline: FIN follows what it sent, and
// waits for no credit.
func TestFinAfterWriteTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		p.write(mux.Open(1, 1, 1000, ""))
		s := p.accept(m)
		done := make(chan error)
		go func() {
			n, err := s.Write(make([]byte, 5000))
			if n != 1000 {
				t.Errorf("Write took %d, the credit is 1000", n)
			}
			done <- err
		}()
		p.expect(mux.TypeData, 1)
		synctest.Wait()
		check(t, s.CloseWrite())
		check(t, s.SetWriteDeadline(past))
		wantErr(t, <-done, errDeadline)
		p.expect(mux.TypeFin, 1)
	})
}

// EOF of the conn is never EOF of a stream that was not finished; what came of it can
// be read first.
func TestLostConn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		close func(conn message.Conn)
		check func(t *testing.T, err error)
	}{
		{"clean close", func(c message.Conn) { c.Close(message.OK, "") },
			func(t *testing.T, err error) { wantStreamError(t, err, message.SessionLost, true) }},
		{"closed with a code", func(c message.Conn) { c.Close(message.PeerRemoved, "gone") },
			func(t *testing.T, err error) {
				var ce *message.CloseError
				if !errors.As(err, &ce) || ce.Code != message.PeerRemoved || !ce.Remote {
					t.Errorf("got %v", err)
				}
			}},
		{"truncated", nil, func(t *testing.T, err error) { wantErr(t, err, message.ErrTruncated) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := message.Pipe(16, largest)
				cut := &cutConn{Conn: a, cut: make(chan struct{})}
				m := mux.New(cut, mux.Config{})
				defer m.Close(message.OK, "")
				p := &handPeer{t: t, conn: b}
				p.write(mux.Open(1, 1, 64<<10, ""))
				whole := p.accept(m)
				p.write(mux.DataOf(1, "whole"), mux.Fin(1))
				p.write(mux.Open(3, 1, 64<<10, ""))
				part := p.accept(m)
				p.write(mux.DataOf(3, "part"))
				p.write(mux.Open(5, 1, 64<<10, "")) // undecided
				ours, err := m.Open(t.Context(), 1, nil)
				check(t, err)
				errs := make(chan error, 8)
				go func() { _, err := part.Write(make([]byte, 1<<20)); errs <- err }()
				go func() { errs <- ours.Opened(t.Context()) }()
				go func() { _, err := ours.Read(make([]byte, 1)); errs <- err }()
				synctest.Wait()
				start := time.Now()
				if tt.close != nil {
					tt.close(b)
				} else {
					close(cut.cut)
				}
				<-m.Done()
				for range 3 {
					tt.check(t, <-errs)
				}
				got, err := io.ReadAll(part)
				if string(got) != "part" {
					t.Errorf("got %q", got)
				}
				tt.check(t, err)
				got, err = io.ReadAll(whole)
				if string(got) != "whole" || err != nil {
					t.Errorf("what came whole: got %q, %v", got, err)
				}
				_, err = whole.Write([]byte("x"))
				tt.check(t, err)
				_, err = m.Accept(t.Context())
				wantErr(t, err, m.Err())
				_, err = m.Open(t.Context(), 1, nil)
				wantErr(t, err, m.Err())
				if d := time.Since(start); d != 0 {
					t.Errorf("it took %v", d)
				}
				b.Close(message.OK, "")
			})
		})
	}
}

// A cutConn is lost when cut is closed: both its calls fail then.
type cutConn struct {
	message.Conn
	cut chan struct{}
}

func (c *cutConn) ReadMessage(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.cut:
			cancel()
		case <-ctx.Done():
		}
	}()
	m, err := c.Conn.ReadMessage(ctx)
	if errors.Is(err, context.Canceled) {
		return nil, message.ErrTruncated
	}
	return m, err
}

// A write error does not throw away what the other end sent before it left, and its reason is the
// one that counts.
func TestWriteErrorWaitsForTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(16, largest)
		broken := &brokenWriter{Conn: a}
		broken.err.Store(new(error))
		m := mux.New(broken, mux.Config{})
		defer m.Close(message.OK, "")
		p := &handPeer{t: t, conn: b}
		p.write(mux.Open(1, 1, 1<<20, ""))
		s := p.accept(m)
		broken.err.Store(&message.ErrTruncated)
		_, err := s.Write([]byte("x"))
		wantErr(t, err, message.ErrTruncated)
		_, err = s.Write([]byte("x"))
		wantErr(t, err, message.ErrTruncated)
		synctest.Wait()
		p.write(mux.DataOf(1, "the last words"), mux.Fin(1))
		b.Close(message.GoingAway, "restart")
		got, err := io.ReadAll(s)
		if string(got) != "the last words" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		<-m.Done()
		var ce *message.CloseError
		if !errors.As(m.Err(), &ce) || ce.Code != message.GoingAway {
			t.Errorf("Err: %v", m.Err())
		}
	})
	synctest.Test(t, func(t *testing.T) { // and without a reason it ends all the same
		a, b := message.Pipe(16, largest)
		defer b.Close(message.OK, "")
		broken := &brokenWriter{Conn: a}
		broken.err.Store(&message.ErrTruncated)
		m := mux.New(broken, mux.Config{})
		defer m.Close(message.OK, "")
		s, err := m.Open(t.Context(), 1, nil)
		check(t, err)
		start := time.Now()
		_, err = s.Read(make([]byte, 1))
		wantErr(t, err, message.ErrTruncated)
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

type brokenWriter struct {
	message.Conn
	err atomic.Pointer[error]
}

func (c *brokenWriter) WriteMessage(ctx context.Context, buf []byte, off int) error {
	if err := *c.err.Load(); err != nil {
		return err
	}
	return c.Conn.WriteMessage(ctx, buf, off)
}

// WriteTo moves what comes, and keeps what its writer did not take.
func TestWriteTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		want := text(3 << 20)
		go send(t, local, want)
		var buf bytes.Buffer
		short := &shortWriter{w: &buf, left: 100_001}
		n, err := remote.WriteTo(short)
		if n != 100_001 || err != io.ErrShortWrite {
			t.Fatalf("WriteTo: %d, %v", n, err)
		}
		check(t, remote.SetReadDeadline(time.Now().Add(-1)))
		n, err = remote.WriteTo(&buf)
		if n != 0 || !errors.Is(err, errDeadline) {
			t.Fatalf("WriteTo: %d, %v", n, err)
		}
		check(t, remote.SetReadDeadline(time.Time{}))
		n, err = remote.WriteTo(&buf)
		if n != int64(len(want)-100_001) || err != nil {
			t.Fatalf("WriteTo: %d, %v", n, err)
		}
		if buf.String() != want {
			t.Error("other bytes came")
		}
		if remote.Held() != 0 {
			t.Errorf("%d bytes of buffers are held", remote.Held())
		}
	})
}

type shortWriter struct {
	w    io.Writer
	left int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	return w.w.Write(p[:n])
}

// A stream that is given up while WriteTo writes: WriteTo ends, nothing is freed twice.
func TestCloseDuringWriteTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		write(t, local, text(100<<10))
		inWrite, done := make(chan struct{}), make(chan error)
		go func() {
			_, err := remote.WriteTo(writerFunc(func(p []byte) (int, error) {
				close(inWrite)
				synctest.Wait()
				remote.Close()
				return len(p) - 1, nil
			}))
			done <- err
		}()
		<-inWrite
		wantErr(t, <-done, io.ErrShortWrite)
		synctest.Wait()
		if remote.Held() != 0 || s.Stats().WindowHeld != 0 {
			t.Errorf("held: %d, %d", remote.Held(), s.Stats().WindowHeld)
		}
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Idle streams hold no buffer, and the writer none.
func TestIdleHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		for range 100 {
			local, remote := openPair(t, c, s)
			write(t, local, "ping")
			readFull(t, remote, "ping")
			synctest.Wait()
			if remote.Held()+local.Held() != 0 || c.HoldsBuffer() || s.HoldsBuffer() {
				t.Fatalf("held: %d, %v, %v", remote.Held(), c.HoldsBuffer(), s.HoldsBuffer())
			}
		}
	})
}

// Tiny frames share a buffer: a peer that sends single bytes cannot make us hold a chunk each.
func TestTinyFramesShareABuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		p.write(mux.Open(1, 1, 1<<20, ""))
		s := p.accept(m)
		for range 100 {
			var msg []byte
			for range 1000 {
				msg = append(msg, mux.DataOf(1, "x")...)
			}
			p.write(msg)
		}
		synctest.Wait()
		if held := s.Held(); held < 100_000 || held > 200_000 {
			t.Errorf("100,000 bytes take %d", held)
		}
		readFull(t, s, strings.Repeat("x", 100_000))
	})
}

func TestErrorTexts(t *testing.T) {
	for _, tt := range []struct {
		err  mux.StreamError
		want string
	}{
		{mux.StreamError{Code: message.Cancelled}, "stream given up: cancelled"},
		{mux.StreamError{Code: message.SessionLost, Remote: true}, "stream given up by the other end: session lost"},
		{mux.StreamError{Code: message.NoSuchTarget, Text: "a\x1b[2J", Remote: true, Refused: true},
			`stream refused by the other end: no such target: "a\x1b[2J"`},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}
