package session

import (
	"context"
	"net"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// unknownRTT stands in while the round-trip time is not known.
const unknownRTT = 20 * time.Millisecond

// fullRetry is how often a writer looks again whether the server's sessions have left room.
const fullRetry = 50 * time.Millisecond

// WriteMessage keeps buf[off:] as one segment and sends it, now if there is a connection, else over the
// next one. It waits while too much is kept already. When it returns without an error, the segment will
// arrive unless the session is lost.
func (s *Session) WriteMessage(ctx context.Context, buf []byte, off int) error {
	if len(buf)-off > s.max {
		return message.ErrTooLarge
	}
	return s.write(ctx, newSegment(segmentFrames, buf[off:]))
}

// WriteOwned is WriteMessage for a message that begins at [message.Headroom] of *buf and fills most of
// it: the segment takes the memory over instead of copying it. If taken, the caller forgets buf, and
// giveUp gets it, cleared, when nobody needs it any more, from any goroutine.
func (s *Session) WriteOwned(ctx context.Context, buf *[]byte, giveUp func(*[]byte)) (taken bool, err error) {
	if len(*buf)-message.Headroom < cap(*buf)/2 {
		return false, s.WriteMessage(ctx, *buf, message.Headroom)
	}
	if len(*buf)-message.Headroom > s.max {
		return false, message.ErrTooLarge
	}
	return true, s.write(ctx, takeSegment(segmentFrames, buf, giveUp))
}

func (s *Session) write(ctx context.Context, seg *segment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitRoomLocked(ctx, seg.cost()); err != nil {
		seg.free()
		return err
	}
	n := s.pushLocked(seg)
	if !s.pumping {
		s.pumping = true
		s.pumpLocked(n)
	}
	return nil
}

// pushLocked keeps a segment and returns its number.
func (s *Session) pushLocked(seg *segment) uint64 {
	if s.acked == s.log.last() {
		s.unacked = time.Now()
	}
	if s.mark.IsZero() {
		s.mark = time.Now()
	}
	n := s.log.push(seg)
	s.watchStallLocked()
	return n
}

// Room reports whether WriteMessage would not wait for acknowledgements.
func (s *Session) Room() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil || s.endDue || s.log.size == 0 || !s.starved && s.log.size+s.max+segmentCost <= s.limit
}

