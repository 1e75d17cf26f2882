package session_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

// What the other end has not taken is sent again, in order, with the same numbers and bytes.
func TestReplay(t *testing.T) {
	for _, client := range []bool{false, true} {
		for acked := range uint64(6) {
			for received := acked; received <= 5; received++ {
				t.Run(fmt.Sprintf("client %v, %d acknowledged, %d received", client, acked, received), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						s, a := newTested(t, session.Config{Client: client, Lifetime: minute})
						all := []string{}
						for i := range 5 {
							s.write(fmt.Sprint("segment ", i))
							all = append(all, fmt.Sprint("\x01segment ", i))
						}
						a.want(all...)
						if acked > 0 {
							a.number(ack, acked)
						}
						s.lose(a)
						s.write("in between")
						all = append(all, "\x01in between")
						b := s.resume(received)
						b.number(from, 1)
						b.want(append([]string{short(from, received+1)}, all[received:]...)...)
						resent := uint64(0)
						for _, m := range all[received:5] {
							resent += uint64(len(m))
						}
						if st := s.Stats(); st.Retransmitted != resent || st.Resumes != 1 || !st.Attached {
							t.Errorf("stats %+v, want %d bytes sent again", st, resent)
						}
						b.number(ack, 6)
						synctest.Wait()
						if n := s.Stats().Waiting; n != 0 {
							t.Errorf("%d bytes wait after the last ACK", n)
						}
					})
				})
			}
		}
	}
}

// What comes again is known by FROM and not delivered twice.
func TestKnownSegments(t *testing.T) {
	for number := uint64(1); number <= 4; number++ {
		bubble(t, func(t *testing.T) {
			s, a := newTested(t, session.Config{Lifetime: minute})
			for _, m := range []string{"1", "2", "3"} {
				a.send(seg, []byte(m)...)
			}
			s.lose(a)
			b := s.resume(0)
			b.number(from, number)
			for n := number; n <= 5; n++ {
				b.send(seg, []byte(fmt.Sprint(n))...)
				b.send(dgram, 'd') // between them; not counted
			}
			if got := s.delivered(); !slices.Equal(got, []string{"1", "2", "3", "4", "5"}) {
				t.Errorf("FROM %d: %q was delivered", number, got)
			}
			time.Sleep(time.Second)
			// How many ACKs there are is a matter of when FROM had left.
			if segments, acked := b.rest(); !slices.Equal(segments, []string{short(from, 1)}) || acked != 5 {
				t.Errorf("FROM %d: got the segments %q and an ACK of %d", number, segments, acked)
			}
		})
	}
}

// A resume is answered only if owner and count can be true, and a refusal changes nothing.
func TestAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		for range 4 {
			s.write("x")
		}
		a.number(ack, 2)
		s.lose(a)
		s.write("not sent")
		refuses := func(owner uint32, received uint64) {
			t.Helper()
			if answer, ok := s.Answer(&session.Request{Resume: true, ID: testID, Owner: owner, Received: received}); ok {
				t.Errorf("owner %d, received %d: answered with %+v", owner, received, answer)
			}
		}
		refuses(0, 2)
		refuses(2, 2)
		refuses(1, 1)
		refuses(1, 5)
		refuses(1<<32-1, 2)
		refuses(1, 1<<64-1)
		for _, received := range []uint64{2, 3, 4} {
			want := session.Answer{Resumed: true, ID: testID, Owner: uint32(received), Lifetime: minute}
			if answer := s.answer(1, received); *answer != want {
				t.Errorf("got %+v, want %+v", *answer, want)
			}
		}
		s.answer(4, 2) // a number that was handed out, of a connection that has not been confirmed
		c, d := newConns(64)
		if !s.Attach(c, 3, 0, 4) {
			t.Fatal("not attached")
		}
		refuses(2, 4)
		refuses(3, 3) // the ACKs of the confirmed request count
		s.answer(3, 4)
		actor{t, d}.want(short(from, 5), "\x01not sent")
	})
}

