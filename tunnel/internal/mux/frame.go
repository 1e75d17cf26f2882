package mux

import (
	"encoding/binary"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// The frames. Each is its type, then its fields, all as QUIC varints, except the bytes that
// follow a len. PROTOCOL.md §7.
const (
	typeOpen    = 1 // id ‖ kind ‖ window ‖ len ‖ request
	typeOpened  = 2 // id ‖ window
	typeRefused = 3 // id ‖ code ‖ len ‖ text
	typeData    = 4 // id ‖ len ‖ bytes
	typeFin     = 5 // id
	typeReset   = 6 // id ‖ code
	typeStop    = 7 // id ‖ code
	typeCredit  = 8 // id ‖ n
)

// Sizes that both ends must agree on, in bytes. PROTOCOL.md §7.
const (
	// MaxRequest is the longest request of an OPEN.
	MaxRequest = 1024
	// MaxText is the longest text of a REFUSED.
	MaxText = 256

	earlyData = 16 << 10  // what an opener may send before OPENED
	maxVarint = 1<<62 - 1 // the largest integer on the wire

	// maxControlLen bounds every frame but DATA: an OPEN with the longest request.
	maxControlLen = 1 + 8 + 8 + 8 + 2 + MaxRequest
)

// A streamID is odd if the client opened the stream, even if the server did. Each side's ascend
// and none is used twice.
type streamID uint64

// A protocolError says which rule the other end broke. It becomes the reason of the CLOSE, so it
// is short and holds nothing that the peer sent.
type protocolError string

func (e protocolError) Error() string { return string(e) }

const (
	errCutFrame    = protocolError("frame cut short")
	errFrameType   = protocolError("unknown frame type")
	errLongRequest = protocolError("request too long")
	errLongText    = protocolError("text too long")
	errCode        = protocolError("code out of range")
)

// varintLen is the length of v in its shortest form: 1, 2, 4 or 8 bytes. RFC 9000 §16.
func varintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	}
	return 8
}

// appendVarint appends v, at most maxVarint, in its shortest form.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|2<<30)
	case v <= maxVarint:
		return binary.BigEndian.AppendUint64(b, v|3<<62)
	}
	panic("mux: varint out of range")
}

// parseVarint returns the integer that b begins with, and its length; 0 if b is too short. Every
// length that RFC 9000 §16 allows is taken, not the shortest alone.
func parseVarint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}

// A frame is any frame, parsed. Fields that its type does not have are zero.
type frame struct {
	typ    uint64
	id     streamID
	kind   uint64       // OPEN
	n      uint64       // OPEN, OPENED: window; CREDIT: n
	code   message.Code // REFUSED, RESET, STOP
	body   []byte       // OPEN: request; REFUSED: text; DATA: bytes. Part of the parsed message
	parsed int          // how long the frame was
}

// fields reads integers off a frame; after the first failure all are zero and ok is false.
type fields struct {
	b  []byte
	ok bool
}

func (r *fields) varint() uint64 {
	v, n := parseVarint(r.b)
	if n == 0 {
		r.b, r.ok = nil, false
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes reads a length and as many bytes.
func (r *fields) bytes() []byte {
	n := r.varint()
	if !r.ok || n > uint64(len(r.b)) {
		r.b, r.ok = nil, false
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

// parseFrame parses the frame that b begins with. What follows it starts at b[f.parsed:]. It does
// not allocate; any error is a protocolError.
func parseFrame(b []byte) (f frame, err error) {
	r := fields{b, true}
	f.typ = r.varint()
	if r.ok && (f.typ < typeOpen || f.typ > typeCredit) {
		return frame{}, errFrameType
	}
	f.id = streamID(r.varint())
	var code uint64
	switch f.typ {
	case typeOpen:
		f.kind = r.varint()
		f.n = r.varint()
		f.body = r.bytes()
	case typeOpened, typeCredit:
		f.n = r.varint()
	case typeRefused:
		code = r.varint()
		f.body = r.bytes()
	case typeData:
		f.body = r.bytes()
	case typeReset, typeStop:
		code = r.varint()
	}
	switch {
	case !r.ok:
		return frame{}, errCutFrame
	case f.typ == typeOpen && len(f.body) > MaxRequest:
		return frame{}, errLongRequest
	case f.typ == typeRefused && len(f.body) > MaxText:
		return frame{}, errLongText
	case code > 1<<16-1:
		return frame{}, errCode
	}
	f.code = message.Code(code)
	f.parsed = len(b) - len(r.b)
	return f, nil
}

func appendOpen(b []byte, id streamID, kind, window uint64, request []byte) []byte {
	b = appendVarint(append(b, typeOpen), uint64(id))
	b = appendVarint(b, kind)
	b = appendVarint(b, window)
	b = appendVarint(b, uint64(len(request)))
	return append(b, request...)
}

func appendOpened(b []byte, id streamID, window uint64) []byte {
	return appendVarint(appendVarint(append(b, typeOpened), uint64(id)), window)
}

func appendRefused(b []byte, id streamID, code message.Code, text string) []byte {
	b = appendVarint(append(b, typeRefused), uint64(id))
	b = appendVarint(b, uint64(code))
	b = appendVarint(b, uint64(len(text)))
	return append(b, text...)
}

func appendData(b []byte, id streamID, p []byte) []byte {
	b = appendVarint(append(b, typeData), uint64(id))
	b = appendVarint(b, uint64(len(p)))
	return append(b, p...)
}

// dataLen is how many bytes of a stream fit into room with a DATA frame around them; never
// negative.
func dataLen(id streamID, room int) int {
	room -= 1 + varintLen(uint64(id))
	// A length field that is longer than the rest needs costs at most a few bytes of room.
	return max(room-varintLen(uint64(max(room, 0))), 0)
}

func appendFin(b []byte, id streamID) []byte {
	return appendVarint(append(b, typeFin), uint64(id))
}

func appendReset(b []byte, id streamID, code message.Code) []byte {
	return appendVarint(appendVarint(append(b, typeReset), uint64(id)), uint64(code))
}

func appendStop(b []byte, id streamID, code message.Code) []byte {
	return appendVarint(appendVarint(append(b, typeStop), uint64(id)), uint64(code))
}

func appendCredit(b []byte, id streamID, n uint64) []byte {
	return appendVarint(appendVarint(append(b, typeCredit), uint64(id)), n)
}
