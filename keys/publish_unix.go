//go:build unix

package keys

import (
	"errors"
	"os"
	"slices"
	"syscall"
)

// linkNew gives the file temp the name path by a hard link, which never overwrites, and takes its
// old name away.
func linkNew(temp, path string) error {
	err := os.Link(temp, path)
	if isErrno(err, syscall.EPERM, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EMLINK) {
		return errNoExclusive
	}
	if err != nil {
		return err
	}
	return os.Remove(temp)
}

func isErrno(err error, list ...syscall.Errno) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains(list, errno)
}

func isCrossDevice(err error) bool { return isErrno(err, syscall.EXDEV) }
