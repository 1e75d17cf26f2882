//go:build !goexperiment.runtimesecret

package erase

// Do runs f on this goroutine and then clears 4 KiB of stack below and all vector registers. It
// is meant for one record: it costs about 50 ns and allocates nothing. A panic of f passes on
// with its value after the clearing. Calls may nest, and may run at once.
func Do(f func()) {
	if skipGuard {
		f()
		return
	}
	scrubDo(f)
}

// Handshake is [Do] for longer work: f runs on a goroutine of its own with 32 KiB of stack that
// neither moves nor survives, and on Linux no signal interrupts it. Handshake returns when f has; a
// panic of f, and runtime.Goexit, are carried over to the caller.
func Handshake(f func()) {
	if skipGuard {
		f()
		return
	}
	scrubHandshake(f)
}

// Guard names what erases here: "scrub", or "runtime/secret" in a build with that experiment on a
// system that supports it.
func Guard() string { return "scrub" }
