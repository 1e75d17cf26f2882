package session

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"unicode/utf8"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// Segment types, the first byte of a DATA record's body. PROTOCOL.md §6.
const (
	segmentFrames   = 0x01 // SEG: frames, counted
	segmentAck      = 0x02 // ACK: u64 counted segments received
	segmentDatagram = 0x03 // DGRAM: one datagram, not counted
	segmentEnd      = 0x04 // END: u16 code ‖ text, counted
	segmentFrom     = 0x05 // FROM: u64 number of the next counted segment
)

const (
	segmentOverhead = 1 // what a segment adds to a message

	// segmentCost is what a kept segment is charged beside its length, for the memory that it takes
	// however short it is.
	segmentCost = 128

	// segmentStart is where a segment begins in its buffer: a message has [message.Headroom] in front,
	// of which the type takes the last byte.
	segmentStart = message.Headroom - segmentOverhead

	// segmentTail is spare capacity behind a segment, for a layer below that pads in place.
	segmentTail = 32
)

// A segment is one that was numbered and is kept until the other end has it. Its bytes never change.
type segment struct {
	buf   []byte // segmentStart bytes for the layers below ‖ type ‖ rest
	class int

	// A segment that took its memory over from the layer above gives it back there.
	owner  *[]byte
	giveUp func(*[]byte)
}

// Segments come in powers of two from 256 bytes of message, with room around it, so that a small one does
// not hold a large buffer, and one that is full, as bulk is, not a larger one.
const (
	smallestClass = 8
	largestClass  = 18
)

var segmentPools [largestClass + 1]sync.Pool

// newSegment copies a message into a segment.
func newSegment(typ byte, body []byte) *segment {
	class := smallestClass
	if n := len(body); n > 1<<smallestClass {
		class = bits.Len(uint(n - 1))
	}
	var s *segment
	if class <= largestClass {
		s, _ = segmentPools[class].Get().(*segment)
	}
	if s == nil {
		room := len(body)
		if class <= largestClass {
			room = 1 << class
		}
		s = &segment{class: class, buf: make([]byte, 0, message.Headroom+room+segmentTail)}
	}
	s.buf = append(s.buf[:segmentStart], typ)
	s.buf = append(s.buf, body...)
	return s
}

// ownedSegments are those without memory of their own.
var ownedSegments sync.Pool

// takeSegment makes a segment of a message that has [message.Headroom] in front, without a copy.
func takeSegment(typ byte, owner *[]byte, giveUp func(*[]byte)) *segment {
	s, _ := ownedSegments.Get().(*segment)
	if s == nil {
		s = new(segment)
	}
	s.buf, s.owner, s.giveUp = *owner, owner, giveUp
	s.buf[segmentStart] = typ
	return s
}

// free clears the segment, which held plaintext, and gives it back.
func (s *segment) free() {
	clear(s.buf)
	if s.owner != nil {
		s.giveUp(s.owner)
		s.buf, s.owner, s.giveUp = nil, nil, nil
		ownedSegments.Put(s)
		return
	}
	s.buf = s.buf[:0]
	if s.class <= largestClass {
		segmentPools[s.class].Put(s)
	}
}

// cost is what the segment is charged.
func (s *segment) cost() int { return len(s.buf) - segmentStart + segmentCost }

// A short segment is made for one write and not kept.
func appendShort(typ byte, n uint64) []byte {
	buf := make([]byte, segmentStart, message.Headroom+8+segmentTail)
	return binary.BigEndian.AppendUint64(append(buf, typ), n)
}

// parseShort reads the rest of an ACK or a FROM.
func parseShort(body []byte) (n uint64, ok bool) {
	if len(body) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(body), true
}

// newEnd makes an END: u16 code ‖ text.
func newEnd(reason string) *segment {
	body := binary.BigEndian.AppendUint16(nil, uint16(message.OK))
	return newSegment(segmentEnd, append(body, message.CutReason(reason)...))
}

// validEnd checks the rest of an END, of which nothing but its being there counts.
func validEnd(body []byte) bool {
	return len(body) >= 2 && len(body) <= 2+message.MaxReason && utf8.Valid(body[2:])
}
