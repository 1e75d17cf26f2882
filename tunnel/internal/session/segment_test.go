package session

import "testing"

// A segment takes about the memory that it is charged, above all at the sizes that bulk comes in.
func TestSegmentMemory(t *testing.T) {
	for _, n := range []int{4096 - 18, 16 << 10, 32 << 10, 64 << 10, 131072 - 18, 262144 - 18} {
		s := newSegment(segmentFrames, make([]byte, n))
		if took := cap(s.buf); took > s.cost()*11/10 {
			t.Errorf("a segment of %d bytes takes %d and is charged %d", n, took, s.cost())
		}
		s.free()
	}
}
