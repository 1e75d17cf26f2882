package session

import (
	"context"
	"io"
	"net"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// finishLocked ends the session, once.
func (s *Session) finishLocked(err error, clean bool) {
	if s.err != nil {
		return
	}
	s.err, s.clean = err, clean
	s.link = nil // it has ended, and no other one was taken meanwhile
	for _, t := range []*time.Timer{s.stall, s.ackTimer} {
		if t != nil {
			t.Stop()
		}
	}
	kept := s.log.size
	s.last = s.log.last()
	if s.endSent {
		s.last-- // whether our END has arrived is the other end's worry
	}
	for n := s.log.acked + 1; n <= s.log.last(); n++ {
		if n != s.writing { // its writer still looks at it
			s.log.at(n).free()
		}
	}
	s.log = replay{acked: s.log.last()}
	s.cfg.Detached = nil // a session may be remembered for long, and what it was for is not
	s.cfg.Budget.give(s.cfg.Key, kept)
	s.broadcastLocked()
	s.doneLocked()
}

// doneLocked tells that the session is over, once the keys of each connection are gone.
func (s *Session) doneLocked() {
	if s.err != nil && s.dying == 0 {
		close(s.done)
	}
}

// endingLocked begins an end that takes its time: no connection is taken from here on, so that the one
// that is returned, if there is one, is the last to be closed before finishLocked.
func (s *Session) endingLocked() *link {
	s.ending = true
	return s.link
}

// endErr is the error of a clean end.
func (s *Session) endErr() error {
	if s.closing {
		return net.ErrClosed
	}
	return io.EOF
}

// onlyEndMissingLocked reports whether both ENDs have been, and the other end has all but, at most,
// ours.
func (s *Session) onlyEndMissingLocked() bool {
	return s.gotEnd && s.endSent && s.acked+1 >= s.log.last()
}

// sendEndLocked says that there is no more to come.
func (s *Session) sendEndLocked(reason string) {
	if s.endSent {
		return
	}
	s.endDue = true
	seg := newEnd(reason)
	s.cfg.Budget.force(s.cfg.Key, seg.cost())
	s.pushLocked(seg)
	s.endSent = true
	s.pumpSoonLocked()
}

// takeEndLocked answers the other end's END.
func (s *Session) takeEndLocked(l *link) {
	s.gotEnd = true
	s.ackNowLocked(l)
	s.broadcastLocked()
	if s.closing {
		return // Close waits for it
	}
	s.endDue = true
	s.answerEndLocked()
	// The other end closes. If it does not come to that, nothing is missing but its word that it has
	// our END.
	s.tasks.Go(s.awaitClose)
}

// answerEndLocked sends an END that is due, once all before it is acknowledged: the other end may be
// gone the moment that it has it, and if its last words are lost, we must know all the same.
func (s *Session) answerEndLocked() {
	if s.endDue && s.err == nil && s.acked == s.log.last() {
		s.sendEndLocked("")
	}
}

// awaitClose ends the session after the other end's END.
func (s *Session) awaitClose() {
	timer := time.NewTimer(endWait)
	defer timer.Stop()
	select {
	case <-s.done:
		return
	case <-timer.C:
	}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	l, err, clean := s.endingLocked(), s.endErr(), s.onlyEndMissingLocked()
	if !clean {
		err = lost("the other end left before it had everything")
	}
	s.mu.Unlock()
	if l != nil {
		l.conn.Close(message.OK, "")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(err, clean)
}

// Close ends the session. For [message.OK] it says END, waits up to two seconds for the other end's and
// for everything to be acknowledged, over further connections if need be, and closes the connection
// cleanly. For any other code, and if that time was not enough, it closes the connection with the code:
// the session is lost. It is idempotent and returns when the goroutines of the Session have ended. The
// error says that what was written may not all have arrived, although it was to end in order.
func (s *Session) Close(code message.Code, reason string) error {
	if s.closeBegun.CompareAndSwap(false, true) {
		s.close(code, reason)
		close(s.closeDone)
	}
	<-s.closeDone // a sync.Once would stop the clock of tests that fake it
	s.tasks.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeErr
}

func (s *Session) close(code message.Code, reason string) {
	inOrder := code == message.OK
	s.mu.Lock()
	s.closing = true
	clean := false
	if code == message.OK && s.err == nil {
		if clean = s.endLocked(reason); !clean {
			code, reason = message.GoingAway, "no END within the time"
		}
	}
	l := s.endingLocked()
	s.clean = s.clean || clean && s.err == nil
	s.mu.Unlock()
	if l != nil {
		l.conn.Close(code, reason)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(net.ErrClosed, clean)
	if inOrder && !s.clean && s.acked < s.last {
		s.closeErr = lost("the other end has not acknowledged everything")
	}
}

// endLocked exchanges ENDs, and reports whether both have been and everything has arrived. mu is
// released while it waits.
func (s *Session) endLocked(reason string) bool {
	s.sendEndLocked(reason)
	timer := time.NewTimer(endWait)
	defer timer.Stop()
	for s.err == nil && !(s.gotEnd && s.acked == s.log.last()) {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			s.mu.Lock()
			return s.onlyEndMissingLocked()
		}
		s.mu.Lock()
	}
	return s.err == nil || s.clean
}

// CutShort ends a Close that has taken too long.
func (s *Session) CutShort() {
	s.mu.Lock()
	l := s.endingLocked()
	s.closing = true
	s.mu.Unlock()
	if l != nil {
		l.conn.CutShort()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(net.ErrClosed, false)
}

// retire answers over a connection that resumes a session which has ended cleanly: the other end does
// not know yet that we have everything, and may lack our END. PROTOCOL.md §6.
func (s *Session) retire(conn Conn, received uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	defer conn.Close(message.OK, "")
	last := s.log.last()
	from := min(received, last) + 1
	if conn.WriteMessage(ctx, appendShort(segmentFrom, from), segmentStart) != nil {
		return
	}
	if from <= last { // the rest was acknowledged
		conn.WriteMessage(ctx, newEnd("").buf, segmentStart)
	}
}
