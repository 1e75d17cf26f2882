//go:build goexperiment.runtimesecret

package erase

import "runtime/secret"

// supported is whether runtime/secret does anything on this system; elsewhere secret.Do only calls f.
var supported = func() (on bool) {
	secret.Do(func() { on = secret.Enabled() })
	return on
}()

// Do runs f under runtime/secret.Do, and where that does nothing as the build without the
// experiment does: it clears 4 KiB of stack below and all vector registers. It is meant for one
// record and allocates nothing. A panic of f passes on with its value. Calls may nest, and may run
// at once.
func Do(f func()) {
	switch {
	case skipGuard:
		f()
	case supported:
		secret.Do(f)
	default:
		scrubDo(f)
	}
}

// Handshake is [Do] for longer work. Where runtime/secret does nothing, f runs on a goroutine of its
// own; a panic of f, and runtime.Goexit, are carried over to the caller either way.
func Handshake(f func()) {
	switch {
	case skipGuard:
		f()
	case supported:
		secret.Do(f)
	default:
		scrubHandshake(f)
	}
}

// Guard names what erases here: "scrub", or "runtime/secret" in a build with that experiment on a
// system that supports it.
func Guard() string {
	if supported {
		return "runtime/secret"
	}
	return "scrub"
}
