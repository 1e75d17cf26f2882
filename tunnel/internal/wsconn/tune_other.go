//go:build !linux

package wsconn

import "net"

// setUserTimeout does nothing where the system has no TCP_USER_TIMEOUT; the sealed pings notice a
// dead peer all the same.
func setUserTimeout(*net.TCPConn) {}
