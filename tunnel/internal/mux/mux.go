package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// Config is how a Mux is set up. Zero fields mean the defaults. It is not used after New.
type Config struct {
	// Client says that this end made the connection: its streams have odd ids. The two ends must
	// differ.
	Client bool

	// MaxStreams is how many streams may be open at once, of both ends together: 1,024. Past it
	// Open fails and the other end's OPENs are refused.
	MaxStreams int

	// MaxPending is how many streams of the other end may wait for their Accept or Refuse: 256. Past
	// it OPENs are refused.
	MaxPending int

	// OpenRate is how many OPENs of the other end a second are considered, OpenBurst how many at
	// once: 10,000 and 2,048. Past them OPENs are refused. A negative OpenRate means no such limit.
	OpenRate, OpenBurst int

	// Window is how many bytes of a stream the other end may send ahead at first: 256 KiB. It is
	// less while many streams are open. It grows up to MaxWindow, 16 MiB, where the path needs
	// it. All windows together hold at most SessionWindow, 32 MiB. Each is at least 16 KiB.
	Window, MaxWindow, SessionWindow int

	// CloseTimeout is how long Close waits for what was written to leave: 1 s.
	CloseTimeout time.Duration
}

const (
	// Past this many resets within resetPeriod, of streams that never carried a byte, the session
	// ends: opening and resetting in turn is work for us and none for the other end.
	maxResets   = 1000
	resetPeriod = 10 * time.Second

	// An end that has itself given up nearly as many opens no stream until the period is over: a port
	// scan through a forward must not cost the session.
	maxOwnResets = 900

	// lingerRead is how long the reading loop goes on after a write failed: what the other end sent
	// before it left is still worth having, and its reason is the better error.
	lingerRead = 2 * time.Second

	// minMessage is the least MaxMessage of a conn: each frame but DATA fits into it.
	minMessage = maxControlLen
)

