//go:build !unix

package main

import (
	"net"
	"syscall"
)

const sigUSR1 = syscall.Signal(0)

// boundPort returns an address on loopback where connections are probably refused.
func boundPort() (addr string, free func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	l.Close()
	return l.Addr().String(), func() {}, nil
}
