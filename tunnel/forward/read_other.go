//go:build !unix

package forward

import "net"

type reader = plainReader

func newReader(c net.Conn) *reader { return &plainReader{conn: c} }
