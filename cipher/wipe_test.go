package cipher_test

import (
	"bytes"
	"crypto/mlkem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"waxwire.example/waxwire/cipher"
)

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
						for _, name := range []string{"temp", "pad", "inner", "outer"} {
							if state > 0 && !isZero(secrets[name]) {
								t.Errorf("between messages, %s is not wiped", name)
							}
						}
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

// TestResultsWiped: what X25519 and ML-KEM gave is wiped once it is mixed in.
func TestResultsWiped(t *testing.T) {
	p := newTestPair(t, cipher.IKhfs)
	var results [][]byte
	for i := range p.fixed {
		p.fixed[i].Results = &results
	}
	p.reset()
	p.responder.SetEncapsulate(func(public *mlkem.EncapsulationKey768) (secret, ciphertext []byte) {
		secret, ciphertext = public.Encapsulate()
		results = append(results, secret, secret[len(secret):cap(secret)])
		if coins := results[len(results)-1]; bytes.Count(coins, []byte{0}) > 16 {
			t.Errorf("behind the secret is %x, not the coins: new Go release?", coins)
		}
		return secret, ciphertext
	})
	p.shake(-1)
	if len(results) != 6 { // ss and es or se at each end, K, its coins
		t.Errorf("%d results seen, want 6", len(results))
	}
	for i, r := range results {
		if len(r) != 32 || bytes.Count(r, []byte{0}) != 32 {
			t.Errorf("result %d is not wiped", i)
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
