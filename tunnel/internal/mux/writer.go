package mux

import (
	"context"
	"runtime"
	"sync"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
)

const (
	// piece is how much of a stream one message carries at least while others wait too.
	piece = 16 << 10

	// minTarget is what messages of data grow from under backlog.
	minTarget = 16 << 10

	// A message that took longer than slowMessage to hand over halves the target, one that took
	// less than quickMessage doubles it while there is a backlog: so messages take a few
	// milliseconds, which is what a small frame may have to wait for.
	slowMessage  = 8 * time.Millisecond
	quickMessage = 2 * time.Millisecond

	// smallWrite is the largest Write that counts as small: such streams go before bulk.
	smallWrite = 4 << 10

	// tailroom is spare capacity behind a message, for a layer below that seals in place.
	tailroom = 32

	// maxControl bounds the control frames that wait. A peer that makes us answer faster than it
	// reads ends its session there. Above softControl, what can do without gets less.
	maxControl  = 2 << 20
	softControl = 1 << 20
)

const errControlFull = protocolError("answers are not read")

// An owner says who writes messages. There is exactly one, and it changes only in claim, release
// and kick: a second writer that is inferred from "nobody seems busy" is how two write at once.
type owner uint8

const (
	ownerNone   owner = iota // nobody: there is nothing to write
	ownerCaller              // the Write of a stream: of itself, or because it was handed the baton
	ownerLoop                // the mux's writer goroutine
)

// A keeper is a conn that keeps what it has sent, and would have to copy it.
type keeper interface {
	// WriteOwned is WriteMessage for the message behind [message.Headroom] in *buf. If taken, *buf is
	// not the caller's any more, and giveUp gets it back, cleared.
	WriteOwned(ctx context.Context, buf *[]byte, giveUp func(*[]byte)) (taken bool, err error)
}

// The writer puts what streams and the reading loop have to say into messages. Whoever Writes
// while nobody else does writes the message himself; whoever finds somebody writing leaves his
// bytes where they are and waits until they went with somebody's message.
type writer struct {
	mux  *Mux
	conn message.Conn
	wake chan struct{} // one slot: the writer goroutine has become the owner, or err was set
	room func() bool   // whether the conn takes a message now, or may wait long: then only the loop writes

	keeper keeper // the conn, if it keeps messages for a while and can take over their memory

	mu      sync.Mutex // guards what follows and the send half of every stream
	owner   owner
	err     error // why nothing can be written any more
	closing bool  // Mux.Close has begun: no new Writes

	control    []byte   // whole frames, oldest first; control[controlOff:] is not yet sent
	controlLen []uint16 // the lengths of those frames
	controlOff int
	controlAt  int       // index into controlLen
	credits    []*Stream // streams with a CREDIT to send, each once

	small streamList // streams with little to send: they go first
	bulk  streamList // the others, in turn

	target  int             // what a message of data may hold at present
	buf     *[]byte         // taken when a message is assembled, given back when idle
	used    int             // how much of buf held plaintext since then
	flushed []chan struct{} // closed when there is nothing left to write

	resets      int // RESETs of streams that sent nothing, since resetsSince
	resetsSince time.Time

	messages, bytes uint64
}

// resetsInPeriodLocked is how many streams this end has given up unused within a period.
func (w *writer) resetsInPeriodLocked() int {
	if now := time.Now(); now.Sub(w.resetsSince) > resetPeriod {
		w.resetsSince, w.resets = now, 0
	}
	return w.resets
}

// Buffers for messages, shared by all tunnels: for small ones, for a Write of up to 64 KiB, and for whole
// ones. A keeper takes over a buffer only if it is mostly full.
var smallBuffers, middleBuffers, wholeBuffers sync.Pool

const (
	smallBuffer  = message.Headroom + minTarget + maxControlLen + tailroom
	middleBuffer = message.Headroom + 64<<10 + maxControlLen + tailroom
)

// takeBufferLocked makes w.buf hold a message of n bytes.
func (w *writer) takeBufferLocked(n int) {
	need := message.Headroom + n + tailroom
	if w.buf != nil {
		if cap(*w.buf) >= need {
			return
		}
		w.giveBufferLocked()
	}
	pool, size := &smallBuffers, smallBuffer
	switch {
	case need > middleBuffer:
		pool, size = &wholeBuffers, max(need, message.Headroom+w.conn.MaxMessage()+tailroom)
	case need > smallBuffer:
		pool, size = &middleBuffers, max(need, min(middleBuffer, message.Headroom+w.conn.MaxMessage()+tailroom))
	}
	if b, ok := pool.Get().(*[]byte); ok && cap(*b) >= need {
		w.buf = b
		return
	}
	b := make([]byte, 0, size)
	w.buf = &b
}

