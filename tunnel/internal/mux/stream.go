package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// A StreamError says with which code a stream was refused or given up, and by whom.
type StreamError struct {
	Code    message.Code
	Text    string // of a refusal, at most [MaxText] bytes; if Remote, not to be trusted with a terminal as it is
	Remote  bool   // the other end's word, not ours
	Refused bool   // the stream was never opened
}

func (e *StreamError) Error() string {
	what := "stream given up"
	if e.Refused {
		what = "stream refused"
	}
	if e.Remote {
		what += " by the other end"
	}
	if e.Text == "" {
		return fmt.Sprintf("%s: %v", what, e.Code)
	}
	return fmt.Sprintf("%s: %v: %q", what, e.Code, e.Text)
}

var (
	// ErrUndecided is returned by what needs a stream that was accepted.
	ErrUndecided = errors.New("stream not accepted yet")
	// ErrDecided is returned by a second Accept or Refuse.
	ErrDecided = errors.New("stream already accepted or refused")

	errDeadline = os.ErrDeadlineExceeded
)

// A Stream is one byte stream each way, each of which ends on its own. It behaves as a net.Conn
// with CloseWrite. All methods may be called at once from any goroutine; Reads take turns, and
// so do Writes. Who has a Stream must Close or Reset it.
type Stream struct {
	mux      *Mux
	id       streamID
	kind     uint64
	request  []byte
	incoming bool

	answered bool // reading loop only: OPENED came
	pending  bool // guarded by Mux.mu: neither accepted nor refused yet

	verdict     error         // set before decided is closed
	decided     chan struct{} // closed once an outgoing stream is opened, refused or lost
	decidedOnce sync.Once

	halves atomic.Uint32 // sendHalfDone, recvHalfDone, cameWhole
	send   sendHalf
	recv   recvHalf
}

const (
	sendHalfDone = 1 // FIN or RESET went out, or never will
	recvHalfDone = 2 // FIN or RESET came, or STOP went out
	bothDone     = sendHalfDone | recvHalfDone
	cameWhole    = 4 // FIN came
)

// A sendHalf is what a stream sends. writer.mu guards it.
type sendHalf struct {
	slot chan struct{} // one at a time: whoever Writes
	sig  chan struct{} // one slot: the Write that is parked looks again

	ready    bool   // the stream is ours, or was accepted
	decided  bool   // Accept or Refuse has been called
	closed   bool   // Close or Reset has been called
	limit    uint64 // total that may be sent, from 0
	sent     uint64
	pending  []byte // the rest of the present Write's slice
	parked   bool   // that Write waits on sig
	baton    bool   // that Write is the writer's owner
	fin      bool   // FIN follows what is pending
	over     bool   // nothing will be sent any more: FIN or RESET are out, or never will be
	stopped  bool   // STOP came
	err      error  // what Writes return
	stopCode message.Code
	credit   uint64 // credit for the other end that waits to be sent
	deadline deadline

	list       *streamList
	prev, next *Stream
}

// A recvHalf is what a stream receives. mu guards it.
type recvHalf struct {
	slot chan struct{} // one at a time: whoever Reads
	sig  chan struct{} // one slot: the Read that waits looks again

	mu       sync.Mutex
	queue    chunkQueue
	window   window
	ready    bool  // the stream is ours, or was accepted
	ended    bool  // FIN or RESET came
	finished bool  // FIN came
	stopped  bool  // STOP went out: what comes is dropped
	err      error // what Reads return once queue is empty
	closed   error // what Reads return at once
	deadline deadline
}

func newStream(m *Mux, id streamID, kind uint64, incoming bool) *Stream {
	s := &Stream{mux: m, id: id, kind: kind, incoming: incoming}
	s.send.slot, s.send.sig = make(chan struct{}, 1), make(chan struct{}, 1)
	s.recv.slot, s.recv.sig = make(chan struct{}, 1), make(chan struct{}, 1)
	if !incoming {
		s.decided = make(chan struct{})
		s.send.ready, s.recv.ready = true, true
	}
	return s
}

// ID is the stream's number on the wire: odd if the client opened it.
func (s *Stream) ID() uint64 { return uint64(s.id) }

// Kind is the kind that the opener named.
func (s *Stream) Kind() uint64 { return s.kind }

// Request is what the opener asked for. The slice is the stream's own: it must not be changed.
func (s *Stream) Request() []byte { return s.request }

