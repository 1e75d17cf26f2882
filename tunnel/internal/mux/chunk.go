package mux

import "sync"

// chunkSizes are the buffers that received bytes wait in. A small frame on a quiet stream takes a
// small one; a backlog takes larger ones, and a whole message one of its size, so that writing it out
// takes few calls.
var chunkSizes = [...]int{2 << 10, 16 << 10, 64 << 10, 128 << 10}

// backlogChunk is the largest that a backlog of small frames asks for: its last one may be nearly empty.
const backlogChunk = 64 << 10

var chunkPools [len(chunkSizes)]sync.Pool

// A chunk is a buffer of received bytes: buf[off:] is unread.
type chunk struct {
	next  *chunk
	class int
	off   int
	buf   []byte // its capacity is chunkSizes[class]
}

// newChunk returns an empty chunk for about n bytes.
func newChunk(n int) *chunk {
	class := 0
	for class < len(chunkSizes)-1 && chunkSizes[class] < n {
		class++
	}
	if c, ok := chunkPools[class].Get().(*chunk); ok {
		return c
	}
	return &chunk{class: class, buf: make([]byte, 0, chunkSizes[class])}
}

// free gives the chunk back, without the plaintext in it; its owner forgets it.
func (c *chunk) free() {
	clear(c.buf)
	c.next, c.off, c.buf = nil, 0, c.buf[:0]
	chunkPools[c.class].Put(c)
}

// A chunkQueue holds received bytes in order. Its zero value is empty; when it is empty it holds
// no buffer. The owner locks it.
type chunkQueue struct {
	head, tail *chunk
	n          int // unread bytes
}

// append copies p to the end: into the last chunk while that has room, so that many tiny frames
// share one.
func (q *chunkQueue) append(p []byte) {
	for len(p) > 0 {
		if q.tail == nil || len(q.tail.buf) == cap(q.tail.buf) {
			c := newChunk(max(len(p), min(q.n, backlogChunk)))
			if q.tail == nil {
				q.head = c
			} else {
				q.tail.next = c
			}
			q.tail = c
		}
		n := min(len(p), cap(q.tail.buf)-len(q.tail.buf))
		q.tail.buf = append(q.tail.buf, p[:n]...)
		q.n += n
		p = p[n:]
	}
}

// read moves up to len(p) bytes to p.
func (q *chunkQueue) read(p []byte) int {
	total := 0
	for q.head != nil && total < len(p) {
		n := copy(p[total:], q.head.buf[q.head.off:])
		q.head.off += n
		total += n
		if q.head.off == len(q.head.buf) {
			q.shift().free()
		}
	}
	q.n -= total
	return total
}

// pop takes the first chunk out; nil if the queue is empty.
func (q *chunkQueue) pop() *chunk {
	if q.head == nil {
		return nil
	}
	c := q.shift()
	q.n -= len(c.buf) - c.off
	return c
}

func (q *chunkQueue) shift() *chunk {
	c := q.head
	q.head = c.next
	if q.head == nil {
		q.tail = nil
	}
	c.next = nil
	return c
}

// unpop puts the rest of a popped chunk back in front.
func (q *chunkQueue) unpop(c *chunk) {
	c.next = q.head
	q.head = c
	if q.tail == nil {
		q.tail = c
	}
	q.n += len(c.buf) - c.off
}

// drop frees everything.
func (q *chunkQueue) drop() {
	for q.head != nil {
		q.shift().free()
	}
	q.n = 0
}
