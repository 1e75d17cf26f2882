package cipher_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

// TestTamper flips bits of every byte of every message. The message must be refused without a
// payload; where the pattern has no key yet, the next message. In patterns that waxwire does not
// speak on the wire, every seventh byte of a long middle part will do.
func TestTamper(t *testing.T) {
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2, "XXhfs", "NNhfs+psk0", "IK", "XX", "NN"} {
		t.Run(string(pattern), func(t *testing.T) {
			t.Parallel()
			good := newTestPair(t, pattern).shake(-1)
			for n := range good {
				for i := range good[n] {
					bits := []byte{1 << (i % 8)}
					if i < 48 || i >= len(good[n])-64 { // keys, tags and payload; between is the KEM's part
						bits = []byte{0x01, 0x10, 0x80}
					} else if !has(pattern, "IKhfs") && i%7 != 0 {
						continue // not on the wire of version 1
					}
					for _, bit := range bits {
						bad := bytes.Clone(good[n])
						bad[i] ^= bit
						tamper(t, pattern, good, n, bad)
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
			msg, err := p.initiator.WriteRogue(nil, tt.key, nil)
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
			// A client's ephemeral key. The result of the DH would be zero, so an attacker can make
			// every tag: only the DH itself can refuse it.
			p := newTestPair(t, cipher.IKhfs)
			kem, err := cipher.KEMPublic(bytesOf("kem", 64))
			if err != nil {
				t.Fatal(err)
			}
			msg, err := p.initiator.WriteRogue(point, kem, nil)
			if err != nil {
				t.Fatal(err)
			}
			if payload, err := p.responder.ReadMessage(nil, msg); err != cipher.ErrHandshake {
				t.Errorf("IKhfs, e: read %q, %v, want %v", payload, err, cipher.ErrHandshake)
			}
			wantDead(t, p.responder, cipher.ErrHandshake)
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
