//go:build erasetrace && unix

package erase

import (
	"os"
	"strconv"
	"sync"
	"syscall"
)

// What whoever starts the process asks for by its environment.
const (
	traceFDEnv   = "WAXWIRE_ERASETRACE_FD"   // where to write; nothing is written without it
	traceSkipEnv = "WAXWIRE_ERASETRACE_SKIP" // the control: "wipe" or "guard" is left out
)

var (
	traceFD = func() int {
		n, err := strconv.Atoi(os.Getenv(traceFDEnv))
		if err != nil {
			return -1
		}
		return n
	}()

	// skipWipe leaves the objects as they are, skipGuard the stack and the registers: what a search has
	// to find if it is any good.
	skipWipe  = os.Getenv(traceSkipEnv) == "wipe"
	skipGuard = os.Getenv(traceSkipEnv) == "guard"

	traceMu   sync.Mutex
	traceLine [1024]byte // static: a masked secret on its way out
)

// Trace writes "KEY name hex", each byte of the secret xor 0xA5. It moves the secret byte by byte and
// makes no copy of it: the search must not find what the trace has left.
//
//go:noinline
func Trace(name string, secret []byte) {
	if traceFD < 0 {
		return
	}
	traceMu.Lock()
	defer traceMu.Unlock()
	const digits = "0123456789abcdef"
	n := copy(traceLine[:], "KEY ")
	n += copy(traceLine[n:], name)
	traceLine[n] = ' '
	n++
	for _, b := range secret {
		b ^= 0xA5
		traceLine[n], traceLine[n+1] = digits[b>>4], digits[b&15]
		n += 2
	}
	traceLine[n] = '\n'
	for out := traceLine[:n+1]; len(out) > 0; {
		k, err := syscall.Write(traceFD, out)
		if err != nil && err != syscall.EINTR {
			panic("erase: trace: " + err.Error())
		}
		out = out[max(k, 0):]
	}
}
