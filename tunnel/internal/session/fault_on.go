//go:build sessionfault

package session

import (
	"os"
	"slices"
)

const faulty = true

var faultKind = os.Getenv("WAXWIRE_SESSION_FAULT")

// faults are what goes wrong in a session. The reading goroutine has them.
type faults struct{ twice []byte }

// again returns a segment that was delivered and is now delivered once more.
func (f *faults) again() []byte {
	frames := f.twice
	f.twice = nil
	return frames
}

// spoil loses each fourth segment although it is acknowledged, or has it delivered twice.
func (f *faults) spoil(number uint64, frames []byte) []byte {
	switch {
	case number%4 != 0:
	case faultKind == "lose":
		return nil
	case faultKind == "double":
		f.twice = slices.Clone(frames)
	}
	return frames
}
