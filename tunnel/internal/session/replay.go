package session

// A replay keeps what was numbered until the other end has it, oldest first. It has no lock and does no
// I/O.
type replay struct {
	segments []*segment // segments[head:] are kept
	head     int
	acked    uint64 // number of the newest that the other end has; the oldest kept is the next
	size     int    // what the kept ones are charged
}

// last is the number of the newest segment.
func (r *replay) last() uint64 { return r.acked + uint64(len(r.segments)-r.head) }

// push numbers a segment and returns its number.
func (r *replay) push(s *segment) uint64 {
	if r.head > 64 && r.head > len(r.segments)/2 {
		n := copy(r.segments, r.segments[r.head:])
		clear(r.segments[n:])
		r.segments, r.head = r.segments[:n], 0
	}
	r.segments = append(r.segments, s)
	r.size += s.cost()
	return r.last()
}

// at returns the kept segment of a number.
func (r *replay) at(n uint64) *segment { return r.segments[r.head+int(n-r.acked-1)] }

// free forgets the segments up to a number and returns what they were charged.
func (r *replay) free(upTo uint64) (freed int) {
	for r.acked < upTo && r.head < len(r.segments) {
		s := r.segments[r.head]
		r.segments[r.head] = nil
		r.head++
		r.acked++
		freed += s.cost()
		s.free()
	}
	if r.head == len(r.segments) {
		r.segments, r.head = r.segments[:0], 0
		if cap(r.segments) > 1024 {
			r.segments = nil
		}
	}
	r.size -= freed
	return freed
}
