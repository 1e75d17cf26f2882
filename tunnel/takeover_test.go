package tunnel_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// A second implementation resumes by hand, and does what it must not.

// A strangerSession is one that the stranger has begun.
type strangerSession struct {
	t       *testing.T
	server  *tunnel.Server
	address string
	id      keys.PublicKey
	static  *ecdh.PrivateKey
	session []byte // its id
	tunnel  *tunnel.Tunnel
}

func resumeField(id []byte, owner uint32, received uint64) []byte {
	b := binary.BigEndian.AppendUint32(append([]byte{1}, id...), owner)
	return binary.BigEndian.AppendUint64(b, received)
}

func (s *strangerSession) hello(field []byte) *strangerHello {
	s.t.Helper()
	return helloStranger(s.t, s.address, "s", s.id, s.static, 3, field, 4096)
}

// resume asks to resume, and checks the answer. The caller sends the first record.
func (s *strangerSession) resume(owner uint32, received uint64, want uint32, taken uint64) *socket {
	s.t.Helper()
	socket, _, answer := s.hello(resumeField(s.session, owner, received)).accepted(s.t)
	wanted := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(append([]byte{1}, s.session...), want), taken)
	if len(answer) != 33 || !bytes.Equal(answer[:29], wanted) {
		s.t.Fatalf("the answer is %x, want %x and a lifetime", answer, wanted)
	}
	return socket
}

// begin has the stranger's first connection open a stream, and lose it.
func beginStranger(t *testing.T) (*strangerSession, *socket, *tunnel.Stream) {
	t.Helper()
	s := &strangerSession{t: t, static: must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))}
	s.server, s.address, s.id = strangerServer(t, s.static)
	socket, _, answer := s.hello([]byte{0}).accepted(t)
	s.session = answer[1:17]
	s.send(socket, "\x0401234567", string(exampleData))
	if p := nextData(t, socket); p != "\x0501234567" {
		t.Fatalf("got %x, want the PONG", p)
	}
	s.tunnel = must[*tunnel.Tunnel](t)(s.server.Accept(t.Context()))
	in := must[*tunnel.Incoming](t)(s.tunnel.AcceptStream(t.Context()))
	stream := must[*tunnel.Stream](t)(in.Accept())
	if err := socket.streams("\x02\x01\x80\x04\x00\x00"); err != nil { // OPENED, segment 1
		t.Fatal(err)
	}
	return s, socket, stream
}

func (s *strangerSession) send(to *socket, records ...string) {
	s.t.Helper()
	for _, r := range records {
		if err := to.send([]byte(r)); err != nil {
			s.t.Fatal(err)
		}
	}
}

func record(typ byte, n uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte{1, typ}, n))
}

func more(text string) string { return "\x01\x01\x04\x01" + string(rune(len(text))) + text } // DATA of stream 1

// reads checks what comes next on a stream.
func reads(t *testing.T, s io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != want {
		t.Errorf("the server read %q, %v; want %q", got, err, want)
	}
}

