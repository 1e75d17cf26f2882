//go:build unix

package secure_test

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used of the CPUs.
func cpuTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
