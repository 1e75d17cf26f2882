package session

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"waxwire.example/waxwire/tunnel/internal/message"
)

const (
	// An ACK leaves after so many bytes or so much time. PROTOCOL.md §6.
	ackBytes = 64 << 10
	ackDelay = 25 * time.Millisecond

	// Without an acknowledgement for stallAfter, the connection has stallProbe to show that it lives.
	stallAfter = 5 * time.Second
	stallProbe = 10 * time.Second

	// endWait is how long either end tries to have the other's END and to have its own acknowledged.
	endWait = 2 * time.Second

	// maxBadRecords is how many connections in a row may end in a bad record before anything new has
	// come: somebody who tampers must not keep a session busy for ever.
	maxBadRecords = 3

	// What is kept begins at keepFirst bytes and grows to keepMost where the path needs it.
	keepFirst = 4 << 20
	keepMost  = 32 << 20
)

// A Conn is a connection below: sealed messages, confirmed by the other end.
type Conn interface {
	message.Conn
	// RTT is the round-trip time, 0 while it is not known.
	RTT() time.Duration
	// Probe ends the connection unless the other end shows a sign of life in time.
	Probe(within time.Duration)
	// Kill ends the connection at once. It returns when the keys are gone, as Close does.
	Kill(err error)
	// CutShort is Kill, also for a Close that is under way.
	CutShort()
}

// Config is how a Session is set up. It is not used after New.
type Config struct {
	// Client says that this end makes the connections.
	Client bool
	// ID names the session. The server chooses it.
	ID ID
	// Lifetime is how long the session outlives its connection. Zero: not at all.
	Lifetime time.Duration
	// Key and Budget are what kept segments are charged to. Nil: no bound in all.
	Key    Key
	Budget *Budget
	// Datagram gets each datagram that arrives, valid until it returns, on the reading goroutine. Nil:
	// they are dropped.
	Datagram func([]byte)
	// Detached is told that there is no connection any more, why, and whether the other end was heard
	// on it at all. It is called from the reading goroutine and must not block.
	Detached func(why error, heard bool)
}

// A Session is a [message.Conn] over one connection after another. One goroutine reads, and goes on
// until it gets an error; everything else may be called from anywhere.
type Session struct {
	cfg Config
	max int // largest message, the same over every connection

	// Of the reading goroutine only.
	current *link // what it reads from
	faults  faults

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when what somebody may wait for has changed
	link    *link         // the connection that owns the session, nil while there is none
	owner   uint32        // its number, or that of the last one
	handed  uint32        // the highest number given to a connection
	since   time.Time     // of the present connection, or of its loss
	err     error         // why it is over, nil while it is not
	clean   bool          // both ENDs have been
	done    chan struct{} // closed when err is set and all keys are gone
	closing bool          // Close has been called here
	ending  bool          // no connection is taken any more, although err may not be set yet
	dying   int           // connections that were taken over and still have keys
	tasks   sync.WaitGroup

	// Sending; see write.go.
	log      replay
	limit    int    // of log.size
	acked    uint64 // the other end has so many; the log may keep some of them for a moment
	wrote    uint64 // the highest number that was ever handed to a connection
	pumping  bool   // somebody writes
	writing  uint64 // number of the segment that is being written, or 0
	endDue   bool   // nothing more is taken: an END comes next, or has been sent
	endSent  bool
	starved  bool      // the Budget has refused, and a writer waits for it
	freed    int       // bytes acknowledged since mark, of which the limit's growth depends
	mark     time.Time // when that began; zero before the first segment
	wasFull  bool      // since mark, a writer found no room
	stall    *time.Timer
	stalling bool      // stall is set
	unacked  time.Time // since when nothing that waits was acknowledged, or the connection was last probed

	// Receiving.
	received uint64 // counted segments taken
	gotEnd   bool
	bad      int // connections in a row that ended in a bad record
	ackDebt  int // bytes taken since the last ACK
	ackTimer *time.Timer
	ackSet   bool // ackTimer is set

	resumes, retransmitted uint64
	dropped                uint64 // datagrams

	closeBegun atomic.Bool
	closeDone  chan struct{} // closed when the first Close is through, but for tasks
	closeErr   error         // what Close returns
	last       uint64        // number of the last segment but END, once err is set
}

