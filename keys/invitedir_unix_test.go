//go:build unix

package keys_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

// What others could have written is not believed.
func TestInviteModes(t *testing.T) {
	h := newInviteHome(t)
	i := h.issue(t, "laptop", time.Hour)
	if err := os.Chmod(h.file(i, ""), 0o620); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Enrol(i.Hash, testPublic(t, 1)); !errors.As(err, new(*keys.FileModeError)) {
		t.Errorf("a file that others can write: %v", err)
	}
	os.Chmod(h.file(i, ""), 0o600)
	folder := filepath.Join(h.path, "invites")
	os.Chmod(folder, 0o777)
	if _, err := keys.OpenInviteDir(folder, h.peers); !errors.As(err, new(*keys.FileModeError)) {
		t.Errorf("a folder that others can write is opened: %v", err)
	}
	if _, err := h.Enrol(i.Hash, testPublic(t, 1)); !errors.As(err, new(*keys.FileModeError)) {
		t.Errorf("a folder that others can write: %v", err)
	}
	if err := h.Add(keys.IssuedInvite{Hash: keys.InviteHash{1}, Name: "x", Expires: time.Now()}); !errors.As(err, new(*keys.FileModeError)) {
		t.Errorf("added to a folder that others can write: %v", err)
	}
}
