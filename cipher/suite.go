package cipher

import (
	"bytes"
	"crypto/aes"
	stdcipher "crypto/cipher"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"hash"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/keys/erase"
)

// This file is the only one of the package that names a curve, a KEM, a hash or an AEAD.

// A Suite is the AEAD of the records. Its number is on the wire and in the key labels.
// PROTOCOL.md §2 and §3.
type Suite uint8

const (
	AES256GCM        Suite = 1 // the faster one where both ends have AES instructions
	ChaCha20Poly1305 Suite = 2 // good everywhere; also the AEAD of the handshake itself
)

// String is the suite's usual name.
func (s Suite) String() string {
	switch s {
	case AES256GCM:
		return "AES-256-GCM"
	case ChaCha20Poly1305:
		return "ChaCha20-Poly1305"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// Valid reports whether the suite is one of the two.
func (s Suite) Valid() bool { return s == AES256GCM || s == ChaCha20Poly1305 }

// HasFastAES reports whether this machine computes AES-GCM in hardware: AES and carry-less
// multiplication, both. Without them AES-GCM is slower than ChaCha20-Poly1305 and not constant in
// time.
func HasFastAES() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	case "s390x":
		return cpu.S390X.HasAES && cpu.S390X.HasAESGCM
	}
	return false
}

const (
	hashSize  = sha256.Size
	blockSize = sha256.BlockSize
	dhSize    = 32
	keySize   = 32
	pskSize   = 32
	nonceSize = 12

	kemSeedSize   = mlkem.SeedSize
	kemKeySize    = mlkem.EncapsulationKeySize768
	kemCipherSize = mlkem.CiphertextSize768
)

// protocolName is the name that a Noise handshake hashes first. handshake is the AEAD of the
// handshake. Noise rev. 34, §8; PROTOCOL.md §1.
func protocolName(p Pattern, hfs bool, handshake Suite) string {
	kem, aead := "", "ChaChaPoly"
	if hfs {
		kem = "+MLKEM768"
	}
	if handshake == AES256GCM {
		aead = "AESGCM"
	}
	return "Noise_" + string(p) + "_25519" + kem + "_" + aead + "_SHA256"
}

// An aeadKey is an AEAD with all the memory that holds its key, so that it can be wiped. The zero
// value holds no key.
type aeadKey struct {
	aead  stdcipher.AEAD
	block stdcipher.Block // AES only: a second copy of the key schedule
}

func newAEADKey(s Suite, key []byte) (k aeadKey, err error) {
	switch s {
	case AES256GCM:
		if k.block, err = aes.NewCipher(key); err == nil {
			k.aead, err = stdcipher.NewGCM(k.block)
		}
	case ChaCha20Poly1305:
		k.aead, err = chacha20poly1305.New(key)
	default:
		err = fmt.Errorf("no AEAD for %v", s)
	}
	return k, err
}

func (k *aeadKey) wipe() {
	if k.aead != nil {
		erase.Object(k.aead)
	}
	if k.block != nil {
		erase.Object(k.block)
	}
	*k = aeadKey{}
}

// A hasher computes SHA-256 and HMAC in objects that it wipes after each use. The standard
// library's HMAC and HKDF keep copies of their keys on the heap where nothing can reach them.
type hasher struct {
	inner, outer hash.Hash
	pad          [blockSize]byte
}

func newHasher() hasher { return hasher{inner: sha256.New(), outer: sha256.New()} }

// hash sets out to the hash of all parts, of which out may be one.
func (m *hasher) hash(out *[hashSize]byte, parts ...[]byte) {
	m.inner.Reset()
	for _, p := range parts {
		m.inner.Write(p)
	}
	m.inner.Sum(out[:0])
	erase.Object(m.inner)
}

