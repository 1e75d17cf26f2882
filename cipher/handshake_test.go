package cipher_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

var testPrologue = []byte("waxwire/1\x00\x01\x00\x04test")

// allPatterns is every pattern that ParsePattern takes with at most one psk.
func allPatterns() []cipher.Pattern {
	var all []cipher.Pattern
	for _, base := range []string{"NN", "XX", "IK"} {
		for _, hfs := range []string{"", "hfs"} {
			for _, psk := range []string{"", "psk0", "psk1", "psk2", "psk3"} {
				name := base + hfs
				if psk != "" && hfs != "" {
					name += "+"
				}
				if p, err := cipher.ParsePattern(name + psk); err == nil {
					all = append(all, p)
				}
			}
		}
	}
	return all
}

func has(p cipher.Pattern, part string) bool { return strings.Contains(string(p), part) }

// bytesOf is n bytes that depend on the label alone.
func bytesOf(label string, n int) []byte {
	var out []byte
	for i := 0; len(out) < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", label, i))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// A testPair makes handshakes with all secrets fixed, so that what one end writes can be made again.
type testPair struct {
	t                    testing.TB
	pattern              cipher.Pattern
	config               [2]cipher.HandshakeConfig // initiator, responder
	fixed                [2]cipher.Fixed
	initiator, responder *cipher.Handshake
}

func newTestPair(t testing.TB, pattern cipher.Pattern) *testPair {
	p := &testPair{t: t, pattern: pattern}
	for i, role := range []string{"initiator", "responder"} {
		p.config[i] = cipher.HandshakeConfig{Pattern: pattern, Initiator: i == 0, Prologue: testPrologue}
		p.fixed[i] = cipher.Fixed{
			Ephemeral:  bytesOf(role+" e", 32),
			KEMSeed:    bytesOf(role+" kem", 64),
			EncapsRand: bytesOf(role+" m", 32),
		}
		if !has(pattern, "NN") {
			p.fixed[i].Static = bytesOf(role+" s", 32)
		}
		if has(pattern, "psk") {
			p.config[i].PSK = bytesOf("psk", 32)
		}
	}
	if has(pattern, "IK") {
		p.config[0].RemoteStatic = p.static(1)
	}
	p.reset()
	return p
}

// static is the public key of an end.
func (p *testPair) static(i int) keys.PublicKey {
	p.t.Helper()
	public, err := cipher.X25519Public(p.fixed[i].Static)
	if err != nil {
		p.t.Fatal(err)
	}
	return public
}

func (p *testPair) new(i int) *cipher.Handshake {
	p.t.Helper()
	h, err := cipher.NewFixedHandshake(p.config[i], p.fixed[i])
	if err != nil {
		p.t.Fatal(err)
	}
	return h
}

func (p *testPair) reset() { p.initiator, p.responder = p.new(0), p.new(1) }

// turn is who writes message n, and who reads it.
func (p *testPair) turn(n int) (writer, reader *cipher.Handshake) {
	if n%2 == 0 {
		return p.initiator, p.responder
	}
	return p.responder, p.initiator
}

func testPayload(n int) []byte { return fmt.Appendf(nil, "payload %d", n) }

// step passes message n on and returns it.
func (p *testPair) step(n int) []byte {
	p.t.Helper()
	w, r := p.turn(n)
	msg, err := w.WriteMessage(nil, testPayload(n))
	if err != nil {
		p.t.Fatalf("writing message %d: %v", n, err)
	}
	payload, err := r.ReadMessage(nil, msg)
	if err != nil {
		p.t.Fatalf("reading message %d: %v", n, err)
	}
	if !bytes.Equal(payload, testPayload(n)) {
		p.t.Fatalf("payload %d is %q, want %q", n, payload, testPayload(n))
	}
	return msg
}

// shake does the steps up to message n, not included; all of them if n is negative.
func (p *testPair) shake(n int) (messages [][]byte) {
	p.t.Helper()
	for i := 0; i != n && !p.initiator.Done(); i++ {
		messages = append(messages, p.step(i))
	}
	return messages
}

// wantDead checks that a handshake is over: every call gives want, and nothing that it knew holds.
func wantDead(t *testing.T, h *cipher.Handshake, want error) {
	t.Helper()
	if _, err := h.WriteMessage(nil, nil); err != want {
		t.Errorf("WriteMessage: %v, want %v", err, want)
	}
	if _, err := h.ReadMessage(nil, nil); err != want {
		t.Errorf("ReadMessage: %v, want %v", err, want)
	}
	if _, _, err := h.Split(cipher.AES256GCM); err != want {
		t.Errorf("Split: %v, want %v", err, want)
	}
	if _, ok := h.RemoteStatic(); ok {
		t.Error("a dead handshake still vouches for a static key")
	}
	if h.Done() {
		t.Error("a dead handshake is done")
	}
	if h.Binding() != [32]byte{} {
		t.Error("a dead handshake has a binding")
	}
	wantZero(t, h.Secrets())
}

// wantZero checks that every object is all zero.
func wantZero(t *testing.T, secrets map[string]any) {
	t.Helper()
	for name, object := range secrets {
		if !isZero(object) {
			t.Errorf("%s is not wiped", name)
		}
	}
}

func isZero(object any) bool {
	switch o := object.(type) {
	case *ecdh.PrivateKey:
		return bytes.Count(o.Bytes(), []byte{0}) == 32
	case *mlkem.DecapsulationKey768:
		return reflect.ValueOf(o).Elem().FieldByName("key").Elem().IsZero()
	}
	return reflect.ValueOf(object).Elem().IsZero()
}

// TestHandshake runs every pattern with every suite between two of our own ends.
func TestHandshake(t *testing.T) {
	for _, pattern := range allPatterns() {
		for _, suite := range []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305} {
			t.Run(fmt.Sprint(pattern, "/", suite), func(t *testing.T) {
				p := newTestPair(t, pattern)
				for i := range p.fixed { // fresh secrets here
					p.fixed[i].Ephemeral, p.fixed[i].KEMSeed, p.fixed[i].EncapsRand = nil, nil, nil
				}
				p.reset()
				if b := p.initiator.Binding(); b != [32]byte{} {
					t.Errorf("binding %x before the handshake", b)
				}
				p.shake(-1)
				if !p.initiator.Done() || !p.responder.Done() {
					t.Fatal("not done")
				}
				if p.initiator.Binding() != p.responder.Binding() || p.initiator.Binding() == [32]byte{} {
					t.Errorf("bindings %x and %x", p.initiator.Binding(), p.responder.Binding())
				}
				binding := p.initiator.Binding()
				s1, o1, err := p.initiator.Split(suite)
				if err != nil {
					t.Fatal(err)
				}
				s2, o2, err := p.responder.Split(suite)
				if err != nil {
					t.Fatal(err)
				}
				if !has(pattern, "NN") {
					for i, h := range []*cipher.Handshake{p.initiator, p.responder} {
						if got, ok := h.RemoteStatic(); !ok || got != p.static(1-i) {
							t.Errorf("end %d has the remote key %v, %v, want %v", i, got, ok, p.static(1-i))
						}
					}
				} else if _, ok := p.initiator.RemoteStatic(); ok {
					t.Error("NN knows a static key")
				}
				if p.initiator.Binding() != binding {
					t.Error("the binding did not outlive Split")
				}
				for range 3 {
					exchange(t, s1, o2)
					exchange(t, s2, o1)
				}
			})
		}
	}
}

