package cipher_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

// wycheproof runs f on each of a file's vectors and fails if there are fewer than least.
func wycheproof[V any](t *testing.T, file string, least int, f func(t *testing.T, v V)) {
	t.Helper()
	data, err := os.ReadFile("testdata/wycheproof/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []V
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < least {
		t.Fatalf("%d vectors in %s, want at least %d", len(vectors), file, least)
	}
	for i, v := range vectors {
		t.Run(fmt.Sprint(i), func(t *testing.T) { f(t, v) })
	}
}

func TestWycheproofX25519(t *testing.T) {
	type vector struct {
		TcID                    int
		Public, Private, Shared hexString
		Flags                   []string
	}
	wycheproof(t, "x25519.json", 129, func(t *testing.T, v vector) {
		got, err := cipher.X25519(v.Private, keys.PublicKey(v.Public))
		if slices.Contains(v.Flags, "ZeroSharedSecret") {
			if err == nil {
				t.Errorf("vector %d gives %x, want an error", v.TcID, got)
			}
		} else if err != nil || !bytes.Equal(got, v.Shared) {
			t.Errorf("vector %d gives %x, %v, want %x", v.TcID, got, err, v.Shared)
		}
	})
}

func TestWycheproofHMAC(t *testing.T) {
	type vector struct {
		TcID          int
		Key, Msg, Tag hexString
		Result        string
	}
	wycheproof(t, "hmac_sha256.json", 81, func(t *testing.T, v vector) {
		half := len(v.Msg) / 2
		got := cipher.HMAC([32]byte(v.Key), v.Msg[:half], v.Msg[half:])
		if bytes.Equal(got[:], v.Tag) != (v.Result == "valid") {
			t.Errorf("vector %d gives %x; %x is %s", v.TcID, got, v.Tag, v.Result)
		}
	})
}

func TestWycheproofAEAD(t *testing.T) {
	type vector struct {
		TcID                       int
		Key, IV, AAD, Msg, CT, Tag hexString
		Result                     string
	}
	for file, suite := range map[string]cipher.Suite{
		"aes_gcm_256.json": cipher.AES256GCM, "chacha20_poly1305.json": cipher.ChaCha20Poly1305,
	} {
		wycheproof(t, file, 60, func(t *testing.T, v vector) {
			sealed := append(bytes.Clone(v.CT), v.Tag...)
			got, err := cipher.OpenAEAD(suite, v.Key, v.IV, sealed, v.AAD)
			if (err == nil) != (v.Result == "valid") {
				t.Fatalf("vector %d opens with %v; it is %s", v.TcID, err, v.Result)
			}
			if err != nil {
				return
			}
			if !bytes.Equal(got, v.Msg) {
				t.Errorf("vector %d opens to %x, want %x", v.TcID, got, v.Msg)
			}
			if got, err := cipher.SealAEAD(suite, v.Key, v.IV, v.Msg, v.AAD); err != nil || !bytes.Equal(got, sealed) {
				t.Errorf("vector %d seals to %x, %v, want %x", v.TcID, got, err, sealed)
			}
		})
	}
}

func TestWycheproofMLKEM(t *testing.T) {
	type vector struct {
		TcID           int
		Seed, EK, C, K hexString
		Result         string
	}
	wycheproof(t, "mlkem_768.json", 21, func(t *testing.T, v vector) {
		if len(v.Seed) == 64 {
			if public, err := cipher.KEMPublic(v.Seed); err != nil || len(v.EK) > 0 && !bytes.Equal(public, v.EK) {
				t.Errorf("vector %d: key %x, %v, want %x", v.TcID, public, err, v.EK)
			}
		}
		got, err := cipher.KEMDecapsulate(v.Seed, v.C)
		if (err == nil) != (v.Result == "valid") {
			t.Fatalf("vector %d decapsulates with %v; it is %s", v.TcID, err, v.Result)
		}
		if err == nil && !bytes.Equal(got, v.K) {
			t.Errorf("vector %d gives %x, want %x", v.TcID, got, v.K)
		}
	})
}

func TestWycheproofMLKEMKeys(t *testing.T) {
	type vector struct {
		TcID        int
		EK, M, C, K hexString
		Result      string
	}
	wycheproof(t, "mlkem_768_encaps.json", 17, func(t *testing.T, v vector) {
		k, c, err := cipher.KEMEncapsulate(v.EK, v.M)
		if (err == nil) != (v.Result == "valid") {
			t.Fatalf("vector %d encapsulates with %v; it is %s", v.TcID, err, v.Result)
		}
		if err == nil && (!bytes.Equal(k, v.K) || !bytes.Equal(c, v.C)) {
			t.Errorf("vector %d gives %x and %x, want %x and %x", v.TcID, k, c, v.K, v.C)
		}
	})
}
