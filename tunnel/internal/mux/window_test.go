package mux

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A path is a sender that is always busy, a link of some rate and delay, and a reader that
// reads at once, in time that the test moves.
type path struct {
	rate float64 // bytes a second
	rtt  time.Duration
	most uint64
}

// run moves total bytes and returns the window and the rate at the end.
func (p path) run(b *budget, w *window, total uint64) (rate float64) {
	start := time.Unix(1000, 0)
	now := start
	type grant struct {
		at    time.Time
		limit uint64
	}
	sendLimit, sent := w.limit, uint64(0)
	var grants []grant // on their way to the sender
	linkFree := now
	var done time.Time
	half := total / 2
	var halfAt time.Time
	for sent < total {
		for len(grants) > 0 && !grants[0].at.After(linkFree) {
			sendLimit, grants = grants[0].limit, grants[1:]
		}
		n := min(sendLimit-sent, 16<<10)
		if n == 0 {
			linkFree = grants[0].at // nothing to do before credit comes
			continue
		}
		linkFree = linkFree.Add(time.Duration(float64(n) / p.rate * 1e9))
		sent += n
		now = linkFree.Add(p.rtt / 2)
		if !w.receive(n, func() time.Time { return now }) {
			panic("sent past the credit")
		}
		if w.consume(n) {
			if g := w.grant(now, p.rtt, p.most, b); g > 0 {
				grants = append(grants, grant{now.Add(p.rtt / 2), w.limit})
			}
		}
		if sent >= half && halfAt.IsZero() {
			halfAt = now
		}
		done = now
	}
	return float64(total-half) / done.Sub(halfAt).Seconds()
}

func newTestWindow(t testing.TB, b *budget) *window {
	t.Helper()
	if !b.admit() {
		t.Fatal("no room for a stream")
	}
	w := &window{size: minWindow + b.start(256<<10-minWindow)}
	w.limit = w.size
	return w
}

// DEPENDENCIES row "one stream, RTT 50 ms": a window that stays small is fatal on a long path, one
// that is large at home is what an echo waits behind.
func TestWindowFollowsBandwidthTimesDelay(t *testing.T) {
	for _, tt := range []struct {
		name     string
		rate     float64
		rtt      time.Duration
		min, max uint64  // of the window at the end
		part     float64 // of the link's rate that must be reached
	}{
		{"loopback", 500e6, 100 * time.Microsecond, 256 << 10, 256 << 10, 0.95},
		{"home", 100e6, 500 * time.Microsecond, 256 << 10, 256 << 10, 0.95},
		{"across a country, 100 Mbit/s", 12.5e6, 40 * time.Millisecond, 512 << 10, 2 << 20, 0.95},
		{"across a country, 2 Gbit/s", 250e6, 40 * time.Millisecond, 10 << 20, 16 << 20, 0.95},
		{"the measured 50 ms", 200e6, 50 * time.Millisecond, 10 << 20, 16 << 20, 0.95},
		{"slow and far", 1e6, 100 * time.Millisecond, 256 << 10, 256 << 10, 0.95},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBudget(32<<20, 1024)
			w := newTestWindow(t, b)
			rate := path{tt.rate, tt.rtt, 16 << 20}.run(b, w, 256<<20)
			if w.size < tt.min || w.size > tt.max {
				t.Errorf("window is %d KiB, want %d to %d", w.size>>10, tt.min>>10, tt.max>>10)
			}
			if rate < tt.part*tt.rate {
				t.Errorf("rate is %.1f MB/s of %.1f", rate/1e6, tt.rate/1e6)
			}
			if b.charged() != w.size {
				t.Errorf("charged %d, window %d", b.charged(), w.size)
			}
		})
	}
}

func TestWindowUnknownRTT(t *testing.T) {
	b := newBudget(32<<20, 1024)
	w := newTestWindow(t, b)
	start := time.Unix(1000, 0)
	w.receive(w.limit, func() time.Time { return start })
	w.consume(w.size)
	before := w.size
	w.grant(start.Add(2*unknownRTT-1), 0, 16<<20, b)
	if w.size != 2*before {
		t.Errorf("consumed within two guessed round trips: window %d, want %d", w.size, 2*before)
	}
	w.receive(w.limit-w.received, func() time.Time { return start })
	w.consume(w.unread())
	before = w.size
	w.grant(start.Add(time.Hour), 0, 16<<20, b)
	if w.size != before {
		t.Errorf("consumed in an hour: window %d, want %d", w.size, before)
	}
}

// Credit comes back after a quarter of the window: not in slivers, and not when it ran dry.
func TestWindowCreditAfterAQuarter(t *testing.T) {
	b := newBudget(32<<20, 1024)
	w := newTestWindow(t, b)
	w.receive(w.limit, time.Now)
	quarter := w.size / 4
	if w.consume(quarter - 1) {
		t.Error("credit is due before a quarter was read")
	}
	if !w.consume(1) {
		t.Error("no credit is due after a quarter was read")
	}
	if got := w.grant(time.Now(), time.Millisecond, 16<<20, b); got != quarter {
		t.Errorf("got %d of credit, want %d", got, quarter)
	}
}

