package mux_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// refusals opens streams from first on and returns how many of n are refused with TooMany.
func refusals(p *handPeer, m *mux.Mux, first uint64, n int) int {
	p.t.Helper()
	before := m.Stats().Refused
	for i := range n {
		p.write(mux.Open(first+2*uint64(i), 1, 1<<20, ""))
	}
	synctest.Wait()
	refused := int(m.Stats().Refused - before)
	for range refused {
		if f := p.next(); f.Type != mux.TypeRefused || f.Code != message.TooMany {
			p.t.Fatalf("got %+v", f)
		}
	}
	return refused
}

func TestLimitPending(t *testing.T) {
	for _, tt := range []struct {
		name           string
		limit, n, want int
	}{
		{"below", 256, 255, 0}, {"at", 256, 256, 0}, {"past", 256, 257, 1}, {"far past", 256, 1000, 744},
		{"smaller limit", 3, 4, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, p := newHandPeer(t, mux.Config{MaxPending: tt.limit})
				if got := refusals(p, m, 1, tt.n); got != tt.want {
					t.Fatalf("%d of %d refused, want %d", got, tt.n, tt.want)
				}
				// One that is decided makes room for one.
				s, err := m.Accept(t.Context())
				check(t, err)
				if got := refusals(p, m, 10001, 1); tt.n >= tt.limit && got != 1 {
					t.Error("Mux.Accept alone made room")
				}
				check(t, s.Accept())
				p.expect(mux.TypeOpened, 1)
				if got := refusals(p, m, 20001, 1); got != 0 {
					t.Error("Stream.Accept made no room")
				}
			})
		})
	}
}

func TestLimitStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{MaxStreams: 8})
		var last *mux.Stream
		for id := uint64(1); id < 2*7; id += 2 {
			p.write(mux.Open(id, 1, 1<<20, ""))
			last = p.accept(m)
		}
		ours, err := m.Open(t.Context(), 1, nil) // the eighth
		check(t, err)
		p.expect(mux.TypeOpen, 2)
		if got := refusals(p, m, 15, 1); got != 1 {
			t.Error("the ninth stream was taken")
		}
		_, err = m.Open(t.Context(), 1, nil)
		if e := wantStreamError(t, err, message.TooMany, false); !e.Refused {
			t.Error("not marked as refused")
		}
		check(t, last.Reset(message.OK))
		p.expect(mux.TypeReset, last.ID())
		p.expect(mux.TypeStop, last.ID())
		if got := refusals(p, m, 17, 2); got != 1 {
			t.Errorf("%d of two refused after one ended", got)
		}
		_ = ours
	})
}

func TestLimitOpenRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{OpenRate: 10, OpenBurst: 20, MaxStreams: 1000})
		if got := refusals(p, m, 1, 20); got != 0 {
			t.Errorf("%d of the burst refused", got)
		}
		if got := refusals(p, m, 101, 1); got != 1 {
			t.Error("one past the burst was taken")
		}
		<-time.After(time.Second)
		if got := refusals(p, m, 201, 15); got != 5 {
			t.Errorf("%d of 15 refused a second later, want 5", got)
		}
	})
}

func TestLimitRateDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{MaxStreams: 4000, MaxPending: 4000, SessionWindow: 1 << 30})
		if got := refusals(p, m, 1, 2049); got != 1 {
			t.Errorf("%d of 2,049 refused, want 1", got)
		}
		<-time.After(100 * time.Millisecond)
		if got := refusals(p, m, 10001, 1001); got != 1 {
			t.Errorf("%d of 1,001 refused 100 ms later, want 1", got)
		}
	})
}

// The default limits: 1,024 streams, whatever windows they have.
func TestDefaultStreamsFit(t *testing.T) {
	c, s := newTestPair(t, mux.Config{}, mux.Config{})
	for i := range 1024 {
		local, remote := openPair(t, c, s)
		if i%100 == 0 {
			write(t, local, text(10000))
			readFull(t, remote, text(10000))
		}
	}
	_, err := c.Open(t.Context(), 1, nil)
	wantStreamError(t, err, message.TooMany, false)
	if held := s.Stats().WindowHeld; held > 32<<20 {
		t.Errorf("windows hold %d", held)
	}
}

// Without room for its least window a stream is refused, and with what comes back it is not.
func TestLimitSessionWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{SessionWindow: 40 << 10})
		if got := refusals(p, m, 1, 3); got != 1 {
			t.Fatalf("%d of 3 refused, want 1: 40 KiB hold two windows", got)
		}
		p.write(mux.Reset(1, message.OK), mux.Stop(1, message.OK))
		if got := refusals(p, m, 101, 2); got != 1 {
			t.Fatalf("%d of 2 refused, want 1", got)
		}
	})
}

