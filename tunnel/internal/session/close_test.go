package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

const ourEnd = "\x04\x00\x00"

// A closing is a Close that is under way.
type closing struct {
	begin time.Time
	took  time.Duration
	done  chan struct{}
}

func (s *tested) closeSoon(code message.Code) *closing {
	c := &closing{begin: time.Now(), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		s.Close(code, "")
		c.took = time.Since(c.begin)
	}()
	synctest.Wait()
	return c
}

// wantEnd checks how the session has ended.
func (s *tested) wantEnd(err error, clean bool) {
	s.t.Helper()
	synctest.Wait()
	got := s.Err()
	if lost, ok := err.(*message.CloseError); ok {
		closed, isClosed := got.(*message.CloseError)
		if !isClosed || closed.Code != lost.Code {
			s.t.Errorf("the session ended with %v, want %v", got, err)
		}
	} else if got != err {
		s.t.Errorf("the session ended with %v, want %v", got, err)
	}
	if s.Clean() != clean || s.readErr() != got {
		s.t.Errorf("clean %v, want %v; its reader got %v", s.Clean(), clean, s.readErr())
	}
}

var (
	errLost  = &message.CloseError{Code: message.SessionLost}
	closedBy = func(c message.Code) string { return (&message.CloseError{Code: c, Remote: true}).Error() }
)