// A link is one connection of a session.
type link struct {
	conn    Conn
	resumed bool          // not the session's first
	idle    *rate.Limiter // what moves nothing draws on it; PROTOCOL.md §4

	heard    bool   // something has come
	from     bool   // the other end's FROM has come
	skip     uint64 // so many counted segments are known already
	ackedAt  uint64 // the last ACK that came over it
	fromDue  bool   // our FROM has not left
	next     uint64 // number of the segment that is written next
	broken   bool   // a write failed
	acking   bool   // somebody writes an ACK
	ackSent  uint64 // what the other end was told
	ackAsked bool   // an ACK is due now
}

func newLink(conn Conn) *link {
	return &link{conn: conn, next: 1, idle: rate.NewLimiter(20, 64)}
}

// New begins a session on its first connection.
func New(conn Conn, cfg Config) *Session {
	s := &Session{
		cfg: cfg, max: conn.MaxMessage() - segmentOverhead, limit: keepFirst,
		changed: make(chan struct{}), done: make(chan struct{}), closeDone: make(chan struct{}),
		link: newLink(conn), owner: 1, handed: 1, since: time.Now(),
	}
	return s
}

// ID names the session.
func (s *Session) ID() ID { return s.cfg.ID }

// Done is closed when the session is over; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why the session is over, nil while it is not: [net.ErrClosed] if this end closed it, [io.EOF]
// if the other one did and all has arrived, else what was lost.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Clean reports whether the session has ended with everything accounted for on both ends.
func (s *Session) Clean() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil && s.clean
}

// broadcastLocked wakes all who wait for a change.
func (s *Session) broadcastLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// ReadMessage returns the frames of the next segment, valid until the next call. It waits while there
// is no connection.
func (s *Session) ReadMessage(ctx context.Context) ([]byte, error) {
	if faulty {
		if body := s.faults.again(); body != nil {
			return body, nil
		}
	}
	for {
		if s.current == nil {
			l, err := s.nextLink(ctx)
			if err != nil {
				return nil, err
			}
			s.current = l
		}
		// A connection that was taken over is read to its end: nothing of it counts, but its memory is
		// cleared.
		m, err := s.current.conn.ReadMessage(ctx)
		if err != nil {
			l := s.current
			s.current = nil
			s.readFailed(l, err)
			continue
		}
		if body := s.receive(s.current, m); body != nil {
			return body, nil
		}
	}
}

