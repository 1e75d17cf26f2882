package regs

import "golang.org/x/sys/cpu"

// Sets returns the widths that this processor has, the widest last.
func Sets() []Set {
	sets := []Set{{"SSE", 16, 16, fillSSE, dumpSSE}}
	if cpu.X86.HasAVX {
		sets = append(sets, Set{"AVX", 32, 16, fillAVX, dumpAVX})
	}
	if cpu.X86.HasAVX512F {
		sets = append(sets, Set{"AVX-512", 64, 32, fillAVX512, dumpAVX512})
	}
	return sets
}

//go:noescape
func fillSSE(pattern *[Slot]byte)

//go:noescape
func dumpSSE(out *[Count * Slot]byte)

//go:noescape
func fillAVX(pattern *[Slot]byte)

//go:noescape
func dumpAVX(out *[Count * Slot]byte)

//go:noescape
func fillAVX512(pattern *[Slot]byte)

//go:noescape
func dumpAVX512(out *[Count * Slot]byte)
