//go:build !unix

package keys

import (
	"fmt"
	"io/fs"
	"os"
)

// openTrusted opens the regular file at path for reading. Who may write it is up to the access lists
// that it inherits from the user's folder: there is no owner and no mode to look at here.
func openTrusted(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("keys: %w", err)
	}
	return f, nil
}

func checkFolder(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	return nil
}

func othersMayRead(fs.FileInfo) bool  { return false }
func othersMayWrite(fs.FileInfo) bool { return false }

// syncFolder does nothing: folders cannot be opened for this here.
func syncFolder(string) error { return nil }

// newFileState reads the state of a file from what stat said; there is neither inode nor change
// time to be had here.
func newFileState(info fs.FileInfo) fileState {
	return fileState{modified: info.ModTime().UnixNano(), size: info.Size(), mode: info.Mode()}
}
