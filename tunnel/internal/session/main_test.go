package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Segment types. PROTOCOL.md §6.
const (
	seg   = 1
	ack   = 2
	dgram = 3
	end   = 4
	from  = 5
)

const testMax = 8192 // bytes of a segment, its type included

// A conn is one end of a connection in memory, with what a session needs beside messages. What one end is
// closed with reaches the other after what was on its way.
type conn struct {
	in    <-chan []byte
	out   chan<- []byte
	other *conn
	rtt   time.Duration

	once  sync.Once
	ended chan struct{}
	err   error // what this end gets
	there error // what the other end gets

	mu     sync.Mutex
	probes []time.Duration
}

// newConns returns both ends of a connection that takes depth messages while nobody reads.
func newConns(depth int) (a, b *conn) {
	ab, ba := make(chan []byte, depth), make(chan []byte, depth)
	a = &conn{in: ba, out: ab, ended: make(chan struct{})}
	b = &conn{in: ab, out: ba, ended: make(chan struct{})}
	a.other, b.other = b, a
	return a, b
}

func (c *conn) finish(here, there error) {
	c.once.Do(func() {
		c.err, c.there = here, there
		close(c.ended)
	})
}

func (c *conn) ReadMessage(ctx context.Context) ([]byte, error) {
	select {
	case <-c.ended:
		return nil, c.err
	default:
	}
	select {
	case m := <-c.in:
		return m, nil
	case <-c.ended:
		return nil, c.err
	case <-ctx.Done():
		c.finish(ctx.Err(), message.ErrTruncated)
		return nil, ctx.Err()
	case <-c.other.ended:
	}
	select {
	case m := <-c.in:
		return m, nil
	default:
	}
	c.finish(c.other.there, message.ErrTruncated)
	return nil, c.err
}

func (c *conn) WriteMessage(ctx context.Context, buf []byte, off int) error {
	if len(buf)-off > testMax {
		return message.ErrTooLarge
	}
	m := append([]byte(nil), buf[off:]...)
	select {
	case <-c.ended:
		return c.writeErr()
	default:
	}
	select {
	case c.out <- m:
		return nil
	case <-c.ended:
		return c.writeErr()
	case <-c.other.ended:
		return nil // it vanishes, as over TCP
	case <-ctx.Done():
		c.finish(message.ErrTruncated, message.ErrTruncated)
		return ctx.Err()
	}
}

func (c *conn) writeErr() error {
	if c.err == io.EOF {
		return &message.CloseError{Code: message.OK, Remote: true}
	}
	return c.err
}

func (c *conn) MaxMessage() int    { return testMax }
func (c *conn) RTT() time.Duration { return c.rtt }
func (c *conn) Kill(err error)     { c.finish(err, message.ErrTruncated) }
func (c *conn) CutShort()          { c.finish(net.ErrClosed, message.ErrTruncated) }

func (c *conn) Close(code message.Code, reason string) error {
	var there error = &message.CloseError{Code: code, Reason: reason, Remote: true}
	if code == message.OK {
		there = io.EOF
	}
	c.finish(net.ErrClosed, there)
	return nil
}

func (c *conn) Probe(within time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probes = append(c.probes, within)
}

func (c *conn) probed() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration(nil), c.probes...)
}

// lose has both ends see a lost connection.
func (c *conn) lose(err error) {
	c.finish(err, err)
	c.other.finish(err, err)
}

// An actor is the other end of a session, played by hand.
type actor struct {
	t *testing.T
	*conn
}

// send writes a segment of any kind.
func (a actor) send(typ byte, rest ...byte) {
	a.t.Helper()
	buf := append(make([]byte, message.Headroom), typ)
	if err := a.WriteMessage(a.t.Context(), append(buf, rest...), message.Headroom); err != nil {
		a.t.Fatalf("send: %v", err)
	}
}

func (a actor) number(typ byte, n uint64) {
	a.t.Helper()
	a.send(typ, binary.BigEndian.AppendUint64(nil, n)...)
}

// next is the next segment that comes, nil if none does.
func (a actor) next() []byte {
	synctest.Wait()
	select {
	case m := <-a.in:
		return m
	default:
		return nil
	}
}

