package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// errNoExclusive is what publishNew returns where the file system can give a file a name neither
// with a hard link nor with a rename that refuses to overwrite.
var errNoExclusive = errors.New("no exclusive rename")

// writeNew writes a new file at path, all of it or nothing, and never overwrites one: there the
// error is fs.ErrExist, even if the other file appears at the same moment.
func writeNew(path string, data []byte) error {
	return writeFile(path, data, publishNew)
}

// writeReplacing writes the file at path, all of it or nothing, in place of what is there.
func writeReplacing(path string, data []byte) error {
	return writeFile(path, data, os.Rename)
}

// writeFile writes a temporary file beside path, brings it to the disk, and gives it its name.
func writeFile(path string, data []byte, publish func(temp, path string) error) error {
	fail := func(err error) error { return fmt.Errorf("keys: writing %s: %w", path, err) }
	var random [8]byte
	rand.Read(random[:])
	dir, base := filepath.Split(path)
	temp := filepath.Join(dir, fmt.Sprintf(".%s.tmp-%x", base, random))
	if err := writeAndSync(temp, data); err != nil {
		return fail(err)
	}
	err := publish(temp, path)
	if errors.Is(err, errNoExclusive) {
		// A crash may now leave a file that is cut short, which is refused when it is read.
		err = writeAndSync(path, data)
		os.Remove(temp)
	}
	if err != nil {
		os.Remove(temp)
		return fail(err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fail(err)
	}
	return nil
}

// writeAndSync creates the file at path, for this user alone, and leaves none after an error.
func writeAndSync(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o600) // whatever the umask is
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// readFull reads until buf is full or the file ends. Unlike io.ReadAll it leaves no copies behind.
func readFull(r io.Reader, buf []byte) ([]byte, error) {
	n, err := io.ReadFull(r, buf)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return buf[:n], err
}

// readUnwritable reads a file that nobody but this user and root can have written, one byte more than most if it
// has more.
func readUnwritable(path string, most int) ([]byte, os.FileInfo, error) {
	f, err := openTrusted(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("keys: %w", err)
	}
	if othersMayWrite(info) {
		return nil, nil, &FileModeError{Path: path, Mode: info.Mode()}
	}
	data, err := readFull(f, make([]byte, most+1))
	if err != nil {
		return nil, nil, fmt.Errorf("keys: %w", err)
	}
	return data, info, nil
}

// moveNew gives the file temp, which holds data, the name path, which must be free, in another folder. One step,
// if both are on one file system that has such a step.
func moveNew(temp, path string, data []byte) error {
	err := publishNew(temp, path)
	if errors.Is(err, errNoExclusive) || isCrossDevice(err) {
		if err := writeNew(path, data); err != nil {
			return err
		}
		err = os.Remove(temp)
	}
	if err != nil {
		return fmt.Errorf("keys: writing %s: %w", path, err)
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(temp)} {
		if err := syncFolder(dir); err != nil {
			return fmt.Errorf("keys: writing %s: %w", path, err)
		}
	}
	return nil
}
