package erase_test

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"waxwire.example/waxwire/keys/erase"
)

// blocked says whether this thread does not take a signal now.
func blocked(t *testing.T, s unix.Signal) bool {
	t.Helper()
	var set unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &set); err != nil {
		t.Fatal(err)
	}
	bits := 1024 / len(set.Val)
	return set.Val[(int(s)-1)/bits]>>((int(s)-1)%bits)&1 == 1
}

// No signal may interrupt a handshake, or its keys end up on the thread's signal stack; but a fault of
// the code must still become a panic.
func TestHandshakeDefersSignals(t *testing.T) {
	if erase.Guard() != "scrub" {
		t.Skip("runtime/secret clears signal stacks by itself")
	}
	erase.Handshake(func() {
		for _, s := range []unix.Signal{unix.SIGURG, unix.SIGPROF, unix.SIGTERM, unix.SIGUSR1} {
			if !blocked(t, s) {
				t.Errorf("%v interrupts a handshake", s)
			}
		}
		for _, s := range []unix.Signal{unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE} {
			if blocked(t, s) {
				t.Errorf("%v is blocked: a fault would kill the process", s)
			}
		}
	})
	got := func() (got any) {
		defer func() { got = recover() }()
		erase.Handshake(func() { *(*int)(nil) = 1 })
		return nil
	}()
	if _, ok := got.(runtime.Error); !ok {
		t.Errorf("a fault in Handshake gave %v, want a runtime error", got)
	}
}

// Whatever the end, the threads take signals again.
func TestSignalsComeBack(t *testing.T) {
	for name, f := range map[string]func(){
		"return": func() {},
		"panic":  func() { panic("x") },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			var ends sync.WaitGroup
			for range 100 {
				ends.Go(func() {
					defer func() { _ = recover() }()
					erase.Handshake(f)
				})
			}
			ends.Wait()
			// As many goroutines as there are threads, and some more, each on a thread of its own.
			const threads = 64
			var all, here sync.WaitGroup
			here.Add(threads)
			for range threads {
				all.Go(func() {
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					here.Done()
					here.Wait()
					if blocked(t, unix.SIGURG) || blocked(t, unix.SIGTERM) {
						t.Error("a thread still blocks signals")
					}
				})
			}
			all.Wait()
		})
	}
}