// nextData is the next segment but ACK.
func nextData(t *testing.T, s *socket) string {
	t.Helper()
	p, err := s.next()
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// A resume that is not right is answered with unknown and a new session, and changes nothing; the right one
// goes on.
func TestStrangerResumesWrongly(t *testing.T) {
	s, socket, stream := beginStranger(t)
	reads(t, stream, "hi")
	if err := socket.ack(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server has the ACK", func() bool { return s.tunnel.Stats().WaitingBytes == 0 })
	must[int](t)(stream.Write([]byte("second")))
	if err := socket.streams("\x04\x01\x06second"); err != nil {
		t.Fatal(err)
	}

	another := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))
	s.server.Peers.(*keys.PeerSet).Add(keys.Peer{Name: "other", Key: keys.PublicKey(another.PublicKey().Bytes())})
	wrong := []struct {
		name  string
		field []byte
		key   *ecdh.PrivateKey
		max   uint32
	}{
		{"another id", resumeField(make([]byte, 16), 1, 1), s.static, 4096},
		{"another key", resumeField(s.session, 1, 1), another, 4096},
		{"another max", resumeField(s.session, 1, 1), s.static, 8192},
		{"a lower owner", resumeField(s.session, 0, 1), s.static, 4096},
		{"a higher owner", resumeField(s.session, 2, 1), s.static, 4096},
		{"fewer than acknowledged", resumeField(s.session, 1, 0), s.static, 4096},
		{"more than sent", resumeField(s.session, 1, 3), s.static, 4096},
	}
	for _, w := range wrong {
		t.Run(w.name, func(t *testing.T) {
			_, _, answer := helloStranger(t, s.address, "s", s.id, w.key, 3, w.field, w.max).accepted(t)
			if answer[0] != 2 || bytes.Equal(answer[1:17], s.session) || !bytes.Equal(answer[17:29], []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}) {
				t.Errorf("the answer is %x, want unknown and a new session", answer)
			}
		})
	}
	malformed := [][]byte{{}, {1}, {2}, {0, 0}, resumeField(s.session, 1, 1)[:28], append(resumeField(s.session, 1, 1), 0)}
	for _, field := range malformed {
		if reason, _ := s.hello(field).refused(t); reason != byte(tunnel.BadPayload) {
			t.Errorf("the field %x is refused for the reason %d, want %d", field, reason, tunnel.BadPayload)
		}
	}

	// The connection has been there all the time, and the right resume works.
	s.send(socket, more("third"))
	reads(t, stream, "third")
	next := s.resume(1, 1, 2, 2)
	s.send(next, record(5, 3), more("fourth"))
	if got := nextData(t, next); got != record(5, 2) {
		t.Errorf("got %x, want FROM 2", got)
	}
	if err := next.streams("\x04\x01\x06second"); err != nil {
		t.Error(err)
	}
	reads(t, stream, "fourth")
	if n := s.tunnel.Stats().Resumes; n != 1 {
		t.Errorf("%d resumes, want 1", n)
	}
}

// Of two resumes at once the higher number wins, also if it is confirmed first, and what the other one
// sends counts for nothing.
func TestStrangerResumesTwiceAtOnce(t *testing.T) {
	for _, higherFirst := range []bool{false, true} {
		t.Run(fmt.Sprint("higher first ", higherFirst), func(t *testing.T) {
			s, _, stream := beginStranger(t)
			two, three := s.resume(1, 1, 2, 1), s.resume(1, 1, 3, 1)
			if !higherFirst {
				s.send(two, record(5, 2), more("from two"))
				reads(t, stream, "hifrom two")
				s.send(three, record(5, 2), more("from two"), more("from three"))
				reads(t, stream, "from three")
			} else {
				s.send(three, record(5, 2), more("from three"))
				reads(t, stream, "hifrom three")
				s.send(two, record(5, 2), more("from two"))
			}
			for { // the lower one is ended
				if _, err := two.next(); err != nil {
					break
				}
			}
			s.send(three, more("more"))
			reads(t, stream, "more")
		})
	}
}

// A hello that is repeated gets nothing and changes nothing.
func TestStrangerRepeatsAResume(t *testing.T) {
	s, socket, stream := beginStranger(t)
	h := s.hello(resumeField(s.session, 1, 1))
	h.accepted(t) // and never confirmed
	for range 3 {
		_, _, resp := sendRequest(t, s.address, h.request)
		if resp.StatusCode != 404 || resp.Header.Get("Waxwire-Hello") != "" {
			t.Errorf("the answer is %s, %v", resp.Status, resp.Header)
		}
	}
	s.send(socket, more("still here"))
	reads(t, stream, "histill here")
	s.resume(1, 1, 3, 2)
}

// A session that was not asked for: status 2 is a session like any other, once it is confirmed.
func TestStrangerTakesTheNewSession(t *testing.T) {
	s, socket, _ := beginStranger(t)
	socket.Close()
	next, binding, answer := s.hello(resumeField(make([]byte, 16), 1, 0)).accepted(t)
	if answer[0] != 2 {
		t.Fatalf("the answer is %x", answer)
	}
	s.send(next, "\x0401234567", string(exampleData))
	tun := must[*tunnel.Tunnel](t)(s.server.Accept(t.Context()))
	in := must[*tunnel.Incoming](t)(tun.AcceptStream(t.Context()))
	if tun.Binding() != binding || in.Request().Target != "echo" {
		t.Errorf("the new tunnel has binding %x and asks for %v", tun.Binding(), in.Request())
	}
}
