package secure_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/secure"
)

// hands are the two ends of a handshake that has not begun.
type hands struct {
	client, server *secure.Config
	invite         []byte
}

func newTestHands(t testing.TB) hands {
	return hands{
		client: &secure.Config{Identity: newTestIdentity(t), Max: secure.DefaultMax},
		server: &secure.Config{Identity: newTestIdentity(t), Max: secure.DefaultMax},
	}
}

func (h hands) hello(t testing.TB) (*secure.Hello, []byte) {
	t.Helper()
	hello, text, err := secure.NewHello(h.client, h.server.Identity.Public(), "wss://example.net/wax", []byte{0}, h.invite)
	if err != nil {
		t.Fatal(err)
	}
	return hello, text
}

func TestHandshakeAgrees(t *testing.T) {
	h := newTestHands(t)
	h.invite = []byte("0123456789abcdef")
	hello, text := h.hello(t)
	if len(text) != secure.HelloSize {
		t.Fatalf("the hello has %d bytes, want %d", len(text), secure.HelloSize)
	}
	opened, err := secure.OpenHello(h.server, text)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Peer != h.client.Identity.Public() || opened.URL != "wss://example.net/wax" || !bytes.Equal(opened.Session, []byte{0}) {
		t.Errorf("the hello was opened as %v %q %x", opened.Peer, opened.URL, opened.Session)
	}
	if opened.Invite == nil || *opened.Invite != keys.HashInvite(h.invite) {
		t.Errorf("the invite was opened as %v", opened.Invite)
	}
	answer, server, err := opened.Accept([]byte("session"))
	if err != nil {
		t.Fatal(err)
	}
	if len(answer) != secure.AnswerSize {
		t.Fatalf("the answer has %d bytes, want %d", len(answer), secure.AnswerSize)
	}
	client, err := hello.Finish(answer, true)
	if err != nil {
		t.Fatal(err)
	}
	if client.Binding != server.Binding || client.Suite != server.Suite || string(client.Session) != "session" {
		t.Errorf("the ends differ: %x %x, %v %v, session %q", client.Binding, server.Binding, client.Suite, server.Suite, client.Session)
	}
	client.Wipe()
	server.Wipe()
}

