package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

// Parse and then append is the identity.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{1})
	f.Add((&session.Request{Resume: true, ID: testID, Owner: 7, Received: 1 << 40}).Append(nil))
	f.Add((&session.Request{Resume: true}).Append([]byte{0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := session.ParseRequest(b)
		if (err == nil) != (r != nil) {
			t.Fatalf("request %v and error %v", r, err)
		}
		if err == nil && !bytes.Equal(r.Append(nil), b) {
			t.Errorf("%x was read as %+v, which is written as %x", b, *r, r.Append(nil))
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	begin := new(session.Request)
	resume := &session.Request{Resume: true, ID: testID, Owner: 7, Received: 9}
	for _, a := range []session.Answer{
		{ID: testID, Owner: 1, Lifetime: minute},
		{Unknown: true, ID: testID, Owner: 1, Lifetime: minute},
		{Resumed: true, ID: testID, Owner: 8, Received: 9, Lifetime: minute},
		{Resumed: true, ID: testID, Owner: 7, Received: 9},
	} {
		f.Add(a.Append(nil), true)
		f.Add(a.Append(nil), false)
	}
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, resumes bool) {
		r := begin
		if resumes {
			r = resume
		}
		a, err := session.ParseAnswer(b, r)
		switch {
		case (err == nil) != (a != nil):
			t.Fatalf("answer %v and error %v", a, err)
		case err != nil:
		case !bytes.Equal(a.Append(nil), b):
			t.Errorf("%x was read as %+v, which is written as %x", b, *a, a.Append(nil))
		case a.Resumed && (!resumes || a.ID != r.ID || a.Owner <= r.Owner):
			t.Errorf("%+v does not answer %+v", *a, *r)
		case !a.Resumed && (a.Unknown != resumes || a.Owner != 1 || a.Received != 0):
			t.Errorf("%+v does not answer %+v", *a, *r)
		}
	})
}

// An answer fits its request or is an error. PROTOCOL.md §6.3.
func TestParseAnswer(t *testing.T) {
	begin := new(session.Request)
	resume := &session.Request{Resume: true, ID: testID, Owner: 7, Received: 9}
	other := session.ID{9}
	tests := []struct {
		name   string
		answer session.Answer
		r      *session.Request
		ok     bool
	}{
		{"new", session.Answer{ID: testID, Owner: 1}, begin, true},
		{"new with another owner", session.Answer{ID: testID, Owner: 2}, begin, false},
		{"new with a count", session.Answer{ID: testID, Owner: 1, Received: 1}, begin, false},
		{"new to a resume", session.Answer{ID: testID, Owner: 1}, resume, false},
		{"unknown", session.Answer{Unknown: true, ID: other, Owner: 1}, resume, true},
		{"unknown with another owner", session.Answer{Unknown: true, ID: other, Owner: 8}, resume, false},
		{"unknown with a count", session.Answer{Unknown: true, ID: other, Owner: 1, Received: 1}, resume, false},
		{"unknown to a new one", session.Answer{Unknown: true, ID: other, Owner: 1}, begin, false},
		{"resumed", session.Answer{Resumed: true, ID: testID, Owner: 8, Received: 3}, resume, true},
		{"resumed with the same owner", session.Answer{Resumed: true, ID: testID, Owner: 7}, resume, false},
		{"resumed with another id", session.Answer{Resumed: true, ID: other, Owner: 8}, resume, false},
		{"resumed to a new one", session.Answer{Resumed: true, ID: testID, Owner: 8}, begin, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := test.answer.Append(nil)
			if len(b) != 33 {
				t.Errorf("it has %d bytes", len(b))
			}
			a, err := session.ParseAnswer(b, test.r)
			if (err == nil) != test.ok || err == nil && *a != test.answer {
				t.Errorf("read as %+v, %v", a, err)
			}
			for _, short := range [][]byte{b[:32], append(b, 0)} {
				if _, err := session.ParseAnswer(short, test.r); err == nil {
					t.Errorf("%d bytes were read", len(short))
				}
			}
			b[0] = 3
			if _, err := session.ParseAnswer(b, test.r); err == nil {
				t.Error("status 3 was read")
			}
		})
	}
	for _, size := range []int{0, 1, 2, 28, 29, 30} {
		for kind := range byte(3) {
			b := append([]byte{kind}, make([]byte, 29)...)[:size]
			ok := size == 1 && kind == 0 || size == 29 && kind == 1
			if _, err := session.ParseRequest(b); (err == nil) != ok {
				t.Errorf("a request of kind %d and %d bytes: %v", kind, size, err)
			}
		}
	}
}

