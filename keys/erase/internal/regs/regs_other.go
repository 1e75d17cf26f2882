//go:build !amd64 && !arm64

package regs

// Sets returns nothing: there is no assembly for this processor.
func Sets() []Set { return nil }