// An answer counts only with the HTTP status that it belongs to: a verdict cannot be made of a 101,
// nor a connection of a 404. PROTOCOL.md §2.
func TestAnswerMustFitItsStatus(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	tests := []struct {
		name     string
		refuse   bool
		accepted bool
		want     error
	}{
		{"accepting answer with a 101", false, true, nil},
		{"accepting answer with a 404", false, false, secure.ErrAnswer},
		{"refusal with a 404", true, false, &secure.RefusedError{Reason: secure.InviteUsed, Time: at}},
		{"refusal with a 101", true, true, secure.ErrAnswer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newTestHands(t)
			hello, text := h.hello(t)
			opened, err := secure.OpenHello(h.server, text)
			if err != nil {
				t.Fatal(err)
			}
			var answer []byte
			if test.refuse {
				answer, err = opened.Refuse(secure.InviteUsed, at)
			} else {
				answer, _, err = opened.Accept([]byte{0})
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = hello.Finish(answer, test.accepted)
			var refused *secure.RefusedError
			if errors.As(test.want, &refused) {
				var got *secure.RefusedError
				if !errors.As(err, &got) || *got != *refused {
					t.Errorf("got %v, want %v", err, test.want)
				}
			} else if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestHelloNeedsTheSameService(t *testing.T) {
	h := newTestHands(t)
	h.client.Service, h.server.Service = "blue", "green"
	_, text := h.hello(t)
	if _, err := secure.OpenHello(h.server, text); err == nil {
		t.Error("a hello for another service was opened")
	}
}

func TestSuiteChoice(t *testing.T) {
	const fast, both = 0x80, 3
	aes, chacha := cipher.AES256GCM, cipher.ChaCha20Poly1305
	auto := chacha
	if cipher.HasFastAES() {
		auto = aes
	}
	tests := []struct {
		name       string
		mask       byte
		configured cipher.Suite
		want       cipher.Suite
	}{
		{"both have fast AES, if we do", both | fast, 0, auto},
		{"the client's AES is slow", both, 0, chacha},
		{"only AES", 1, 0, aes},
		{"only ChaCha", 2 | fast, 0, chacha},
		{"configured", both | fast, chacha, chacha},
		{"configured, but not offered", 1 | fast, chacha, 0},
		{"nothing in common", fast, 0, 0},
		{"unknown bits are ignored", 0x7C | 2, 0, chacha},
	}
	for _, test := range tests {
		if got := secure.ChooseSuite(test.mask, test.configured); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestPayloadRules(t *testing.T) {
	field := func(typ byte, v ...byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{typ}, uint16(len(v))), v...)
	}
	join := func(fields ...[]byte) []byte { return bytes.Join(fields, nil) }
	suites, max := field(1, 3), field(3, 0, 2, 0, 0)
	tests := []struct {
		name string
		in   []byte
		ok   bool
	}{
		{"suites and max", join(suites, max), true},
		{"fill", join(suites, max, field(0x7F, 0, 0)), true},
		{"fill of no bytes", join(suites, field(0x7F)), true},
		{"unknown below 0x80", join(suites, field(0x20, 9)), true},
		{"unknown from 0x80", join(suites, field(0x80, 9)), false},
		{"descending", join(max, suites), false},
		{"twice", join(suites, suites), false},
		{"something behind fill", join(field(0x7F, 0), field(0x80)), false},
		{"fill that is not zero", field(0x7F, 0, 1), false},
		{"length beyond the end", []byte{1, 0, 2, 3}, false},
		{"cut in a header", []byte{1, 0}, false},
		{"no suite at all", field(1, 0), false},
		{"suite that does not exist", field(2, 3), false},
		{"max too small", field(3, 0, 0, 0x0F, 0xFF), false},
		{"smallest max", field(3, 0, 0, 0x10, 0), true},
		{"largest max", field(3, 0, 4, 0, 0), true},
		{"max too large", field(3, 0, 4, 0, 1), false},
		{"invite of 15 bytes", field(4, make([]byte, 15)...), false},
		{"invite of 16 bytes", field(4, make([]byte, 16)...), true},
		{"url of 255 bytes", field(5, bytes.Repeat([]byte{'a'}, 255)...), true},
		{"url of 256 bytes", field(5, bytes.Repeat([]byte{'a'}, 256)...), false},
		{"url that is not UTF-8", field(5, 0xFF), false},
		{"reason 0", field(8, make([]byte, 9)...), false},
	}
	for _, test := range tests {
		if _, err := secure.ParsePayload(test.in); (err == nil) != test.ok {
			t.Errorf("%s: error %v, want ok %v", test.name, err, test.ok)
		}
	}
}

func TestReplayCache(t *testing.T) {
	id := func(i int, kind byte) (h secure.HelloID) {
		binary.BigEndian.PutUint64(h[:], uint64(i))
		h[31] = kind
		return h
	}
	var c secure.ReplayCache
	for i := range secure.ReplayEnrolled {
		if !c.Insert(id(i, 1), true) {
			t.Fatalf("hello %d is said to be a repeat", i)
		}
	}
	// Strangers, as many as they like, push out no enrolled one.
	for i := range 2 * secure.ReplayRefused {
		c.Insert(id(i, 2), false)
	}
	for i := range secure.ReplayEnrolled {
		if c.Insert(id(i, 1), true) {
			t.Fatalf("the repeat of hello %d was not noticed", i)
		}
	}
	if c.Insert(id(2*secure.ReplayRefused-1, 2), false) || c.Insert(id(2*secure.ReplayRefused-1, 2), true) {
		t.Error("the repeat of a refused hello was not noticed")
	}
	// The oldest makes room.
	c.Insert(id(secure.ReplayEnrolled, 1), true)
	if !c.Insert(id(0, 1), true) {
		t.Error("the oldest hello is still there beside as many newer ones as fit")
	}
}

func TestPadding(t *testing.T) {
	const max = 4096
	for _, policy := range []secure.Padding{secure.PadBlock, secure.PadPadme} {
		for n := 1; n <= max; n++ {
			in := bytes.Repeat([]byte{1}, n)
			out := policy.AppendPadding(bytes.Clone(in), max)
			if len(out) > max {
				t.Fatalf("policy %d: %d bytes grew to %d", policy, n, len(out))
			}
			if out[0]&0x80 == 0 {
				if n < max-1 {
					t.Fatalf("policy %d: %d bytes were not padded", policy, n)
				}
				continue
			}
			body, ok := secure.RemovePadding(out[1:])
			if !ok || !bytes.Equal(body, in[1:]) {
				t.Fatalf("policy %d: %d bytes came back as %d", policy, n-1, len(body))
			}
			if over := float64(len(out)-n-2) / float64(n+2); policy == secure.PadPadme && over > 0.12 {
				t.Fatalf("Padmé made %d of %d bytes: %.0f %% more", len(out), n, 100*over)
			}
			if policy == secure.PadBlock && len(out)%64 != 0 && len(out) != max {
				t.Fatalf("%d bytes were padded to %d, no multiple of 64", n, len(out))
			}
		}
	}
	for _, bad := range [][]byte{{}, {0}, {0, 1}, {7, 0, 2}, {1, 1, 0, 1}} {
		if body, ok := secure.RemovePadding(bad); ok {
			t.Errorf("bad padding %x was taken, leaving %x", bad, body)
		}
	}
}

// FuzzPayload: whatever parses has bounded fields and survives being written again.
func FuzzPayload(f *testing.F) {
	for _, p := range []*secure.Payload{
		secure.NewPayload(0x83, secure.DefaultMax, "wss://example.net/wax", []byte{0}, secure.PadNone),
		secure.NewPayload(1, secure.MinMax, "", nil, secure.PadPadme),
	} {
		b, err := secure.AppendPayload(nil, p, secure.Payload1Size)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(append([]byte{1, 0, 1, 3, 4, 0, 16}, "0123456789abcdef"...))
	f.Add([]byte{8, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := secure.ParsePayload(b)
		if err != nil {
			return
		}
		out, err := secure.AppendPayload(nil, p, len(b)+64)
		if err != nil {
			t.Fatal(err)
		}
		again, err := secure.ParsePayload(out)
		if err != nil {
			t.Fatalf("%x was read, but not once written again as %x: %v", b, out, err)
		}
		if p.Fields() != again.Fields() {
			t.Fatalf("%v came back as %v", p.Fields(), again.Fields())
		}
	})
}

// FuzzOpenHello: no hello but the client's own opens, and none harms the server.
func FuzzOpenHello(f *testing.F) {
	h := newTestHands(f)
	_, good := h.hello(f)
	f.Add(good)
	f.Add(good[:100])
	f.Add(append([]byte{2}, good[1:]...))
	f.Add(make([]byte, secure.HelloSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		opened, err := secure.OpenHello(h.server, b)
		if err == nil {
			opened.Wipe()
			if !bytes.Equal(b, good) {
				t.Fatal("a hello that nobody sent was opened")
			}
		}
	})
}

// FuzzClose reads CLOSE records.
func FuzzClose(f *testing.F) {
	f.Add([]byte{0, 0})
	f.Add([]byte("\x00\x01restart"))
	f.Fuzz(func(t *testing.T, b []byte) {
		code, reason, ok := secure.ParseClose(b)
		if ok && !bytes.Equal(secure.AppendClose(nil, code, reason)[1:], b) {
			t.Fatalf("%x came back otherwise", b)
		}
	})
}
