package erase_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/keys/erase/internal/regs"
)

// left counts the registers of the set that hold eight bytes of the pattern or more after between
// has run.
func left(set regs.Set, between func(fill func())) int {
	var pattern [regs.Slot]byte
	var out [regs.Count * regs.Slot]byte
	rand.Read(pattern[:])
	between(func() { set.Fill(&pattern) })
	set.Dump(&out)
	n := 0
	for i := range set.Count {
		register := out[i*regs.Slot:][:set.Width]
		for at := 0; at < set.Width; at += 8 {
			if bytes.Equal(register[at:at+8], pattern[at:at+8]) {
				n++
				break
			}
		}
	}
	return n
}

func TestDoWipesRegisters(t *testing.T) {
	if len(regs.Sets()) == 0 {
		t.Skip("no assembly for this processor to look into its registers")
	}
	for _, set := range regs.Sets() {
		t.Run(set.Name, func(t *testing.T) {
			// Go itself zeroes one register after each call of assembly on amd64.
			if n := left(set, func(fill func()) { fill() }); n < set.Count-1 {
				t.Fatalf("%d of %d registers hold the pattern without Do: this test would prove nothing", n, set.Count)
			}
			if n := left(set, func(fill func()) { erase.Do(fill) }); n != 0 {
				t.Errorf("%d of %d registers hold the pattern after Do, want 0", n, set.Count)
			}
			if n := left(set, func(fill func()) {
				defer func() { _ = recover() }()
				erase.Do(func() { fill(); panic("while the registers are full") })
			}); n != 0 {
				t.Errorf("%d of %d registers hold the pattern after a panic in Do, want 0", n, set.Count)
			}
		})
	}
}
