package mux_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// What an authenticated client must not do. Each ends the session with a protocol error that both
// sides learn, at once, and nothing of it is kept.
func TestHostilePeer(t *testing.T) {
	type peer = handPeer
	const big = 1 << 20
	open := func(p *peer, id uint64) { p.write(mux.Open(id, 1, big, "x:1")) }
	accepted := func(p *peer, m *mux.Mux) *mux.Stream {
		open(p, 1)
		return p.accept(m)
	}
	opened := func(p *peer, m *mux.Mux) *mux.Stream { // by the Mux, answered
		s, err := m.Open(context.Background(), 1, nil)
		check(p.t, err)
		p.expect(mux.TypeOpen, 2)
		p.write(mux.Opened(2, big))
		return s
	}
	asked := func(p *peer, m *mux.Mux) { // by the Mux, not answered
		_, err := m.Open(context.Background(), 1, nil)
		check(p.t, err)
		p.expect(mux.TypeOpen, 2)
	}
	for _, tt := range []struct {
		name string
		do   func(p *peer, m *mux.Mux) // p does not read on by itself
	}{
		{"frame type 0", func(p *peer, m *mux.Mux) { p.write([]byte{0, 1}) }},
		{"frame type 9", func(p *peer, m *mux.Mux) { p.write([]byte{9, 1}) }},
		{"frame cut short", func(p *peer, m *mux.Mux) { open(p, 1); p.write([]byte{mux.TypeData, 1, 9, 'x'}) }},
		{"frame cut in its id", func(p *peer, m *mux.Mux) { p.write([]byte{mux.TypeFin}) }},
		{"length of 2^62-1", func(p *peer, m *mux.Mux) {
			open(p, 1)
			p.write(mux.AppendVarint([]byte{mux.TypeData, 1}, mux.MaxVarint))
		}},
		{"a good frame, then rubbish", func(p *peer, m *mux.Mux) { p.write(mux.Open(1, 1, big, ""), []byte{0x3f}) }},
		{"request too long", func(p *peer, m *mux.Mux) { p.write(mux.Open(1, 1, big, text(mux.MaxRequest+1))) }},
		{"text too long", func(p *peer, m *mux.Mux) {
			asked(p, m)
			p.write(mux.Refused(2, message.NotAllowed, text(mux.MaxText+1)))
		}},
		{"code out of range", func(p *peer, m *mux.Mux) {
			accepted(p, m)
			p.write(mux.AppendVarint([]byte{mux.TypeReset, 1}, 1<<16))
		}},
		{"OPEN with an id of the other side", func(p *peer, m *mux.Mux) { open(p, 2) }},
		{"OPEN with id 0", func(p *peer, m *mux.Mux) { open(p, 0) }},
		{"OPEN twice", func(p *peer, m *mux.Mux) { open(p, 1); open(p, 1) }},
		{"OPEN of a smaller id", func(p *peer, m *mux.Mux) { open(p, 9); open(p, 7) }},
		{"OPEN of an id that was refused", func(p *peer, m *mux.Mux) {
			open(p, 1)
			s, err := m.Accept(context.Background())
			check(p.t, err)
			check(p.t, s.Refuse(message.NotAllowed, ""))
			p.expect(mux.TypeRefused, 1)
			open(p, 1)
		}},
		{"DATA of a stream it never opened", func(p *peer, m *mux.Mux) { p.write(mux.Data(7, 1)) }},
		{"DATA above its highest", func(p *peer, m *mux.Mux) { open(p, 1); p.write(mux.Data(3, 1)) }},
		{"DATA of a stream we never opened", func(p *peer, m *mux.Mux) { p.write(mux.Data(2, 1)) }},
		{"DATA of stream 0", func(p *peer, m *mux.Mux) { open(p, 1); p.write(mux.Data(0, 1)) }},
		{"FIN of a stream never opened", func(p *peer, m *mux.Mux) { p.write(mux.Fin(7)) }},
		{"RESET of a stream never opened", func(p *peer, m *mux.Mux) { p.write(mux.Reset(4, 0)) }},
		{"STOP of a stream never opened", func(p *peer, m *mux.Mux) { p.write(mux.Stop(7, 0)) }},
		{"CREDIT of a stream never opened", func(p *peer, m *mux.Mux) { p.write(mux.Credit(4, 1)) }},
		{"OPENED of its own stream", func(p *peer, m *mux.Mux) { open(p, 1); p.write(mux.Opened(1, big)) }},
		{"REFUSED of its own stream", func(p *peer, m *mux.Mux) { open(p, 1); p.write(mux.Refused(1, 0, "")) }},
		{"OPENED of nothing", func(p *peer, m *mux.Mux) { p.write(mux.Opened(2, big)) }},
		{"DATA before OPENED", func(p *peer, m *mux.Mux) { asked(p, m); p.write(mux.Data(2, 1)) }},
		{"FIN before OPENED", func(p *peer, m *mux.Mux) { asked(p, m); p.write(mux.Fin(2)) }},
		{"RESET before OPENED", func(p *peer, m *mux.Mux) { asked(p, m); p.write(mux.Reset(2, 0)) }},
		{"STOP before OPENED", func(p *peer, m *mux.Mux) { asked(p, m); p.write(mux.Stop(2, 0)) }},
		{"CREDIT before OPENED", func(p *peer, m *mux.Mux) { asked(p, m); p.write(mux.Credit(2, 1)) }},
		{"OPENED with too small a window", func(p *peer, m *mux.Mux) { asked(p, m); p.write(mux.Opened(2, 16<<10-1)) }},
		{"CREDIT of nothing", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Credit(1, 0)) }},
		{"OPENED twice", func(p *peer, m *mux.Mux) { opened(p, m); p.write(mux.Opened(2, big)) }},
		{"REFUSED after OPENED", func(p *peer, m *mux.Mux) { opened(p, m); p.write(mux.Refused(2, 0, "")) }},
		{"a byte past the early 16 KiB", func(p *peer, m *mux.Mux) {
			p.write(mux.Open(1, 1, big, ""), mux.Data(1, mux.EarlyData))
			p.write(mux.Data(1, 1))
		}},
		{"a byte past the window", func(p *peer, m *mux.Mux) {
			open(p, 1)
			s, err := m.Accept(context.Background())
			check(p.t, err)
			check(p.t, s.Accept())
			window := int(p.expect(mux.TypeOpened, 1).N)
			for ; window > 0; window -= 64 << 10 {
				p.write(mux.Data(1, min(window, 64<<10)))
			}
			p.write(mux.Data(1, 1))
		}},
		{"a byte past what a stream that wants no more had", func(p *peer, m *mux.Mux) {
			s := accepted(p, m)
			check(p.t, s.CloseRead(message.Cancelled))
			for range 3 {
				p.write(mux.Data(1, 100<<10))
			}
		}},
		{"DATA after FIN", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Fin(1), mux.Data(1, 1)) }},
		{"empty DATA after FIN", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Fin(1), mux.Data(1, 0)) }},
		{"FIN twice", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Fin(1), mux.Fin(1)) }},
		{"RESET after FIN", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Fin(1), mux.Reset(1, 0)) }},
		{"DATA after RESET", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Reset(1, 0), mux.Data(1, 1)) }},
		{"RESET twice", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Reset(1, 0), mux.Reset(1, 0)) }},
		{"STOP twice", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Stop(1, 0), mux.Stop(1, 0)) }},
		{"credit to 2^62", func(p *peer, m *mux.Mux) { accepted(p, m); p.write(mux.Credit(1, mux.MaxVarint-big+1)) }},
		{"credit to 2^62 in many steps", func(p *peer, m *mux.Mux) {
			accepted(p, m)
			for range 5 {
				p.write(mux.Credit(1, 1<<60))
			}
		}},
		{"credit after the largest window", func(p *peer, m *mux.Mux) {
			p.write(mux.Open(1, 1, mux.MaxVarint, ""), mux.Credit(1, 1))
		}},
		{"1,001 resets of unused streams", func(p *peer, m *mux.Mux) {
			for id := uint64(1); id < 2*1000; id += 2 {
				if p.send(mux.Open(id, 1, big, ""), mux.Reset(id, 0), mux.Stop(id, 0)) != nil {
					p.t.Fatal("ended before the limit")
				}
				synctest.Wait() // the Mux has seen it
			}
			if m.Err() != nil {
				p.t.Fatal("ended before the limit")
			}
			p.write(mux.Open(2001, 1, big, ""), mux.Reset(2001, 0))
		}},
		{"a million opens, answers not read", func(p *peer, m *mux.Mux) {
			var msg []byte
			for id := uint64(1); id < 2_000_000; id += 2 {
				if msg = append(msg, mux.Open(id, 1, big, "")...); len(msg) > 100<<10 {
					if p.send(msg) != nil {
						return
					}
					msg = msg[:0]
				}
				if q := m.Queued(); q > 3<<20 {
					p.t.Fatalf("%d bytes of answers are queued", q)
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runtime.GC()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				m, p := newHandPeer(t, mux.Config{})
				start := time.Now()
				tt.do(p, m)
				for {
					_, err := p.read()
					if err == nil {
						continue
					}
					var ce *message.CloseError
					if !errors.As(err, &ce) || ce.Code != message.ProtocolError || !ce.Remote || ce.Reason == "" {
						t.Fatalf("the peer learns %v", err)
					}
					break
				}
				<-m.Done()
				var ce *message.CloseError
				if err := m.Err(); !errors.As(err, &ce) || ce.Code != message.ProtocolError || ce.Remote {
					t.Errorf("Err: %v", err)
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("it took %v", d)
				}
				synctest.Wait()
				if n := m.Streams(); n != 0 {
					t.Errorf("%d streams left", n)
				}
				_, err := m.Open(t.Context(), 1, nil)
				wantErr(t, err, m.Err())
				runtime.GC()
				runtime.ReadMemStats(&after)
				if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
					t.Errorf("the heap grew by %d KiB", grown>>10)
				}
			})
		})
	}
}

