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
