package forward_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	sys "golang.org/x/sys/unix"

	"waxwire.example/waxwire/tunnel/forward"
)

// A socket whose owner is too busy to answer is not a stale one.
func TestListenUnixBusy(t *testing.T) {
	path := shortDir(t) + "/s"
	fd, err := sys.Socket(sys.AF_UNIX, sys.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	if err := errors.Join(sys.Bind(fd, &sys.SockaddrUnix{Name: path}), sys.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for { // fill its queue
		c, err := sys.Socket(sys.AF_UNIX, sys.SOCK_STREAM|sys.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(c)
		if err = sys.Connect(c, &sys.SockaddrUnix{Name: path}); err == sys.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &forward.Forwarder{Dialer: &absent{}}
	l, err := f.Listen(forward.Local{Listen: unix(path), Target: tcp("x:1")})
	if err == nil {
		l.Close()
		t.Fatal("it was replaced")
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
	if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the socket is another one now: %v", err)
	}
}