// Whatever the other end sends, over however many connections: no panic, no data out of order, and no
// more memory than the bound.
func FuzzSession(f *testing.F) {
	f.Add([]byte("\x01\x03one\x01\x03two\x02\x01\x80\x81\x05\x01\x01\x03two\x04\x02\x00\x00"), true)
	f.Add([]byte("\x80\x80\x02\x02\x82\x05\x01\x80\x83\x05\x02\x01\x01x\x80"), false)
	f.Add([]byte("\x04\x02\x00\x00\x82\x05\x02\x81\x05\x01\x01\x01x"), false)
	f.Add([]byte("\x84\x80\x80\x85\x80"), true)
	f.Add(bytes.Repeat([]byte("\x02\x00"), 70), true)
	f.Fuzz(func(t *testing.T, ops []byte, client bool) {
		if len(ops) > 4096 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			s, a := newTested(t, session.Config{Client: client, Lifetime: minute})
			written := 0
			for len(ops) > 0 && s.Err() == nil {
				op := ops[0]
				ops = ops[1:]
				switch op {
				case 0x80:
					if s.Room() && s.tryWrite(t.Context(), "a segment of ours") == nil {
						written++
					}
				case 0x81, 0x82, 0x83: // lost, or taken over, with a count that may be wrong
					if op == 0x81 {
						s.lose(a)
					} else if client {
						continue // it has given up the one before
					}
					if s.Err() != nil {
						return
					}
					received := uint64(0)
					if len(ops) > 0 {
						received = uint64(ops[0] % 8)
					}
					c, d := newConns(64)
					if s.tryResume(c, received) {
						a = actor{t, d}
					}
				case 0x84:
					go s.Close(message.OK, "")
				case 0x85:
					time.Sleep(time.Second)
				default:
					var rest []byte
					if op >= 0x40 { // with a length of its own
						n := min(int(op-0x40), len(ops))
						op, rest, ops = op%8, ops[:n], ops[n:]
					} else if op == ack || op == from {
						if len(ops) > 0 {
							rest, ops = binary.BigEndian.AppendUint64(nil, uint64(ops[0])), ops[1:]
						}
					} else if len(ops) > 0 {
						n := min(int(ops[0]), len(ops)-1)
						rest, ops = ops[1:1+n], ops[1+n:]
					}
					buf := append(make([]byte, message.Headroom), op)
					a.WriteMessage(t.Context(), append(buf, rest...), message.Headroom)
				}
				synctest.Wait()
				drain(a)
				if st := s.Stats(); st.Waiting > 18*written+3 { // and END
					t.Errorf("%d bytes are kept of %d segments", st.Waiting, written)
				}
			}
			s.Close(message.GoingAway, "")
			switch err := s.Err(); {
			case err == nil:
				t.Error("it has not ended")
			case err == io.EOF && !s.Clean():
				t.Error("a clean end that is not clean")
			}
			if st := s.Stats(); st.Waiting != 0 || st.Attached {
				t.Errorf("after the end: %+v", st)
			}
		})
	})
}

// drain throws away what came, so that no write waits.
func drain(a actor) {
	for {
		select {
		case <-a.in:
		default:
			return
		}
	}
}

// tryResume is resumeOver with a count that may be refused.
func (s *tested) tryResume(c *conn, received uint64) bool {
	if s.cfg.Client {
		r := s.Request()
		first, err := s.Resume(&session.Answer{Resumed: true, ID: testID, Owner: r.Owner + 1, Received: received})
		if err != nil {
			s.Lose(err)
			return false
		}
		c.out <- first
		return s.Attach(c, r.Owner+1, r.Received, received)
	}
	a, ok := s.Answer(&session.Request{Resume: true, ID: testID, Owner: s.owner, Received: received})
	if !ok {
		return false
	}
	s.owner = a.Owner
	return s.Attach(c, a.Owner, a.Received, received)
}

// The seeds of FuzzSession get where they should.
func TestFuzzSeedsDeliver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := newConns(64)
		s := session.New(a, session.Config{Client: true, ID: testID, Lifetime: minute})
		defer s.Close(message.GoingAway, "")
		p := actor{t, b}
		p.send(seg, []byte("one")...)
		p.send(from, []byte{0, 0, 0, 0, 0, 0, 0, 1}...)
		var got []string
		var err error
		for {
			var m []byte
			if m, err = s.ReadMessage(context.Background()); err != nil {
				break
			}
			got = append(got, string(m))
		}
		if !slices.Equal(got, []string{"one"}) || !errors.Is(err, message.ErrRule) {
			t.Errorf("got %q, %v", got, err)
		}
	})
}
