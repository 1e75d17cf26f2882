//go:build unix

package forward

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A reader waits until a socket has something to read before it takes a buffer, so that thousands
// of idle connections hold none.
type reader struct {
	raw  syscall.RawConn
	try  func(fd uintptr) bool // made once: a new one at each read would be an allocation
	buf  *[]byte
	n    int
	err  error
	slow *plainReader // where there is no descriptor to wait for
}

func newReader(c net.Conn) *reader {
	r := &reader{}
	if sc, ok := c.(syscall.Conn); ok {
		r.raw, _ = sc.SyscallConn()
	}
	if r.raw == nil {
		r.slow = &plainReader{conn: c}
		return r
	}
	r.try = func(fd uintptr) bool {
		buf := buffers.Get().(*[]byte)
		for {
			r.n, r.err = unix.Read(int(fd), *buf)
			if r.err != unix.EINTR {
				break
			}
		}
		if r.err == unix.EAGAIN {
			buffers.Put(buf)
			return false
		}
		r.buf = buf
		return true
	}
	return r
}

// read returns what the socket has, [io.EOF] at its end; the slice is valid until done.
func (r *reader) read() ([]byte, error) {
	if r.slow != nil {
		return r.slow.read()
	}
	if err := r.raw.Read(r.try); err != nil {
		if errors.Is(err, os.ErrClosed) {
			err = net.ErrClosed
		}
		return nil, err
	}
	switch {
	case r.err != nil:
		return nil, os.NewSyscallError("read", r.err)
	case r.n == 0:
		return nil, io.EOF
	}
	return (*r.buf)[:r.n], nil
}

func (r *reader) done() {
	if r.slow != nil {
		r.slow.done()
	}
	if r.buf != nil {
		giveBack(r.buf, r.n)
		r.buf = nil
	}
}
