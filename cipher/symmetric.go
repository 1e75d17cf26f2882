package cipher

import (
	"encoding/binary"
	"math"

	"waxwire.example/waxwire/keys/erase"
)

// A symmetricState is Noise's SymmetricState with its CipherState: the chaining key, the transcript
// hash, and the AEAD key of the moment. It lives inside a [Handshake], on the heap, so that wiping
// it wipes the only copy. Noise rev. 34, §5.1 and §5.2.
type symmetricState struct {
	suite Suite // of the handshake
	ck, h [hashSize]byte
	key   aeadKey // none until the first mixKey
	n     uint64
	nonce [nonceSize]byte

	hasher
	temp [3][hashSize]byte // what hkdf gave; cleared by who called it
}

func (s *symmetricState) init(name string, suite Suite) {
	s.suite = suite
	s.hasher = newHasher()
	if len(name) <= hashSize {
		copy(s.h[:], name)
	} else {
		s.hash(&s.h, []byte(name))
	}
	s.ck = s.h
}

func (s *symmetricState) mixHash(data []byte) { s.hash(&s.h, s.h[:], data) }

// hkdf fills temp[:n] from the chaining key and ikm. Noise rev. 34, §4.3.
func (s *symmetricState) hkdf(ikm []byte, n int) {
	prk := &s.ck // the chaining key is replaced by every caller, or wiped
	s.hmac(prk, &s.ck, ikm)
	erase.Trace("prk", prk[:])
	s.hmac(&s.temp[0], prk, []byte{1})
	for i := 1; i < n; i++ {
		s.hmac(&s.temp[i], prk, s.temp[i-1][:], []byte{byte(i + 1)})
	}
}

func (s *symmetricState) clearTemp() { clear(s.temp[:]) }

// mixKey wipes ikm.
func (s *symmetricState) mixKey(ikm []byte) error {
	defer s.clearTemp()
	s.hkdf(ikm, 2)
	clear(ikm)
	s.ck = s.temp[0]
	erase.Trace("ck", s.ck[:])
	return s.setKey(&s.temp[1])
}

func (s *symmetricState) mixKeyAndHash(psk []byte) error {
	defer s.clearTemp()
	s.hkdf(psk, 3)
	s.ck = s.temp[0]
	erase.Trace("ck", s.ck[:])
	s.mixHash(s.temp[1][:])
	return s.setKey(&s.temp[2])
}

func (s *symmetricState) setKey(key *[hashSize]byte) (err error) {
	s.key.wipe()
	s.n = 0
	erase.Trace("handshake-key", key[:])
	s.key, err = newAEADKey(s.suite, key[:])
	return err
}

// overhead is what encryptAndHash adds at this point.
func (s *symmetricState) overhead() int {
	if s.key.aead == nil {
		return 0
	}
	return Overhead
}

// nextNonce is 32 zero bits and the counter, in the byte order of the AEAD. Noise rev. 34, §12.
func (s *symmetricState) nextNonce() []byte {
	if s.n == math.MaxUint64 {
		panic("cipher: a handshake key has sealed 2^64-1 times")
	}
	if s.suite == AES256GCM {
		binary.BigEndian.PutUint64(s.nonce[4:], s.n)
	} else {
		binary.LittleEndian.PutUint64(s.nonce[4:], s.n)
	}
	s.n++
	return s.nonce[:]
}

// encryptAndHash appends plaintext to dst, sealed if there is a key already.
func (s *symmetricState) encryptAndHash(dst, plaintext []byte) []byte {
	start := len(dst)
	if s.key.aead == nil {
		dst = append(dst, plaintext...)
	} else {
		dst = s.key.aead.Seal(dst, s.nextNonce(), plaintext, s.h[:])
	}
	s.mixHash(dst[start:])
	return dst
}

// decryptAndHash appends the plaintext of data to dst.
func (s *symmetricState) decryptAndHash(dst, data []byte) ([]byte, error) {
	if s.key.aead == nil {
		s.mixHash(data)
		return append(dst, data...), nil
	}
	dst, err := s.key.aead.Open(dst, s.nextNonce(), data, s.h[:])
	if err != nil {
		return nil, err
	}
	s.mixHash(data)
	return dst, nil
}

// split leaves the two transport secrets in temp: the initiator's, then the responder's.
func (s *symmetricState) split() { s.hkdf(nil, 2) }

func (s *symmetricState) wipe() {
	s.key.wipe()
	s.hasher.wipe()
	clear(s.ck[:])
	clear(s.h[:])
	s.n = 0
	clear(s.nonce[:])
	s.clearTemp()
}
