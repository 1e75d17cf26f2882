//go:build !amd64 && !arm64

package erase

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// Without assembly for this processor, the way to overwrite the vector registers is to run what
// filled them once more, over zeros.
var (
	zeroGCM     = newZeroGCM()
	zeroChaCha  = newZeroChaCha()
	zeroBuffers = sync.Pool{New: func() any { return new(zeroBuffer) }}
)

type zeroBuffer struct {
	nonce [12]byte
	text  [64]byte
	out   [64 + 16]byte
}

func newZeroGCM() cipher.AEAD {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		panic("erase: " + err.Error())
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("erase: " + err.Error())
	}
	return gcm
}

func newZeroChaCha() cipher.AEAD {
	aead, err := chacha20poly1305.New(make([]byte, 32))
	if err != nil {
		panic("erase: " + err.Error())
	}
	return aead
}

func wipeRegisters() {
	b := zeroBuffers.Get().(*zeroBuffer)
	zeroGCM.Seal(b.out[:0], b.nonce[:], b.text[:], nil)
	zeroChaCha.Seal(b.out[:0], b.nonce[:], b.text[:], nil)
	sum := sha256.Sum256(b.text[:])
	copy(b.out[:], sum[:])
	zeroBuffers.Put(b)
}