// giveBufferLocked gives w.buf back, without the plaintext in it.
func (w *writer) giveBufferLocked() {
	if w.buf == nil {
		return
	}
	b := w.buf
	w.buf = nil
	clear((*b)[:min(w.used, cap(*b))])
	w.used = 0
	putBuffer(b)
}

// putBuffer gives back a buffer that holds no plaintext.
func putBuffer(b *[]byte) {
	*b = (*b)[:0]
	switch {
	case cap(*b) > middleBuffer:
		wholeBuffers.Put(b)
	case cap(*b) > smallBuffer:
		middleBuffers.Put(b)
	default:
		smallBuffers.Put(b)
	}
}

// waitingLocked says whether there is anything to write.
func (w *writer) waitingLocked() bool {
	return w.controlAt < len(w.controlLen) || len(w.credits) > 0 || w.small.n+w.bulk.n > 0
}

// kickLocked gives the ownership to somebody if nobody has it and something waits: to a Write
// that is parked on it, which saves a switch, or else to the writer goroutine.
func (w *writer) kickLocked() {
	if w.owner != ownerNone || w.err != nil || !w.waitingLocked() {
		return
	}
	for _, l := range [...]*streamList{&w.small, &w.bulk} {
		if s := l.head; s != nil && s.send.parked && !s.send.deadline.set && w.room() {
			w.owner = ownerCaller
			s.send.baton = true
			signal(s.send.sig)
			return
		}
	}
	w.owner = ownerLoop
	signal(w.wake)
}

// releaseLocked ends the ownership of the caller: what is left goes to somebody else.
func (w *writer) releaseLocked() {
	w.owner = ownerNone
	if w.err == nil && w.waitingLocked() {
		w.owner = ownerLoop
		signal(w.wake)
		return
	}
	w.giveBufferLocked()
	for _, c := range w.flushed {
		close(c)
	}
	w.flushed = nil
}

// loop is the writer goroutine. It writes when it is handed the ownership, until nothing is left.
func (w *writer) loop() {
	for {
		select {
		case <-w.wake:
		case <-w.mux.done:
			return
		}
		w.mu.Lock()
		if w.owner == ownerLoop {
			w.runLocked(nil)
			w.releaseLocked()
		}
		err := w.err
		w.mu.Unlock()
		if err != nil {
			w.mux.writeLost(err)
			return
		}
	}
}

// runLocked writes messages as the owner until nothing waits, or, for the Write of a stream, until
// that stream has nothing more that it may send. mu is released while a message is written.
func (w *writer) runLocked(s *Stream) {
	for w.err == nil && w.waitingLocked() && (s == nil || s.send.list != nil && w.room()) {
		n := w.assembleLocked()
		if n == 0 {
			w.failLocked(message.ErrTooLarge)
			return
		}
		backlog := w.small.n+w.bulk.n > 0
		buf := w.buf
		w.mu.Unlock()
		start := time.Now()
		var taken bool
		var err error
		if w.keeper != nil {
			taken, err = w.keeper.WriteOwned(w.mux.ctx, buf, putBuffer)
		} else {
			err = w.conn.WriteMessage(w.mux.ctx, *buf, message.Headroom)
		}
		took := time.Since(start)
		w.mu.Lock()
		if taken {
			w.buf, w.used = nil, 0
		}
		if err != nil {
			w.failLocked(err)
			return
		}
		w.messages++
		switch {
		case took > slowMessage && n > w.target/2:
			w.target = max(w.target/2, minTarget)
		case took < quickMessage && backlog:
			w.target = min(w.target*2, w.conn.MaxMessage())
		}
	}
}

// assembleLocked fills w.buf with the next message and returns its length: control frames first,
// then streams in turn, small and new ones before bulk, at most one DATA frame each.
func (w *writer) assembleLocked() int {
	largest := w.conn.MaxMessage()
	target := min(max(w.target, minTarget), largest)
	if len(w.control)-w.controlOff+len(w.credits)*24 > target {
		target = largest
	}
	if w.small.n+w.bulk.n == 1 { // a lone stream needs no more than it has
		s := w.small.head
		if s == nil {
			s = w.bulk.head
		}
		need := len(w.control) - w.controlOff + len(w.credits)*24 + len(s.send.pending) + 32
		w.takeBufferLocked(min(target, max(need, minTarget)))
	} else {
		w.takeBufferLocked(target)
	}
	b := (*w.buf)[:message.Headroom]
	end := message.Headroom + target

	b = w.appendControlLocked(b, end)
	if w.controlAt == len(w.controlLen) && len(w.credits) == 0 {
		// Not before: a stream's OPEN may be among what is left.
		b = w.appendStreamsLocked(b, end)
	}
	*w.buf = b
	w.used = max(w.used, len(b))
	return len(b) - message.Headroom
}