// The exchange of ENDs, in all orders, and with what can get lost of it. PROTOCOL.md §6.11.
func TestEnd(t *testing.T) {
	tests := []struct {
		name string
		play func(s *tested, a actor) (last actor, c *closing)
		took time.Duration // of Close
		gone string        // what the other end sees
		err  error
		ok   bool
	}{
		{"this end first", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			c := s.closeSoon(message.OK)
			a.want("\x01x", ourEnd)
			a.number(ack, 2)
			a.send(end, 0, 0)
			return a, c
		}, 0, "EOF", net.ErrClosed, true},
		{"this end first, acknowledged after the other END", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			c := s.closeSoon(message.OK)
			a.send(end, 0, 0)
			a.want("\x01x", ourEnd, short(ack, 1))
			time.Sleep(time.Second)
			a.number(ack, 2)
			return a, c
		}, time.Second, "EOF", net.ErrClosed, true},
		{"this end first, its END is never acknowledged", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			c := s.closeSoon(message.OK)
			a.number(ack, 1)
			a.send(end, 0, 0)
			return a, c
		}, 2 * time.Second, "EOF", net.ErrClosed, true},
		{"this end first, a segment is never acknowledged", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			c := s.closeSoon(message.OK)
			a.send(end, 0, 0)
			return a, c
		}, 2 * time.Second, closedBy(message.GoingAway), net.ErrClosed, false},
		{"this end first, the other END never comes", func(s *tested, a actor) (actor, *closing) {
			c := s.closeSoon(message.OK)
			a.number(ack, 1)
			return a, c
		}, 2 * time.Second, closedBy(message.GoingAway), net.ErrClosed, false},
		{"this end first, lost and resumed", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			c := s.closeSoon(message.OK)
			s.lose(a)
			time.Sleep(time.Second)
			b := s.resume(1)
			b.number(from, 1)
			b.want(short(from, 2), ourEnd)
			b.send(seg, 'y')
			b.send(end, 0, 0)
			b.number(ack, 2)
			return b, c
		}, time.Second, "EOF", net.ErrClosed, true},
		{"this end first, lost after the other END, resumed with all", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			c := s.closeSoon(message.OK)
			a.send(end, 0, 0)
			s.lose(a)
			time.Sleep(time.Second)
			b := s.resume(2)
			return b, c
		}, time.Second, "EOF", net.ErrClosed, true},
		{"without a connection", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			s.lose(a)
			return a, s.closeSoon(message.OK)
		}, 2 * time.Second, message.ErrTruncated.Error(), net.ErrClosed, false},
		{"with another code", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			return a, s.closeSoon(message.PeerRemoved)
		}, 0, closedBy(message.PeerRemoved), net.ErrClosed, false},
		{"with another code and without a connection", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			s.lose(a)
			return a, s.closeSoon(message.PeerRemoved)
		}, 0, message.ErrTruncated.Error(), net.ErrClosed, false},
		{"both at once", func(s *tested, a actor) (actor, *closing) {
			a.send(end, 0, 0)
			c := s.closeSoon(message.OK)
			a.number(ack, 1)
			a.Close(message.OK, "")
			return a, c
		}, 0, "", net.ErrClosed, true},
		{"both, and the other one is gone", func(s *tested, a actor) (actor, *closing) {
			c := s.closeSoon(message.OK)
			a.send(end, 0, 0)
			a.Close(message.OK, "")
			return a, c
		}, 0, "", net.ErrClosed, true},

		{"the other end first", func(s *tested, a actor) (actor, *closing) {
			a.send(seg, 'y')
			a.send(end, 0, 0)
			if segments, acked := a.rest(); !slices.Equal(segments, []string{ourEnd}) || acked != 2 {
				s.t.Errorf("the answer to END was %q, acknowledged %d", segments, acked)
			}
			a.number(ack, 1)
			a.Close(message.OK, "")
			return a, nil
		}, 0, "", io.EOF, true},
		{"the other end first, it does not acknowledge END", func(s *tested, a actor) (actor, *closing) {
			a.send(end, 0, 0)
			synctest.Wait()
			a.Close(message.OK, "")
			return a, nil
		}, 0, "", io.EOF, true},
		{"the other end first, something is on its way", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			a.send(end, 0, 0)
			a.want("\x01x", short(ack, 1))
			if err := s.tryWrite(s.t.Context(), "more"); err != net.ErrClosed {
				s.t.Errorf("a write after END: %v", err)
			}
			a.number(ack, 1)
			a.want(ourEnd)
			a.Close(message.OK, "")
			return a, nil
		}, 0, "", io.EOF, true},
		{"the other end first, and does not close", func(s *tested, a actor) (actor, *closing) {
			a.send(end, 0, 0)
			time.Sleep(2 * time.Second)
			return a, nil
		}, 0, "EOF", io.EOF, true},
		{"the other end first, lost before its CLOSE", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			a.send(end, 0, 0)
			a.number(ack, 1)
			if segments, acked := a.rest(); !slices.Equal(segments, []string{"\x01x", ourEnd}) || acked != 1 {
				s.t.Errorf("the answer to END was %q, acknowledged %d", segments, acked)
			}
			s.lose(a)
			time.Sleep(2 * time.Second)
			return a, nil
		}, 0, "", io.EOF, true},
		{"the other end first, lost before its ACK", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			a.send(end, 0, 0)
			s.lose(a)
			time.Sleep(2 * time.Second)
			return a, nil
		}, 0, "", errLost, false},
		{"the other end first, lost before its ACK and resumed", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			a.send(end, 0, 0)
			s.lose(a)
			time.Sleep(time.Second)
			b := s.resume(1)
			b.number(from, 2)
			b.want(short(from, 2), ourEnd)
			b.Close(message.OK, "")
			return b, nil
		}, 0, "", io.EOF, true},
		{"CLOSE before our END", func(s *tested, a actor) (actor, *closing) {
			s.write("x")
			a.send(end, 0, 0)
			a.Close(message.OK, "")
			return a, nil
		}, 0, "", message.ErrTruncated, false},
	}
	for _, client := range []bool{false, true} {
		for _, test := range tests {
			t.Run(fmt.Sprintf("client %v/%s", client, test.name), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s, a := newTested(t, session.Config{Client: client, Lifetime: minute})
					a, c := test.play(s, a)
					if c != nil {
						<-c.done
						if c.took != test.took {
							t.Errorf("Close took %v, want %v", c.took, test.took)
						}
					}
					s.wantEnd(test.err, test.ok)
					if gone := a.gone(); !strings.HasPrefix(fmt.Sprint(gone), test.gone) {
						t.Errorf("the other end sees %v, want %v", gone, test.gone)
					}
					want := test.err
					if want == io.EOF {
						want = &message.CloseError{Code: message.OK, Remote: true}
					}
					if err := s.tryWrite(t.Context(), "x"); fmt.Sprint(err) != fmt.Sprint(want) && want != errLost {
						t.Errorf("a write after the end: %v, want %v", err, want)
					}
					if n := s.Stats().Waiting; n != 0 {
						t.Errorf("%d bytes are kept after the end", n)
					}
				})
			})
		}
	}
}