func or(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

// A Mux carries many streams over one message.Conn. All methods may be called at once from any
// goroutine.
type Mux struct {
	conn   message.Conn
	client bool
	ctx    context.Context // of the conn's writes; ends after the conn was closed
	cancel context.CancelFunc
	rtt    func() time.Duration

	maxPending        int
	window, maxWindow uint64
	closeTimeout      time.Duration

	budget *budget // also counts streams against MaxStreams
	w      writer

	// Of the reading loop alone.
	limiter     *rate.Limiter
	highestRecv streamID
	resets      int
	resetsSince time.Time

	done chan struct{} // closed when err is set
	wg   sync.WaitGroup

	// mu guards the table. It is a leaf: nothing else is locked while it is held.
	mu          sync.Mutex
	streams     map[streamID]*Stream
	nextID      streamID
	pending     int       // incoming streams that are undecided
	backlog     []*Stream // those of them that Accept has not returned, oldest first
	acceptSig   chan struct{}
	draining    bool
	closing     bool
	idle        chan struct{}
	idleClosed  bool
	err         error
	closeBegun  atomic.Bool
	closeDone   chan struct{} // closed when the first Close is through
	closeResult error
	closed      chan struct{} // closed when Close has begun

	received, messagesRead            atomic.Uint64
	opened, accepted, refused, resetN atomic.Uint64
}

// New starts a Mux over conn, which it owns from now on. The other end of conn must run one too,
// in the other role. Who calls New must call Close.
func New(conn message.Conn, cfg Config) *Mux {
	m := &Mux{
		conn:         conn,
		client:       cfg.Client,
		rtt:          func() time.Duration { return 0 },
		maxPending:   or(cfg.MaxPending, 256),
		window:       uint64(max(or(cfg.Window, 256<<10), minWindow)),
		maxWindow:    uint64(max(or(cfg.MaxWindow, 16<<20), minWindow)),
		closeTimeout: cfg.CloseTimeout,
		done:         make(chan struct{}),
		closed:       make(chan struct{}),
		closeDone:    make(chan struct{}),
		idle:         make(chan struct{}),
		acceptSig:    make(chan struct{}, 1),
		streams:      make(map[streamID]*Stream),
		nextID:       2,
	}
	m.window = min(m.window, m.maxWindow)
	if m.closeTimeout == 0 {
		m.closeTimeout = time.Second
	}
	if m.client {
		m.nextID = 1
	}
	if r, ok := conn.(interface{ RTT() time.Duration }); ok {
		m.rtt = r.RTT
	}
	limit := rate.Limit(or(cfg.OpenRate, 10_000))
	if cfg.OpenRate < 0 {
		limit = rate.Inf
	}
	m.limiter = rate.NewLimiter(limit, or(cfg.OpenBurst, 2048))
	m.budget = newBudget(uint64(max(or(cfg.SessionWindow, 32<<20), minWindow)), uint64(max(or(cfg.MaxStreams, 1024), 0)))
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.w = writer{mux: m, conn: conn, wake: make(chan struct{}, 1), target: minTarget, room: func() bool { return true }}
	if r, ok := conn.(interface{ Room() bool }); ok {
		m.w.room = r.Room
	}
	m.w.keeper, _ = conn.(keeper)
	m.wg.Go(m.read)
	m.wg.Go(m.w.loop)
	return m
}

// Open opens a stream of the given kind with a request of up to [MaxRequest] bytes. It waits for
// nothing: up to 16 KiB can be written before the other end has accepted, and [Stream.Opened] says
// whether it has. ctx is looked at once. Open fails with a [*StreamError] at the limit of
// streams or while the Mux drains.
func (m *Mux) Open(ctx context.Context, kind uint64, request []byte) (*Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(request) > MaxRequest {
		return nil, fmt.Errorf("request of %d bytes: %w", len(request), message.ErrTooLarge)
	}
	if kind > maxVarint {
		return nil, fmt.Errorf("kind %d is out of range", kind)
	}
	w := &m.w
	w.mu.Lock() // until the OPEN is queued: ids ascend on the wire
	defer w.mu.Unlock()
	if w.resetsInPeriodLocked() >= maxOwnResets {
		return nil, &StreamError{Code: message.TooMany, Text: "too many streams given up unused", Refused: true}
	}
	s, err := m.enter(kind, len(w.control)-w.controlOff > softControl)
	if err != nil {
		return nil, err
	}
	s.request = slices.Clone(request)
	s.send.limit = earlyData
	s.recv.mu.Lock()
	win := &s.recv.window
	win.size = minWindow + m.budget.start(m.window-minWindow)
	win.limit = win.size
	granted := win.limit
	s.recv.mu.Unlock()
	if w.err != nil {
		w.endLocked(s, w.err)
		m.finished(s, recvHalfDone)
		return nil, w.err
	}
	err = w.controlLocked(func(b []byte) []byte { return appendOpen(b, s.id, kind, granted, request) })
	if err != nil {
		return nil, err // cannot be: the queue was looked at
	}
	w.kickLocked()
	m.opened.Add(1)
	return s, nil
}

// enter gives a stream of our own an id and a place in the table.
func (m *Mux) enter(kind uint64, full bool) (*Stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closing:
		return nil, net.ErrClosed
	case m.err != nil:
		return nil, m.err
	case m.draining:
		return nil, &StreamError{Code: message.GoingAway, Refused: true}
	case full || m.nextID > maxVarint-2 || !m.budget.admit():
		return nil, &StreamError{Code: message.TooMany, Refused: true}
	}
	s := newStream(m, m.nextID, kind, false)
	m.nextID += 2
	m.streams[s.id] = s
	return s, nil
}

