//go:build unix

package keys_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

func TestKeyFileMode(t *testing.T) {
	for _, tt := range []struct {
		mode fs.FileMode
		text string // of the error, after the path; empty if the mode is right
	}{
		{mode: 0o600}, {mode: 0o400}, {mode: 0o700},
		{0o640, " can be read by other users (0640)"},
		{0o604, " can be read by other users (0604)"},
		{0o644, " can be read by other users (0644)"},
		{0o610, " can be read by other users (0610)"},
		{0o620, " can be written by other users (0620)"},
		{0o602, " can be written by other users (0602)"},
		{0o777, " can be written by other users (0777)"},
	} {
		t.Run(tt.mode.String(), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "identity.key")
			writeFile(t, path, []byte(readVectors(t)[0].SecretText), tt.mode)
			id, err := keys.ReadIdentityFile(path, nil)
			_, _, infoErr := keys.IdentityFileInfo(path)
			if tt.text == "" {
				if err != nil || infoErr != nil {
					t.Errorf("errors %v, %v, want none", err, infoErr)
				}
				return
			}
			var modeErr *keys.FileModeError
			if !errors.As(err, &modeErr) || modeErr.Path != path || modeErr.Mode.Perm() != tt.mode || id != nil {
				t.Fatalf("read %v, %v, want a FileModeError with %s and %v", id, err, path, tt.mode)
			}
			if want := "keys: " + path + tt.text; err.Error() != want {
				t.Errorf("error %q, want %q", err, want)
			}
			if !errors.As(infoErr, &modeErr) {
				t.Errorf("info error %v, want a FileModeError", infoErr)
			}
		})
	}
}

func TestKeyFolderMode(t *testing.T) {
	for _, tt := range []struct {
		name string
		mode fs.FileMode
		ok   bool
	}{
		{"private", 0o700, true},
		{"others may look", 0o755, true},
		{"as tmp", 0o777 | fs.ModeSticky, true},
		{"group may write", 0o770, false},
		{"all may write", 0o707, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "identity.key")
			writeFile(t, path, []byte(readVectors(t)[0].SecretText), 0o600)
			if err := os.Chmod(dir, tt.mode); err != nil {
				t.Fatal(err)
			}
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			_, err := keys.ReadIdentityFile(path, nil)
			_, linkErr := keys.ReadIdentityFile(link, nil)
			writeErr := keys.WriteIdentityFile(filepath.Join(dir, "new.key"), testIdentity(t, 1), nil)
			for what, err := range map[string]error{"reading": err, "reading by a link": linkErr, "writing": writeErr} {
				var modeErr *keys.FileModeError
				if tt.ok && err != nil || !tt.ok && (!errors.As(err, &modeErr) || modeErr.Path != dir) {
					t.Errorf("%s: error %v, want one: %v", what, err, !tt.ok)
				}
			}
		})
	}
}

func TestKeyFileOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const nobody = 65534
	dir := t.TempDir()
	path, link, theirLink := filepath.Join(dir, "identity.key"), filepath.Join(dir, "link"), filepath.Join(dir, "their-link")
	mine := filepath.Join(dir, "mine.key")
	writeFile(t, path, []byte(readVectors(t)[0].SecretText), 0o600)
	writeFile(t, mine, []byte(readVectors(t)[0].SecretText), 0o600)
	for from, to := range map[string]string{link: path, theirLink: mine} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{path, theirLink} {
		if err := os.Lchown(p, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{path, link, theirLink} {
		_, err := keys.ReadIdentityFile(p, nil)
		var ownerErr *keys.FileOwnerError
		if !errors.As(err, &ownerErr) || ownerErr.UID != nobody || ownerErr.Path != p {
			t.Errorf("%s: error %v, want a FileOwnerError with %d", filepath.Base(p), err, nobody)
		}
	}
	if _, err := keys.ReadIdentityFile(mine, nil); err != nil {
		t.Errorf("own file: %v", err)
	}
}

// Opening a named pipe for reading waits for a writer; a key file that is one must not stop us.
func TestKeyFileIsPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := keys.ReadIdentityFile(path, nil)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a named pipe was read as a key file")
		}
	case <-time.After(10 * time.Second):
		t.Error("reading waits for somebody to write into the pipe")
	}
}

func TestKeyFileIgnoresUmask(t *testing.T) {
	old := syscall.Umask(0o277)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "identity.key")
	if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := keys.WriteIdentityFile(path, testIdentity(t, 0), nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}
