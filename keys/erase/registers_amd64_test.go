package erase

import (
	"testing"

	"waxwire.example/waxwire/keys/erase/internal/regs"
)

// Each of the three ways must do on a processor that has nothing better, though this one may have.
func TestWipesOfAMD64(t *testing.T) {
	wipes := []func(){wipeSSE, wipeAVX, wipeAVX512}
	for i, set := range regs.Sets() {
		t.Run(set.Name, func(t *testing.T) {
			var pattern [regs.Slot]byte
			for i := range pattern {
				pattern[i] = 0xC7
			}
			var out [regs.Count * regs.Slot]byte
			for i := range out {
				out[i] = 1 // so that a Dump that does nothing is not taken for zeros
			}
			set.Fill(&pattern)
			wipes[i]()
			set.Dump(&out)
			for i := range set.Count {
				if got := out[i*regs.Slot:][:set.Width]; string(got) != string(make([]byte, set.Width)) {
					t.Errorf("register %d is %x, want zeros", i, got)
				}
			}
		})
	}
}