// Accept returns the next stream that the other end opened. It is undecided: [Stream.Accept] or
// [Stream.Refuse] comes next, from any goroutine. Accept returns io.EOF when the other end has
// closed the connection cleanly, and no stream that can still be read is left.
func (m *Mux) Accept(ctx context.Context) (*Stream, error) {
	for {
		m.mu.Lock()
		switch {
		case m.closing:
			m.mu.Unlock()
			return nil, net.ErrClosed
		case len(m.backlog) > 0:
			s := m.backlog[0]
			m.backlog[0] = nil
			m.backlog = m.backlog[1:]
			if len(m.backlog) > 0 {
				signal(m.acceptSig) // for the next caller
			}
			m.mu.Unlock()
			return s, nil
		}
		m.mu.Unlock()
		select {
		case <-m.done: // the backlog is final
			m.mu.Lock()
			err := m.err
			left := len(m.backlog)
			m.mu.Unlock()
			if left == 0 {
				return nil, err
			}
			continue
		default:
		}
		select {
		case <-m.acceptSig:
		case <-m.done:
		case <-m.closed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Drain refuses the other end's new streams with GoingAway from now on, and our own. Streams that
// are open go on; Idle says when none is left.
func (m *Mux) Drain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draining = true
	m.checkIdleLocked()
}

// Idle is closed when no stream is left after Drain.
func (m *Mux) Idle() <-chan struct{} { return m.idle }

func (m *Mux) checkIdleLocked() {
	if m.draining && len(m.streams) == 0 && !m.idleClosed {
		m.idleClosed = true
		close(m.idle)
	}
}

// Streams is how many streams are open.
func (m *Mux) Streams() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// Done is closed when the Mux has ended.
func (m *Mux) Done() <-chan struct{} { return m.done }

// Err is nil until Done is closed, then why: net.ErrClosed after Close, io.EOF or a
// [*message.CloseError] if the other end closed, a [*message.CloseError] that is not Remote if it
// broke a rule, else the connection's error.
func (m *Mux) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Stats are counters since New, and what is held now.
type Stats struct {
	Streams, Pending               int    // open; and of these, not yet accepted or refused
	Opened, Accepted, Refused      uint64 // ours; the other end's
	Resets                         uint64 // RESETs that came
	BytesSent, BytesReceived       uint64 // of streams
	MessagesSent, MessagesReceived uint64
	WindowHeld                     uint64 // credit granted and bytes unread, of all streams
}

// Stats returns a snapshot.
func (m *Mux) Stats() Stats {
	st := Stats{
		Opened: m.opened.Load(), Accepted: m.accepted.Load(), Refused: m.refused.Load(),
		Resets: m.resetN.Load(), BytesReceived: m.received.Load(),
		MessagesReceived: m.messagesRead.Load(), WindowHeld: m.budget.charged(),
	}
	m.w.mu.Lock()
	st.BytesSent, st.MessagesSent = m.w.bytes, m.w.messages
	m.w.mu.Unlock()
	m.mu.Lock()
	st.Streams, st.Pending = len(m.streams), m.pending
	m.mu.Unlock()
	return st
}

// Close sends what Writes were given and what Close and CloseWrite of streams promised, resets the
// streams that are left, closes the connection with code and reason, and waits for the goroutines.
// It takes at most CloseTimeout and what the connection's Close takes. All calls fail with
// [net.ErrClosed] from the start.
func (m *Mux) Close(code message.Code, reason string) error {
	if m.closeBegun.CompareAndSwap(false, true) {
		m.closeResult = m.doClose(code, reason)
		close(m.closeDone)
	}
	<-m.closeDone // a sync.Once would stop the clock of tests that fake it
	return m.closeResult
}

func (m *Mux) doClose(code message.Code, reason string) error {
	m.mu.Lock()
	m.closing = true
	close(m.closed)
	m.mu.Unlock()
	m.w.mu.Lock()
	m.w.closing = true
	m.w.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), m.closeTimeout)
	defer cancel()
	m.w.flush(ctx)
	m.resetAll(code)
	m.w.flush(ctx)

	m.fail(net.ErrClosed)
	err := m.conn.Close(code, reason)
	m.cancel()
	m.wg.Wait()
	return err
}

// resetAll takes back what streams have not finished. Those that never carried a byte have
// nothing to take back: the end of the connection tells enough, and many resets at once look
// like an attack.
func (m *Mux) resetAll(code message.Code) {
	if code == message.OK {
		code = message.Cancelled
	}
	w := &m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range m.live() {
		if h := &s.send; !h.over && h.sent > 0 {
			s.resetLocked(code, net.ErrClosed)
		}
	}
	w.kickLocked()
}

// live is a snapshot of the streams.
func (m *Mux) live() []*Stream {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*Stream, 0, len(m.streams))
	for _, s := range m.streams {
		all = append(all, s)
	}
	return all
}

// finished notes that half of a stream has ended. With both, the id is forgotten: what still comes
// for it is dropped.
func (m *Mux) finished(s *Stream, half uint32) {
	old := s.halves.Or(half)
	if old&bothDone == bothDone || (old|half)&bothDone != bothDone {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, s.id)
	m.budget.leave()
	// An opener may write, finish and leave before anybody looked: that is still for Accept.
	if m.err == nil && old&cameWhole == 0 {
		m.settleLocked(s)
	}
	m.checkIdleLocked()
}

// settle takes s out of those that wait for a decision.
func (m *Mux) settle(s *Stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settleLocked(s)
}

func (m *Mux) settleLocked(s *Stream) {
	if !s.pending {
		return
	}
	s.pending = false
	m.pending--
	if i := slices.Index(m.backlog, s); i >= 0 {
		m.backlog = slices.Delete(m.backlog, i, i+1)
	}
}

