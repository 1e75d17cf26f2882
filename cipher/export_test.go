package cipher

import (
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/rand"
	"errors"

	"waxwire.example/waxwire/keys"
)

// Fixed makes a handshake use given secrets and AES-GCM, as published vectors do. What is nil is
// random as ever.
type Fixed struct {
	Static     []byte // X25519 scalar, in place of HandshakeConfig.Static
	Public     []byte // what is sent as the static key, if it is not the scalar's own
	Ephemeral  []byte // X25519 scalar
	KEMSeed    []byte // d ‖ z, 64 bytes
	EncapsRand []byte // m, 32 bytes
	AESGCM     bool   // the handshake's own AEAD

	Results *[][]byte // if not nil, gets the slices that hold DH results with Static
}

// NewFixedHandshake is NewHandshake with the secrets of f.
func NewFixedHandshake(c HandshakeConfig, f Fixed) (*Handshake, error) {
	var static staticKey
	if c.Static != nil {
		static = c.Static
	}
	if f.Static != nil {
		key, err := ecdh.X25519().NewPrivateKey(f.Static)
		if err != nil {
			return nil, err
		}
		static = fixedStatic{&ephemeral{key}, f.Public, f.Results}
	}
	suite := ChaCha20Poly1305
	if f.AESGCM {
		suite = AES256GCM
	}
	h, err := newHandshake(c, static, suite)
	if err != nil {
		return nil, err
	}
	h.fixed.ephemeral, h.fixed.kemSeed = f.Ephemeral, f.KEMSeed
	if f.EncapsRand != nil {
		h.fixed.encapsulate = func(public *mlkem.EncapsulationKey768) (secret, ciphertext []byte) {
			secret, ciphertext, err := mlkemtest.Encapsulate768(public, f.EncapsRand)
			if err != nil {
				panic(err)
			}
			return secret, ciphertext
		}
	}
	return h, nil
}

type fixedStatic struct {
	*ephemeral
	claimed []byte
	results *[][]byte
}

func (s fixedStatic) DH(peer keys.PublicKey) ([]byte, error) {
	secret, err := s.ephemeral.DH(peer)
	if s.results != nil {
		*s.results = append(*s.results, secret)
	}
	return secret, err
}

func (s fixedStatic) Public() keys.PublicKey {
	if s.claimed != nil {
		return keys.PublicKey(s.claimed)
	}
	return s.public()
}

// X25519Public is the public key of a scalar.
func X25519Public(scalar []byte) (keys.PublicKey, error) {
	e, err := newEphemeral(scalar)
	if err != nil {
		return keys.PublicKey{}, err
	}
	return e.public(), nil
}

// SetEncapsulate replaces the encapsulation of a handshake.
func (h *Handshake) SetEncapsulate(f func(*mlkem.EncapsulationKey768) (secret, ciphertext []byte)) {
	h.fixed.encapsulate = f
}

// ReplaceEphemeral and ReplaceKEM put another key in the place of one whose public half is sent
// already.
func (h *Handshake) ReplaceEphemeral(scalar []byte) (err error) {
	h.e, err = newEphemeral(scalar)
	return err
}

func (h *Handshake) ReplaceKEM(seed []byte) (err error) {
	h.e1, err = newKEMKey(seed)
	return err
}

// WriteRogue writes IKhfs's first message with an encapsulation key of the caller's making. With a
// point, that is the ephemeral key, and the sender computes as if X25519 with it gave zero.
func (h *Handshake) WriteRogue(point, kemPublic, payload []byte) (msg []byte, err error) {
	if h.pattern != IKhfs {
		panic("WriteRogue knows IKhfs only")
	}
	if h.e, err = newEphemeral(nil); err != nil {
		return nil, err
	}
	e, s := h.e.public(), h.static.Public()
	es := func() error { return h.mix(tokenES) }
	if point != nil {
		e = keys.PublicKey(point)
		es = func() error { return h.sym.mixKey(make([]byte, dhSize)) }
	}
	msg = append(msg, e[:]...)
	if err := errors.Join(h.mixEphemeral(&e), es()); err != nil {
		return nil, err
	}
	msg = h.sym.encryptAndHash(msg, kemPublic)
	msg = h.sym.encryptAndHash(msg, s[:])
	if err := h.mix(tokenSS); err != nil {
		return nil, err
	}
	msg = h.sym.encryptAndHash(msg, payload)
	h.advance()
	return msg, nil
}

// SplitSecrets is Split, but returns the two transport secrets themselves.
func (h *Handshake) SplitSecrets() (initiator, responder [32]byte, err error) {
	err = h.split(func(i, r *[32]byte) error {
		initiator, responder = *i, *r
		return nil
	})
	return initiator, responder, err
}

