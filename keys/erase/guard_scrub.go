package erase

import "runtime"

const (
	doStack        = 4 << 10
	handshakeStack = 32 << 10
)

// outcome is how a guarded function ended.
type outcome struct {
	returned bool
	panicked any // nil and not returned: runtime.Goexit
}

// never is false, which the compiler does not know: an array in a branch that is never taken makes a
// frame as large as it is, and costs nothing.
var never bool

// scrubDo is Do where runtime/secret is not at work. It does not allocate, and f does not escape.
func scrubDo(f func()) {
	// The garbage collector halves a stack of which less than a quarter is in use, and frees the old one
	// as it is, at a call. The anchor makes this frame as large as all that Do may need below it, so that
	// more is in use, unless the stack was deeper before.
	if never {
		var anchor [doStack]byte
		hold4K(&anchor)
	}
	growStack4K() // now, while there is no secret on the old one
	var o outcome
	run(f, &o, clearStack4K)
	wipeRegisters()
	clearStack4K()
	if !o.returned {
		panic(o.panicked)
	}
}

// scrubHandshake is Handshake where runtime/secret is not at work.
func scrubHandshake(f func()) {
	var o outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The garbage collector halves a stack of which less than a quarter is in use, and frees
		// the old one as it is. After clearStack32K this stack has 128 KiB; the anchor keeps more
		// than 32 KiB of them in use.
		var anchor [handshakeStack]byte
		hold32K(&anchor)
		clearStack32K()
		defer deferSignals()()
		run(f, &o, clearStack32K)
		wipeRegisters()
		clearStack32K()
		hold32K(&anchor)
	}()
	<-done
	switch {
	case o.returned:
	case o.panicked != nil:
		panic(o.panicked)
	default:
		runtime.Goexit()
	}
}

// run calls f and catches what it throws, so that f's frames are dead when the caller clears the
// stack. A Goexit cannot be caught: then only registers and what is below here are cleared.
//
//go:noinline
func run(f func(), o *outcome, clearStack func()) {
	defer func() {
		if o.returned {
			return
		}
		if o.panicked = recover(); o.panicked == nil {
			wipeRegisters()
			clearStack()
		}
	}()
	f()
	o.returned = true
}

// growStack4K has a frame of 4 KiB, and so the stack has room for it afterwards.
//
//go:noinline
func growStack4K() {
	if never {
		var dead [doStack]byte
		hold4K(&dead)
	}
}

// clearStack4K zeroes the stack below its caller. Its frame is what does it: the compiler must
// zero an array whose address leaves the function.
//
//go:noinline
func clearStack4K() {
	var dead [doStack]byte
	hold4K(&dead)
}

//go:noinline
func clearStack32K() {
	var dead [handshakeStack]byte
	hold32K(&dead)
}

//go:noinline
func hold4K(p *[doStack]byte) { runtime.KeepAlive(p) }

//go:noinline
func hold32K(p *[handshakeStack]byte) { runtime.KeepAlive(p) }