// fail ends the Mux and all streams, once. The conn is closed by the caller.
func (m *Mux) fail(err error) {
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return
	}
	if m.closing {
		err = net.ErrClosed // whatever the conn says while it is closed
	}
	m.err = err
	m.mu.Unlock()

	lost := err
	if errors.Is(err, io.EOF) {
		// The connection was closed in order, but the streams were not: that is no clean end of theirs.
		lost = &StreamError{Code: message.SessionLost, Remote: true}
	}
	for _, s := range m.live() {
		s.lost(lost, err == net.ErrClosed)
	}
	m.w.mu.Lock()
	m.w.failLocked(lost)
	m.w.mu.Unlock()

	// What came whole can still be accepted and read.
	m.mu.Lock()
	waiting := m.backlog
	m.backlog = nil
	m.mu.Unlock()
	whole := slices.DeleteFunc(waiting, func(s *Stream) bool {
		s.recv.mu.Lock()
		defer s.recv.mu.Unlock()
		return !s.recv.finished
	})
	m.mu.Lock()
	m.backlog = whole
	m.mu.Unlock()
	close(m.done)
}

// end ends the Mux because of err, and the connection with what the other end should know of it.
func (m *Mux) end(err error) {
	code, reason := message.SessionLost, ""
	var broken protocolError
	switch {
	case errors.As(err, &broken):
		code, reason = message.ProtocolError, string(broken)
		err = &message.CloseError{Code: code, Reason: reason}
	case errors.Is(err, io.EOF):
		code = message.OK
	}
	m.fail(err)
	m.conn.Close(code, reason)
	m.cancel()
}

// writeLost waits for the reading loop to end by itself, then ends it.
func (m *Mux) writeLost(err error) {
	timer := time.NewTimer(lingerRead)
	defer timer.Stop()
	var broken protocolError
	if errors.As(err, &broken) {
		m.end(err)
		return
	}
	select {
	case <-m.done:
	case <-timer.C:
		m.end(err)
	}
}

// read is the reading loop. It never writes and never waits for anything but the conn.
func (m *Mux) read() {
	if m.conn.MaxMessage() < minMessage {
		m.end(fmt.Errorf("messages of %d bytes: %w", m.conn.MaxMessage(), errSmallMessages))
		return
	}
	for {
		// Close frees the reader. A context that can end would cost each message its registration.
		msg, err := m.conn.ReadMessage(context.Background())
		if err != nil {
			m.end(err)
			return
		}
		m.messagesRead.Add(1)
		for len(msg) > 0 {
			f, err := parseFrame(msg)
			if err == nil {
				err = m.handle(&f)
			}
			if err != nil {
				m.end(err)
				return
			}
			msg = msg[f.parsed:]
		}
		m.w.mu.Lock()
		m.w.kickLocked()
		m.w.mu.Unlock()
	}
}

var errSmallMessages = fmt.Errorf("a connection must carry at least %d", minMessage)

const (
	errWrongParity  = protocolError("stream id of the wrong side")
	errNotAscending = protocolError("stream id not ascending")
	errNeverOpened  = protocolError("frame for a stream never opened")
	errNotOpened    = protocolError("frame before OPENED")
	errOpenedTwice  = protocolError("stream answered twice")
	errAfterEnd     = protocolError("frame after the end of its stream")
	errPastCredit   = protocolError("data past the credit")
	errTotal        = protocolError("credit out of range")
	errResets       = protocolError("too many resets")
	errSmallWindow  = protocolError("window below the least")
	errNoCredit     = protocolError("credit of nothing")
)

// handle acts on one frame of the other end.
func (m *Mux) handle(f *frame) error {
	ours := (f.id%2 == 1) == m.client
	if f.id == 0 {
		return errNeverOpened // nobody's
	}
	switch f.typ {
	case typeOpen:
		if ours {
			return errWrongParity
		}
		return m.handleOpen(f)
	case typeOpened, typeRefused:
		if !ours {
			return errWrongParity
		}
	}
	m.mu.Lock()
	s := m.streams[f.id]
	known := s != nil || (ours && f.id < m.nextID) || (!ours && f.id <= m.highestRecv)
	m.mu.Unlock()
	if !known {
		return errNeverOpened
	}
	if s == nil {
		return nil // over and forgotten; this was on its way
	}
	if ours && !s.answered && f.typ != typeOpened && f.typ != typeRefused {
		return errNotOpened
	}
	switch f.typ {
	case typeOpened:
		return s.handleOpened(f)
	case typeRefused:
		return s.handleRefused(f)
	case typeData:
		return s.handleData(f)
	case typeFin:
		return s.handleFin()
	case typeReset:
		return s.handleReset(f)
	case typeStop:
		return s.handleStop(f)
	}
	return s.handleCredit(f)
}