// What looks odd but is only late, or useless: it is taken, and what is forgotten is dropped.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		p.write(mux.Open(5, 77, 1<<20, "first"), mux.DataOf(5, "early"), mux.Data(5, 0), mux.Credit(5, 1))
		s, err := m.Accept(t.Context())
		check(t, err)
		if s.Kind() != 77 || string(s.Request()) != "first" || s.ID() != 5 {
			t.Errorf("got stream %d, kind %d, %q", s.ID(), s.Kind(), s.Request())
		}
		check(t, s.Accept())
		p.expect(mux.TypeOpened, 5)
		readFull(t, s, "early")
		check(t, s.Reset(message.Cancelled))
		for _, typ := range []uint64{mux.TypeReset, mux.TypeStop} {
			if f := p.expect(typ, 5); f.Code != message.Cancelled {
				t.Errorf("got code %v", f.Code)
			}
		}
		// All these were on their way when the stream was given up; 1 and 3 were skipped.
		p.write(mux.Data(5, 100), mux.Credit(5, 100), mux.Stop(5, 0), mux.Fin(5), mux.Reset(5, 0),
			mux.Data(3, 100), mux.Fin(1))
		p.write() // a message without a frame
		// Integers may be longer than they need be.
		p.write([]byte{0x40, mux.TypeOpen, 0xc0, 0, 0, 0, 0, 0, 0, 9, 1, 0x80, 0, 0, 1, 0x40, 2, 'o', 'k'})
		s, err = m.Accept(t.Context())
		check(t, err)
		if s.ID() != 9 || string(s.Request()) != "ok" {
			t.Errorf("got stream %d, %q", s.ID(), s.Request())
		}
		check(t, s.Accept())
		p.expect(mux.TypeOpened, 9)
		write(t, s, "a") // window 1
		if f := p.expect(mux.TypeData, 9); string(f.Body) != "a" {
			t.Errorf("got %q", f.Body)
		}
		check(t, s.CloseWrite())
		p.expect(mux.TypeFin, 9)
		p.write(mux.Credit(9, 5), mux.Stop(9, 0)) // crossed the FIN
		p.write(mux.Fin(9))
		wantEOF(t, s)
		synctest.Wait()
		if m.Err() != nil || m.Streams() != 0 {
			t.Errorf("%v, %d streams", m.Err(), m.Streams())
		}
	})
}