// nextLink waits for a connection.
func (s *Session) nextLink(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		l, err, changed := s.link, s.err, s.changed
		s.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case l != nil:
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// receive takes one segment and returns the frames in it, if they are to be delivered.
func (s *Session) receive(l *link, m []byte) []byte {
	body, broken := s.take(l, m)
	if broken != "" {
		s.mu.Lock()
		owns := s.link == l
		if owns {
			s.endingLocked()
		}
		s.mu.Unlock()
		l.conn.Close(message.ProtocolError, broken)
		if owns { // or it was taken over just now
			s.mu.Lock()
			s.finishLocked(message.ErrRule, false)
			s.mu.Unlock()
		}
	}
	return body
}

// take does what a segment asks for. Whether the connection owns the session and whether the segment
// counts is decided in one step. broken says which rule was broken, if one was.
func (s *Session) take(l *link, m []byte) (frames []byte, broken string) {
	typ, body := m[0], m[1:]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != l || s.err != nil {
		return nil, ""
	}
	l.heard = true
	if l.resumed && !l.from && typ != segmentFrom {
		return nil, "a resumed connection begins with FROM"
	}
	switch typ {
	case segmentFrames:
		switch {
		case len(body) == 0:
			return nil, "empty segment"
		case s.gotEnd && l.skip == 0:
			return nil, "segment after END"
		case s.countLocked(l, len(m)):
			if faulty {
				body = s.faults.spoil(s.received, body)
			}
			return body, ""
		}
	case segmentEnd:
		switch {
		case !validEnd(body):
			return nil, "bad END"
		case s.gotEnd && l.skip == 0:
			return nil, "segment after END"
		case s.countLocked(l, len(m)):
			s.takeEndLocked(l)
		}
	case segmentAck:
		n, ok := parseShort(body)
		if !ok || n > s.wrote || n < l.ackedAt {
			return nil, "bad ACK"
		}
		if n <= s.acked && !l.idle.Allow() {
			return nil, "too many segments that move nothing"
		}
		l.ackedAt = n
		s.ackedLocked(n)
	case segmentDatagram:
		if s.cfg.Datagram != nil {
			s.mu.Unlock()
			s.cfg.Datagram(body)
			s.mu.Lock()
		} else if !l.idle.Allow() { // of a flow that is not known
			return nil, "too many segments that move nothing"
		}
	case segmentFrom:
		n, ok := parseShort(body)
		if !ok || !l.resumed || l.from || n == 0 || n > s.received+1 {
			return nil, "bad FROM"
		}
		l.from, l.skip = true, s.received+1-n
	default:
		return nil, "unknown segment type"
	}
	return nil, ""
}

// countLocked counts a segment. It is false for one that is known already.
func (s *Session) countLocked(l *link, n int) bool {
	if l.skip > 0 {
		l.skip--
		return false
	}
	s.received++
	s.bad = 0
	s.ackDebt += n
	if s.ackDebt >= ackBytes || s.endSent { // the other end answers our END when it has everything acknowledged
		s.ackNowLocked(l)
	} else {
		s.ackLaterLocked()
	}
	return true
}

// readFailed notes that a connection has ended, and decides what that means for the session.
func (s *Session) readFailed(l *link, err error) {
	s.mu.Lock()
	if s.link != l { // it was taken over
		if tampered(err) {
			s.bad++
		}
		s.mu.Unlock()
		return
	}
	s.link, s.since = nil, time.Now()
	if final, clean := s.verdictLocked(err); final != nil {
		s.finishLocked(final, clean)
	}
	over, told := s.err != nil, s.cfg.Detached
	s.freeLocked()
	s.broadcastLocked()
	s.mu.Unlock()
	if !over && told != nil {
		told(err, l.heard)
	}
}

// verdictLocked says whether the end of a connection is the end of the session. PROTOCOL.md §5, §6.
func (s *Session) verdictLocked(err error) (final error, clean bool) {
	var closed *message.CloseError
	switch ended := s.gotEnd && s.endSent; {
	case err == io.EOF && ended:
		return s.endErr(), true
	case s.closing && errors.Is(err, net.ErrClosed):
		return net.ErrClosed, s.clean
	case err == io.EOF:
		return message.ErrTruncated, false // a CLOSE 0 that comes before both ENDs
	case errors.As(err, &closed):
		if closed.Code == message.GoingAway && s.cfg.Client && s.cfg.Lifetime > 0 {
			return nil, false // come back later
		}
		return closed, false
	case errors.Is(err, message.ErrRule):
		return err, false
	case tampered(err):
		if s.bad++; s.bad >= maxBadRecords {
			return lost("every connection is tampered with"), false
		}
	default:
		s.bad = 0
	}
	if s.cfg.Lifetime == 0 {
		if s.onlyEndMissingLocked() {
			return s.endErr(), true
		}
		return err, false
	}
	return nil, false
}

// tampered says whether a connection has ended because a record did not open. Broken framing does not count:
// no record does that, so that replaying it need not do it again.
func tampered(err error) bool {
	return errors.Is(err, message.ErrRecord) && !errors.Is(err, message.ErrFraming) && !errors.Is(err, message.ErrRule)
}

func lost(why string) error { return &message.CloseError{Code: message.SessionLost, Reason: why} }

// Request is what the next hello asks for: to resume the session.
func (s *Session) Request() *Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Request{Resume: true, ID: s.cfg.ID, Owner: s.handed, Received: s.received}
}