func (m *Mux) handleOpen(f *frame) error {
	if f.id <= m.highestRecv {
		return errNotAscending
	}
	m.highestRecv = f.id
	code := message.TooMany
	allowed := m.limiter.AllowN(time.Now(), 1)

	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return nil
	}
	if m.draining || m.closing {
		code = message.GoingAway
	} else if allowed && m.pending < m.maxPending && m.budget.admit() {
		s := newStream(m, f.id, f.kind, true)
		s.request = slices.Clone(f.body)
		s.send.limit = f.n
		s.recv.window.size, s.recv.window.limit = minWindow, minWindow
		s.pending = true
		m.pending++
		m.streams[f.id] = s
		m.backlog = append(m.backlog, s)
		m.mu.Unlock()
		signal(m.acceptSig)
		return nil
	}
	m.mu.Unlock()

	m.refused.Add(1)
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return m.w.controlLocked(func(b []byte) []byte { return appendRefused(b, f.id, code, "") })
}

func (s *Stream) handleOpened(f *frame) error {
	if s.answered {
		return errOpenedTwice
	}
	if f.n < earlyData { // so much may have been sent already
		return errSmallWindow
	}
	s.answered = true
	w := &s.mux.w
	w.mu.Lock()
	s.send.limit = f.n
	w.queueLocked(s)
	w.mu.Unlock()
	s.decide(nil)
	return nil
}

func (s *Stream) handleRefused(f *frame) error {
	if s.answered {
		return errOpenedTwice
	}
	s.lost(&StreamError{Code: f.code, Text: string(f.body), Remote: true, Refused: true}, true)
	return nil
}

func (s *Stream) handleData(f *frame) error {
	r := &s.recv
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return errAfterEnd
	}
	if !r.window.receive(uint64(len(f.body)), time.Now) {
		return errPastCredit
	}
	if r.stopped || len(f.body) == 0 {
		return nil
	}
	s.mux.received.Add(uint64(len(f.body)))
	r.queue.append(f.body)
	signal(r.sig)
	return nil
}

func (s *Stream) handleFin() error {
	r := &s.recv
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return errAfterEnd
	}
	r.ended, r.finished = true, true
	r.err = io.EOF
	if !r.stopped {
		r.window.finish(s.mux.budget)
	}
	signal(r.sig)
	r.mu.Unlock()
	s.halves.Or(cameWhole)
	s.recvDone()
	return nil
}

// recvDone notes that nothing more will come.
func (s *Stream) recvDone() {
	w := &s.mux.w
	w.mu.Lock()
	w.forgetCreditLocked(s)
	w.mu.Unlock()
	s.mux.finished(s, recvHalfDone)
}

func (s *Stream) handleReset(f *frame) error {
	m, r := s.mux, &s.recv
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return errAfterEnd
	}
	r.ended = true
	r.err = &StreamError{Code: f.code, Remote: true}
	unused := r.window.received == 0 && !r.stopped // one that we asked for by STOP is no attack
	r.queue.drop()
	if !r.stopped {
		r.window.drop(m.budget)
	}
	signal(r.sig)
	r.mu.Unlock()

	m.w.mu.Lock()
	unused = unused && s.send.sent == 0
	m.w.mu.Unlock()
	s.recvDone()
	m.resetN.Add(1)
	if !unused {
		return nil
	}
	now := time.Now()
	if now.Sub(m.resetsSince) > resetPeriod {
		m.resetsSince, m.resets = now, 0
	}
	if m.resets++; m.resets > maxResets {
		return errResets
	}
	return nil
}

func (s *Stream) handleStop(f *frame) error {
	w, h := &s.mux.w, &s.send
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.stopped {
		return errAfterEnd
	}
	h.stopped, h.stopCode = true, f.code
	if h.over {
		return nil // a FIN is all the answer there is
	}
	err := &StreamError{Code: f.code, Remote: true}
	if !h.ready { // RESET may not come before OPENED
		w.endLocked(s, err)
		return nil
	}
	s.resetLocked(f.code, err)
	return nil
}

func (s *Stream) handleCredit(f *frame) error {
	w, h := &s.mux.w, &s.send
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case f.n == 0:
		return errNoCredit
	case f.n > math.MaxInt64 || h.limit+f.n > maxVarint:
		return errTotal
	}
	h.limit += f.n
	w.queueLocked(s)
	return nil
}
