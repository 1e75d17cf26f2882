package erase

// wipeRegisters zeroes the vector registers, and the general ones that the caller does not own.
func wipeRegisters()
