// Package session gives the connection between two ends a beginning and an end that both have seen.
// PROTOCOL.md §6.
//
// Its promise: messages travel as segments, in order; the end is clean only if both ends have said so
// with an END, and everything before it has arrived. A connection that merely closes, even with a
// sealed CLOSE, is a lost session.
//
// A session of this version lives as long as its connection: the server grants it a lifetime of zero,
// which says that nothing is kept for a resume and nothing need be acknowledged.
//
// It needs a conn of sealed messages from below, and has no goroutines.
package session

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// Segment types, the first byte of a DATA record's body. PROTOCOL.md §6.
const (
	segmentFrames   = 0x01 // SEG: frames, counted
	segmentAck      = 0x02 // ACK: u64 segments received
	segmentDatagram = 0x03 // DGRAM: one datagram, not counted
	segmentEnd      = 0x04 // END: u16 code ‖ text, counted
)

// segmentOverhead is what a segment adds to a message.
const segmentOverhead = 1

// endWait is how long Close waits for the other end's END.
const endWait = 2 * time.Second

// Conn is a [message.Conn] over a sealed one. One goroutine reads, and has to go on reading until it
// gets an error for Close to end cleanly; everything else may be called from anywhere.
type Conn struct {
	below message.Conn

	sent    atomic.Uint64 // counted segments
	endSent atomic.Bool

	idle *rate.Limiter // what advances nothing draws on it; PROTOCOL.md §4

	peerEnd chan struct{} // closed when the other end's END has come
	gotEnd  atomic.Bool
	lost    chan struct{} // closed when nothing more will come
	lostOne sync.Once

	closeOnce sync.Once
	closed    atomic.Bool
}

// New begins a session on a connection.
func New(below message.Conn) *Conn {
	return &Conn{below: below, idle: rate.NewLimiter(20, 64), peerEnd: make(chan struct{}), lost: make(chan struct{})}
}

// ReadMessage returns the frames of the next segment, valid until the next call. [io.EOF] means that
// the other end has ended the session and both have said so.
func (c *Conn) ReadMessage(ctx context.Context) ([]byte, error) {
	for {
		segment, err := c.below.ReadMessage(ctx)
		if err != nil {
			c.lostOne.Do(func() { close(c.lost) })
			return nil, c.readError(err)
		}
		typ, body := segment[0], segment[1:]
		if c.gotEnd.Load() && typ != segmentAck {
			return nil, c.protocolError("segment after END")
		}
		switch typ {
		case segmentFrames:
			if len(body) == 0 {
				return nil, c.protocolError("empty segment")
			}
			return body, nil
		case segmentAck:
			if len(body) != 8 || binary.BigEndian.Uint64(body) > c.sent.Load() {
				return nil, c.protocolError("bad ACK")
			}
			if !c.idle.Allow() {
				return nil, c.protocolError("too many segments that move nothing")
			}
		case segmentDatagram: // of a flow that is not known
			if !c.idle.Allow() {
				return nil, c.protocolError("too many segments that move nothing")
			}
		case segmentEnd:
			if len(body) < 2 || len(body) > 2+message.MaxReason || !utf8.Valid(body[2:]) {
				return nil, c.protocolError("bad END")
			}
			c.gotEnd.Store(true)
			close(c.peerEnd)
			if c.endSent.Load() {
				continue // ours went first; Close is waiting for this
			}
			if code := message.Code(binary.BigEndian.Uint16(body)); code != message.OK {
				return nil, &message.CloseError{Code: code, Reason: string(body[2:]), Remote: true}
			}
			return nil, io.EOF
		default:
			return nil, c.protocolError("unknown segment type")
		}
	}
}

// readError tells a clean end of the connection from a lost session: a CLOSE 0 that comes before
// both ENDs is the latter.
func (c *Conn) readError(err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !(c.gotEnd.Load() && c.endSent.Load()) {
		return message.ErrTruncated
	}
	if c.closed.Load() {
		return net.ErrClosed
	}
	return err
}

func (c *Conn) protocolError(what string) error {
	c.below.Close(message.ProtocolError, what)
	return message.ErrRecord
}

// WriteMessage sends buf[off:] as one segment; the bytes before off are overwritten.
func (c *Conn) WriteMessage(ctx context.Context, buf []byte, off int) error {
	if c.endSent.Load() {
		return net.ErrClosed
	}
	if len(buf)-off > c.MaxMessage() {
		return message.ErrTooLarge
	}
	buf[off-1] = segmentFrames
	c.sent.Add(1)
	return c.below.WriteMessage(ctx, buf, off-1)
}

// MaxMessage is the largest message that fits one segment, in bytes.
func (c *Conn) MaxMessage() int { return c.below.MaxMessage() - segmentOverhead }

// RTT is the round trip time of the connection below, 0 if it is not known.
func (c *Conn) RTT() time.Duration {
	if below, ok := c.below.(interface{ RTT() time.Duration }); ok {
		return below.RTT()
	}
	return 0
}

// Close ends the session. For [message.OK] it says END, waits up to two seconds for the other end's,
// and closes the connection cleanly; without that END, and for any other code, it closes the
// connection with the code and the session is lost. It is idempotent.
func (c *Conn) Close(code message.Code, reason string) error {
	c.closeOnce.Do(func() {
		c.closed.Store(true)
		if code == message.OK {
			if !c.end(reason) {
				code, reason = message.GoingAway, "no END within the time"
			}
		}
		c.below.Close(code, reason)
	})
	return nil
}

// end exchanges ENDs and reports whether both have been.
func (c *Conn) end(reason string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	buf := make([]byte, message.Headroom, message.Headroom+3+message.MaxReason)
	buf = append(buf, segmentEnd)
	buf = binary.BigEndian.AppendUint16(buf, uint16(message.OK))
	buf = append(buf, message.CutReason(reason)...)
	c.sent.Add(1)
	c.endSent.Store(true)
	if c.below.WriteMessage(ctx, buf, message.Headroom) != nil {
		return false
	}
	select {
	case <-c.peerEnd:
		return true
	case <-c.lost:
		return c.gotEnd.Load()
	case <-ctx.Done():
		return false
	}
}
