//go:build unix

package keys

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// openTrusted opens the regular file at path for reading, if nobody but this user and root can have
// made it what it is: its owner, that of a link to it, and its folders must be right.
func openTrusted(path string) (*os.File, error) {
	// O_NONBLOCK: a named pipe would make open wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if err := checkTrusted(f, path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func checkTrusted(f *os.File, path string) error {
	info, err := f.Stat() // of what is open, so that it cannot be exchanged any more
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("keys: %s: not a regular file", path)
	}
	if err := checkOwner(path, info); err != nil {
		return err
	}
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return err
	}
	link, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if link.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
	if err := checkOwner(path, link); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	return checkFolder(filepath.Dir(target))
}

func checkOwner(path string, info fs.FileInfo) error {
	uid := int(info.Sys().(*syscall.Stat_t).Uid)
	if uid != os.Geteuid() && uid != 0 {
		return &FileOwnerError{Path: path, UID: uid}
	}
	return nil
}

// checkFolder refuses a folder in which others can exchange files: writable by them, and not
// sticky as /tmp is.
func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if othersMayWrite(info) && info.Mode()&fs.ModeSticky == 0 {
		return &FileModeError{Path: dir, Mode: info.Mode()}
	}
	return nil
}

func othersMayRead(info fs.FileInfo) bool  { return info.Mode().Perm()&0o077 != 0 }
func othersMayWrite(info fs.FileInfo) bool { return info.Mode().Perm()&0o022 != 0 }

// syncFolder brings the names in dir to the disk.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !isErrno(err, syscall.EINVAL, syscall.ENOTSUP, syscall.ENOSYS) {
		return err
	}
	return nil
}

// newFileState reads the state of a file from what stat said.
func newFileState(info fs.FileInfo) fileState {
	s := fileState{modified: info.ModTime().UnixNano(), size: info.Size(), mode: info.Mode()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.changed, s.inode, s.device, s.owner = changeTime(sys), uint64(sys.Ino), uint64(sys.Dev), int(sys.Uid)
	}
	return s
}