// A client takes no answer with a count that cannot be.
func TestResumeWithWrongCounts(t *testing.T) {
	for received, ok := range []bool{false, true, true, false} {
		bubble(t, func(t *testing.T) {
			s, a := newTested(t, session.Config{Client: true, Lifetime: minute})
			s.write("1")
			s.write("2")
			a.number(ack, 1)
			s.lose(a)
			r := s.Request()
			if want := (session.Request{Resume: true, ID: testID, Owner: 1}); *r != want {
				t.Errorf("request %+v, want %+v", *r, want)
			}
			_, err := s.Resume(&session.Answer{Resumed: true, ID: testID, Owner: 7, Received: uint64(received)})
			var closed *message.CloseError
			if (err == nil) != ok || !ok && (!errors.As(err, &closed) || closed.Code != message.SessionLost) {
				t.Errorf("received %d: %v", received, err)
			}
			if want := map[bool]uint32{true: 7, false: 1}[ok]; s.Request().Owner != want {
				t.Errorf("the next request has owner %d, want %d", s.Request().Owner, want)
			}
		})
	}
}

// The higher number owns the session, whichever is faster. From then on nothing from the older connection
// counts, and it is ended.
func TestTakeover(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		s.write("held")
		a.send(seg, '1')
		synctest.Wait()
		two, three := s.answer(1, 0), s.answer(1, 0)

		c3, d3 := newConns(64)
		a.send(seg, '2') // counts: it was read before the takeover
		synctest.Wait()
		if !s.Attach(c3, three.Owner, three.Received, 0) {
			t.Fatal("the higher number was refused")
		}
		begin := time.Now()
		if a.gone() == nil || time.Since(begin) > 0 {
			t.Error("the older connection is still there")
		}
		c2, _ := newConns(64)
		if s.Attach(c2, two.Owner, two.Received, 0) {
			t.Error("a lower number took the session over")
		}
		if s.Attach(c2, three.Owner, three.Received, 0) {
			t.Error("the same number took the session over again")
		}
		b := actor{t, d3}
		b.number(from, 2) // by the answer, which said 1
		b.send(seg, '2')
		b.send(seg, '3')
		if got := s.delivered(); !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("%q was delivered", got)
		}
		time.Sleep(time.Second)
		if segments, acked := b.rest(); !slices.Equal(segments, []string{short(from, 1), "\x01held"}) || acked != 3 {
			t.Errorf("over the new connection came %q, %d acknowledged", segments, acked)
		}
		if n := len(s.told); n != 0 {
			t.Errorf("a takeover was called a loss %d times", n)
		}
	})
}

// Segments that wait in an older connection when it is taken over are dropped, also if it takes long to end.
func TestOldSegmentsAddNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		a.send(seg, '1')
		s.lose(a)
		slow, slowEnd := newConns(64)
		two, three := s.answer(1, 0), s.answer(1, 0)
		if !s.Attach(slow, two.Owner, two.Received, 0) {
			t.Fatal("not attached")
		}
		old := actor{t, slowEnd}
		old.number(from, 2)
		synctest.Wait()
		fast, fastEnd := newConns(64)
		// All of this is in the older connection when the other one comes.
		old.send(seg, '2')
		old.number(ack, 0)
		old.send(end, 0, 0)
		if !s.Attach(fast, three.Owner, three.Received, 0) {
			t.Fatal("not attached")
		}
		b := actor{t, fastEnd}
		b.number(from, 2)
		b.send(seg, '2')
		b.send(seg, '3')
		got := s.delivered()
		if !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("%q was delivered", got)
		}
		if s.Err() != nil || b.gone() != nil {
			t.Errorf("session %v, connection %v", s.Err(), b.gone())
		}
	})
}

// A writer that is stuck in a connection goes on over the one that takes over.
func TestTakeoverOfAStuckWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		s.lose(a)
		c, d := newConns(0) // nobody reads
		if !s.resumeOver(c, 0) {
			t.Fatal("not attached")
		}
		for _, m := range []string{"1", "2", "3"} {
			s.write(m)
		}
		synctest.Wait()
		b := s.resume(0)
		b.number(from, 1)
		b.want(short(from, 1), "\x011", "\x012", "\x013")
		if (actor{t, d}).gone() == nil {
			t.Error("the stuck connection is still there")
		}
	})
}

// Without a lifetime a lost connection is a lost session.
func TestNoLifetime(t *testing.T) {
	for _, client := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s, a := newTested(t, session.Config{Client: client})
			s.lose(a)
			if err := s.readErr(); err != message.ErrTruncated || s.Err() != err || s.Clean() {
				t.Errorf("read %v, session %v, clean %v", err, s.Err(), s.Clean())
			}
			if err := s.tryWrite(t.Context(), "x"); err != message.ErrTruncated {
				t.Errorf("write: %v", err)
			}
			if len(s.told) != 0 {
				t.Error("it was called detached")
			}
		})
	}
}