// exchange passes one record.
func exchange(t testing.TB, s *cipher.Sealer, o *cipher.Opener) {
	t.Helper()
	want := fmt.Appendf(nil, "record %d of epoch %d", s.Records(), s.Epoch())
	record, err := s.Seal(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	if len(record) != len(want)+cipher.Overhead {
		t.Errorf("record of %d bytes, want %d", len(record), len(want)+cipher.Overhead)
	}
	got, err := o.Open(nil, record)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("opened %q, %v, want %q", got, err, want)
	}
}

// TestMessageSizes holds PROTOCOL.md §2: noise1 has 1296 bytes and its payload, noise2 1152.
func TestMessageSizes(t *testing.T) {
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2} {
		p := newTestPair(t, pattern)
		msg, err := p.initiator.WriteMessage([]byte("before"), make([]byte, 384))
		if err != nil || len(msg) != 6+1296+384 || string(msg[:6]) != "before" {
			t.Fatalf("%v: noise1 of %d bytes, %v, want 1296+384 after the 6 that were there", pattern, len(msg), err)
		}
		if _, err := p.responder.ReadMessage(nil, msg[6:]); err != nil {
			t.Fatal(err)
		}
		if msg, err = p.responder.WriteMessage(nil, make([]byte, 128)); err != nil || len(msg) != 1152+128 {
			t.Fatalf("%v: noise2 of %d bytes, %v, want 1152+128", pattern, len(msg), err)
		}
	}
	p := newTestPair(t, cipher.IKhfs)
	if _, err := p.initiator.WriteMessage(nil, make([]byte, cipher.MaxHandshakeMessage-1296+1)); err == nil {
		t.Error("a message longer than Noise allows was written")
	}
	p = newTestPair(t, "NN")
	if _, err := p.responder.ReadMessage(nil, make([]byte, cipher.MaxHandshakeMessage+1)); err != cipher.ErrHandshake {
		t.Errorf("a message longer than Noise allows: %v, want %v", err, cipher.ErrHandshake)
	}
}