// 1,000 resets of unused streams in ten seconds are taken, and any number over a longer time; so
// are those of streams that carried something.
func TestLimitResetsBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		id := uint64(1)
		for range 3 {
			for range 1000 {
				p.write(mux.Open(id, 1, 1<<20, ""), mux.Reset(id, 0), mux.Stop(id, 0))
				p.write(mux.Open(id+2, 1, 1<<20, ""), mux.DataOf(id+2, "x"), mux.Reset(id+2, 0), mux.Stop(id+2, 0))
				id += 4
				synctest.Wait()
			}
			<-time.After(10*time.Second + 1)
		}
		check(t, m.Err())
		if st := m.Stats(); st.Resets != 6000 || st.Streams != 0 || st.Pending != 0 || st.WindowHeld != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		local, remote := openPair(t, c, s)
		s.Drain()
		refused, err := c.Open(t.Context(), 1, nil)
		check(t, err)
		if e := wantStreamError(t, refused.Opened(t.Context()), message.GoingAway, true); !e.Refused {
			t.Error("not marked as refused")
		}
		_, err = s.Open(t.Context(), 1, nil)
		wantStreamError(t, err, message.GoingAway, false)
		// The one that was there goes on.
		write(t, local, "still here")
		readFull(t, remote, "still here")
		synctest.Wait()
		select {
		case <-s.Idle():
			t.Fatal("idle with a stream open")
		default:
		}
		check(t, local.Close())
		check(t, remote.Close())
		<-s.Idle()
		s.Drain() // again
		select {
		case <-c.Idle():
			t.Error("idle without Drain")
		default:
		}
		c.Drain()
		<-c.Idle() // at once: there is none
	})
}

func TestAcceptSeesContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Accept(ctx)
		wantErr(t, err, context.DeadlineExceeded)
		local, err := c.Open(t.Context(), 1, nil)
		check(t, err)
		wantErr(t, local.Opened(ctx), context.DeadlineExceeded)
		_, err = c.Open(ctx, 1, nil)
		wantErr(t, err, context.DeadlineExceeded)
	})
}

// Many callers of Accept, some of whom give up: each stream comes to exactly one.
func TestAcceptLosesNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestPair(t, mux.Config{}, mux.Config{})
		const n = 200
		got := make(chan uint64, n)
		for i := range 16 {
			go func() {
				for {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i+1)*time.Millisecond)
					st, err := s.Accept(ctx)
					cancel()
					switch {
					case err == nil:
						got <- st.ID()
						st.Accept()
					case !errors.Is(err, context.DeadlineExceeded):
						return // the Mux has ended
					}
				}
			}()
		}
		for range n {
			_, err := c.Open(t.Context(), 1, nil)
			check(t, err)
			<-time.After(500 * time.Microsecond)
		}
		seen := map[uint64]bool{}
		for range n {
			id := <-got
			if seen[id] {
				t.Fatalf("stream %d twice", id)
			}
			seen[id] = true
		}
	})
}

// Callers of Accept that all wait: streams that come in one message wake as many.
func TestAcceptWakesEachCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newHandPeer(t, mux.Config{})
		got := make(chan *mux.Stream)
		for range 8 {
			go func() {
				s, err := m.Accept(context.Background())
				if err != nil {
					t.Error(err)
				}
				got <- s
			}()
		}
		synctest.Wait()
		var msg []byte
		for id := uint64(1); id < 16; id += 2 {
			msg = append(msg, mux.Open(id, 1, 1, "")...)
		}
		p.write(msg)
		for range 8 {
			<-got
		}
	})
}

// A port scan through a forward opens and gives up streams by the thousand. It must not cost the
// session that everything else runs in: from some point on opens fail here, for a while.
func TestGivingUpManyStreamsKeepsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := message.Pipe(16, 64<<10)
		client, server := mux.New(a, mux.Config{Client: true}), mux.New(b, mux.Config{})
		defer client.Close(message.OK, "")
		defer server.Close(message.OK, "")
		go func() {
			for {
				s, err := server.Accept(context.Background())
				if err != nil {
					return
				}
				check(t, s.Accept())
			}
		}()
		failed := 0
		for range 3000 {
			s, err := client.Open(t.Context(), 1, nil)
			var refused *mux.StreamError
			if errors.As(err, &refused) && refused.Code == message.TooMany {
				failed++
				continue
			}
			check(t, err)
			check(t, s.Opened(t.Context()))
			check(t, s.Reset(message.Cancelled))
			synctest.Wait()
		}
		if failed == 0 {
			t.Error("nothing held 3000 streams up")
		}
		if err := server.Err(); err != nil {
			t.Fatalf("the session ended: %v", err)
		}
		time.Sleep(11 * time.Second) // fake
		s, err := client.Open(t.Context(), 1, nil)
		check(t, err)
		check(t, s.Opened(t.Context()))
	})
}
