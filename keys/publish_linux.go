package keys

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// publishNew gives the file temp the name path, which must be free.
func publishNew(temp, path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if isErrno(err, syscall.EINVAL, syscall.ENOSYS, syscall.ENOTSUP) { // an old kernel, or NFS
		return linkNew(temp, path)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: temp, New: path, Err: err}
	}
	return nil
}
