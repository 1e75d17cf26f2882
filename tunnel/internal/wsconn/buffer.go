package wsconn

import "sync"

// Read buffers come in few sizes and go back to a pool, so that a connection holds one only while a
// message is being looked at.
var (
	bufferSizes = [...]int{2 << 10, 16 << 10, 128 << 10, 256 << 10}
	bufferPools [len(bufferSizes)]sync.Pool
)

// writeBuffers are the WebSocket library's, by their size: it takes one for each message and gives it
// back. They hold ciphertext only.
var writeBuffers sync.Map // int → *sync.Pool

func writePool(size int) *sync.Pool {
	if p, ok := writeBuffers.Load(size); ok {
		return p.(*sync.Pool)
	}
	p, _ := writeBuffers.LoadOrStore(size, new(sync.Pool))
	return p.(*sync.Pool)
}

// getBuffer returns a buffer of at least n bytes, at its full length. It stays behind one pointer on its
// way through the pools: a new one each time would be an allocation.
func getBuffer(n int) *[]byte {
	for i, size := range bufferSizes {
		if n <= size {
			if b, ok := bufferPools[i].Get().(*[]byte); ok {
				return b
			}
			n = size
			break
		}
	}
	b := make([]byte, n)
	return &b
}

// putBuffer clears the used bytes of a buffer, which hold plaintext since records are opened in place,
// and gives it back.
func putBuffer(b *[]byte, used int) {
	clear((*b)[:used])
	for i, size := range bufferSizes {
		if len(*b) == size {
			bufferPools[i].Put(b)
			return
		}
	}
}
