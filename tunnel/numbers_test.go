package tunnel

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
)

// Somebody who repeats a hello that resumes a session gets no number of it: they would run out.
func TestReplayTakesNoNumber(t *testing.T) {
	var id [2]*keys.Identity
	for i := range id {
		var err error
		if id[i], err = keys.Generate(); err != nil {
			t.Fatal(err)
		}
	}
	peers := new(keys.PeerSet)
	peers.Add(keys.Peer{Name: "client", Key: id[1].Public()})
	s := &Server{Identity: id[0], Peers: peers}
	s.init()
	defer s.Close()
	var sid session.ID
	kept := session.New(nullConn{}, session.Config{ID: sid, Lifetime: time.Minute})
	s.sessions.add(&held{id: sid, key: id[1].Public(), max: secure.DefaultMax, session: kept})

	request := session.Request{Resume: true, ID: sid, Owner: 1}
	hello, text, err := secure.NewHello(&secure.Config{Identity: id[1], Max: secure.DefaultMax}, id[0].Public(), "ws://h/", request.Append(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer hello.Wipe()
	for i := range 10 {
		v := s.decide(httptest.NewRequest(http.MethodGet, "/", nil), text)
		if (v.established != nil) != (i == 0) {
			t.Fatalf("hello %d was taken: %v", i, v.established != nil)
		}
		if v.established != nil {
			v.established.Wipe()
		}
	}
	if n := kept.Request().Owner; n != 2 {
		t.Errorf("numbers up to %d were given out, want 2", n)
	}
}

type nullConn struct{ session.Conn }

func (nullConn) MaxMessage() int { return secure.DefaultMax - 17 }
