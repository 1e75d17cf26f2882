package erase

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// deferrable are all signals but those that the code itself raises: one of these kills the process if
// it is blocked.
var deferrable = func() (set unix.Sigset_t) {
	for i := range set.Val {
		set.Val[i] = ^set.Val[i]
	}
	bits := 1024 / len(set.Val) // of a word; the set has 1024
	for _, s := range []unix.Signal{unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS} {
		set.Val[(int(s)-1)/bits] &^= 1 << ((int(s) - 1) % bits)
	}
	return set
}()

// deferSignals keeps signals from this thread until resume is called. A signal makes the kernel write all
// registers to the thread's signal stack, and the runtime those of a goroutine that it preempts to
// memory of its own, and there nobody can erase them. With a whole key in two vector registers during
// a scalar multiplication that is not rare: without this, one handshake in fifty left one behind on a
// busy machine. Goroutines can still be preempted at calls, so the garbage collector does not wait long.
func deferSignals() (resume func()) {
	runtime.LockOSThread()
	var before unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &deferrable, &before); err != nil {
		runtime.UnlockOSThread()
		return func() {}
	}
	return func() {
		unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
		runtime.UnlockOSThread()
	}
}
