//go:build erasetrace

package erasetrace

import (
	"os"
	"strconv"
	"sync"
	"syscall"
)

// What the parent of the process asks for by its environment.
const (
	fdEnv   = "WAXWIRE_ERASETRACE_FD"   // where to write; nothing is written without it
	skipEnv = "WAXWIRE_ERASETRACE_SKIP" // the control: wipe or guard is left out
)

var (
	fd = func() int {
		n, err := strconv.Atoi(os.Getenv(fdEnv))
		if err != nil {
			return -1
		}
		return n
	}()

	// SkipWipe leaves keys where they are, SkipGuard leaves the stack and the registers alone: what a
	// search has to find if it is any good.
	SkipWipe  = os.Getenv(skipEnv) == "wipe"
	SkipGuard = os.Getenv(skipEnv) == "guard"

	mu   sync.Mutex
	line [256]byte // static: a masked secret on its way out
)

// Secret writes "KEY name hex", each byte of the secret xor 0xA5. It moves the secret byte by byte
// and makes no copy of it: the search must not find what the trace has left.
//
//go:noinline
func Secret(name string, secret []byte) {
	if fd < 0 {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	const digits = "0123456789abcdef"
	n := copy(line[:], "KEY ")
	n += copy(line[n:], name)
	line[n] = ' '
	n++
	for _, b := range secret {
		b ^= 0xA5
		line[n], line[n+1] = digits[b>>4], digits[b&15]
		n += 2
	}
	line[n] = '\n'
	for out := line[:n+1]; len(out) > 0; {
		k, err := syscall.Write(fd, out)
		if err != nil && err != syscall.EINTR {
			panic("erasetrace: " + err.Error())
		}
		out = out[max(k, 0):]
	}
}
