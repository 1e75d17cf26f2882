package erase

import "golang.org/x/sys/cpu"

var (
	hasAVX    = cpu.X86.HasAVX
	hasAVX512 = cpu.X86.HasAVX512F
)

// wipeRegisters zeroes the vector registers, and the general ones that the caller does not own.
func wipeRegisters() {
	switch {
	case hasAVX512:
		wipeAVX512()
	case hasAVX:
		wipeAVX()
	default:
		wipeSSE()
	}
}

func wipeSSE()

func wipeAVX()

func wipeAVX512()
