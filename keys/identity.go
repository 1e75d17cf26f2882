package keys

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/keys/internal/bech32"
)

// ErrWiped is returned by what needs a secret that has been wiped.
var ErrWiped = errors.New("keys: the identity has been wiped")

// Identity is the secret key of an installation. Its methods may be called from any number of
// goroutines at once. Whoever made it calls Wipe when it is no longer needed. The zero value is
// as if wiped.
type Identity struct {
	public PublicKey

	mu  sync.RWMutex     // held for reading while the secret is in use, so that Wipe waits
	key *ecdh.PrivateKey // nil after Wipe
}

// Generate makes a new identity.
func Generate() (*Identity, error) {
	var id *Identity
	var err error
	erase.Handshake(func() {
		// GenerateKey of crypto/ecdh leaves a copy of the key behind; this buffer is ours to clear.
		buf := make([]byte, KeySize)
		defer clear(buf)
		if _, err = rand.Read(buf); err == nil {
			id, err = newIdentity(buf)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("keys: generating an identity: %w", err)
	}
	return id, nil
}

// newIdentity makes an identity of the secret, which it does not keep. Call it under erase.
func newIdentity(secret []byte) (*Identity, error) {
	erase.Trace("static", secret)
	key, err := ecdh.X25519().NewPrivateKey(secret)
	if err != nil {
		return nil, err
	}
	return &Identity{public: PublicKey(key.PublicKey().Bytes()), key: key}, nil
}

// ParseIdentity reads the text of a secret key, WAX-SECRET-KEY-1…, with nothing but white space
// around it. It does not keep text, which is the caller's to wipe.
func ParseIdentity(text []byte) (*Identity, error) {
	var id *Identity
	var err error
	erase.Handshake(func() { id, err = parseIdentity(text) })
	return id, err
}

func parseIdentity(text []byte) (*Identity, error) {
	fail := func(problem string, err error) (*Identity, error) {
		return nil, &KeyError{Kind: "secret key", Problem: problem, Err: err}
	}
	text = bytes.TrimSpace(text)
	switch {
	case len(text) == 0:
		return fail("it is empty", nil)
	case hasPrefixFold(text, publicHRP+"1"):
		return fail("it is a public key", nil)
	case !hasPrefixFold(text, secretHRP+"1"):
		return fail("a secret key begins with WAX-SECRET-KEY-1", bech32.ErrHRP)
	}
	if want := bech32.EncodedLen(secretHRP, KeySize); len(text) != want {
		return fail(fmt.Sprintf("it has %d characters instead of %d", len(text), want), nil)
	}
	erase.Trace("key-text", text)
	buf := make([]byte, 0, 2*KeySize)
	defer func() { clear(buf[:cap(buf)]) }()
	secret, err := bech32.Decode(buf, secretHRP, text, true)
	switch {
	case errors.Is(err, bech32.ErrCase):
		return fail("a secret key is written in upper case", err)
	case err != nil:
		return fail(err.Error(), err)
	case len(secret) != KeySize:
		return fail("it has the wrong length", nil)
	}
	id, err := newIdentity(secret)
	if err != nil {
		return fail(err.Error(), err)
	}
	return id, nil
}

// Public returns the public key. It stays after Wipe.
func (id *Identity) Public() PublicKey { return id.public }

// MarshalText returns the secret as text: WAX-SECRET-KEY-1…. The caller wipes it. After Wipe the
// error is [ErrWiped].
func (id *Identity) MarshalText() ([]byte, error) {
	var text []byte
	var err error
	erase.Handshake(func() {
		err = id.withSecret(func(secret []byte) error {
			text = make([]byte, 0, bech32.EncodedLen(secretHRP, KeySize))
			text = bech32.Append(text, secretHRP, secret, true)
			erase.Trace("key-text", text)
			return nil
		})
	})
	return text, err
}

// withSecret calls f with a copy of the secret, and clears that. Call it under erase.
func (id *Identity) withSecret(f func(secret []byte) error) error {
	id.mu.RLock()
	defer id.mu.RUnlock()
	if id.key == nil {
		return ErrWiped
	}
	secret := id.key.Bytes()
	defer clear(secret)
	return f(secret)
}

// DH returns the 32 bytes of X25519 with the other end's key, for the caller to wipe. Call it under
// erase.Handshake or erase.Do. An all-zero output, which keys of low order give, is an error
// (RFC 7748 §6.1); after Wipe it is [ErrWiped]. A Wipe waits for calls that have begun.
func (id *Identity) DH(peer PublicKey) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return nil, fmt.Errorf("keys: X25519: %w", err)
	}
	id.mu.RLock()
	defer id.mu.RUnlock()
	if id.key == nil {
		return nil, ErrWiped
	}
	shared, err := id.key.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("keys: X25519: %w", err)
	}
	return shared, nil
}

// Wipe zeroes the secret. It may be called more than once.
func (id *Identity) Wipe() {
	id.mu.Lock()
	defer id.mu.Unlock()
	erase.ECDH(id.key)
	id.key = nil
}

// String returns the public key, so that a secret cannot be printed by mistake.
func (id *Identity) String() string { return id.public.String() }

// GoString returns the public key, marked as that of an identity.
func (id *Identity) GoString() string { return "keys.Identity(" + id.public.String() + ")" }

// Format prints the public key for every verb. String alone would not do: fmt prints a value field by
// field, the secret too, for a verb that it cannot use, such as %c.
func (id *Identity) Format(s fmt.State, verb rune) {
	switch {
	case verb == 'v' && s.Flag('#'):
		io.WriteString(s, id.GoString())
	default:
		fmt.Fprintf(s, fmt.FormatString(s, 's'), id.String())
	}
}

// LogValue returns the public key.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.public.String()) }

// MarshalJSON returns the public key as a JSON string. Without it encoding/json would call
// MarshalText.
func (id *Identity) MarshalJSON() ([]byte, error) { return []byte(`"` + id.public.String() + `"`), nil }
