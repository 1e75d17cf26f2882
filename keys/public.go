package keys

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"waxwire.example/waxwire/keys/internal/bech32"
)

// Human-readable parts of the Bech32 texts. PROTOCOL.md §1.
const (
	publicHRP = "wax"
	secretHRP = "wax-secret-key-"
)

// KeySize is the length of public and secret keys in bytes.
const KeySize = 32

// PublicKey is the public half of an [Identity]: it names an installation. Its text is wax1…, 62
// characters with a checksum. Keys compare with ==. The zero value is no key.
type PublicKey [KeySize]byte

// A KeyError says why a text is not a key. It never holds the text, which may be a secret.
type KeyError struct {
	Kind    string // what the text should have been: "public key" or "secret key"
	Problem string
	Err     error // the cause, or nil
}

func (e *KeyError) Error() string { return "keys: not a " + e.Kind + ": " + e.Problem }
func (e *KeyError) Unwrap() error { return e.Err }

// ParsePublicKey reads the text of a public key: exactly what String prints.
func ParsePublicKey(s string) (PublicKey, error) {
	var k PublicKey
	if err := k.UnmarshalText([]byte(s)); err != nil {
		return PublicKey{}, err
	}
	return k, nil
}

// UnmarshalText reads the text of a public key into k. With an error k stays as it was.
func (k *PublicKey) UnmarshalText(text []byte) error {
	fail := func(problem string, err error) error {
		return &KeyError{Kind: "public key", Problem: problem, Err: err}
	}
	switch {
	case len(text) == 0:
		return fail("it is empty", nil)
	case hasPrefixFold(text, secretHRP+"1"):
		return fail("it is a secret key, which nobody but its owner should see", nil)
	case !hasPrefixFold(text, publicHRP+"1"):
		return fail("a public key begins with wax1", bech32.ErrHRP)
	}
	var buf [2 * KeySize]byte
	if want := bech32.EncodedLen(publicHRP, KeySize); len(text) != want {
		return fail(fmt.Sprintf("it has %d characters instead of %d", len(text), want), nil)
	}
	data, err := bech32.Decode(buf[:0], publicHRP, text, false)
	switch {
	case errors.Is(err, bech32.ErrCase):
		return fail("a public key is written in lower case", err)
	case err != nil:
		return fail(err.Error(), err)
	case len(data) != KeySize:
		return fail("it has the wrong length", nil)
	case PublicKey(data) == PublicKey{}:
		return fail("it is all zero", nil)
	}
	*k = PublicKey(data)
	return nil
}

// String returns the text of k: wax1….
func (k PublicKey) String() string { return string(k.appendText(nil)) }

// MarshalText returns the text of k: wax1….
func (k PublicKey) MarshalText() ([]byte, error) { return k.appendText(nil), nil }

func (k PublicKey) appendText(dst []byte) []byte {
	return bech32.Append(dst, publicHRP, k[:], false)
}

// crockford is the base32 alphabet of Douglas Crockford, which has no I, L, O and U.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// Fingerprint returns eight groups of four letters and digits for people to compare: the first 20
// bytes of SHA-256("waxwire/1 fingerprint" ‖ 0x00 ‖ k) in Crockford's base32. PROTOCOL.md §1.
func (k PublicKey) Fingerprint() string {
	sum := sha256.Sum256(append([]byte("waxwire/1 fingerprint\x00"), k[:]...))
	out := make([]byte, 0, 8*4+7)
	var acc, bits uint32
	for _, b := range sum[:20] {
		acc = acc<<8 | uint32(b)
		for bits += 8; bits >= 5; {
			bits -= 5
			if len(out)%5 == 4 {
				out = append(out, '-')
			}
			out = append(out, crockford[acc>>bits&31])
		}
	}
	return string(out)
}

// Short returns the first two groups of the fingerprint, for logs. It is too short to check who
// somebody is.
func (k PublicKey) Short() string { return k.Fingerprint()[:9] }

func hasPrefixFold(text []byte, prefix string) bool {
	return len(text) >= len(prefix) && bytes.EqualFold(text[:len(prefix)], []byte(prefix))
}
