package secure

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// Padding says how the lengths of records are blurred. PROTOCOL.md §4.
type Padding uint8

// The policies. The values are on the wire.
const (
	PadNone   Padding = 0
	PadBlock  Padding = 1 // to a multiple of 64 bytes
	PadPadme  Padding = 2 // Padmé: at most 12 % more, lengths of O(log log n) classes
	padLength         = 2 // u16 behind the zeros
	padded            = 0x80
)

// appendPadding pads a plaintext (type ‖ body) that may grow to at most max bytes. One that is too
// long to be padded is left as it is; one whose padding does not fit its capacity is copied once.
func (p Padding) appendPadding(plaintext []byte, max int) []byte {
	n := len(plaintext) + padLength
	var want int
	switch p {
	case PadBlock:
		want = (n + 63) &^ 63
	case PadPadme:
		want = padme(n)
	default:
		return plaintext
	}
	want = min(want, max)
	if want < n {
		return plaintext
	}
	plaintext[0] |= padded
	plaintext = slices.Grow(plaintext, want-len(plaintext))
	for len(plaintext) < want-padLength {
		plaintext = append(plaintext, 0)
	}
	return binary.BigEndian.AppendUint16(plaintext, uint16(want-n))
}

// padme rounds a length up so that only its highest bits can be told (Nikitin et al., "Reducing
// Metadata Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019, §4).
func padme(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}

// removePadding takes the padding off a body and reports whether it was well-formed.
func removePadding(body []byte) ([]byte, bool) {
	if len(body) < padLength {
		return nil, false
	}
	end := len(body) - padLength
	p := int(binary.BigEndian.Uint16(body[end:]))
	if p > end {
		return nil, false
	}
	for _, z := range body[end-p : end] {
		if z != 0 {
			return nil, false
		}
	}
	return body[:end-p], true
}
