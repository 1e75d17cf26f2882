//go:build !linux && !darwin && !freebsd

package main

import "net"

// peerUID does not know here: who may connect is left to the mode of the socket and of its folder.
func peerUID(*net.UnixConn) (uid int, known bool, err error) { return 0, false, nil }

// lockDir has no lock to offer: of two servers that start at the same moment both may believe that the
// socket is theirs.
func lockDir(string) (unlock func()) { return func() {} }
