package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

const minute = time.Minute

// What breaks a rule of PROTOCOL.md §6 ends the connection with CLOSE 2 and the session.
func TestRules(t *testing.T) {
	tests := []struct {
		name string
		play func(s *tested, a actor) actor
		rule bool // one is broken
	}{
		{"a segment", func(_ *tested, a actor) actor { a.send(seg, 'x'); return a }, false},
		{"an empty segment", func(_ *tested, a actor) actor { a.send(seg); return a }, true},
		{"type 0", func(_ *tested, a actor) actor { a.send(0, 'x'); return a }, true},
		{"type 6", func(_ *tested, a actor) actor { a.send(6, 'x'); return a }, true},
		{"a short ACK", func(_ *tested, a actor) actor { a.send(ack, 0, 0, 0, 0, 0, 0, 0); return a }, true},
		{"a long ACK", func(_ *tested, a actor) actor { a.send(ack, make([]byte, 9)...); return a }, true},
		{"an ACK of nothing", func(_ *tested, a actor) actor { a.number(ack, 0); return a }, false},
		{"an ACK of what was not sent", func(_ *tested, a actor) actor { a.number(ack, 1); return a }, true},
		{"an ACK of the largest number", func(_ *tested, a actor) actor { a.number(ack, 1<<64-1); return a }, true},
		{"an ACK", func(s *tested, a actor) actor {
			s.write("1")
			s.write("2")
			a.number(ack, 2)
			return a
		}, false},
		{"an ACK of less", func(s *tested, a actor) actor {
			s.write("1")
			s.write("2")
			a.number(ack, 2)
			a.number(ack, 1)
			return a
		}, true},
		{"FROM on the first connection", func(_ *tested, a actor) actor { a.number(from, 1); return a }, true},
		{"END", func(_ *tested, a actor) actor { a.send(end, 0, 0); return a }, false},
		{"END with a text", func(_ *tested, a actor) actor { a.send(end, 0, 0, 'b', 'y', 'e'); return a }, false},
		{"END of one byte", func(_ *tested, a actor) actor { a.send(end, 0); return a }, true},
		{"END with a text that is no UTF-8", func(_ *tested, a actor) actor { a.send(end, 0, 0, 0xff); return a }, true},
		{"END with a text of 120 bytes", func(_ *tested, a actor) actor {
			a.send(end, append([]byte{0, 0}, bytes.Repeat([]byte("x"), 120)...)...)
			return a
		}, false},
		{"END with a text of 121 bytes", func(_ *tested, a actor) actor {
			a.send(end, append([]byte{0, 0}, bytes.Repeat([]byte("x"), 121)...)...)
			return a
		}, true},
		{"a segment after END", func(_ *tested, a actor) actor { a.send(end, 0, 0); a.send(seg, 'x'); return a }, true},
		{"END after END", func(_ *tested, a actor) actor { a.send(end, 0, 0); a.send(end, 0, 0); return a }, true},

		{"resumed: FROM", func(s *tested, a actor) actor { return resumedWith(s, a, 0, short(from, 1)) }, false},
		{"resumed: FROM of the next", func(s *tested, a actor) actor {
			a.send(seg, 'x')
			return resumedWith(s, a, 0, short(from, 2))
		}, false},
		{"resumed: FROM past the next", func(s *tested, a actor) actor {
			a.send(seg, 'x')
			return resumedWith(s, a, 0, short(from, 3))
		}, true},
		{"resumed: FROM 0", func(s *tested, a actor) actor { return resumedWith(s, a, 0, short(from, 0)) }, true},
		{"resumed: FROM of the largest number", func(s *tested, a actor) actor { return resumedWith(s, a, 0, short(from, 1<<64-1)) }, true},
		{"resumed: a short FROM", func(s *tested, a actor) actor { return resumedWith(s, a, 0, "\x05\x01") }, true},
		{"resumed: FROM twice", func(s *tested, a actor) actor {
			return resumedWith(s, a, 0, short(from, 1), short(from, 1))
		}, true},
		{"resumed: a segment before FROM", func(s *tested, a actor) actor { return resumedWith(s, a, 0, "\x01x") }, true},
		{"resumed: an ACK before FROM", func(s *tested, a actor) actor { return resumedWith(s, a, 0, short(ack, 0)) }, true},
		{"resumed: a datagram before FROM", func(s *tested, a actor) actor { return resumedWith(s, a, 0, "\x03x") }, true},
		{"resumed: END that is known, twice", func(s *tested, a actor) actor {
			a.send(end, 0, 0)
			return resumedWith(s, a, 0, short(from, 1), "\x04\x00\x00", "\x04\x00\x00")
		}, true},
		{"resumed: END that is known", func(s *tested, a actor) actor {
			a.send(end, 0, 0)
			return resumedWith(s, a, 0, short(from, 1), "\x04\x00\x00")
		}, false},
		{"resumed: a lower ACK than on the connection before", func(s *tested, a actor) actor {
			s.write("1")
			s.write("2")
			a.number(ack, 2)
			return resumedWith(s, a, 2, short(from, 1), short(ack, 1))
		}, false},
	}
	for _, client := range []bool{false, true} {
		for _, test := range tests {
			t.Run(fmt.Sprintf("client %v/%s", client, test.name), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s, a := newTested(t, session.Config{Client: client, Lifetime: minute})
					a = test.play(s, a)
					gone := a.gone()
					if isRule(gone) != test.rule {
						t.Errorf("the connection ended with %v; rule broken: want %v", gone, test.rule)
					}
					if err := s.Err(); test.rule != errors.Is(err, message.ErrRule) {
						t.Errorf("the session ended with %v", err)
					}
				})
			})
		}
	}
}

