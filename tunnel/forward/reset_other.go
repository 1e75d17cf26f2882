//go:build !linux

package forward

import "net"

func isReset(*net.TCPConn) bool { return false }