// How a connection ends, and what that is for the session. PROTOCOL.md §6.13.
func TestEndsOfConnections(t *testing.T) {
	closed := func(c message.Code) error { return &message.CloseError{Code: c, Remote: true} }
	tests := []struct {
		name           string
		err            error
		client, server bool // whether the session goes on
	}{
		{"lost", message.ErrTruncated, true, true},
		{"CLOSE 0 without END", io.EOF, false, false},
		{"going away", closed(message.GoingAway), true, false},
		{"protocol error", closed(message.ProtocolError), false, false},
		{"removed", closed(message.PeerRemoved), false, false},
		{"an unknown code", closed(77), false, false},
		{"a bad record", message.ErrRecord, true, true},
		{"a broken rule", message.ErrRule, false, false},
	}
	for _, test := range tests {
		for _, client := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				s, a := newTested(t, session.Config{Client: client, Lifetime: minute})
				a.lose(test.err)
				err := s.readErr()
				goesOn := map[bool]bool{true: test.client, false: test.server}[client]
				if goesOn != (err == nil) || goesOn != (len(s.told) == 1) || s.Clean() {
					t.Errorf("%s, client %v: reader %v, detached %v, clean %v", test.name, client, err, s.told, s.Clean())
				}
				if err == io.EOF {
					t.Errorf("%s, client %v: a clean end", test.name, client)
				}
			})
		}
	}
}

// Three connections in a row that end in a bad record are enough, if nothing new has come.
func TestBadRecords(t *testing.T) {
	tests := []struct {
		name string
		ends string // b: bad record, n: something new and then a bad record, l: lost
		lost bool
	}{
		{"two", "bb", false},
		{"three", "bbb", true},
		{"something new in between", "bbnbn", false},
		{"and then three", "bbnbb", true},
		{"another end in between", "bblbb", false},
		{"three behind another end", "blbbb", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, a := newTested(t, session.Config{Lifetime: minute})
				count := uint64(0)
				for i, e := range test.ends {
					if s.Err() != nil {
						t.Fatalf("lost at %d: %v", i, s.Err())
					}
					if i > 0 {
						a = s.resume(0)
						a.number(from, count+1)
					}
					if e == 'n' {
						a.send(seg, 'x')
						count++
					}
					synctest.Wait()
					a.lose(map[rune]error{'b': message.ErrRecord, 'n': message.ErrRecord, 'l': message.ErrTruncated}[e])
					synctest.Wait()
				}
				var closed *message.CloseError
				if lost := errors.As(s.Err(), &closed) && closed.Code == message.SessionLost; lost != test.lost {
					t.Errorf("the session ended with %v, want lost: %v", s.Err(), test.lost)
				}
			})
		})
	}
}

// A session that is lost, or ended otherwise, while a connection attaches leaves none behind.
func TestNoConnectionIsLeftBehind(t *testing.T) {
	ends := map[string]func(s *tested){
		"lost":      func(s *tested) { s.Lose(message.ErrTruncated) },
		"cut short": func(s *tested) { s.CutShort() },
		"closed":    func(s *tested) { s.Close(message.GoingAway, "") },
	}
	for name, finish := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, a := newTested(t, session.Config{Lifetime: minute})
				two, three := s.answer(1, 0), s.answer(1, 0)
				s.lose(a)
				c, d := newConns(64)
				first, _ := newConns(64)
				attached := false
				slow := &hookConn{conn: first, hook: func() { attached = s.Attach(c, three.Owner, 0, 0) }}
				if !s.Attach(slow, two.Owner, 0, 0) {
					t.Fatal("not attached")
				}
				finish(s)
				if (actor{t, d}).gone() == nil && attached {
					t.Error("a connection that came meanwhile is still there")
				}
			})
		})
	}
}

// A hookConn calls hook once when it is ended.
type hookConn struct {
	*conn
	hook func()
}

func (c *hookConn) end() {
	if h := c.hook; h != nil {
		c.hook = nil
		h()
	}
}

func (c *hookConn) Kill(err error) { c.end(); c.conn.Kill(err) }
func (c *hookConn) CutShort()      { c.end(); c.conn.CutShort() }
func (c *hookConn) Close(code message.Code, reason string) error {
	c.end()
	return c.conn.Close(code, reason)
}