// Close is over within its time however stuck the connection is, from any number of goroutines, again and
// again.
func TestCloseOfAStuckConnection(t *testing.T) {
	for _, code := range []message.Code{message.OK, message.GoingAway} {
		bubble(t, func(t *testing.T) {
			s, a := newTested(t, session.Config{Lifetime: minute})
			s.lose(a)
			c, _ := newConns(0)
			if !s.resumeOver(c, 0) {
				t.Fatal("not attached")
			}
			s.write("x")
			begin := time.Now()
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() { s.Close(code, "") })
			}
			all.Wait()
			s.Close(code, "")
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("%v: it took %v", code, took)
			}
			s.wantEnd(net.ErrClosed, false)
		})
	}
}

// CutShort ends a Close that takes its time.
func TestCutShort(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		c := s.closeSoon(message.OK)
		time.Sleep(time.Second)
		s.CutShort()
		<-c.done
		if c.took != time.Second || a.gone() != message.ErrTruncated {
			t.Errorf("it took %v, the other end sees %v", c.took, a.gone())
		}
		s.wantEnd(net.ErrClosed, false)
	})
}

// A session that has ended in order tells a client that comes back. PROTOCOL.md §6.14.
func TestEndedSessionIsRemembered(t *testing.T) {
	for _, received := range []uint64{1, 2} { // with and without our END
		t.Run(fmt.Sprint("received ", received), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, a := newTested(t, session.Config{Lifetime: minute})
				s.write("x")
				a.number(ack, 1)
				synctest.Wait()
				a.send(end, 0, 0)
				s.lose(a)
				time.Sleep(2 * time.Second)
				s.wantEnd(io.EOF, true)
				time.Sleep(30 * time.Second)

				if _, ok := s.Answer(&session.Request{Resume: true, ID: testID, Owner: 1, Received: 3}); ok {
					t.Error("a count of more than was sent was answered")
				}
				answer := s.answer(1, received)
				if answer.Received != 1 {
					t.Errorf("the answer says %d segments were received, want 1", answer.Received)
				}
				c, d := newConns(64)
				attached := make(chan bool)
				begin := time.Now()
				go func() { attached <- s.Attach(c, answer.Owner, answer.Received, received) }()
				b := actor{t, d}
				b.number(from, 2)
				want := []string{short(from, received+1)}
				if received == 1 {
					want = append(want, ourEnd)
				}
				b.want(want...)
				if !<-attached || time.Since(begin) > 2*time.Second {
					t.Errorf("not attached, after %v", time.Since(begin))
				}
				if gone := b.gone(); gone != io.EOF {
					t.Errorf("the client sees %v, want %v", gone, io.EOF)
				}
				if took := time.Since(begin); took > 0 {
					t.Errorf("the client had to wait %v for CLOSE 0", took)
				}
				// And once more, as that may get lost too.
				if again := s.answer(answer.Owner, received); again.Owner != answer.Owner+1 {
					t.Errorf("the next number is %d after %d", again.Owner, answer.Owner)
				}
			})
		})
	}
}

// A session that was lost is unknown.
func TestLostSessionIsNotAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		answer := s.answer(1, 0)
		s.Lose(message.ErrTruncated)
		if _, ok := s.Answer(&session.Request{Resume: true, ID: testID, Owner: 1}); ok {
			t.Error("it was answered")
		}
		c, _ := newConns(1)
		if s.Attach(c, answer.Owner, 0, 0) {
			t.Error("it was attached")
		}
		if !errors.Is(a.gone(), message.ErrTruncated) {
			t.Errorf("the other end sees %v", a.gone())
		}
		s.wantEnd(message.ErrTruncated, false)
	})
}

// A reader whose context ends returns while there is no connection, and can come again.
func TestReadWithoutConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := newConns(64)
		s := session.New(a, session.Config{ID: testID, Lifetime: minute})
		defer s.Close(message.GoingAway, "")
		b.lose(message.ErrTruncated)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.ReadMessage(ctx); err != context.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		answer, _ := s.Answer(&session.Request{Resume: true, ID: testID, Owner: 1})
		c, d := newConns(64)
		s.Attach(c, answer.Owner, 0, 0)
		actor{t, d}.number(from, 1)
		actor{t, d}.send(seg, 'x')
		if m, err := s.ReadMessage(t.Context()); string(m) != "x" || err != nil {
			t.Errorf("got %q, %v", m, err)
		}
	})
}
