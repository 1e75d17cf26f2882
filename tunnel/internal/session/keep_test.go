package session_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

const (
	firstBound = 4 << 20
	mostBound  = 32 << 20
	charge     = 128 // beside the length of a segment
)

// writeMany writes numbered segments of size bytes, their type included, and reports how many were taken so far.
type writeMany struct {
	taken int
	done  chan struct{}
	err   error
}

func (s *tested) writeMany(ctx context.Context, n, size int) *writeMany {
	w := &writeMany{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for i := range n {
			if w.err = s.tryWrite(ctx, fmt.Sprintf("%0*d", size-1, i)); w.err != nil {
				return
			}
			w.taken++ // only looked at when all are blocked
		}
	}()
	return w
}

func (w *writeMany) so() int {
	synctest.Wait()
	return w.taken
}

// Past the bound a writer waits, attached or not. Nothing is dropped, and all arrives in the end.
func TestWhatIsKeptIsBounded(t *testing.T) {
	const size = 4096 - charge
	const fit = firstBound / 4096
	for _, attached := range []bool{true, false} {
		t.Run(fmt.Sprintf("attached %v", attached), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, a := newTested(t, session.Config{Lifetime: 24 * time.Hour})
				if !attached {
					s.lose(a)
				}
				w := s.writeMany(t.Context(), fit+20, size)
				if n := w.so(); n != fit {
					t.Fatalf("%d segments were taken, want %d", n, fit)
				}
				if s.Room() {
					t.Error("there is said to be room")
				}
				time.Sleep(time.Hour)
				if n := w.so(); n != fit {
					t.Fatalf("after an hour %d segments were taken, want %d", n, fit)
				}
				if kept := s.Stats().Waiting; kept != fit*size {
					t.Errorf("%d bytes are kept, want %d", kept, fit*size)
				}
				if attached {
					a.number(ack, 10)
					if n := w.so(); n != fit+10 {
						t.Fatalf("after an ACK of 10, %d segments were taken", n)
					}
				}
				s.lose(a)
				acked := uint64(0)
				if attached {
					acked = 10
				}
				b := s.resume(acked)
				b.number(from, 1)
				got, _ := b.rest()
				b.number(ack, fit)
				more, _ := b.rest()
				got = append(got, more...)
				if n := w.so(); n != fit+20 || len(got) != 1+fit+20-int(acked) || got[0] != short(from, acked+1) {
					t.Fatalf("%d segments were taken, %d came", n, len(got)-1)
				}
				for i, m := range got[1:] {
					if want := fmt.Sprintf("\x01%0*d", size-1, i+int(acked)); m != want {
						t.Fatalf("segment %d is %.40q", i, m)
					}
				}
			})
		})
	}
}

// A writer that waits gives up with its context, and is told the end of the session.
func TestWaitingForRoomEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		s.lose(a)
		ctx, cancel := context.WithCancel(t.Context())
		w := s.writeMany(ctx, 10_000, testMax)
		n := w.so()
		cancel()
		<-w.done
		if w.err != context.Canceled || n < 400 {
			t.Errorf("%d were taken, then %v", n, w.err)
		}
		w = s.writeMany(t.Context(), 1, testMax)
		synctest.Wait()
		s.Lose(message.ErrTruncated)
		<-w.done
		if w.err != message.ErrTruncated {
			t.Errorf("after the end: %v", w.err)
		}
		if kept := s.Stats().Waiting; kept != 0 {
			t.Errorf("a session that has ended keeps %d bytes", kept)
		}
	})
}

// The bound doubles where acknowledgements come fast and it was what held a writer up, and no further
// than to 32 MiB. It stays where they come slowly.
func TestTheBoundGrows(t *testing.T) {
	rounds, most := 8, mostBound
	if raceEnabled { // which makes so many bytes take long
		rounds, most = 2, 2*firstBound
	}
	for _, test := range []struct {
		pause time.Duration // before what was sent is acknowledged
		want  int
	}{{0, most}, {time.Second, firstBound}} {
		bubble(t, func(t *testing.T) {
			s, a := newTested(t, session.Config{Lifetime: 24 * time.Hour})
			a.other.rtt = 10 * time.Millisecond
			w := s.writeMany(t.Context(), 30_000, testMax-charge)
			sent := uint64(0)
			most := 0
			for range rounds {
				synctest.Wait()
				most = max(most, s.Stats().Waiting)
				segments, _ := a.rest()
				sent += uint64(len(segments))
				time.Sleep(test.pause)
				a.number(ack, sent)
			}
			if most > test.want || most < test.want-2*testMax*2-most/50 {
				t.Errorf("acknowledged after %v: up to %d bytes were kept, want about %d", test.pause, most, test.want)
			}
			s.Lose(message.ErrTruncated)
			<-w.done
		})
	}
}

// An eighth of what all sessions may keep is one key's.
func TestBudgetOfAKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const total = 1 << 20
		budget := session.NewBudget(total)
		full := 0
		budget.Full = func() { full++ }
		s, a := newTested(t, session.Config{Lifetime: time.Hour, Budget: budget, Key: session.Key{1}})
		w := s.writeMany(t.Context(), 40, 4096-charge)
		if n := w.so(); n != total/8/4096 || budget.Used() != total/8 {
			t.Errorf("%d segments were taken and %d bytes charged, want %d and %d", n, budget.Used(), total/8/4096, total/8)
		}
		other, _ := newTested(t, session.Config{Lifetime: time.Hour, Budget: budget, Key: session.Key{2}})
		v := other.writeMany(t.Context(), 2, 4096-charge)
		if n := v.so(); n != 2 {
			t.Errorf("%d segments of another key were taken, want 2", n)
		}
		if budget.Most() != (session.Key{1}) || full != 0 {
			t.Errorf("most is kept for %v, and it was full %d times", budget.Most(), full)
		}
		a.number(ack, 32)
		time.Sleep(50 * time.Millisecond)
		if n := w.so(); n != 40 {
			t.Errorf("%d segments were taken after the ACK, want 40", n)
		}
		s.Lose(message.ErrTruncated)
		other.Lose(message.ErrTruncated)
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes are charged for sessions that have ended", n)
		}
	})
}

