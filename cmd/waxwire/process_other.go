//go:build !unix

package main

import (
	"os"
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

func othersCanRead(os.FileInfo) bool { return false }

func cpuTime() time.Duration { return 0 }
