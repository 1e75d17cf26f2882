//go:build !unix

package main

import "syscall"

const sigUSR1 = syscall.Signal(0)