func (w *writer) appendControlLocked(b []byte, end int) []byte {
	n, at := 0, w.controlAt
	for at < len(w.controlLen) && len(b)+n+int(w.controlLen[at]) <= end {
		n += int(w.controlLen[at])
		at++
	}
	b = append(b, w.control[w.controlOff:w.controlOff+n]...)
	w.controlOff, w.controlAt = w.controlOff+n, at
	if at < len(w.controlLen) {
		return b
	}
	w.control, w.controlLen = keep(w.control), keep(w.controlLen)
	w.controlOff, w.controlAt = 0, 0

	i := 0
	for ; i < len(w.credits) && end-len(b) >= 1+8+8; i++ {
		s := w.credits[i]
		b = appendCredit(b, s.id, s.send.credit)
		s.send.credit = 0
	}
	left := copy(w.credits, w.credits[i:])
	clear(w.credits[left:])
	w.credits = w.credits[:left]
	return b
}

// keep empties and clears a queue and keeps its memory, unless that is large.
func keep[T any](q []T) []T {
	clear(q)
	if cap(q) > 16<<10 {
		return nil
	}
	return q[:0]
}

func (w *writer) appendStreamsLocked(b []byte, end int) []byte {
	// Small frames may not crowd out bulk: some room is kept for one piece of it.
	smallEnd := end
	if w.bulk.n > 0 {
		smallEnd -= min(piece, (end-len(b))/4)
	}
	bulk := w.bulk.n // not those that small ones turn into: one frame a message
	for range w.small.n {
		var fits bool
		if b, fits = w.appendStreamLocked(b, smallEnd, smallWrite, w.small.head); !fits {
			break
		}
	}
	if bulk == 0 {
		return b
	}
	for ; bulk > 0; bulk-- {
		share := end - len(b)
		if bulk > 1 {
			share = max(piece, share/bulk)
		}
		var fits bool
		if b, fits = w.appendStreamLocked(b, end, share, w.bulk.head); !fits {
			break
		}
	}
	return b
}

// appendStreamLocked appends one DATA frame of s of up to most bytes, and its FIN if that is next,
// and puts s where it belongs after that. It is false if there was no room worth using.
func (w *writer) appendStreamLocked(b []byte, end, most int, s *Stream) ([]byte, bool) {
	h := &s.send
	if len(h.pending) > 0 {
		n := int(min(uint64(len(h.pending)), h.limit-h.sent))
		room := dataLen(s.id, end-len(b))
		if room < min(n, 256) {
			return b, false // a sliver is not worth a frame
		}
		n = min(n, room, most)
		b = appendData(b, s.id, h.pending[:n])
		h.pending = h.pending[n:]
		h.sent += uint64(n)
		w.bytes += uint64(n)
		if len(h.pending) == 0 {
			h.pending = nil // the Write's slice is its caller's again
			if h.parked {
				signal(h.sig)
			}
		}
	}
	h.list.remove(s)
	if h.fin && len(h.pending) == 0 {
		if end-len(b) < 1+8 {
			w.small.push(s) // alone in the next message
			return b, false
		}
		b = appendFin(b, s.id)
		h.over = true
		w.mux.finished(s, sendHalfDone)
		return b, true
	}
	if len(h.pending) > 0 && h.limit > h.sent {
		w.bulk.push(s)
	}
	return b, true
}

// queueLocked puts s in line if it has something that it may send.
func (w *writer) queueLocked(s *Stream) {
	h := &s.send
	if h.list != nil || h.over || w.err != nil {
		return
	}
	switch {
	case len(h.pending) > 0:
		if h.limit <= h.sent {
			return
		}
		switch {
		case len(h.pending) <= smallWrite:
			w.small.push(s)
		case h.sent == 0:
			w.bulk.pushFront(s) // new streams do not wait for a whole round
		default:
			w.bulk.push(s)
		}
	case h.fin:
		w.small.push(s)
	}
}

// controlLocked queues one control frame, made by f. It does not wake anybody: kickLocked does. Over
// the bound the writer fails, which ends the Mux; the error is for the reading loop, which can do
// that at once.
func (w *writer) controlLocked(f func(b []byte) []byte) error {
	if w.err != nil {
		return nil
	}
	if w.controlOff > len(w.control)/2 && w.controlOff > 4<<10 {
		w.control = w.control[:copy(w.control, w.control[w.controlOff:])]
		w.controlLen = w.controlLen[:copy(w.controlLen, w.controlLen[w.controlAt:])]
		w.controlOff, w.controlAt = 0, 0
	}
	if len(w.control)-w.controlOff > maxControl {
		w.failLocked(errControlFull)
		return errControlFull
	}
	n := len(w.control)
	w.control = f(w.control)
	w.controlLen = append(w.controlLen, uint16(len(w.control)-n))
	return nil
}