func TestNewHandshakeRefuses(t *testing.T) {
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	type config = cipher.HandshakeConfig
	psk := bytesOf("psk", 32)
	for _, tt := range []struct {
		name string
		c    config
	}{
		{"no pattern", config{Static: id}},
		{"no static key, initiator", config{Pattern: cipher.IKhfs, Initiator: true, RemoteStatic: id.Public()}},
		{"no static key, responder", config{Pattern: cipher.IKhfs}},
		{"no static key, XX", config{Pattern: "XX"}},
		{"static key for nothing", config{Pattern: "NN", Static: id}},
		{"no remote key", config{Pattern: cipher.IKhfs, Initiator: true, Static: id}},
		{"remote key for nothing, XX", config{Pattern: "XX", Initiator: true, Static: id, RemoteStatic: id.Public()}},
		{"remote key for nothing, responder", config{Pattern: cipher.IKhfs, Static: id, RemoteStatic: id.Public()}},
		{"no psk", config{Pattern: cipher.IKhfsPSK2, Static: id}},
		{"no psk, initiator", config{Pattern: cipher.IKhfsPSK2, Static: id, Initiator: true, RemoteStatic: id.Public()}},
		{"no psk, psk0", config{Pattern: "NNpsk0"}},
		{"short psk", config{Pattern: cipher.IKhfsPSK2, Static: id, PSK: psk[:31]}},
		{"long psk", config{Pattern: cipher.IKhfsPSK2, Static: id, PSK: append(psk, 0)}},
		{"zero psk", config{Pattern: cipher.IKhfsPSK2, Static: id, PSK: make([]byte, 32)}},
		{"psk for nothing", config{Pattern: cipher.IKhfs, Static: id, PSK: psk}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if h, err := cipher.NewHandshake(tt.c); err == nil || h != nil {
				t.Errorf("NewHandshake gave %v, %v, want an error", h, err)
			}
		})
	}
}