// NewTestPair is a Sealer and the Opener of its records, under a given or random traffic secret.
func NewTestPair(s Suite, ts []byte) (*Sealer, *Opener, error) {
	var secret [32]byte
	if copy(secret[:], ts) == 0 {
		rand.Read(secret[:])
	}
	d, err := newDirection(s, &secret)
	if err != nil {
		return nil, nil, err
	}
	e, err := newDirection(s, &secret)
	if err != nil {
		return nil, nil, err
	}
	return newSealer(d), newOpener(e), nil
}

// SetCount pretends that the epoch has had that many records and bytes.
func (s *Sealer) SetCount(records, bytes uint64) { s.d.seq, s.d.bytes = records, bytes }
func (o *Opener) SetCount(records, bytes uint64) { o.d.seq, o.d.bytes = records, bytes }

// Secrets are pointers to everything secret that a direction or a handshake holds, by name.
// Objects that are missing at this point are left out.
func (s *Sealer) Secrets() map[string]any { return s.d.secrets() }
func (o *Opener) Secrets() map[string]any { return o.d.secrets() }

func (d *direction) secrets() map[string]any {
	m := map[string]any{"ts": &d.ts, "iv": &d.iv, "nonce": &d.nonce, "temp": &d.temp, "inner": d.inner, "outer": d.outer, "pad": &d.pad}
	d.key.addTo(m)
	return m
}

func (k *aeadKey) addTo(m map[string]any) {
	if k.aead != nil {
		m["aead"] = k.aead
	}
	if k.block != nil {
		m["block"] = k.block
	}
}

func (h *Handshake) Secrets() map[string]any {
	s := &h.sym
	m := map[string]any{
		"ck": &s.ck, "temp": &s.temp, "psk": &h.psk,
		"inner": s.inner, "outer": s.outer, "pad": &s.pad,
	}
	s.key.addTo(m)
	if h.e.key != nil {
		m["e"] = h.e.key
	}
	if h.e1.key != nil {
		m["e1"] = h.e1.key
	}
	return m
}

// The tables of the package, for tests that check them from outside.
func (p Pattern) Messages() ([][]string, error) {
	sc, err := compile(p)
	if err != nil {
		return nil, err
	}
	names := [...]string{tokenE: "e", tokenS: "s", tokenEE: "ee", tokenES: "es", tokenSE: "se", tokenSS: "ss",
		tokenPSK: "psk", tokenE1: "e1", tokenEKEM1: "ekem1"}
	var out [][]string
	for _, m := range sc.messages {
		var line []string
		for _, t := range m {
			line = append(line, names[t])
		}
		out = append(out, line)
	}
	return out, nil
}

// ProtocolName is the Noise name of a pattern.
func ProtocolName(p Pattern, aesgcm bool) string {
	sc, err := compile(p)
	if err != nil {
		panic(err)
	}
	if aesgcm {
		return protocolName(p, sc.hfs, AES256GCM)
	}
	return protocolName(p, sc.hfs, ChaCha20Poly1305)
}

// The primitives as this package calls them, for Wycheproof's vectors.

func X25519(scalar []byte, public keys.PublicKey) ([]byte, error) {
	e, err := newEphemeral(scalar)
	if err != nil {
		return nil, err
	}
	return e.DH(public)
}

func HMAC(key [32]byte, parts ...[]byte) [32]byte {
	m := newHasher()
	var out [32]byte
	m.hmac(&out, &key, parts...)
	return out
}

func OpenAEAD(s Suite, key, nonce, ciphertext, ad []byte) ([]byte, error) {
	k, err := newAEADKey(s, key)
	if err != nil {
		return nil, err
	}
	return k.aead.Open(nil, nonce, ciphertext, ad)
}

func SealAEAD(s Suite, key, nonce, plaintext, ad []byte) ([]byte, error) {
	k, err := newAEADKey(s, key)
	if err != nil {
		return nil, err
	}
	return k.aead.Seal(nil, nonce, plaintext, ad), nil
}

func KEMPublic(seed []byte) ([]byte, error) {
	k, err := newKEMKey(seed)
	if err != nil {
		return nil, err
	}
	return k.public(), nil
}

func KEMDecapsulate(seed, ciphertext []byte) ([]byte, error) {
	k, err := newKEMKey(seed)
	if err != nil {
		return nil, err
	}
	return k.decapsulate(ciphertext)
}

func KEMEncapsulate(public, random []byte) (secret, ciphertext []byte, err error) {
	key, err := parseKEMKey(public)
	if err != nil {
		return nil, nil, err
	}
	return mlkemtest.Encapsulate768(key, random)
}