// awaitRoomLocked waits until n more bytes may be kept, and charges them. mu is released meanwhile.
func (s *Session) awaitRoomLocked(ctx context.Context, n int) error {
	for {
		switch {
		case s.err != nil:
			return s.writeErrLocked()
		case s.endDue:
			return net.ErrClosed
		case s.log.size == 0: // one always fits, or a crowded server would stand still
			s.starved = false
			s.cfg.Budget.force(s.cfg.Key, n)
			return nil
		}
		var again <-chan time.Time
		if s.log.size+n <= s.limit {
			if s.cfg.Budget.take(s.cfg.Key, n) {
				s.starved = false
				return nil
			}
			s.starved = true
			again = time.After(fullRetry)
		} else {
			s.wasFull = true
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// writeErrLocked is why nothing can be written any more: not io.EOF, which is the reader's good news.
func (s *Session) writeErrLocked() error {
	if s.clean && !s.closing {
		return &message.CloseError{Code: message.OK, Remote: true}
	}
	return s.err
}

// pumpSoonLocked has what waits written by a goroutine, if nobody writes.
func (s *Session) pumpSoonLocked() {
	if s.pumping || s.err != nil {
		return
	}
	s.pumping = true
	s.tasks.Go(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pumpLocked(0)
	})
}

// pumpLocked writes what waits, in order, over whichever connection there is, until nothing is left. A
// caller that came for segment until leaves what follows, and the next connection, to a goroutine. The
// caller has set pumping; mu is released while a segment is written.
func (s *Session) pumpLocked(until uint64) {
	first := s.link
	for s.err == nil && s.link != nil && !s.link.broken {
		l := s.link
		if until != 0 && (l != first || l.next > until && l.next <= s.log.last()) {
			s.tasks.Go(func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.pumpLocked(0)
			})
			return
		}
		if l.fromDue {
			if s.writeLocked(l, appendShort(segmentFrom, l.next)) {
				l.fromDue = false
				if l.ackAsked || s.ackDebt > 0 {
					s.ackNowLocked(l)
				}
			}
			continue
		}
		if l.next > s.log.last() {
			break
		}
		seg := s.log.at(l.next)
		if l.next <= s.wrote {
			s.retransmitted += uint64(len(seg.buf) - segmentStart)
		}
		s.wrote = max(s.wrote, l.next)
		s.writing = l.next
		ok := s.writeLocked(l, seg.buf)
		s.writing = 0
		if s.err != nil { // the session has ended meanwhile and has left this one to us
			seg.free()
			break
		}
		if ok {
			l.next++
		}
		s.freeLocked()
	}
	s.pumping = false
}

// writeLocked writes one segment. mu is released meanwhile.
func (s *Session) writeLocked(l *link, buf []byte) bool {
	s.mu.Unlock()
	err := l.conn.WriteMessage(context.Background(), buf, segmentStart)
	s.mu.Lock()
	if err != nil {
		l.broken = true // the reading goroutine learns why
	}
	return err == nil
}

// ackedLocked notes that the other end has the segments up to n.
func (s *Session) ackedLocked(n uint64) {
	if n > s.acked {
		s.acked, s.unacked = n, time.Now()
		s.freeLocked()
		if s.endDue {
			s.answerEndLocked()
			s.broadcastLocked() // Close may wait for it
		}
	}
}

// freeLocked forgets what the other end has. A segment that is being written stays, and so does one
// that this connection has yet to send: the other end counts from FROM on, so that none may be left out.
func (s *Session) freeLocked() {
	upTo := s.acked
	if s.link != nil {
		upTo = min(upTo, s.link.next-1)
	}
	if s.writing > 0 {
		upTo = min(upTo, s.writing-1)
	}
	if upTo <= s.log.acked {
		return
	}
	n := s.log.free(upTo)
	s.cfg.Budget.give(s.cfg.Key, n)
	s.growLocked(n)
	s.broadcastLocked()
}

// growLocked doubles the bound of what is kept if all of it was acknowledged within two round trips
// and yet was what held a writer up.
func (s *Session) growLocked(n int) {
	now := time.Now()
	if s.freed += n; s.freed < s.limit {
		return
	}
	if s.wasFull && s.limit < keepMost && s.link != nil {
		rtt := s.link.conn.RTT()
		if rtt <= 0 {
			rtt = unknownRTT
		}
		if now.Sub(s.mark) < 2*(rtt+ackDelay) {
			s.limit *= 2
		}
	}
	s.freed, s.mark, s.wasFull = 0, now, false
}

// ackLaterLocked has an ACK sent soon.
func (s *Session) ackLaterLocked() {
	if s.ackSet || s.err != nil {
		return
	}
	s.ackSet = true
	if s.ackTimer == nil {
		s.ackTimer = time.AfterFunc(ackDelay, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ackSet = false
			if l := s.link; l != nil && s.err == nil && s.received > l.ackSent {
				s.ackNowLocked(l)
			}
		})
		return
	}
	s.ackTimer.Reset(ackDelay)
}

// ackNowLocked has an ACK sent by a goroutine, since the reading one must not wait for a write.
func (s *Session) ackNowLocked(l *link) {
	l.ackAsked = true
	if l.acking || l.fromDue || l.broken || s.err != nil {
		return
	}
	l.acking = true
	s.tasks.Go(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for l.ackAsked && s.link == l && !l.broken && s.err == nil {
			l.ackAsked = false
			if l.ackSent == s.received {
				continue
			}
			l.ackSent, s.ackDebt = s.received, 0
			s.writeLocked(l, appendShort(segmentAck, l.ackSent))
		}
		l.acking = false
	})
}

// watchStallLocked sees to it that a connection over which no acknowledgement comes is probed.
func (s *Session) watchStallLocked() {
	if s.stalling || s.err != nil || s.link == nil || s.log.last() == s.acked {
		return
	}
	s.stalling = true
	left := stallAfter - time.Since(s.unacked)
	if s.stall == nil {
		s.stall = time.AfterFunc(left, s.stalled)
		return
	}
	s.stall.Reset(left)
}

func (s *Session) stalled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalling = false
	if s.err == nil && s.link != nil && s.log.last() > s.acked && time.Since(s.unacked) >= stallAfter {
		s.link.conn.Probe(stallProbe)
		s.unacked = time.Now()
	}
	s.watchStallLocked()
}

// SendDatagram sends buf[off:] over the present connection. It is false if the datagram was dropped:
// there is no connection, or it does not fit. Datagrams are not counted, not kept and never resent.
func (s *Session) SendDatagram(buf []byte, off int) bool {
	s.mu.Lock()
	l := s.link
	if l == nil || l.fromDue || l.broken || len(buf)-off > s.max {
		s.dropped++
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	buf[off-1] = segmentDatagram
	if l.conn.WriteMessage(context.Background(), buf, off-1) != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dropped++
		return false
	}
	return true
}