// creditLocked queues n bytes of credit for s; what already waits is added up.
func (w *writer) creditLocked(s *Stream, n uint64) {
	if w.err != nil || n == 0 {
		return
	}
	if s.send.credit == 0 {
		w.credits = append(w.credits, s)
	}
	s.send.credit += n
}

// forgetCreditLocked drops the credit of a stream that wants no more.
func (w *writer) forgetCreditLocked(s *Stream) {
	if s.send.credit == 0 {
		return
	}
	s.send.credit = 0
	for i, c := range w.credits {
		if c == s {
			copy(w.credits[i:], w.credits[i+1:])
			w.credits[len(w.credits)-1] = nil
			w.credits = w.credits[:len(w.credits)-1]
			return
		}
	}
}

// failLocked notes that nothing can be written any more, and ends all Writes. The reading loop
// goes on for what the other end sent before: Mux.writeLost bounds that.
func (w *writer) failLocked(err error) {
	if w.err != nil {
		return
	}
	w.err = err
	w.control, w.controlLen, w.credits = nil, nil, nil
	w.controlOff, w.controlAt = 0, 0
	for _, s := range w.mux.live() {
		w.endLocked(s, err)
	}
	if w.owner == ownerNone {
		for _, c := range w.flushed {
			close(c)
		}
		w.flushed = nil
	}
	signal(w.wake)
}

// endLocked ends the send half of s: a Write that waits returns err, unsent bytes are dropped.
func (w *writer) endLocked(s *Stream, err error) {
	h := &s.send
	if h.err == nil {
		h.err = err
	}
	h.fin = false
	h.over = true
	if h.list != nil {
		h.list.remove(s)
	}
	signal(h.sig)
	w.mux.finished(s, sendHalfDone)
}

// flush waits until everything that may be sent has been handed to the conn, or stop.
func (w *writer) flush(ctx context.Context) {
	w.mu.Lock()
	if w.owner == ownerNone && (w.err != nil || !w.waitingLocked()) {
		w.mu.Unlock()
		return
	}
	c := make(chan struct{})
	w.flushed = append(w.flushed, c)
	w.kickLocked()
	w.mu.Unlock()
	select {
	case <-c:
	case <-ctx.Done():
	case <-w.mux.done:
	}
}

// writeLocked sends what is pending on s and returns when it is handed over, or why not. mu is
// released meanwhile.
func (w *writer) writeLocked(s *Stream) error {
	h := &s.send
	w.queueLocked(s)
	if w.owner == ownerNone && h.list != nil && !h.deadline.set && w.room() {
		w.owner = ownerCaller // claim
		if len(h.pending) <= smallWrite {
			// Who else is about to write joins this message: more round trips a second for
			// less work each, at no cost in latency.
			w.mu.Unlock()
			runtime.Gosched()
			w.mu.Lock()
		}
		w.runLocked(s)
		w.releaseLocked()
		if w.err != nil {
			return w.err
		}
	}
	for {
		if h.baton {
			h.baton = false
			w.runLocked(s)
			w.releaseLocked()
			if w.err != nil {
				return w.err
			}
		}
		switch {
		case len(h.pending) == 0:
			return nil
		case h.err != nil:
			return h.err
		case h.deadline.expired:
			return errDeadline
		}
		w.kickLocked() // with a deadline, the goroutine writes: this call must be able to leave
		h.parked = true
		w.mu.Unlock()
		<-h.sig
		w.mu.Lock()
		h.parked = false
	}
}

// A streamList is a queue of streams, each in at most one.
type streamList struct {
	head, tail *Stream
	n          int
}

func (l *streamList) push(s *Stream) {
	s.send.list, s.send.prev, s.send.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.send.next = s
	} else {
		l.head = s
	}
	l.tail = s
	l.n++
}

func (l *streamList) pushFront(s *Stream) {
	s.send.list, s.send.prev, s.send.next = l, nil, l.head
	if l.head != nil {
		l.head.send.prev = s
	} else {
		l.tail = s
	}
	l.head = s
	l.n++
}

func (l *streamList) remove(s *Stream) {
	if s.send.prev != nil {
		s.send.prev.send.next = s.send.next
	} else {
		l.head = s.send.next
	}
	if s.send.next != nil {
		s.send.next.send.prev = s.send.prev
	} else {
		l.tail = s.send.prev
	}
	s.send.list, s.send.prev, s.send.next = nil, nil, nil
	l.n--
}

// signal fills a one-slot channel.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
