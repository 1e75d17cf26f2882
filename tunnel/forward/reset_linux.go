package forward

import (
	"net"

	"golang.org/x/sys/unix"
)

// isReset says whether the kernel has torn the connection down, as a reset does, and as it does
// when both ends have closed. After the other end's FIN alone it is in CLOSE_WAIT.
func isReset(c *net.TCPConn) (yes bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	const stateClose = 7 // TCP_CLOSE
	raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		yes = err == nil && info.State == stateClose
	})
	return yes
}
