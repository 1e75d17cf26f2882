// Package bech32 writes and reads the Bech32 encoding of BIP 173: a human-readable part, the
// separator 1, the data in characters of five bits, and a checksum of six characters.
//
// Two things differ from BIP 173, as in age: there is no limit of 90 characters, and data is whole
// bytes. [Append] and [Decode] work in the caller's memory alone, with nothing on the heap, so that
// secrets can pass through them under keys/erase.
package bech32

import (
	"errors"
	"fmt"
)

const charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

// checksumLen is the number of characters at the end that are the checksum.
const checksumLen = 6

// Errors of Decode. None of them quotes the text, which may be a secret.
var (
	ErrHRP       = errors.New("it does not begin with the right letters")
	ErrCharacter = errors.New("it has a character that does not belong there")
	ErrCase      = errors.New("it mixes or has the wrong case of letters")
	ErrChecksum  = errors.New("a character is wrong or missing")
	ErrPadding   = errors.New("its last characters hold no whole byte")
)

// reverse has the value of each character of charset plus one, and zero for all others.
var reverse = func() (t [256]byte) {
	for i := range len(charset) {
		t[charset[i]] = byte(i) + 1
	}
	return t
}()

// checksum is the state of the BCH code of BIP 173.
type checksum uint32

func (c *checksum) add(v byte) {
	top := *c >> 25
	*c = (*c&0x1ffffff)<<5 ^ checksum(v)
	for i, g := range [...]checksum{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
		// A mask and not a branch: the state depends on the secret.
		*c ^= g & -(top >> i & 1)
	}
}

// start feeds the lower-case human-readable part as BIP 173 expands it.
func start(hrp string) checksum {
	c := checksum(1)
	for i := range len(hrp) {
		c.add(hrp[i] >> 5)
	}
	c.add(0)
	for i := range len(hrp) {
		c.add(hrp[i] & 31)
	}
	return c
}

// validHRP: 1 to 83 characters of printable ASCII, none of them an upper-case letter.
func validHRP(hrp string) bool {
	if len(hrp) < 1 || len(hrp) > 83 {
		return false
	}
	for i := range len(hrp) {
		if hrp[i] < 33 || hrp[i] > 126 || 'A' <= hrp[i] && hrp[i] <= 'Z' {
			return false
		}
	}
	return true
}

// EncodedLen is the length of the text for n bytes of data under hrp.
func EncodedLen(hrp string, n int) int { return len(hrp) + 1 + (n*8+4)/5 + checksumLen }

// Append appends the text of data to dst, in upper case if upper. hrp is written in lower case; one
// that BIP 173 does not allow is a mistake in this program, and panics. Append does not allocate if
// dst has room for [EncodedLen] more bytes.
func Append(dst []byte, hrp string, data []byte, upper bool) []byte {
	if !validHRP(hrp) {
		panic(fmt.Sprintf("bech32: invalid human-readable part %q", hrp))
	}
	from := len(dst)
	dst = append(dst, hrp...)
	dst = append(dst, '1')
	c := start(hrp)
	var acc, bits uint32
	for _, b := range data {
		acc = acc<<8 | uint32(b)
		for bits += 8; bits >= 5; {
			bits -= 5
			v := byte(acc>>bits) & 31
			c.add(v)
			dst = append(dst, charset[v])
		}
	}
	if bits > 0 {
		v := byte(acc<<(5-bits)) & 31
		c.add(v)
		dst = append(dst, charset[v])
	}
	for range checksumLen {
		c.add(0)
	}
	c ^= 1
	for i := range checksumLen {
		dst = append(dst, charset[c>>(5*(checksumLen-1-i))&31])
	}
	if upper {
		for i := from; i < len(dst); i++ {
			dst[i] = toUpper(dst[i])
		}
	}
	return dst
}

// Decode appends the data of text to dst. The text must have exactly the human-readable part hrp,
// which is given in lower case, and be all upper case if upper, else all lower case: each value
// has one text. What it returns with an error holds nothing of the data. text is not kept.
func Decode(dst []byte, hrp string, text []byte, upper bool) ([]byte, error) {
	if !validHRP(hrp) {
		panic(fmt.Sprintf("bech32: invalid human-readable part %q", hrp))
	}
	for _, b := range text {
		if b < 33 || b > 126 {
			return dst, ErrCharacter
		}
	}
	if len(text) < len(hrp)+1 {
		return dst, ErrHRP
	}
	for i := range len(hrp) {
		if toLower(text[i]) != hrp[i] {
			return dst, ErrHRP
		}
	}
	if text[len(hrp)] != '1' {
		return dst, ErrHRP
	}
	for _, b := range text {
		if upper && toUpper(b) != b || !upper && toLower(b) != b {
			return dst, ErrCase
		}
	}
	part := text[len(hrp)+1:]
	if len(part) < checksumLen {
		return dst, ErrChecksum
	}
	from := len(dst)
	c := start(hrp)
	var acc, bits uint32
	for i, b := range part {
		v := reverse[toLower(b)]
		if v == 0 {
			clear(dst[from:])
			return dst[:from], ErrCharacter
		}
		v--
		c.add(v)
		if i >= len(part)-checksumLen {
			continue
		}
		acc = acc<<5 | uint32(v)
		if bits += 5; bits >= 8 {
			bits -= 8
			dst = append(dst, byte(acc>>bits))
		}
	}
	err := error(nil)
	switch {
	case c != 1:
		err = ErrChecksum
	case bits >= 5 || acc&(1<<bits-1) != 0:
		err = ErrPadding
	}
	if err != nil {
		clear(dst[from:])
		return dst[:from], err
	}
	return dst, nil
}

func toLower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

func toUpper(b byte) byte {
	if 'a' <= b && b <= 'z' {
		return b - ('a' - 'A')
	}
	return b
}
