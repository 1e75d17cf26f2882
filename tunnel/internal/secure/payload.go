package secure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

// Sizes of the payloads inside the two handshake messages: fixed, so that their length tells nothing.
// PROTOCOL.md §2.
const (
	payload1Size = 384
	payload2Size = 128
)

// Field types. From 0x80 on, a type that is not known aborts the handshake; below, it is passed over.
const (
	fieldSuites  = 0x01 // u8 mask: 1 AES-256-GCM, 2 ChaCha20-Poly1305; bit 7: AES is fast here
	fieldSuite   = 0x02 // u8
	fieldMax     = 0x03 // u32
	fieldInvite  = 0x04 // 16 bytes, secret
	fieldURL     = 0x05 // at most 255 bytes
	fieldSession = 0x06 // opaque here; PROTOCOL.md §6
	fieldPad     = 0x07 // u8
	fieldRefused = 0x08 // u8 reason ‖ u64 unix time or 0
	fieldFill    = 0x7F // zeros, last
)

const (
	suitesFastAES = 0x80 // bit 7 of fieldSuites
	maxURL        = 255
)

// Bounds of the largest message that an end may name, in bytes. PROTOCOL.md §2.
const (
	MinMax     = 4096
	MaxMax     = 262144
	DefaultMax = 131072
)

var errPayload = errors.New("bad handshake payload")

// payload holds the fields of either handshake message. Nil slices and zeros are absent fields.
type payload struct {
	suites  byte
	suite   cipher.Suite
	max     int
	invite  []byte // nil: none
	url     string
	session []byte // nil: a plain conn without a session
	padding Padding
	reason  RefusedReason
	time    uint64 // unix seconds, or 0
}

// appendPayload appends the fields that are set, in ascending order, and fills up to size bytes. It does not
// allocate if dst has room for them.
func appendPayload(dst []byte, p *payload, size int) ([]byte, error) {
	start := len(dst)
	field := func(typ byte, value []byte) {
		dst = append(dst, typ)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(value)))
		dst = append(dst, value...)
	}
	if p.suites != 0 {
		field(fieldSuites, []byte{p.suites})
	}
	if p.suite != 0 {
		field(fieldSuite, []byte{byte(p.suite)})
	}
	if p.max != 0 {
		field(fieldMax, binary.BigEndian.AppendUint32(nil, uint32(p.max)))
	}
	if p.invite != nil {
		field(fieldInvite, p.invite)
	}
	if p.url != "" {
		field(fieldURL, []byte(p.url))
	}
	if p.session != nil {
		field(fieldSession, p.session)
	}
	if p.padding != PadNone {
		field(fieldPad, []byte{byte(p.padding)})
	}
	if p.reason != 0 {
		field(fieldRefused, binary.BigEndian.AppendUint64([]byte{byte(p.reason)}, p.time))
	}
	left := size - (len(dst) - start)
	if left < 3 {
		return nil, fmt.Errorf("handshake payload: %d bytes too many", 3-left)
	}
	field(fieldFill, make([]byte, left-3))
	return dst, nil
}

// parsePayload reads the fields of a handshake message. Their bounds are checked here, their
// presence by the caller. The invite stays a part of b.
func parsePayload(b []byte) (*payload, error) {
	p := new(payload)
	last := -1
	for len(b) > 0 {
		if len(b) < 3 || last == fieldFill {
			return nil, errPayload
		}
		typ, n := int(b[0]), int(binary.BigEndian.Uint16(b[1:]))
		if typ <= last || len(b) < 3+n {
			return nil, errPayload
		}
		value := b[3 : 3+n]
		b = b[3+n:]
		last = typ
		if !p.set(typ, value) {
			return nil, errPayload
		}
	}
	return p, nil
}

func (p *payload) set(typ int, v []byte) bool {
	switch typ {
	case fieldSuites:
		if len(v) != 1 || v[0] == 0 {
			return false
		}
		p.suites = v[0]
	case fieldSuite:
		if len(v) != 1 {
			return false
		}
		p.suite = cipher.Suite(v[0])
		return p.suite == cipher.AES256GCM || p.suite == cipher.ChaCha20Poly1305
	case fieldMax:
		if len(v) != 4 {
			return false
		}
		max := binary.BigEndian.Uint32(v)
		p.max = int(max)
		return max >= MinMax && max <= MaxMax
	case fieldInvite:
		p.invite = v
		return len(v) == keys.InviteSecretSize
	case fieldURL:
		if len(v) > maxURL || !utf8.Valid(v) {
			return false
		}
		p.url = string(v)
	case fieldSession:
		p.session = append([]byte{}, v...)
	case fieldPad:
		if len(v) != 1 {
			return false
		}
		p.padding = Padding(v[0])
	case fieldRefused:
		if len(v) != 9 || v[0] == 0 {
			return false
		}
		p.reason = RefusedReason(v[0])
		p.time = binary.BigEndian.Uint64(v[1:])
	case fieldFill:
		for _, z := range v {
			if z != 0 {
				return false
			}
		}
	default:
		return typ < 0x80
	}
	return true
}

// A RefusedReason says why a server that opened a hello does not take it. PROTOCOL.md §2.
type RefusedReason uint8

// The reasons. The values are on the wire.
const (
	NotEnrolled     RefusedReason = 1
	InviteUsed      RefusedReason = 2
	InviteExpired   RefusedReason = 3
	URLUnexpected   RefusedReason = 4
	NoCommonSuite   RefusedReason = 5
	BadPayload      RefusedReason = 6
	TooManySessions RefusedReason = 7
)

// chooseSuite picks the record suite: the configured one, else AES-256-GCM where both ends have it in
// hardware, else ChaCha20-Poly1305. It returns 0 if the client does not have it.
func chooseSuite(mask byte, configured cipher.Suite) cipher.Suite {
	suite := configured
	if suite == 0 {
		suite = cipher.ChaCha20Poly1305
		fast := mask&suitesFastAES != 0 && cipher.HasFastAES()
		if mask&byte(cipher.AES256GCM) != 0 && (fast || mask&byte(suite) == 0) {
			suite = cipher.AES256GCM
		}
	}
	if mask&byte(suite) == 0 {
		return 0
	}
	return suite
}

// suiteMask is what a client offers: both suites, or just the configured one.
func suiteMask(configured cipher.Suite) byte {
	mask := byte(configured)
	if configured == 0 {
		mask = byte(cipher.AES256GCM | cipher.ChaCha20Poly1305)
	}
	if cipher.HasFastAES() {
		mask |= suitesFastAES
	}
	return mask
}
