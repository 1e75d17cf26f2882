package tunneltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
)

// CellSize is the length of a cell: stream 4 ‖ number 8 ‖ noise 16 ‖ CRC-32 4.
const CellSize = 32

// Cells are what one direction of a stream carries in a test: cells, numbered from 0, each of which says
// where it belongs. Two directions differ in their stream, two runs in their seed.
type Cells struct {
	Seed   uint64
	Stream uint32
}

// Append appends n cells, the first of them with the number from.
func (c Cells) Append(b []byte, from, n uint64) []byte {
	for i := from; i < from+n; i++ {
		start := len(b)
		b = binary.BigEndian.AppendUint32(b, c.Stream)
		b = binary.BigEndian.AppendUint64(b, i)
		x := xorshift(c.Seed ^ i*0x9e3779b97f4a7c15)
		b = binary.BigEndian.AppendUint64(b, x)
		b = binary.BigEndian.AppendUint64(b, xorshift(x))
		b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
	}
	return b
}

func xorshift(x uint64) uint64 {
	x ^= x << 13
	x ^= x >> 7
	return x ^ x<<17
}

// A CellWriter writes cells from number 0 on, in pieces of random length that end anywhere.
type CellWriter struct {
	cells Cells
	w     io.Writer
	rng   *rand.Rand
	next  uint64
	buf   []byte
}

// Writer returns a writer of the cells to w.
func (c Cells) Writer(w io.Writer, rng *rand.Rand) *CellWriter {
	return &CellWriter{cells: c, w: w, rng: rng}
}

// Send writes the next n cells.
func (w *CellWriter) Send(n uint64) error {
	for n > 0 {
		k := min(1+uint64(w.rng.ExpFloat64()*100), n)
		w.buf = w.cells.Append(w.buf[:0], w.next, k)
		for p := w.buf; len(p) > 0; {
			cut := 1 + w.rng.IntN(len(p))
			if _, err := w.w.Write(p[:cut]); err != nil {
				return err
			}
			p = p[cut:]
		}
		w.next += k
		n -= k
	}
	return nil
}

// Sent is how many cells were written.
func (w *CellWriter) Sent() uint64 { return w.next }

// A CellChecker is an [io.Writer] that names the first cell that is lost, doubled, moved, foreign or
// damaged. The first fault is final.
type CellChecker struct {
	cells Cells
	next  uint64
	part  []byte // of a cell
	want  []byte
	err   error
}

// Checker returns a checker of the cells from number 0 on.
func (c Cells) Checker() *CellChecker { return &CellChecker{cells: c} }

// Write takes the next bytes that arrived.
func (c *CellChecker) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	rest := p
	if len(c.part) > 0 {
		n := min(CellSize-len(c.part), len(rest))
		c.part, rest = append(c.part, rest[:n]...), rest[n:]
		if len(c.part) < CellSize {
			return len(p), nil
		}
		if !c.take(c.part, rest) {
			return 0, c.err
		}
		c.part = c.part[:0]
	}
	for ; len(rest) >= CellSize; rest = rest[CellSize:] {
		if !c.take(rest[:CellSize], rest[CellSize:]) {
			return 0, c.err
		}
	}
	c.part = append(c.part, rest...)
	return len(p), nil
}

// take checks one cell; after are the bytes that came behind it.
func (c *CellChecker) take(cell, after []byte) bool {
	c.want = c.cells.Append(c.want[:0], c.next, 1)
	if bytes.Equal(cell, c.want) {
		c.next++
		return true
	}
	c.err = fmt.Errorf("stream %d: %s", c.cells.Stream, c.fault(cell, after))
	return false
}

func (c *CellChecker) fault(cell, after []byte) string {
	stream, n := binary.BigEndian.Uint32(cell), binary.BigEndian.Uint64(cell[4:])
	switch {
	case crc32.ChecksumIEEE(cell[:28]) != binary.BigEndian.Uint32(cell[28:]):
		return fmt.Sprintf("cell %d is damaged: %x", c.next, cell)
	case stream != c.cells.Stream:
		return fmt.Sprintf("a foreign cell, %d of stream %d, where cell %d belongs", n, stream, c.next)
	case !bytes.Equal(cell, c.cells.Append(nil, n, 1)):
		return fmt.Sprintf("a foreign cell, %d of another run, where cell %d belongs", n, c.next)
	case n < c.next:
		return fmt.Sprintf("cell %d is doubled: it came again where cell %d belongs", n, c.next)
	case bytes.Contains(after, c.want):
		return fmt.Sprintf("cell %d is moved: cell %d came before it", c.next, n)
	}
	return fmt.Sprintf("cell %d is lost: cell %d came in its place", c.next, n)
}

// Finish says whether these cells have arrived, all of them and no byte more.
func (c *CellChecker) Finish(cells uint64) error {
	if c.err == nil && (c.next != cells || len(c.part) != 0) {
		c.err = fmt.Errorf("stream %d: it ended after %d cells and %d bytes, want %d cells", c.cells.Stream, c.next, len(c.part), cells)
	}
	return c.err
}