// Where all of it is spent, each session can keep one segment, and somebody is asked to make room. Writers
// go on when there is some.
func TestBudgetIsSpent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		budget := session.NewBudget(64 << 10)
		full := 0
		budget.Full = func() { full++ }
		var all []*tested
		var writers []*writeMany
		for i := range 9 {
			s, _ := newTested(t, session.Config{Lifetime: time.Hour, Budget: budget, Key: session.Key{byte(i)}})
			all = append(all, s)
			w := s.writeMany(t.Context(), 100, 4096-charge)
			writers = append(writers, w)
			want := 2
			if i == 8 {
				want = 1
			}
			if n := w.so(); n != want {
				t.Errorf("key %d: %d segments were taken, want %d", i, n, want)
			}
		}
		if full == 0 {
			t.Error("nobody was asked to make room")
		}
		if used := budget.Used(); used != 17*4096 {
			t.Errorf("%d bytes are charged, want %d", used, 17*4096)
		}
		all[0].Lose(message.ErrTruncated)
		all[1].Lose(message.ErrTruncated)
		time.Sleep(time.Second)
		if n := writers[8].so(); n != 2 {
			t.Errorf("with room again %d segments were taken, want 2", n)
		}
		for _, s := range all {
			s.Lose(message.ErrTruncated)
		}
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes are charged for sessions that have ended", n)
		}
	})
}

// A message that does not fit is refused and leaves no trace.
func TestTooLarge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		if s.MaxMessage() != testMax-1 {
			t.Errorf("MaxMessage is %d", s.MaxMessage())
		}
		if err := s.tryWrite(t.Context(), string(make([]byte, testMax))); !errors.Is(err, message.ErrTooLarge) {
			t.Errorf("got %v", err)
		}
		s.write(string(make([]byte, testMax-1)))
		if segments, _ := a.rest(); len(segments) != 1 || len(segments[0]) != testMax {
			t.Errorf("%d segments came", len(segments))
		}
	})
}

// Without an acknowledgement for five seconds the connection has ten to show that it lives. A connection
// that acknowledges is left alone, and so is one that nothing was sent over.
func TestStallIsProbed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: time.Hour})
		time.Sleep(minute)
		for i := range uint64(100) { // a segment each 70 ms, acknowledged at once
			s.write("x")
			synctest.Wait()
			a.number(ack, i+1)
			time.Sleep(70 * time.Millisecond)
		}
		if p := a.other.probed(); len(p) != 0 {
			t.Fatalf("it was probed %v for nothing", p)
		}
		s.write("x")
		time.Sleep(4900 * time.Millisecond)
		if p := a.other.probed(); len(p) != 0 {
			t.Errorf("it was probed %v within 5 s", p)
		}
		time.Sleep(200 * time.Millisecond)
		if p := a.other.probed(); !slices.Equal(p, []time.Duration{10 * time.Second}) {
			t.Errorf("after 5 s it was probed %v", p)
		}
		s.write("y") // more to wait for gives no more time
		time.Sleep(5 * time.Second)
		if p := a.other.probed(); len(p) != 2 {
			t.Errorf("after 10 s it was probed %v", p)
		}
		a.number(ack, 101) // not all
		time.Sleep(4900 * time.Millisecond)
		if p := a.other.probed(); len(p) != 2 {
			t.Errorf("after an ACK it was probed at once: %v", p)
		}
		a.number(ack, 102)
		time.Sleep(minute)
		if p := a.other.probed(); len(p) != 2 {
			t.Errorf("nothing waits and it was probed: %v", p)
		}
		s.lose(a)
		s.write("z")
		time.Sleep(minute)
		b := s.resume(102)
		b.number(from, 1)
		time.Sleep(4900 * time.Millisecond)
		if p := b.other.probed(); len(p) != 0 {
			t.Errorf("a new connection was probed at once: %v", p)
		}
		time.Sleep(200 * time.Millisecond)
		if p := b.other.probed(); len(p) != 1 {
			t.Errorf("a new connection over which no ACK comes was probed: %v", p)
		}
	})
}

// A detached session gives its writers and its reader the reason of its end.
func TestCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		a.other.rtt = time.Second
		if s.RTT() != time.Second || s.ID() != testID {
			t.Errorf("RTT %v, ID %v", s.RTT(), s.ID())
		}
		s.Probe(time.Second)
		if p := a.other.probed(); !slices.Equal(p, []time.Duration{time.Second}) {
			t.Errorf("probed %v", p)
		}
		s.lose(a)
		if s.RTT() != 0 {
			t.Errorf("without a connection the RTT is %v", s.RTT())
		}
		s.Probe(time.Second)
		s.CutShort()
		if err := s.tryWrite(t.Context(), "x"); !errors.Is(err, net.ErrClosed) || s.readErr() != net.ErrClosed {
			t.Errorf("write %v, read %v", err, s.readErr())
		}
	})
}
