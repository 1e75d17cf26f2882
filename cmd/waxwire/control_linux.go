package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID is who has connected.
func peerUID(c *net.UnixConn) (uid int, known bool, err error) {
	err = withFD(c, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			uid = int(cred.Uid)
		}
		return err
	})
	return uid, true, err
}