// hmac sets out to the HMAC of all parts under key. out may be the key or one of the parts.
func (m *hasher) hmac(out, key *[hashSize]byte, parts ...[]byte) {
	m.start(m.outer, key, 0x5c)
	m.start(m.inner, key, 0x36)
	for _, p := range parts {
		m.inner.Write(p)
	}
	m.inner.Sum(out[:0])
	m.outer.Write(out[:])
	m.outer.Sum(out[:0])
	erase.Object(m.inner)
	erase.Object(m.outer)
}

func (m *hasher) start(h hash.Hash, key *[hashSize]byte, pad byte) {
	for i := range m.pad {
		m.pad[i] = pad
	}
	for i, b := range key {
		m.pad[i] ^= b
	}
	h.Reset()
	h.Write(m.pad[:])
	clear(m.pad[:])
}

// wipe clears what a use that was cut short left.
func (m *hasher) wipe() {
	erase.Object(m.inner)
	erase.Object(m.outer)
	clear(m.pad[:])
}

// expand sets out to the first block of HKDF-Expand. PROTOCOL.md, notation.
func (m *hasher) expand(out, key *[hashSize]byte, label ...byte) {
	m.hmac(out, key, label, []byte{0x01})
}

// secretBytes is n random bytes, or a copy of fixed if it is not nil.
func secretBytes(n int, fixed []byte) []byte {
	if fixed != nil {
		return bytes.Clone(fixed)
	}
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// An ephemeral is the X25519 key pair of one handshake. The zero value holds no key.
type ephemeral struct{ key *ecdh.PrivateKey }

// newEphemeral makes a key from fixed, or from fresh random bytes if it is nil. It does not use
// GenerateKey, which leaves a copy of the scalar on the heap.
func newEphemeral(fixed []byte) (ephemeral, error) {
	scalar := secretBytes(dhSize, fixed)
	defer clear(scalar)
	erase.Trace("ephemeral", scalar)
	key, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		return ephemeral{}, err
	}
	return ephemeral{key}, nil
}

func (e *ephemeral) public() keys.PublicKey { return keys.PublicKey(e.key.PublicKey().Bytes()) }

// DH is X25519. An all-zero result, which a point of low order gives, is an error.
func (e *ephemeral) DH(peer keys.PublicKey) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return nil, err
	}
	return e.key.ECDH(pub)
}

func (e *ephemeral) wipe() {
	if e.key != nil {
		erase.ECDH(e.key)
		e.key = nil
	}
}

// A kemKey is the ML-KEM-768 key pair of one handshake. The zero value holds no key.
type kemKey struct{ key *mlkem.DecapsulationKey768 }

// newKEMKey makes a key from the seed fixed, or from fresh random bytes if it is nil.
func newKEMKey(fixed []byte) (kemKey, error) {
	seed := secretBytes(kemSeedSize, fixed)
	defer clear(seed)
	erase.Trace("mlkem-seed", seed)
	key, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		return kemKey{}, err
	}
	return kemKey{key}, nil
}

func (k *kemKey) public() []byte { return k.key.EncapsulationKey().Bytes() }

// decapsulate returns the shared secret, which the caller wipes. A forged ciphertext gives a
// secret that nobody else has: the next tag fails.
func (k *kemKey) decapsulate(ciphertext []byte) ([]byte, error) {
	return k.key.Decapsulate(ciphertext)
}

func (k *kemKey) wipe() {
	if k.key != nil {
		erase.MLKEM(k.key)
		k.key = nil
	}
}

// parseKEMKey refuses an encapsulation key of the wrong length or with a coefficient that is not
// reduced. FIPS 203, §7.2.
func parseKEMKey(public []byte) (*mlkem.EncapsulationKey768, error) {
	return mlkem.NewEncapsulationKey768(public)
}

// encapsulate returns a shared secret, which the caller wipes up to its capacity, and its ciphertext.
// Behind the secret, in the same array, crypto/mlkem leaves the coins of the encryption: who has them,
// the public key and the ciphertext can compute the secret.
func encapsulate(public *mlkem.EncapsulationKey768) (secret, ciphertext []byte) {
	return public.Encapsulate()
}
