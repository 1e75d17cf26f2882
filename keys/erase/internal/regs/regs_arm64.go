package regs

// Sets returns the one width that Go uses on this processor.
func Sets() []Set { return []Set{{"NEON", 16, 32, fill, dump}} }

//go:noescape
func fill(pattern *[Slot]byte)

//go:noescape
func dump(out *[Count * Slot]byte)
