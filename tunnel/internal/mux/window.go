package mux

import (
	"sync"
	"time"
)

const (
	// minWindow is the smallest window of a stream: what an opener may send before OPENED must fit.
	minWindow = earlyData

	// unknownRTT stands in while the round-trip time is not known. It is a guess on the long side:
	// a window that is too large costs some latency at home, one that is too small on a long path
	// costs nearly all of the rate.
	unknownRTT = 20 * time.Millisecond

	// poolShare is how many times what is free one stream may hold. A lone stream gets 8/9 of all,
	// two get 8/17 each, and a newcomer always finds something. (The rule for shared buffers of
	// Choudhury and Hahne, "Dynamic queue length thresholds".)
	poolShare = 8

	// startShare bounds the first window of a stream to this part of what is free, so that many
	// idle streams leave room for a busy one to grow into.
	startShare = 64
)

// A window is the receiving side's account of one stream: how much the other end may send, how
// much of it came, how much was read. It has no lock and does no I/O.
//
// What the other end may still send and what is unread are together limit - consumed, which never
// exceeds size, which is charged to the session's budget.
type window struct {
	size     uint64
	limit    uint64 // total that the other end may send, from 0
	received uint64
	consumed uint64

	mark  uint64    // consumed when the present measurement began
	since time.Time // when that was; zero before the first byte
}

// receive takes note of n bytes that arrived. It is false if they are past the credit.
func (w *window) receive(n uint64, now func() time.Time) bool {
	if n > w.limit-w.received {
		return false
	}
	if w.since.IsZero() && n > 0 {
		w.since = now()
	}
	w.received += n
	return true
}

func (w *window) unread() uint64 { return w.received - w.consumed }

// consume takes note that n bytes were read. It is true if credit should be given back now: a
// quarter of the window. Less would be more frames, more would let the sender run dry.
func (w *window) consume(n uint64) (due bool) {
	w.consumed += n
	return w.consumed+w.size-w.limit >= w.size/4
}

// grant gives back the credit for what was consumed and returns how much that is.
//
// A window that was consumed whole in less than two round trips was what held the sender up: it
// doubles, up to most, if the budget has the room. One that is larger than its fair part of the
// budget shrinks by granting less than was consumed.
func (w *window) grant(now time.Time, rtt time.Duration, most uint64, b *budget) uint64 {
	if rtt <= 0 {
		rtt = unknownRTT
	}
	grown := uint64(0)
	if w.consumed-w.mark >= w.size {
		if now.Sub(w.since) < 2*rtt && w.size < most {
			grown = b.grow(w.size, min(w.size, most-w.size))
			w.size += grown
		}
		w.mark, w.since = w.consumed, now
	}
	if grown == 0 && w.size > minWindow {
		held := w.limit - w.consumed
		w.size -= b.shrink(w.size, min(w.size-held, w.size-minWindow))
	}
	n := w.consumed + w.size - w.limit
	w.limit += n
	return n
}

// finish says that nothing more will come: only what is unread stays charged.
func (w *window) finish(b *budget) {
	if spare := w.size - min(w.unread(), w.size); spare > 0 {
		w.size -= spare
		b.give(spare)
	}
}

// read takes note of n bytes read after finish.
func (w *window) read(n uint64, b *budget) {
	w.consumed += n
	n = min(n, w.size)
	w.size -= n
	b.give(n)
}

// drop ends the account: nothing is held any more.
func (w *window) drop(b *budget) {
	b.give(w.size)
	w.size = 0
	w.consumed = w.received
}

// A budget is what the windows of all streams share. For each stream that may still come, a
// minWindow stays in reserve; the rest is the pool that windows grow from. Any number of
// goroutines may use it at once.
type budget struct {
	total uint64

	mu    sync.Mutex
	free  uint64 // not charged by any window
	spare uint64 // streams that may still come
}

func newBudget(total, streams uint64) *budget {
	return &budget{total: total, free: total, spare: streams}
}

func (b *budget) poolLocked() uint64 {
	reserve := min(b.spare*minWindow, b.total/2)
	return b.free - min(b.free, reserve)
}

// admit charges a new stream's minWindow; false if there is no room. Each admit is followed by
// one leave.
func (b *budget) admit() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spare == 0 || b.free < minWindow {
		return false
	}
	b.free -= minWindow
	b.spare--
	return true
}

// leave says that an admitted stream is gone. What its window still holds is given back apart.
func (b *budget) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spare++
}

// start charges and returns what a new stream's window gets on top of minWindow.
func (b *budget) start(want uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := min(want, b.poolLocked()/startShare)
	b.free -= got
	return got
}

// grow charges and returns up to want for a window of the given size.
func (b *budget) grow(size, want uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	fair := poolShare * b.poolLocked()
	if fair <= size {
		return 0
	}
	got := min(want, (fair-size)/(poolShare+1)) // size+got is then poolShare times what is left
	b.free -= got
	return got
}

// shrink takes up to most back from a window of the given size, if that is more than its fair
// part, and returns how much.
func (b *budget) shrink(size, most uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	fair := poolShare * b.poolLocked()
	if size <= fair {
		return 0
	}
	back := min(most, (size-fair)/(poolShare+1))
	b.free += back
	return back
}

// give takes n bytes back.
func (b *budget) give(n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
}

// charged is what all windows hold together.
func (b *budget) charged() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total - b.free
}
