package tunneltest_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// The checker must name each kind of fault, however the bytes come in.
func TestCellCheckerNamesFaults(t *testing.T) {
	const cells, size = 10, tunneltest.CellSize
	own := tunneltest.Cells{Seed: 1, Stream: 7}
	good := own.Append(nil, 0, cells)
	with := func(i int, cell []byte) []byte { return slices.Concat(good[:i*size], cell, good[(i+1)*size:]) }
	flipped := bytes.Clone(good)
	flipped[2*size+20] ^= 1
	tests := []struct {
		name string
		b    []byte
		want string // part of the error; empty: none
	}{
		{"good", good, ""},
		{"lost", slices.Concat(good[:2*size], good[3*size:]), "stream 7: cell 2 is lost: cell 3 came in its place"},
		{"first lost", good[size:], "stream 7: cell 0 is lost"},
		{"last lost", good[:9*size], "stream 7: it ended after 9 cells and 0 bytes, want 10"},
		{"doubled", slices.Concat(good[:3*size], good[2*size:]), "stream 7: cell 2 is doubled: it came again where cell 3 belongs"},
		{"all doubled", slices.Concat(good, good), "stream 7: cell 0 is doubled"},
		{"one too many", own.Append(nil, 0, cells+1), "stream 7: it ended after 11 cells and 0 bytes, want 10"},
		{"other stream", with(4, tunneltest.Cells{Seed: 1, Stream: 8}.Append(nil, 4, 1)), "stream 7: a foreign cell, 4 of stream 8, where cell 4 belongs"},
		{"other run", with(4, tunneltest.Cells{Seed: 2, Stream: 7}.Append(nil, 4, 1)), "stream 7: a foreign cell, 4 of another run"},
		{"damaged", flipped, "stream 7: cell 2 is damaged"},
		{"byte lost", slices.Concat(good[:70], good[71:]), "stream 7: cell 2 is damaged"},
		{"byte at the end lost", good[:len(good)-1], "stream 7: it ended after 9 cells and 31 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, piece := range []int{1, 31, 32, 33, 1000} {
				c := own.Checker()
				var err error
				for p := range slices.Chunk(tt.b, piece) {
					if _, err = c.Write(p); err != nil {
						if _, again := c.Write(good); again != err {
							t.Errorf("the write after the fault: %v, want %v", again, err)
						}
						break
					}
				}
				if err == nil {
					err = c.Finish(cells)
				}
				checkError(t, err, tt.want)
			}
		})
	}

	// What comes too early is told from what is lost if both are there to see.
	c := own.Checker()
	_, err := c.Write(slices.Concat(good[:size], good[2*size:4*size], good[size:2*size]))
	checkError(t, err, "stream 7: cell 1 is moved: cell 2 came before it")
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got %v, want no error", err)
	case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
		t.Errorf("got %v, want %s…", err, want)
	}
}

func TestCellWriter(t *testing.T) {
	cells := tunneltest.Cells{Seed: 5, Stream: 9}
	var out bytes.Buffer
	w := cells.Writer(&out, rand.New(rand.NewPCG(1, 2)))
	for _, n := range []uint64{0, 1, 999, 4000} {
		if err := w.Send(n); err != nil {
			t.Fatal(err)
		}
	}
	if w.Sent() != 5000 || !bytes.Equal(out.Bytes(), cells.Append(nil, 0, 5000)) {
		t.Errorf("%d cells sent, %d bytes, not the 5000 cells", w.Sent(), out.Len())
	}
	broken := errors.New("broken")
	if err := cells.Writer(failing{broken}, rand.New(rand.NewPCG(1, 2))).Send(1); err != broken {
		t.Errorf("Send to what fails: %v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
