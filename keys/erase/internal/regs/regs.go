// Package regs fills the vector registers and reads them back, so that the tests of keys/erase can
// see what is left in them. Nothing but tests imports it.
package regs

// Slot is the distance between two registers in what Dump writes, and the size of what Fill reads:
// the width of the widest register there is here.
const Slot = 64

// Count is the number of registers at most.
const Count = 32

// A Set is one width of the registers of this processor.
type Set struct {
	Name  string
	Width int // of a register, in bytes
	Count int
	Fill  func(pattern *[Slot]byte)     // loads the first Width bytes into every register
	Dump  func(out *[Count * Slot]byte) // stores every register at a multiple of Slot
}