// resumedWith loses the connection and sends segments over the next one.
func resumedWith(s *tested, a actor, received uint64, segments ...string) actor {
	s.t.Helper()
	s.lose(a)
	b := s.resume(received)
	for _, m := range segments {
		b.send(m[0], []byte(m[1:])...)
	}
	return b
}

// Segments that move nothing are counted. PROTOCOL.md §4.10.
func TestSegmentsThatMoveNothing(t *testing.T) {
	for _, typ := range []byte{ack, dgram} {
		for _, known := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				cfg := session.Config{Lifetime: minute}
				var datagrams int
				if known {
					cfg.Datagram = func([]byte) { datagrams++ }
				}
				s, a := newTested(t, cfg)
				for range 64 {
					a.number(typ, 0)
				}
				if err := a.gone(); err != nil {
					t.Fatalf("type %d: 64 at once ended the connection: %v", typ, err)
				}
				time.Sleep(time.Second) // 20 more
				for range 20 {
					a.number(typ, 0)
				}
				if err := a.gone(); err != nil {
					t.Fatalf("type %d: 20 a second ended the connection: %v", typ, err)
				}
				a.number(typ, 0)
				allowed := typ == dgram && known
				if err := a.gone(); isRule(err) == allowed {
					t.Errorf("type %d, handler %v: one more ended with %v", typ, known, err)
				}
				if allowed && datagrams != 85 {
					t.Errorf("%d of 85 datagrams arrived", datagrams)
				}
				if !allowed && !errors.Is(s.Err(), message.ErrRule) {
					t.Errorf("the session ended with %v", s.Err())
				}
			})
		}
	}
}

// An ACK leaves after 64 KiB, or 25 ms after a segment, and never twice for the same.
func TestWhenToAcknowledge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := newTested(t, session.Config{Lifetime: minute})
		a.send(seg, 'x')
		a.want()
		time.Sleep(24 * time.Millisecond)
		a.want()
		time.Sleep(time.Millisecond)
		a.want(short(ack, 1))
		time.Sleep(minute)
		a.want()

		big := make([]byte, 8191)
		for range 7 {
			a.send(seg, big...)
		}
		a.want()
		a.send(seg, big...) // 8 × 8192
		a.want(short(ack, 9))
		time.Sleep(minute)
		a.want()
		if n := len(s.delivered()); n != 9 {
			t.Errorf("%d of 9 segments were delivered", n)
		}
	})
}

// Datagrams are not counted, not kept and never sent again. Without a connection they are dropped.
func TestDatagrams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var got []string
		s, a := newTested(t, session.Config{Lifetime: minute, Datagram: func(p []byte) { got = append(got, string(p)) }})
		send := func(what string) bool {
			return s.SendDatagram(append(make([]byte, message.Headroom), what...), message.Headroom)
		}
		a.send(dgram, []byte("one")...)
		a.send(seg, 'x')
		a.send(dgram)
		if d := s.delivered(); !slices.Equal(d, []string{"x"}) || !slices.Equal(got, []string{"one", ""}) {
			t.Errorf("segments %q, datagrams %q", d, got)
		}
		if !send("out") || send(strings.Repeat("x", testMax)) {
			t.Error("which datagrams fit is wrong")
		}
		time.Sleep(minute)
		a.want("\x03out", short(ack, 1))
		if n := s.Stats().Waiting; n != 0 {
			t.Errorf("%d bytes wait", n)
		}
		s.lose(a)
		if send("lost") {
			t.Error("a datagram left without a connection")
		}
		b := s.resume(0)
		b.number(from, 2)
		b.want(short(from, 1))
		if d := s.Stats().Dropped; d != 2 {
			t.Errorf("%d datagrams were dropped, want 2", d)
		}
		if !send("again") {
			t.Error("no datagram leaves over the next connection")
		}
		b.want("\x03again")
	})
}