// TestTurns makes every wrong call in every state of every pattern.
func TestTurns(t *testing.T) {
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2, "XX", "NNpsk2"} {
		n := len(newTestPair(t, pattern).shake(-1))
		for state := range n + 1 {
			for end := range 2 {
				t.Run(fmt.Sprintf("%v/after %d/end %d", pattern, state, end), func(t *testing.T) {
					good := newTestPair(t, pattern).shake(-1)
					start := func() (h *cipher.Handshake, turn bool) {
						p := newTestPair(t, pattern)
						p.shake(state)
						return [...]*cipher.Handshake{p.initiator, p.responder}[end], state%2 == end
					}
					h, turn := start()
					if state == n || !turn {
						if msg, err := h.WriteMessage(nil, nil); err != cipher.ErrTurn || msg != nil {
							t.Errorf("write out of turn: %x, %v", msg, err)
						}
						wantDead(t, h, cipher.ErrTurn)
					}
					_, turn = start()
					if state == n || turn {
						for _, msg := range good { // a repeated one, one from later, one's own
							h, _ = start()
							if payload, err := h.ReadMessage(nil, msg); err != cipher.ErrTurn || payload != nil {
								t.Errorf("read out of turn: %q, %v", payload, err)
							}
							wantDead(t, h, cipher.ErrTurn)
						}
					} else {
						for i, msg := range good { // another message than the next
							if i == state || state == 0 && (pattern == "XX" || pattern == "NNpsk2") {
								continue // the first message in clear can be any bytes
							}
							h, _ = start()
							if payload, err := h.ReadMessage(nil, msg); err != cipher.ErrHandshake || payload != nil {
								t.Errorf("message %d in place of %d: %q, %v", i, state, payload, err)
							}
							wantDead(t, h, cipher.ErrHandshake)
						}
					}
					h, _ = start()
					if state < n {
						if s, o, err := h.Split(cipher.AES256GCM); err != cipher.ErrTurn || s != nil || o != nil {
							t.Errorf("split after %d messages: %v, %v, %v", state, s, o, err)
						}
						wantDead(t, h, cipher.ErrTurn)
					} else {
						if s, o, err := h.Split(3); err == nil || s != nil || o != nil {
							t.Errorf("split for suite 3: %v, %v, %v", s, o, err)
						}
						if _, _, err := h.Split(cipher.AES256GCM); err == nil {
							t.Error("split after a failed one")
						}
						wantZero(t, h.Secrets())
						h, _ = start()
						if _, _, err := h.Split(cipher.AES256GCM); err != nil {
							t.Fatal(err)
						}
						if s, o, err := h.Split(cipher.AES256GCM); err != cipher.ErrWiped || s != nil || o != nil {
							t.Errorf("second split: %v, %v, %v", s, o, err)
						}
					}
				})
			}
		}
	}
}

// TestDisagreement: two ends that do not agree on something never finish.
func TestDisagreement(t *testing.T) {
	other := bytesOf("other", 32)
	for _, tt := range []struct {
		name    string
		pattern cipher.Pattern
		change  func(p *testPair)
	}{
		{"prologue", cipher.IKhfs, func(p *testPair) { p.config[0].Prologue = []byte("other") }},
		{"empty prologue", cipher.IKhfs, func(p *testPair) { p.config[0].Prologue = nil }},
		{"server key", cipher.IKhfs, func(p *testPair) { p.fixed[1].Static = other }},
		{"psk", cipher.IKhfsPSK2, func(p *testPair) { p.config[0].PSK = other }},
		{"psk0", "NNhfs+psk0", func(p *testPair) { p.config[0].PSK = other }},
		{"psk in one end only", cipher.IKhfsPSK2, func(p *testPair) { p.config[0].Pattern, p.config[0].PSK = cipher.IKhfs, nil }},
		{"psk in the other only", cipher.IKhfsPSK2, func(p *testPair) { p.config[1].Pattern, p.config[1].PSK = cipher.IKhfs, nil }},
		{"no hfs at the client", cipher.IKhfs, func(p *testPair) { p.config[0].Pattern = "IK" }},
		{"no hfs at the server", cipher.IKhfs, func(p *testPair) { p.config[1].Pattern = "IK" }},
		{"no hfs, XX", "XXhfs", func(p *testPair) { p.config[1].Pattern = "XX" }},
		{"handshake AEAD", "XX", func(p *testPair) { p.fixed[0].AESGCM = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTestPair(t, tt.pattern)
			p.shake(-1) // the control: it works as it is
			p = newTestPair(t, tt.pattern)
			tt.change(p)
			p.reset()
			for n := 0; ; n++ {
				w, r := p.turn(n)
				msg, err := w.WriteMessage(nil, testPayload(n))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.ReadMessage(nil, msg); err != nil {
					if err != cipher.ErrHandshake {
						t.Errorf("refused with %v, want %v", err, cipher.ErrHandshake)
					}
					wantDead(t, r, cipher.ErrHandshake)
					return
				}
				if r.Done() {
					t.Fatal("the handshake went through")
				}
			}
		})
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
