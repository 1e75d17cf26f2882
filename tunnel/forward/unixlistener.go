package forward

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A unixListener removes its socket when it is closed, if it is still its own.
type unixListener struct {
	*net.UnixListener
	path string
	info os.FileInfo
	once sync.Once
}

// ListenUnix listens on a unix socket of that mode, at an absolute path. A socket that is there already is
// replaced only if nobody answers; else the error is EADDRINUSE. Closing the listener removes the socket, if
// it is still its own.
//
// The socket is made in a folder that nobody else can enter and moved to its place when its mode is
// right: there is no moment at which others could connect, and what is replaced is replaced at once.
func ListenUnix(path string, mode os.FileMode) (_ net.Listener, err error) {
	switch info, err := os.Lstat(path); {
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: fmt.Errorf("%s exists and is not a socket", path)}
	case err == nil:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, &net.OpError{Op: "listen", Net: "unix", Err: errInUse}
		} else if !isRefused(err) {
			return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".w")
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
	}
	defer os.RemoveAll(dir)
	temp := filepath.Join(dir, "s")
	if len(temp) > maxPath {
		err := fmt.Errorf("the path is %d bytes too long", len(temp)-maxPath)
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	if err = os.Chmod(temp, mode); err == nil {
		err = os.Rename(temp, path)
	}
	var info os.FileInfo
	if err == nil {
		info, err = os.Lstat(path)
	}
	if err != nil {
		ln.Close()
		return nil, &net.OpError{Op: "listen", Net: "unix", Err: err}
	}
	return &unixListener{UnixListener: ln, path: path, info: info}, nil
}

func (l *unixListener) Close() error {
	l.once.Do(func() {
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.info) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}

// errInUse is what a TCP listener says as well.
var errInUse = os.NewSyscallError("bind", syscall.EADDRINUSE)

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