// want checks which segments have come by now.
func (a actor) want(all ...string) {
	a.t.Helper()
	for _, w := range all {
		if m := a.next(); string(m) != w {
			a.t.Fatalf("got the segment %.40q, want %.40q", m, w)
		}
	}
	if m := a.next(); m != nil {
		a.t.Fatalf("got the segment %.40q behind all that are wanted", m)
	}
}

// gone is how the session has ended the connection, nil if it has not.
func (a actor) gone() error {
	synctest.Wait()
	select {
	case <-a.other.ended:
		return a.other.there
	default:
		return nil
	}
}

// rest is what has come by now, ACKs apart, and the last of those.
func (a actor) rest() (segments []string, acked uint64) {
	a.t.Helper()
	for m := a.next(); m != nil; m = a.next() {
		if m[0] != ack {
			segments = append(segments, string(m))
			continue
		}
		n := binary.BigEndian.Uint64(m[1:])
		if n <= acked {
			a.t.Errorf("ACK of %d after one of %d", n, acked)
		}
		acked = n
	}
	return segments, acked
}

func short(typ byte, n uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte{typ}, n))
}

// A tested is a session with an actor at its other end, and what its reader got.
type tested struct {
	*session.Session
	t   *testing.T
	cfg session.Config

	owner uint32 // number of the connection

	mu   sync.Mutex
	got  []string
	err  error // the reader's
	told []error
}

var testID = session.ID{1, 2, 3}

// newTested begins a session. It ends with the test.
func newTested(t *testing.T, cfg session.Config) (*tested, actor) {
	t.Helper()
	a, b := newConns(1 << 14)
	s := &tested{t: t, owner: 1}
	cfg.ID = testID
	cfg.Detached = func(why error, heard bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told = append(s.told, why)
	}
	s.cfg = cfg
	s.Session = session.New(a, cfg)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			m, err := s.ReadMessage(context.Background())
			s.mu.Lock()
			if err != nil {
				s.err = err
				s.mu.Unlock()
				return
			}
			s.got = append(s.got, string(m))
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		s.Close(message.Cancelled, "")
		<-read
	})
	return s, actor{t, b}
}

func (s *tested) write(what string) {
	s.t.Helper()
	if err := s.tryWrite(context.Background(), what); err != nil {
		s.t.Fatalf("write %.20q: %v", what, err)
	}
}

func (s *tested) tryWrite(ctx context.Context, what string) error {
	return s.WriteMessage(ctx, append(make([]byte, message.Headroom), what...), message.Headroom)
}

// delivered is what the reader has got since the last call.
func (s *tested) delivered() (got []string) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	got, s.got = s.got, nil
	return got
}

func (s *tested) readErr() error {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// answer has a server's session hand out another connection.
func (s *tested) answer(owner uint32, received uint64) *session.Answer {
	s.t.Helper()
	a, ok := s.Answer(&session.Request{Resume: true, ID: testID, Owner: owner, Received: received})
	if !ok {
		s.t.Fatalf("no answer to owner %d, received %d", owner, received)
	}
	return a
}

// resume gives a server's session a further connection whose client has taken so many segments, and a
// client's one whose server has.
func (s *tested) resume(received uint64) actor {
	s.t.Helper()
	a, b := newConns(1 << 14)
	if !s.resumeOver(a, received) {
		s.t.Fatal("not attached")
	}
	return actor{s.t, b}
}

func (s *tested) resumeOver(a *conn, received uint64) bool {
	s.t.Helper()
	if !s.cfg.Client {
		answer := s.answer(s.owner, received)
		s.owner = answer.Owner
		return s.Attach(a, answer.Owner, answer.Received, received)
	}
	r := s.Request()
	first, err := s.Resume(&session.Answer{Resumed: true, ID: testID, Owner: r.Owner + 1, Received: received})
	if err != nil {
		s.t.Fatalf("resume: %v", err)
	}
	a.out <- first
	return s.Attach(a, r.Owner+1, r.Received, received)
}

// lose loses the connection once what was on its way has come.
func (s *tested) lose(a actor) {
	synctest.Wait()
	a.lose(message.ErrTruncated)
	synctest.Wait()
}

func isRule(err error) bool {
	var closed *message.CloseError
	return errors.As(err, &closed) && closed.Code == message.ProtocolError
}

func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }
