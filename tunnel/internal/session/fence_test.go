package session

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// A handConn is a [Conn] whose other end, and how long its Close takes, is the test's.
type handConn struct {
	in     chan []byte
	hold   chan struct{}  // Close waits for it; nil: it does not
	closes chan struct{}  // gets one when Close has begun
	write  func(m []byte) // nil: what is written vanishes

	once  sync.Once
	ended chan struct{}
	err   error
}

func newHandConn() *handConn {
	return &handConn{in: make(chan []byte, 16), closes: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (c *handConn) ReadMessage(ctx context.Context) ([]byte, error) {
	select {
	case <-c.ended:
		return nil, c.err
	case m := <-c.in:
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *handConn) WriteMessage(_ context.Context, buf []byte, off int) error {
	select {
	case <-c.ended:
		return c.err
	default:
	}
	if c.write != nil {
		c.write(buf[off:])
	}
	return nil
}

func (c *handConn) end(err error) { c.once.Do(func() { c.err = err; close(c.ended) }) }

func (c *handConn) Close(message.Code, string) error {
	select {
	case c.closes <- struct{}{}:
	default:
	}
	if c.hold != nil {
		<-c.hold
	}
	c.end(net.ErrClosed)
	return nil
}

func (c *handConn) MaxMessage() int     { return 4096 }
func (c *handConn) RTT() time.Duration  { return 0 }
func (c *handConn) Probe(time.Duration) {}
func (c *handConn) Kill(err error)      { c.end(err) }
func (c *handConn) CutShort()           { c.end(net.ErrClosed) }

func (c *handConn) isOver() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// segmentOf is a segment as it arrives.
func segmentOf(typ byte, rest ...byte) []byte { return append([]byte{typ}, rest...) }

// attachNext gives the session another connection as a server does.
func attachNext(t *testing.T, s *Session, received uint64) (c *handConn, taken bool) {
	t.Helper()
	a, ok := s.Answer(&Request{Resume: true, ID: s.ID(), Owner: s.Request().Owner, Received: received})
	if !ok {
		t.Fatal("the session cannot be resumed")
	}
	c = newHandConn()
	return c, s.Attach(c, a.Owner, a.Received, received)
}

// A connection that comes while this end ends the session is not left behind: it must not outlive the
// session, and whoever reads must not go on to read from it.
func TestAttachWhileEnding(t *testing.T) {
	endings := map[string]func(*Session, *handConn){
		"Close":               func(s *Session, _ *handConn) { s.Close(message.PeerRemoved, "") },
		"a broken rule":       func(_ *Session, c *handConn) { c.in <- segmentOf(0x77) },
		"the other end's END": func(_ *Session, c *handConn) { c.in <- segmentOf(segmentEnd, 0, 0) },
		"a Close without END": func(s *Session, _ *handConn) { s.Close(message.OK, "") },
	}
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 20 { // who is faster, reader or closer, is left to chance
				first := newHandConn()
				first.hold = make(chan struct{})
				s := New(first, Config{Lifetime: time.Minute, Detached: func(error, bool) {}})
				read := make(chan struct{})
				go func() {
					defer close(read)
					for {
						if _, err := s.ReadMessage(context.Background()); err != nil {
							return
						}
					}
				}()
				go end(s, first)
				<-first.closes // the connection is being closed, and takes its time
				second, taken := attachNext(t, s, 0)
				close(first.hold)
				select {
				case <-s.Done():
				case <-time.After(5 * time.Second):
					t.Fatal("the session does not end")
				}
				select {
				case <-read:
				case <-time.After(time.Second):
					t.Fatal("ReadMessage goes on reading from a connection of a session that is over")
				}
				if taken && !second.isOver() {
					t.Fatal("the session is over, and its connection is not")
				}
				if name == "a Close without END" || name == "the other end's END" {
					break // two seconds each
				}
			}
		})
	}
}

// What ends sessions that wait for their client does not end one whose client is back.
func TestLoseAway(t *testing.T) {
	first := newHandConn()
	s := New(first, Config{Lifetime: time.Minute, Detached: func(error, bool) {}})
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, err := s.ReadMessage(context.Background()); err != nil {
				return
			}
		}
	}()
	if s.LoseAway(0, net.ErrClosed) {
		t.Error("a session with a connection was lost")
	}
	first.end(message.ErrTruncated)
	for s.Stats().Attached {
		time.Sleep(time.Millisecond)
	}
	if s.LoseAway(time.Minute, net.ErrClosed) {
		t.Error("a session was lost before its time")
	}
	second, taken := attachNext(t, s, 0)
	if !taken || s.LoseAway(0, net.ErrClosed) || s.Err() != nil {
		t.Error("a session whose client is back was lost")
	}
	second.end(message.ErrTruncated)
	for s.Stats().Attached {
		time.Sleep(time.Millisecond)
	}
	if !s.LoseAway(0, net.ErrClosed) || s.Err() == nil {
		t.Error("a session without a connection was kept")
	}
	<-read
}

// A client that has closed its session in order has nothing to tell over a connection that comes late:
// its first record has been FROM, and another one would break a rule.
func TestLateConnectionOfAClient(t *testing.T) {
	first := newHandConn()
	s := New(first, Config{Client: true, Lifetime: time.Minute, Detached: func(error, bool) {}})
	first.write = func(m []byte) {
		if m[0] == segmentEnd {
			first.in <- segmentOf(segmentEnd, 0, 0)
			first.in <- binary.BigEndian.AppendUint64([]byte{segmentAck}, 1)
		}
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, err := s.ReadMessage(context.Background()); err != nil {
				return
			}
		}
	}()
	s.Close(message.OK, "")
	<-read
	if !s.Clean() {
		t.Fatalf("the session has ended with %v", s.Err())
	}
	second := newHandConn()
	second.write = func(m []byte) { t.Errorf("it writes %x", m) }
	if s.Attach(second, 2, 1, 1) {
		t.Error("the connection was taken")
	}
}