// decide ends the wait of Opened.
func (s *Stream) decide(err error) {
	if s.decided == nil {
		return
	}
	s.decidedOnce.Do(func() {
		s.verdict = err
		close(s.decided)
	})
}

// Opened waits until the other end has accepted the stream that Open returned, and returns nil; if
// it was refused, a [*StreamError] with Refused. Nobody needs to call it: Write works before.
func (s *Stream) Opened(ctx context.Context) error {
	if s.decided == nil {
		return nil
	}
	select {
	case <-s.decided:
		return s.verdict
	default:
	}
	select {
	case <-s.decided:
		return s.verdict
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Accept takes the stream that Mux.Accept returned: data may flow. It does not wait for anything.
// An error says that the stream has ended meanwhile.
func (s *Stream) Accept() error {
	m, w, r := s.mux, &s.mux.w, &s.recv
	w.mu.Lock() // until all is said: nothing of the stream may go out before its OPENED
	defer w.mu.Unlock()
	if !s.incoming || s.send.decided {
		return ErrDecided
	}
	s.send.decided = true
	m.settle(s)

	r.mu.Lock()
	if !r.ended && !r.stopped {
		r.window.size += m.budget.start(m.window - minWindow)
		r.window.limit = r.window.size
	}
	limit := r.window.limit
	lost := w.err != nil && !r.finished // what came whole can be read although nobody can be answered
	r.ready = !lost
	r.mu.Unlock()
	if lost {
		return s.send.err
	}

	s.send.ready = true
	_ = w.controlLocked(func(b []byte) []byte { return appendOpened(b, s.id, limit) })
	if s.send.stopped {
		s.resetLocked(s.send.stopCode, s.send.err)
	}
	w.kickLocked()
	m.accepted.Add(1)
	return nil
}

// Refuse turns down the stream that Mux.Accept returned. Of text, what fits [MaxText] is sent.
func (s *Stream) Refuse(code message.Code, text string) error {
	m, w := s.mux, &s.mux.w
	if len(text) > MaxText {
		n := MaxText
		for n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n]
	}
	refused := &StreamError{Code: code, Text: text, Refused: true}
	w.mu.Lock()
	if !s.incoming || s.send.decided {
		w.mu.Unlock()
		return ErrDecided
	}
	s.send.decided = true
	m.settle(s)
	if len(w.control)-w.controlOff > softControl {
		text = ""
	}
	_ = w.controlLocked(func(b []byte) []byte { return appendRefused(b, s.id, code, text) })
	w.endLocked(s, refused)
	w.kickLocked()
	w.mu.Unlock()

	s.dropRecv(refused)
	m.finished(s, recvHalfDone)
	m.refused.Add(1)
	return nil
}

// Read reads what has come. After everything was read it returns io.EOF if the other end has
// finished the stream, a [*StreamError] if it has given up, the connection's error if that
// was lost: io.EOF is never anything but a clean end.
func (s *Stream) Read(p []byte) (int, error) {
	r := &s.recv
	r.slot <- struct{}{} // who has it leaves at every event that ends a Read
	defer func() { <-r.slot }()
	if len(p) == 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return 0, s.readErrLocked()
	}
	if err := s.await(); err != nil {
		return 0, err
	}
	n := r.queue.read(p)
	s.consumed(uint64(n))
	return n, nil
}

// WriteTo writes what comes to w until the stream ends, without copying it again. The read
// deadline counts while it waits.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	r := &s.recv
	r.slot <- struct{}{}
	defer func() { <-r.slot }()
	var total int64
	for {
		if err := s.await(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		c := r.queue.pop()
		r.mu.Unlock()
		n, err := w.Write(c.buf[c.off:])
		if n < 0 || n > len(c.buf)-c.off {
			panic("mux: invalid count from Write")
		}
		if err == nil && n < len(c.buf)-c.off {
			err = io.ErrShortWrite
		}
		c.off += n
		total += int64(n)
		r.mu.Lock()
		if c.off < len(c.buf) && r.closed == nil {
			r.queue.unpop(c)
		} else {
			c.free()
		}
		s.consumed(uint64(n))
		if err != nil {
			return total, err
		}
	}
}

// readErrLocked is what a Read returns if nothing is queued.
func (s *Stream) readErrLocked() error {
	r := &s.recv
	switch {
	case r.closed != nil:
		return r.closed
	case !r.ready:
		return ErrUndecided
	case r.deadline.expired:
		return errDeadline
	case r.queue.n == 0 && r.err != nil:
		return r.err
	}
	return nil
}

