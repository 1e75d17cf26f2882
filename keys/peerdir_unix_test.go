//go:build unix

package keys_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"waxwire.example/waxwire/keys"
)

func TestPeerDirModes(t *testing.T) {
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0, "message"))
	laptop := filepath.Join(path, "laptop")

	// Others may read a peer, not write it.
	if err := os.Chmod(laptop, 0o644); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, dir)
	writeFile(t, laptop, []byte(peerFile(t, 0, "files")), 0o664)
	wantLookup(t, dir, 0, "laptop m")
	wantProblems(t, dir, "can be written by other users (0664)")
	if err := os.Chmod(laptop, 0o600); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "laptop f")

	// In a folder that others can write nothing new counts, but what is removed is gone.
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(path, "evil"), []byte(peerFile(t, 1)), 0o600)
	wantLookup(t, dir, 1, "")
	wantLookup(t, dir, 0, "laptop f")
	wantProblems(t, dir, "can be written by other users (0777)")
	if err := os.Remove(laptop); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "")
	var modeErr *keys.FileModeError
	if _, err := keys.OpenPeerDir(path); !errors.As(err, &modeErr) {
		t.Errorf("opening the folder: %v, want a FileModeError", err)
	}
}

func TestPeerDirOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0))
	if err := os.Chown(filepath.Join(path, "laptop"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, dir, "belongs to another user (uid 65534)")
}

// Orchestrators mount folders whose files are links, and exchange all of them at once.
func TestPeerDirLinks(t *testing.T) {
	dir, path := newPeerDir(t)
	for i, version := range []string{"..1", "..2"} {
		if err := os.Mkdir(filepath.Join(path, version), 0o700); err != nil {
			t.Fatal(err)
		}
		permission := []string{"message", "files"}[i]
		writeFile(t, filepath.Join(path, version, "laptop"), []byte(peerFile(t, 0, permission)), 0o644)
	}
	link := func(target, name string) {
		t.Helper()
		temp := filepath.Join(path, ".new")
		if err := os.Symlink(target, temp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temp, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link(filepath.Join("..data", "laptop"), "laptop")
	wantLookup(t, dir, 0, "laptop m")
	link("..2", "..data")
	wantLookup(t, dir, 0, "laptop f")
	if err := os.Remove(filepath.Join(path, "..2", "laptop")); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "laptop f") // the link is there still: broken, not removed
	wantProblems(t, dir, "its link points to nothing")
	wantProblems(t, dir)
}
