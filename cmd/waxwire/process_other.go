//go:build !unix

package main

import (
	"errors"
	"os"
	"syscall"
	"time"
)

func harden(coreDumps bool) {}

var endSignals = []os.Signal{os.Interrupt}

func notifyHangup(chan<- os.Signal) {}
func notifyDump(chan<- os.Signal)   {}
func ignorePipe()                   {}

const exitPipe = exitFailure

func signalStatus(os.Signal) int { return exitSignal + 2 }

func deviceAndInode(*os.File) (dev, ino uint64, ok bool) { return 0, 0, false }

func othersCanRead(os.FileInfo) bool  { return false }
func othersCanWrite(os.FileInfo) bool { return false }

func cpuTime() time.Duration { return 0 }

// checkControlDir leaves it to the system: a user's folders are that user's.
func checkControlDir(dir string) error {
	_, err := os.Stat(dir)
	return err
}

// isRefused says whether nobody is there.
func isRefused(err error) bool { return errors.Is(err, syscall.Errno(10061)) } // WSAECONNREFUSED
