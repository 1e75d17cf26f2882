package erase_test

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"waxwire.example/waxwire/keys/erase"
)

// blockedSignals reads which signals this thread does not take now: bit n-1 is signal n.
func blockedSignals(t *testing.T) (set uint64) {
	t.Helper()
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "SigBlk:\t"); ok {
			for _, digit := range strings.TrimSpace(hex) {
				set = set<<4 | uint64(strings.IndexRune("0123456789abcdef", digit))
			}
			return set
		}
	}
	t.Skip("/proc/thread-self/status does not say which signals are blocked")
	return 0
}

// No signal may interrupt a handshake, or its keys end up on the thread's signal stack; but a fault of
// the code must still become a panic.
func TestHandshakeDefersSignals(t *testing.T) {
	if erase.Guard() != "scrub" {
		t.Skip("runtime/secret clears signal stacks by itself")
	}
	has := func(set uint64, s unix.Signal) bool { return set>>(int(s)-1)&1 == 1 }
	var during uint64
	erase.Handshake(func() { during = blockedSignals(t) })
	for _, s := range []unix.Signal{unix.SIGURG, unix.SIGPROF, unix.SIGTERM, unix.SIGUSR1} {
		if !has(during, s) {
			t.Errorf("%v interrupts a handshake", s)
		}
	}
	for _, s := range []unix.Signal{unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE} {
		if has(during, s) {
			t.Errorf("%v is blocked: a fault would kill the process", s)
		}
	}
	got := func() (got any) {
		defer func() { got = recover() }()
		erase.Handshake(func() { *(*int)(nil) = 1 })
		return nil
	}()
	if _, ok := got.(runtime.Error); !ok {
		t.Errorf("a fault in Handshake gave %v, want a runtime error", got)
	}
}

// Whatever the end, the threads take signals again. A thread that did not would be found: there are few.
func TestSignalsComeBack(t *testing.T) {
	for name, f := range map[string]func(){
		"return": func() {},
		"panic":  func() { panic("x") },
		"Goexit": runtime.Goexit,
	} {
		for range 100 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = recover() }()
				erase.Handshake(f)
			}()
			<-done
			if set := blockedSignals(t); set != 0 {
				t.Fatalf("after a %s a thread blocks %#x", name, set)
			}
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Skip(err)
	}
	for _, thread := range threads {
		status, _ := os.ReadFile("/proc/self/task/" + thread.Name() + "/status")
		if strings.Contains(string(status), "SigBlk:\tffff") || strings.Contains(string(status), "SigBlk:\tfffffffc") {
			t.Errorf("thread %s blocks signals:\n%s", thread.Name(), status)
		}
	}
}
