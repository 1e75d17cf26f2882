//go:build !linux

package erase

// deferSignals does nothing where threads cannot be told so without cgo.
func deferSignals() (resume func()) { return func() {} }