// await returns nil, with recv.mu held, once there is something to read; or why there never
// will be, without it.
func (s *Stream) await() error {
	r := &s.recv
	r.mu.Lock()
	for {
		if err := s.readErrLocked(); err != nil {
			r.mu.Unlock()
			return err
		}
		if r.queue.n > 0 {
			return nil
		}
		r.mu.Unlock()
		<-r.sig
		r.mu.Lock()
	}
}

// consumed accounts for n bytes that were read and gives credit back when it is time. It unlocks
// recv.mu.
func (s *Stream) consumed(n uint64) {
	r, m := &s.recv, s.mux
	var grant uint64
	switch {
	case r.closed != nil || r.stopped || (r.ended && !r.finished): // the account is closed
	case r.ended:
		r.window.read(n, m.budget)
	case r.window.consume(n):
		grant = r.window.grant(time.Now(), m.rtt(), m.maxWindow, m.budget)
	}
	r.mu.Unlock()
	if grant == 0 {
		return
	}
	w := &m.w
	w.mu.Lock()
	if s.halves.Load()&recvHalfDone == 0 {
		w.creditLocked(s, grant)
		w.kickLocked()
	}
	w.mu.Unlock()
}

// Write sends p and returns when all of it is in messages that are written, or were: the slice is
// the caller's again. How much may be on its way is up to the other end's credit. A Write that
// writes a message itself cannot be interrupted before that message is written: the connection's
// own write deadline bounds that.
func (s *Stream) Write(p []byte) (int, error) {
	h, w := &s.send, &s.mux.w
	select {
	case h.slot <- struct{}{}:
	default:
		w.mu.Lock()
		err := s.writeErrLocked()
		w.mu.Unlock()
		if err != nil {
			return 0, err
		}
		h.slot <- struct{}{} // who has it leaves at every event that ends a Write
	}
	defer func() { <-h.slot }()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := s.writeErrLocked(); err != nil || len(p) == 0 {
		return 0, err
	}
	h.pending = p
	err := w.writeLocked(s)
	n := len(p) - len(h.pending)
	h.pending = nil
	if h.list != nil {
		h.list.remove(s)
	}
	w.queueLocked(s) // a FIN that waited for the rest of p
	w.kickLocked()
	return n, err
}

// writeErrLocked is why a Write cannot begin.
func (s *Stream) writeErrLocked() error {
	h := &s.send
	switch {
	case h.err != nil:
		return h.err
	case s.mux.w.closing || h.fin || h.over:
		return net.ErrClosed
	case !h.ready:
		return ErrUndecided
	case h.deadline.expired:
		return errDeadline
	}
	return nil
}

// CloseWrite ends our half: after what was written, the other end reads io.EOF. It does not wait.
func (s *Stream) CloseWrite() error {
	h, w := &s.send, &s.mux.w
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case h.err != nil:
		return h.err
	case !h.ready:
		return ErrUndecided
	case h.fin || h.over:
		return nil
	}
	h.fin = true
	w.queueLocked(s)
	w.kickLocked()
	return nil
}

// CloseRead tells the other end to stop writing: its Writes fail with code. What is unread is
// dropped, and Reads return an error that is [net.ErrClosed].
func (s *Stream) CloseRead(code message.Code) error {
	s.recv.mu.Lock()
	ready := s.recv.ready
	s.recv.mu.Unlock()
	if !ready {
		return ErrUndecided
	}
	s.stopRecv(code, net.ErrClosed)
	return nil
}

// stopRecv ends the receiving half with a STOP, if the other end has not ended it.
func (s *Stream) stopRecv(code message.Code, err error) {
	if !s.dropRecv(err) {
		return
	}
	w := &s.mux.w
	w.mu.Lock()
	w.forgetCreditLocked(s)
	_ = w.controlLocked(func(b []byte) []byte { return appendStop(b, s.id, code) })
	w.kickLocked()
	w.mu.Unlock()
	s.mux.finished(s, recvHalfDone)
}

// dropRecv drops what is unread and lets Reads return err from now on. It is true if the other
// end does not know yet that its bytes are not wanted.
func (s *Stream) dropRecv(err error) (tell bool) {
	r := &s.recv
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed == nil {
		r.closed = err
	}
	tell = !r.ended && !r.stopped
	r.stopped = true
	r.queue.drop()
	r.window.drop(s.mux.budget)
	signal(r.sig)
	return tell
}

