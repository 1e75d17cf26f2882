//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// harden gives up what a process with keys has no use for: core dumps, being read by debuggers of
// the same user, and files that others can read. (That the limit of open files is at its highest is
// the Go runtime's doing.)
func harden(coreDumps bool) {
	unix.Umask(0o077)
	if coreDumps {
		return
	}
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	undumpable()
}

// endSignals are those that ask for an end.
var endSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM}

func notifyHangup(c chan<- os.Signal) { signal.Notify(c, syscall.SIGHUP) }
func notifyDump(c chan<- os.Signal)   { signal.Notify(c, syscall.SIGUSR1) }
func ignorePipe()                     { signal.Ignore(syscall.SIGPIPE) }

const exitPipe = exitSignal + int(syscall.SIGPIPE)

func signalStatus(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return exitSignal + int(n)
	}
	return exitFailure
}

func deviceAndInode(f *os.File) (dev, ino uint64, ok bool) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return uint64(st.Dev), uint64(st.Ino), true
}

func othersCanRead(info os.FileInfo) bool  { return info.Mode().Perm()&0o077 != 0 }
func othersCanWrite(info os.FileInfo) bool { return info.Mode().Perm()&0o022 != 0 }

// cpuTime is what this process has used of the CPUs, 0 where that cannot be told.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// checkControlDir says why a folder is no place for a control socket: others could put theirs there.
func checkControlDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by other users (%04o)", dir, info.Mode().Perm())
	case ok && os.Geteuid() != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user (uid %d)", dir, st.Uid)
	}
	return nil
}

// isRefused says whether nobody is there.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