// A conn that carries no whole OPEN is refused, not run into.
func TestConnWithSmallMessages(t *testing.T) {
	a, b := message.Pipe(1, mux.MinMessage-1)
	m := mux.New(a, mux.Config{})
	defer m.Close(message.OK, "")
	defer b.Close(message.OK, "")
	<-m.Done()
	if m.Err() == nil || errors.Is(m.Err(), io.EOF) {
		t.Errorf("got %v", m.Err())
	}

	a, b = message.Pipe(1, mux.MinMessage)
	c, s := newTestPairOver(t, a, b, mux.Config{}, mux.Config{})
	st, err := c.Open(t.Context(), mux.MaxVarint, []byte(text(mux.MaxRequest)))
	check(t, err)
	in, err := s.Accept(t.Context())
	check(t, err)
	if string(in.Request()) != text(mux.MaxRequest) || in.Kind() != mux.MaxVarint {
		t.Errorf("got kind %d, %q", in.Kind(), in.Request())
	}
	check(t, in.Refuse(message.NotAllowed, text(1000)))
	if e := wantStreamError(t, st.Opened(t.Context()), message.NotAllowed, true); e.Text != text(mux.MaxText) {
		t.Errorf("got %q", e.Text)
	}
	_, err = c.Open(t.Context(), 1, []byte(text(mux.MaxRequest+1)))
	wantErr(t, err, message.ErrTooLarge)
	_, err = c.Open(t.Context(), mux.MaxVarint+1, nil)
	if err == nil {
		t.Error("a kind of 2^62 was taken")
	}
}
