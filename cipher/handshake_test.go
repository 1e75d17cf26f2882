package cipher_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
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

// TestPatterns compares every pattern's messages with the specifications' text.
func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		messages      string
	}{
		{"NN", "Noise_NN_25519_ChaChaPoly_SHA256", "e | e ee"},
		{"XX", "Noise_XX_25519_ChaChaPoly_SHA256", "e | e ee s es | s se"},
		{"IK", "Noise_IK_25519_ChaChaPoly_SHA256", "e es s ss | e ee se"},
		{"NNpsk0", "Noise_NNpsk0_25519_ChaChaPoly_SHA256", "psk e | e ee"},
		{"NNpsk2", "Noise_NNpsk2_25519_ChaChaPoly_SHA256", "e | e ee psk"},
		{"XXpsk3", "Noise_XXpsk3_25519_ChaChaPoly_SHA256", "e | e ee s es | s se psk"},
		{"IKpsk1", "Noise_IKpsk1_25519_ChaChaPoly_SHA256", "e es s ss psk | e ee se"},
		{"IKpsk2", "Noise_IKpsk2_25519_ChaChaPoly_SHA256", "e es s ss | e ee se psk"},
		{"IKpsk1+psk2", "Noise_IKpsk1+psk2_25519_ChaChaPoly_SHA256", "e es s ss psk | e ee se psk"},
		{"IKhfs", "Noise_IKhfs_25519+MLKEM768_ChaChaPoly_SHA256", "e es e1 s ss | e ee ekem1 se"},
		{"IKhfs+psk2", "Noise_IKhfs+psk2_25519+MLKEM768_ChaChaPoly_SHA256", "e es e1 s ss | e ee ekem1 se psk"},
		{"XXhfs", "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256", "e e1 | e ee ekem1 s es | s se"},
		{"NNhfs+psk0", "Noise_NNhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256", "psk e e1 | e ee ekem1"},
	} {
		t.Run(tt.pattern, func(t *testing.T) {
			p, err := cipher.ParsePattern(tt.pattern)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := p.Messages()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, l := range lines {
				got = append(got, strings.Join(l, " "))
			}
			if got := strings.Join(got, " | "); got != tt.messages {
				t.Errorf("messages %q, want %q", got, tt.messages)
			}
			if got := cipher.ProtocolName(p, false); got != tt.name {
				t.Errorf("name %q, want %q", got, tt.name)
			}
			if p.String() != tt.pattern {
				t.Errorf("String %q, want %q", p, tt.pattern)
			}
		})
	}
	if n := len(allPatterns()); n != 2*(4+5+4) {
		t.Errorf("%d patterns with at most one psk, want 26", n)
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, name := range []string{
		"", "I", "IK ", "ik", "NK", "KK", "IK+psk2", "IKhfs+", "IKhfspsk2", "IKpsk2+hfs", "IKpsk3", "NNpsk3", "XXpsk4",
		"IKpsk", "IKpsk02", "IKpsk2+psk2", "IKpsk2+psk1", "IKhfs+hfs", "IKfallback", "IK+", "IKhfs++psk2", "IKhfs+psk2\x00",
	} {
		if p, err := cipher.ParsePattern(name); err == nil || p != "" {
			t.Errorf("ParsePattern(%q) = %q, %v, want an error", name, p, err)
		}
		if _, err := cipher.NewHandshake(cipher.HandshakeConfig{Pattern: cipher.Pattern(name)}); err == nil {
			t.Errorf("NewHandshake takes the pattern %q", name)
		}
	}
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

// TestTamper flips bits of every byte of every message. The message must be refused without a
// payload; where the pattern has no key yet, the next message.
func TestTamper(t *testing.T) {
	for _, tt := range []struct {
		pattern cipher.Pattern
		bits    []byte
	}{
		{cipher.IKhfs, []byte{0x01, 0x80, 0x10}},
		{cipher.IKhfsPSK2, []byte{0x04}},
		{"XXhfs", []byte{0x40}},
		{"NNhfs+psk0", []byte{0x02}},
		{"IK", []byte{0x01, 0x80}},
		{"XX", []byte{0x01, 0x80}},
		{"NN", []byte{0x01, 0x80}},
	} {
		t.Run(string(tt.pattern), func(t *testing.T) {
			t.Parallel()
			good := newTestPair(t, tt.pattern).shake(-1)
			for n := range good {
				for i := range good[n] {
					for _, bit := range tt.bits {
						bad := bytes.Clone(good[n])
						bad[i] ^= bit
						tamper(t, tt.pattern, good, n, bad)
						if t.Failed() {
							t.Fatalf("message %d, byte %d, bit %#x", n, i, bit)
						}
					}
				}
			}
		})
	}
}

// tamper reads bad in place of message n, and goes on for as long as nobody notices. As all secrets
// are fixed, the messages of the good run before n can be fed to the one end whose turn it is.
func tamper(t *testing.T, pattern cipher.Pattern, good [][]byte, n int, bad []byte) {
	t.Helper()
	p := newTestPair(t, pattern)
	for i := range n { // bring the reader alone to message n
		w, r := p.turn(i)
		_, reader := p.turn(n)
		var err error
		if w == reader {
			_, err = w.WriteMessage(nil, testPayload(i))
		} else {
			_, err = r.ReadMessage(nil, good[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_, reader := p.turn(n)
	payload, err := reader.ReadMessage(nil, bad)
	if err != nil {
		if err != cipher.ErrHandshake || payload != nil {
			t.Errorf("refused with %v and the payload %q, want %v and none", err, payload, cipher.ErrHandshake)
		}
		wantDead(t, reader, cipher.ErrHandshake)
		return
	}
	// Accepted: only a first message in clear may be, and then its answer is refused.
	if n != 0 || has(pattern, "IK") || has(pattern, "psk0") {
		t.Error("a changed message was accepted")
		return
	}
	p.step0(t)
	answer, err := reader.WriteMessage(nil, nil)
	if err != nil {
		return // the changed key turned out to be unusable
	}
	if _, err := p.initiator.ReadMessage(nil, answer); err != cipher.ErrHandshake {
		t.Errorf("the answer to a changed message gives %v, want %v", err, cipher.ErrHandshake)
	}
}

// step0 has the initiator write its first message.
func (p *testPair) step0(t *testing.T) {
	t.Helper()
	if _, err := p.initiator.WriteMessage(nil, testPayload(0)); err != nil {
		t.Fatal(err)
	}
}

// TestLengths cuts and extends every message at every length.
func TestLengths(t *testing.T) {
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, "IK", "XX", "NNpsk0"} {
		t.Run(string(pattern), func(t *testing.T) {
			t.Parallel()
			good := newTestPair(t, pattern).shake(-1)
			for n, msg := range good {
				step := 1
				if len(msg) > 500 {
					step = 7 // and at the edges of its parts
				}
				for size := 0; size < len(msg); size++ {
					if size%step == 0 || size > len(msg)-40 || size < 40 {
						tamper(t, pattern, good, n, msg[:size:size])
					}
				}
				for _, more := range []int{1, 15, 16, 17, 1184} {
					tamper(t, pattern, good, n, append(bytes.Clone(msg), make([]byte, more)...))
				}
				tamper(t, pattern, good, n, nil)
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
					h, turn = start()
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

// TestNoReuse: handshakes of the same two identities with the same payloads have no 16 bytes on the
// wire in common, nor a key or a binding.
func TestNoReuse(t *testing.T) {
	seen := map[string]string{}
	fresh := func(b []byte, what string) {
		t.Helper()
		if before, ok := seen[string(b)]; ok {
			t.Fatalf("%s repeats %s: %x", what, before, b)
		}
		seen[string(b)] = what
	}
	for run := range 200 {
		pattern := []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2}[run%2]
		p := newTestPair(t, pattern)
		for i := range p.fixed {
			p.fixed[i].Ephemeral, p.fixed[i].KEMSeed, p.fixed[i].EncapsRand = nil, nil, nil
		}
		p.reset()
		for n, msg := range p.shake(-1) {
			for at := 0; at+16 <= len(msg); at += 16 {
				fresh(msg[at:at+16], fmt.Sprintf("message %d of run %d at %d", n, run, at))
			}
		}
		binding := p.initiator.Binding()
		fresh(binding[:], fmt.Sprint("binding of run ", run))
		s, _, err := p.initiator.Split(cipher.AES256GCM)
		if err != nil {
			t.Fatal(err)
		}
		o, _, err := p.responder.Split(cipher.AES256GCM)
		if err != nil {
			t.Fatal(err)
		}
		for _, sealer := range []*cipher.Sealer{s, o} {
			record, err := sealer.Seal(nil, make([]byte, 32))
			if err != nil {
				t.Fatal(err)
			}
			fresh(record[:16], fmt.Sprint("first record of run ", run))
		}
	}
	if len(seen) < 200*150 {
		t.Errorf("only %d pieces compared", len(seen))
	}
}

// ikSecrets computes the transport secrets of IKhfs and IKhfs+psk2 from what was mixed in, with the
// standard library's HMAC: an implementation of its own.
func ikSecrets(pattern cipher.Pattern, inputs map[string][]byte) (initiator, responder []byte) {
	mac := func(key []byte, parts ...[]byte) []byte {
		m := hmac.New(sha256.New, key)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	name := sha256.Sum256([]byte("Noise_" + string(pattern) + "_25519+MLKEM768_ChaChaPoly_SHA256"))
	ck := name[:]
	order := []string{"es", "ss", "ee", "K", "se"}
	if pattern == cipher.IKhfsPSK2 {
		order = []string{"e", "es", "ss", "re", "ee", "K", "se", "psk"}
	}
	for _, input := range order {
		ck = mac(mac(ck, inputs[input]), []byte{1})
	}
	prk := mac(ck)
	initiator = mac(prk, []byte{1})
	return initiator, mac(prk, initiator, []byte{2})
}

// TestHybrid: the transport secrets need the X25519 results and ML-KEM's secret, each of them.
// Who knows all of one kind has nothing without the other.
func TestHybrid(t *testing.T) {
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2} {
		t.Run(string(pattern), func(t *testing.T) {
			p := newTestPair(t, pattern)
			p.shake(-1)
			c2s, s2c, err := p.initiator.SplitSecrets()
			if err != nil {
				t.Fatal(err)
			}
			dh := func(scalar, peer []byte) []byte {
				t.Helper()
				public, err := cipher.X25519Public(peer)
				if err != nil {
					t.Fatal(err)
				}
				secret, err := cipher.X25519(scalar, public)
				if err != nil {
					t.Fatal(err)
				}
				return secret
			}
			kemPublic, err := cipher.KEMPublic(p.fixed[0].KEMSeed)
			if err != nil {
				t.Fatal(err)
			}
			k, _, err := cipher.KEMEncapsulate(kemPublic, p.fixed[1].EncapsRand)
			if err != nil {
				t.Fatal(err)
			}
			e, err := cipher.X25519Public(p.fixed[0].Ephemeral)
			if err != nil {
				t.Fatal(err)
			}
			re, err := cipher.X25519Public(p.fixed[1].Ephemeral)
			if err != nil {
				t.Fatal(err)
			}
			inputs := map[string][]byte{
				"es":  dh(p.fixed[0].Ephemeral, p.fixed[1].Static),
				"ss":  dh(p.fixed[0].Static, p.fixed[1].Static),
				"ee":  dh(p.fixed[0].Ephemeral, p.fixed[1].Ephemeral),
				"se":  dh(p.fixed[0].Static, p.fixed[1].Ephemeral),
				"K":   k,
				"psk": p.config[0].PSK,
				"e":   e[:],
				"re":  re[:],
			}
			i, r := ikSecrets(pattern, inputs)
			if !bytes.Equal(i, c2s[:]) || !bytes.Equal(r, s2c[:]) {
				t.Fatalf("transport secrets %x, %x, want %x, %x", c2s, s2c, i, r)
			}
			needed := []string{"es", "ss", "ee", "se", "K"}
			if pattern == cipher.IKhfsPSK2 {
				needed = append(needed, "psk")
			}
			for _, missing := range needed {
				known := inputs[missing]
				inputs[missing] = make([]byte, 32)
				if i, r := ikSecrets(pattern, inputs); bytes.Equal(i, c2s[:]) || bytes.Equal(r, s2c[:]) {
					t.Errorf("the transport secrets do not depend on %s", missing)
				}
				inputs[missing] = known
			}

			// The same live: an attacker who has every secret of the client but one cannot even
			// open the answer.
			for _, tt := range []struct {
				name    string
				replace func(*cipher.Handshake) error
				opens   bool
			}{
				{"none", func(*cipher.Handshake) error { return nil }, true},
				{"X25519", func(h *cipher.Handshake) error { return h.ReplaceEphemeral(bytesOf("another e", 32)) }, false},
				{"ML-KEM", func(h *cipher.Handshake) error { return h.ReplaceKEM(bytesOf("another kem", 64)) }, false},
			} {
				p.reset()
				p.step(0)
				answer, err := p.responder.WriteMessage(nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := tt.replace(p.initiator); err != nil {
					t.Fatal(err)
				}
				if _, err := p.initiator.ReadMessage(nil, answer); (err == nil) != tt.opens {
					t.Errorf("without the ephemeral key of %s, reading the answer gives %v", tt.name, err)
				}
			}
		})
	}
}

// TestKEMKeyRefused: an encapsulation key that FIPS 203 refuses ends the handshake before anything
// is encapsulated to it, whoever sends it.
func TestKEMKeyRefused(t *testing.T) {
	good, err := cipher.KEMPublic(bytesOf("kem", 64))
	if err != nil {
		t.Fatal(err)
	}
	notReduced := bytes.Clone(good)
	notReduced[0], notReduced[1] = 0xff, notReduced[1]|0x0f // the first coefficient is 4095
	edge := bytes.Clone(good)
	edge[0], edge[1] = 0x01, edge[1]&0xf0|0x0d // 3329, the modulus itself
	for _, tt := range []struct {
		name string
		key  []byte
		ok   bool
	}{
		{"good", good, true},
		{"not reduced", notReduced, false},
		{"the modulus", edge, false},
		{"all ones", bytes.Repeat([]byte{0xff}, 1184), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTestPair(t, cipher.IKhfs)
			msg, err := p.initiator.WriteRogue(tt.key, nil)
			if err != nil {
				t.Fatal(err)
			}
			nn := newTestPair(t, "NNhfs")
			e, err := cipher.X25519Public(bytesOf("e", 32))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				name string
				h    *cipher.Handshake
				msg  []byte
			}{{"IKhfs", p.responder, msg}, {"NNhfs", nn.responder, append(e[:], tt.key...)}} {
				encapsulated := false
				c.h.SetEncapsulate(func(public *mlkem.EncapsulationKey768) ([]byte, []byte) {
					encapsulated = true
					return public.Encapsulate()
				})
				if _, err := c.h.ReadMessage(nil, c.msg); err != nil {
					t.Fatal(err) // the key is parsed at ekem1, not before
				}
				answer, err := c.h.WriteMessage(nil, []byte("secret"))
				if encapsulated != tt.ok {
					t.Errorf("%s: encapsulated %v, want %v", c.name, encapsulated, tt.ok)
				}
				if tt.ok {
					if err != nil {
						t.Errorf("%s: %v", c.name, err)
					}
					continue
				}
				if err != cipher.ErrHandshake || answer != nil {
					t.Errorf("%s: answer of %d bytes, %v, want %v", c.name, len(answer), err, cipher.ErrHandshake)
				}
				wantDead(t, c.h, cipher.ErrHandshake)
			}
		})
	}
}

// TestKEMPartsReplaced: somebody on the way strips, zeroes or replaces what makes the handshake
// hybrid. A responder that seals a wrong ciphertext gets no further either.
func TestKEMPartsReplaced(t *testing.T) {
	other, err := cipher.KEMPublic(bytesOf("attacker", 64))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(msg []byte, at, n int, with []byte) []byte {
		out := append(bytes.Clone(msg[:at]), with...)
		return append(out, msg[at+n:]...)
	}
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2, "XXhfs", "NNhfs"} {
		t.Run(string(pattern), func(t *testing.T) {
			good := newTestPair(t, pattern).shake(-1)
			seal := 0
			if has(pattern, "IK") {
				seal = cipher.Overhead
			}
			size := 1184 + seal
			for name, with := range map[string][]byte{
				"zeroed": make([]byte, size), "stripped": nil, "attacker's": append(bytes.Clone(other), make([]byte, seal)...),
			} {
				tamper(t, pattern, good, 0, replace(good[0], 32, size, with))
				if t.Failed() {
					t.Fatalf("encapsulation key %s", name)
				}
			}
			size = 1088 + cipher.Overhead
			for name, with := range map[string][]byte{"zeroed": make([]byte, size), "stripped": nil, "short": good[1][32 : 32+size-1]} {
				tamper(t, pattern, good, 1, replace(good[1], 32, size, with))
				if t.Failed() {
					t.Fatalf("ciphertext %s", name)
				}
			}
		})
	}
	for _, tt := range []struct {
		name       string
		ciphertext []byte
	}{
		{"random", bytesOf("ct", 1088)}, {"zero", make([]byte, 1088)}, {"short", make([]byte, 1087)}, {"long", make([]byte, 1089)}, {"empty", nil},
	} {
		t.Run("rogue responder/"+tt.name, func(t *testing.T) {
			p := newTestPair(t, cipher.IKhfs)
			p.step(0)
			p.responder.SetEncapsulate(func(*mlkem.EncapsulationKey768) (secret, ciphertext []byte) {
				return make([]byte, 32), tt.ciphertext
			})
			answer, err := p.responder.WriteMessage(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.initiator.ReadMessage(nil, answer); err != cipher.ErrHandshake {
				t.Errorf("the answer gives %v, want %v", err, cipher.ErrHandshake)
			}
			wantDead(t, p.initiator, cipher.ErrHandshake)
		})
	}
}

// lowOrderPoints are Wycheproof's: every encoding of a point with which X25519 gives zero.
func lowOrderPoints(t testing.TB) (points [][]byte) {
	t.Helper()
	data, err := os.ReadFile("testdata/wycheproof/x25519.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Public hexString
		Flags  []string
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, v := range vectors {
		for _, f := range v.Flags {
			if f == "LowOrderPublic" && !seen[string(v.Public)] {
				seen[string(v.Public)] = true
				points = append(points, v.Public)
			}
		}
	}
	if len(points) < 12 {
		t.Fatalf("%d low-order points, want at least 12", len(points))
	}
	return points
}

// TestLowOrder puts low-order points in the place of every key that a peer can send.
func TestLowOrder(t *testing.T) {
	for i, point := range lowOrderPoints(t) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			// A client's ephemeral key, in a message that is right otherwise: the DH is refused,
			// not the tag, which an attacker could make as the DH result is known.
			p := newTestPair(t, cipher.IKhfs)
			msg := append(bytes.Clone(point), make([]byte, 1264)...)
			if _, err := p.responder.ReadMessage(nil, msg); err != cipher.ErrHandshake {
				t.Errorf("IKhfs, e: %v, want %v", err, cipher.ErrHandshake)
			}
			// In clear it is read; it must not be answered.
			p = newTestPair(t, "NN")
			if _, err := p.responder.ReadMessage(nil, point); err != nil {
				t.Fatal(err)
			}
			if answer, err := p.responder.WriteMessage(nil, []byte("secret")); err != cipher.ErrHandshake || answer != nil {
				t.Errorf("NN, e: answered with %x, %v", answer, err)
			}
			wantDead(t, p.responder, cipher.ErrHandshake)
			// A server's ephemeral key.
			p = newTestPair(t, "NN")
			p.step0(t)
			if _, err := p.initiator.ReadMessage(nil, append(bytes.Clone(point), make([]byte, 16)...)); err != cipher.ErrHandshake {
				t.Errorf("NN, server's e: %v, want %v", err, cipher.ErrHandshake)
			}
			// A pinned server key.
			p = newTestPair(t, cipher.IKhfs)
			p.config[0].RemoteStatic = keys.PublicKey(point)
			h, err := cipher.NewFixedHandshake(p.config[0], p.fixed[0])
			if p.config[0].RemoteStatic == (keys.PublicKey{}) {
				if err == nil {
					t.Error("IKhfs: an empty server key is taken")
				}
			} else if err != nil {
				t.Fatal(err)
			} else if _, err := h.WriteMessage(nil, nil); err != cipher.ErrHandshake {
				t.Errorf("IKhfs, server key: %v, want %v", err, cipher.ErrHandshake)
			}
			// A client's static key, sealed rightly: a client that is nobody.
			p = newTestPair(t, "XX")
			p.fixed[0].Public = point
			p.reset()
			p.shake(2)
			msg, err = p.initiator.WriteMessage(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.responder.ReadMessage(nil, msg); err != cipher.ErrHandshake {
				t.Errorf("XX, client's s: %v, want %v", err, cipher.ErrHandshake)
			}
			wantDead(t, p.responder, cipher.ErrHandshake)
		})
	}
}

// TestLowOrderIsRefusedByItself: an attacker can compute the tag of a message whose DH gives zero, so
// that it is the DH that must refuse it. The client here believes in a server key of low order
// and computes as if X25519 had let it.
func TestLowOrderIsRefusedByItself(t *testing.T) {
	for _, point := range lowOrderPoints(t) {
		if secret, err := cipher.X25519(bytesOf("scalar", 32), keys.PublicKey(point)); err == nil {
			t.Errorf("X25519 with the point %x gives %x", point, secret)
		}
	}
}

// TestWipe: in every state, Wipe leaves no secret, and there was one to leave.
func TestWipe(t *testing.T) {
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2, "XXhfs+psk3"} {
		n := len(newTestPair(t, pattern).shake(-1))
		for state := range n + 1 {
			for end := range 2 {
				for _, how := range []string{"Wipe", "failure", "Split"} {
					t.Run(fmt.Sprintf("%v/after %d/end %d/%s", pattern, state, end, how), func(t *testing.T) {
						p := newTestPair(t, pattern)
						p.shake(state)
						h := [...]*cipher.Handshake{p.initiator, p.responder}[end]
						secrets := h.Secrets()
						for _, name := range []string{"ck", "psk", "aead", "e", "e1"} {
							want := name == "ck" || name == "psk" && has(pattern, "psk") ||
								name == "aead" && (state > 1 || state == 1 && !has(pattern, "XX")) ||
								name == "e" && (end == 0 && state > 0 || end == 1 && state > 1) ||
								name == "e1" && end == 0 && state == 1 // gone once it is used
							object, ok := secrets[name]
							if got := ok && !isZero(object); got != want && !(name == "aead" && has(pattern, "psk")) {
								t.Errorf("before: %s is there: %v, want %v", name, got, want)
							}
						}
						want := cipher.ErrWiped
						switch {
						case how == "Wipe":
							h.Wipe()
							h.Wipe()
						case how == "failure" && state < n && state%2 != end:
							want = cipher.ErrHandshake
							if _, err := h.ReadMessage(nil, []byte("junk")); err != want {
								t.Fatalf("junk gives %v", err)
							}
						case how == "Split" && state == n:
							if _, _, err := h.Split(cipher.ChaCha20Poly1305); err != nil {
								t.Fatal(err)
							}
							h.Wipe()
							wantZero(t, secrets)
							wantZero(t, h.Secrets())
							return
						default:
							return
						}
						wantZero(t, secrets)
						wantDead(t, h, want)
					})
				}
			}
		}
	}
}

// TestPanic: a panic inside a message's work wipes the handshake before it goes on.
func TestPanic(t *testing.T) {
	p := newTestPair(t, cipher.IKhfs)
	p.step(0)
	p.responder.SetEncapsulate(func(*mlkem.EncapsulationKey768) (secret, ciphertext []byte) { panic("odd") })
	secrets := p.responder.Secrets()
	func() {
		defer func() {
			if v := recover(); v == nil {
				t.Error("the panic is lost")
			}
		}()
		p.responder.WriteMessage(nil, nil)
	}()
	wantZero(t, secrets)
	wantDead(t, p.responder, cipher.ErrHandshake)
}

// TestPrintsNothing: no verb and no logger shows a secret.
func TestPrintsNothing(t *testing.T) {
	p := newTestPair(t, cipher.IKhfsPSK2)
	p.shake(-1)
	initiator, _, err := newTestPair(t, cipher.IKhfsPSK2).initiator.SplitSecrets()
	if err != cipher.ErrTurn || initiator != [32]byte{} {
		t.Fatalf("an unfinished handshake gave %x, %v", initiator, err)
	}
	s, o, err := p.initiator.Split(cipher.AES256GCM)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{p.initiator, p.responder, p.config[0], s, o} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if got := fmt.Sprintf(verb, v); !strings.HasPrefix(got, "cipher.") || len(got) > 60 {
				t.Errorf("%s of %T prints %.100q", verb, v, got)
			}
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", p.config[0])
	if !strings.Contains(log.String(), `"cipher.HandshakeConfig(IKhfs+psk2)"`) || strings.Contains(log.String(), "PSK") {
		t.Errorf("the log shows %s", log.String())
	}
}

// TestErrorsAreOne: an error says nothing about its cause.
func TestErrorsAreOne(t *testing.T) {
	for _, err := range []error{cipher.ErrHandshake, cipher.ErrOpen} {
		if errors.Unwrap(err) != nil || strings.Contains(err.Error(), "authentication") {
			t.Errorf("%v says too much", err)
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