// Resume takes a server's answer that resumes the session, and returns the message that the new
// connection begins with. [Session.Attach] comes next. An error says that the session is lost.
func (s *Session) Resume(a *Answer) (first []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Received < s.acked || a.Received > s.wrote {
		return nil, lost("the server's count is wrong")
	}
	s.handed = a.Owner
	s.ackedLocked(a.Received)
	return appendShort(segmentFrom, s.fromLocked(a.Received))[segmentStart:], nil
}

// fromLocked is the number that a new connection begins with if the other end has so many.
func (s *Session) fromLocked(received uint64) uint64 { return max(received, s.log.acked) + 1 }

// Answer hands out the number of another connection, if the session can be resumed as a client asks.
// Nothing else changes before that connection is confirmed.
func (s *Session) Answer(r *Request) (*Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && !s.clean || r.Owner < s.owner || r.Owner > s.handed ||
		r.Received < s.acked || r.Received > s.wrote || s.handed == math.MaxUint32 {
		return nil, false
	}
	s.handed++
	return &Answer{Resumed: true, ID: s.cfg.ID, Owner: s.handed, Received: s.received, Lifetime: s.cfg.Lifetime}, true
}

// Attach gives the session a confirmed connection with the number that it was given. told is how many
// segments the other end was told that we have, and received how many it has said that it has. It is
// false if a higher number was faster or the session is lost: then the connection is the caller's to
// end. An older connection is not waited for. To a session that has ended cleanly, a client's connection
// is there for the other end to learn that; Attach then returns when that is done.
func (s *Session) Attach(conn Conn, number uint32, told, received uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch over := s.err != nil; {
	case number <= s.owner, conn.MaxMessage()-segmentOverhead != s.max, !over && s.ending,
		over && (!s.clean || s.cfg.Client):
		return false
	}
	if s.err != nil {
		s.owner = number
		s.mu.Unlock()
		s.retire(conn, received)
		s.mu.Lock()
		return true
	}
	l := newLink(conn)
	l.resumed, l.ackSent = true, told
	s.owner, s.since = number, time.Now()
	s.resumes++
	if old := s.link; old != nil {
		s.dying++
		s.tasks.Go(func() {
			old.conn.Kill(message.ErrTruncated)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.dying--
			s.doneLocked()
		})
	}
	s.link = nil // or it would hold up what is freed
	s.ackedLocked(received)
	l.next = s.fromLocked(received)
	l.fromDue = !s.cfg.Client // a client's has been its first record
	s.link, s.unacked = l, time.Now()
	s.broadcastLocked()
	s.pumpSoonLocked()
	if s.received > told {
		s.ackLaterLocked()
	}
	s.watchStallLocked()
	return true
}

// Lose ends a session that cannot be resumed.
func (s *Session) Lose(err error) {
	s.mu.Lock()
	l := s.endingLocked()
	s.mu.Unlock()
	if l != nil {
		l.conn.Kill(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(err, false)
}

// LoseAway ends a session that has had no connection for so long, and reports whether it is over.
func (s *Session) LoseAway(away time.Duration, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && (s.link != nil || time.Since(s.since) < away) {
		return false
	}
	s.finishLocked(err, false)
	return true
}

// Probe has the connection show within a time that it lives, if there is one.
func (s *Session) Probe(within time.Duration) {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l != nil {
		l.conn.Probe(within)
	}
}

// RTT is the round-trip time of the connection, 0 if it is not known or there is none.
func (s *Session) RTT() time.Duration {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return 0
	}
	return l.conn.RTT()
}

// MaxMessage is the largest message that fits one segment, in bytes.
func (s *Session) MaxMessage() int { return s.max }

// Stats are counters of a Session, and its state.
type Stats struct {
	Attached      bool
	Since         time.Time // of the present connection, or of its loss
	Resumes       uint64    // connections after the first
	Retransmitted uint64    // bytes of segments that were sent again
	Waiting       int       // bytes of segments that are not acknowledged
	Dropped       uint64    // datagrams that found no connection
}

// Stats returns a snapshot.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Attached: s.link != nil, Since: s.since, Resumes: s.resumes, Retransmitted: s.retransmitted,
		Waiting: s.log.size - segmentCost*int(s.log.last()-s.log.acked), Dropped: s.dropped,
	}
}
