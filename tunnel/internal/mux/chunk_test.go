package mux

import (
	"bytes"
	"testing"
)

// Buffers come back from their pools with nothing of what they held, whichever way they went.
func TestChunksAreCleared(t *testing.T) {
	secret := bytes.Repeat([]byte("plaintext "), 500)
	for name, leave := range map[string]func(q *chunkQueue){
		"read":    func(q *chunkQueue) { q.read(make([]byte, len(secret))) },
		"dropped": func(q *chunkQueue) { q.drop() },
		"popped": func(q *chunkQueue) {
			c := q.pop()
			c.off = len(c.buf)
			c.free()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var q chunkQueue
			q.append(secret)
			held := q.head.buf
			leave(&q)
			if q.n != 0 || q.head != nil {
				t.Fatalf("%d bytes are left in the queue", q.n)
			}
			if !bytes.Equal(held, make([]byte, len(held))) {
				t.Errorf("the buffer holds %.40q", held)
			}
		})
	}
}