// Several busy streams share what a lone one has for itself, and one that comes later gets its
// part from those that were there.
func TestWindowsShareTheBudget(t *testing.T) {
	b := newBudget(32<<20, 1024)
	start := time.Unix(1000, 0)
	now := start
	busy := func(ws ...*window) { // each uses its window up in no time
		for range 200 {
			for _, w := range ws {
				now = now.Add(time.Microsecond)
				if !w.receive(w.limit-w.received, func() time.Time { return now }) {
					t.Fatal("past the credit")
				}
				w.consume(w.unread())
				w.grant(now, time.Second, 16<<20, b)
			}
		}
	}
	first := newTestWindow(t, b)
	busy(first)
	if first.size < 14<<20 || first.size > 16<<20 {
		t.Errorf("alone: %d KiB, want 14 to 16 MiB", first.size>>10)
	}
	second, third := newTestWindow(t, b), newTestWindow(t, b)
	if second.size < minWindow || third.size < minWindow {
		t.Errorf("newcomers start with %d and %d", second.size, third.size)
	}
	busy(first, second, third)
	sum := uint64(0)
	for i, w := range []*window{first, second, third} {
		sum += w.size
		if w.size < 4<<20 || w.size > 6<<20 {
			t.Errorf("stream %d of three has %d KiB, want about 5 MiB", i, w.size>>10)
		}
	}
	if b.charged() != sum || sum > 32<<20 {
		t.Errorf("charged %d, windows %d", b.charged(), sum)
	}
}

// As many streams as MaxStreams find room, whatever the first ones took.
func TestBudgetKeepsRoomForEveryStream(t *testing.T) {
	const streams = 1024
	b := newBudget(32<<20, streams)
	for i := range streams {
		if !b.admit() {
			t.Fatalf("stream %d was not admitted", i)
		}
		size := minWindow + b.start(256<<10-minWindow)
		if i == 0 && size != 256<<10 {
			t.Errorf("the first stream gets %d, want 256 KiB", size)
		}
		b.grow(size, 16<<20)
	}
	if b.admit() {
		t.Error("one more than MaxStreams was admitted")
	}
	if b.charged() > 32<<20 {
		t.Errorf("charged %d", b.charged())
	}
}

// Whatever streams do, credit granted and bytes unread stay under the cap, and all comes back.
func TestBudgetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := uint64(rapid.IntRange(64<<10, 4<<20).Draw(t, "total"))
		b := newBudget(total, uint64(rapid.IntRange(1, 64).Draw(t, "streams")))
		now := time.Unix(1000, 0)
		type stream struct {
			window
			finished bool
		}
		var all []*stream
		pick := func(t *rapid.T) *stream {
			if len(all) == 0 {
				t.Skip("no stream")
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(t, "stream")]
		}
		remove := func(s *stream) {
			for i := range all {
				if all[i] == s {
					all = append(all[:i], all[i+1:]...)
					break
				}
			}
			s.drop(b)
			b.leave()
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				if !b.admit() {
					return
				}
				s := &stream{window: window{size: minWindow + b.start(256<<10-minWindow)}}
				s.limit = s.size
				all = append(all, s)
			},
			"receive": func(t *rapid.T) {
				s := pick(t)
				if s.finished {
					return
				}
				room := s.limit - s.received
				n := rapid.Uint64Range(0, room+1).Draw(t, "n")
				if ok := s.receive(n, func() time.Time { return now }); ok != (n <= room) {
					t.Fatalf("receive of %d with %d of credit: %v", n, room, ok)
				}
			},
			"read": func(t *rapid.T) {
				s := pick(t)
				n := rapid.Uint64Range(0, s.unread()).Draw(t, "n")
				now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "ms")) * time.Millisecond)
				if s.finished {
					s.read(n, b)
				} else if s.consume(n) {
					s.grant(now, 20*time.Millisecond, 1<<20, b)
				}
			},
			"finish": func(t *rapid.T) {
				s := pick(t)
				if !s.finished {
					s.finished = true
					s.finish(b)
				}
			},
			"drop": func(t *rapid.T) { remove(pick(t)) },
			"": func(t *rapid.T) {
				var sum, granted uint64
				for _, s := range all {
					sum += s.size
					held := s.limit - s.consumed
					if s.finished {
						held = s.unread()
					}
					if held > s.size {
						t.Fatalf("a stream holds %d, charged %d", held, s.size)
					}
					granted += held
				}
				if sum != b.charged() || granted > total {
					t.Fatalf("windows %d, charged %d, granted and unread %d of %d", sum, b.charged(), granted, total)
				}
			},
		})
		for len(all) > 0 {
			remove(all[0])
		}
		if b.charged() != 0 {
			t.Fatalf("%d bytes never came back", b.charged())
		}
	})
}

// A timer that fires while its deadline is being moved has nothing to say any more.
func TestLateTimer(t *testing.T) {
	var mu sync.Mutex
	var d deadline
	sig := make(chan struct{}, 1)
	mu.Lock()
	defer mu.Unlock()
	d.setLocked(time.Now().Add(time.Hour), &mu, sig)
	turn := d.turn
	d.setLocked(time.Time{}, &mu, sig)
	if d.fireLocked(turn) || d.expired {
		t.Error("a deadline that was taken back expired")
	}
	d.setLocked(time.Now().Add(time.Hour), &mu, sig)
	if !d.fireLocked(d.turn) || !d.expired {
		t.Error("a deadline did not expire")
	}
	d.stopLocked()
}