// Reset gives up both ways: unsent and unread bytes are dropped at both ends, whose calls fail
// with code. A CloseWrite whose FIN has left stands. After Close it does nothing.
func (s *Stream) Reset(code message.Code) error {
	return s.abandon(code, &StreamError{Code: code}, true)
}

// Close ends both ways. What was written is still sent, then the other end reads io.EOF; its
// Writes fail. A Write that Close interrupts turns this into a reset, as a part must not look like
// the whole. It does not wait for the other end.
func (s *Stream) Close() error {
	return s.abandon(message.Cancelled, net.ErrClosed, false)
}

// abandon is Close and Reset: calls return err from now on.
func (s *Stream) abandon(code message.Code, err error, reset bool) error {
	if s.incoming && s.Refuse(code, "") == nil {
		return nil
	}
	h, w := &s.send, &s.mux.w
	w.mu.Lock()
	if h.closed {
		w.mu.Unlock()
		return nil
	}
	h.closed = true
	switch {
	case h.over:
		if h.err == nil {
			h.err = err
		}
	case reset || len(h.pending) > 0:
		s.resetLocked(code, err)
	default:
		h.err = err
		h.fin = true
		w.queueLocked(s)
	}
	h.deadline.stopLocked()
	signal(h.sig)
	w.kickLocked()
	w.mu.Unlock()

	s.stopRecv(code, err)
	s.recv.mu.Lock()
	s.recv.deadline.stopLocked()
	s.recv.mu.Unlock()
	s.decide(err)
	return nil
}

// resetLocked queues a RESET and ends the send half.
func (s *Stream) resetLocked(code message.Code, err error) {
	w := &s.mux.w
	if s.send.sent == 0 && !s.send.stopped { // RESETs that answer a STOP do not count
		w.resetsInPeriodLocked()
		w.resets++
	}
	_ = w.controlLocked(func(b []byte) []byte { return appendReset(b, s.id, code) })
	w.endLocked(s, err)
}

// lost ends the stream because the mux has: at once, or, if the bytes that came are still worth
// reading, after those.
func (s *Stream) lost(err error, now bool) {
	r := &s.recv
	if now {
		s.dropRecv(err)
	} else {
		r.mu.Lock()
		if !r.ended {
			r.ended = true
			if r.err == nil {
				r.err = err
			}
			r.window.drop(s.mux.budget)
		}
		signal(r.sig)
		r.mu.Unlock()
	}
	s.mux.finished(s, recvHalfDone)
	w := &s.mux.w
	w.mu.Lock()
	w.endLocked(s, err)
	s.send.deadline.stopLocked()
	w.mu.Unlock()
	s.decide(err)
}

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline lets Reads fail with [os.ErrDeadlineExceeded] from t on; the zero time means
// never.
func (s *Stream) SetReadDeadline(t time.Time) error {
	r := &s.recv
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return net.ErrClosed
	}
	r.deadline.setLocked(t, &r.mu, r.sig)
	return nil
}

// SetWriteDeadline lets Writes fail with [os.ErrDeadlineExceeded] from t on; the zero time means
// never. While one is set, Writes go through the mux's writer goroutine, so that they can leave.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	w := &s.mux.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.send.closed {
		return net.ErrClosed
	}
	s.send.deadline.setLocked(t, &w.mu, s.send.sig)
	return nil
}

// A deadline is one half's. That half's mutex guards it.
type deadline struct {
	timer   *time.Timer
	turn    uint64 // of setLocked: a timer that fires late knows that it is not meant
	set     bool
	expired bool
}

func (d *deadline) setLocked(t time.Time, mu *sync.Mutex, sig chan struct{}) {
	d.stopLocked()
	if !t.IsZero() {
		d.set = true
		if left := time.Until(t); left > 0 {
			turn := d.turn
			d.timer = time.AfterFunc(left, func() {
				mu.Lock()
				defer mu.Unlock()
				if d.fireLocked(turn) {
					signal(sig)
				}
			})
		} else {
			d.expired = true
		}
	}
	signal(sig)
}

// fireLocked is what the timer of a turn does.
func (d *deadline) fireLocked(turn uint64) bool {
	if d.turn != turn {
		return false // it was on its way when the deadline moved
	}
	d.expired = true
	return true
}

func (d *deadline) stopLocked() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.turn++
	d.set, d.expired = false, false
}
