package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"waxwire.example/waxwire/keys"
)

// On a full disk nothing is left behind, neither a temporary file nor an empty key, and what was
// there before stays.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16k,mode=700"); err != nil {
		t.Skip("a small file system cannot be mounted here:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error("unmounting:", err)
		}
	})
	old := filepath.Join(dir, "old.key")
	if err := keys.WriteIdentityFile(old, testIdentity(t, 0), nil); err != nil {
		t.Fatal(err)
	}
	before := readFile(t, old)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v, want ENOSPC", err)
	}

	if err := keys.WriteIdentityFile(filepath.Join(dir, "new.key"), testIdentity(t, 1), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing: %v, want ENOSPC", err)
	}
	if err := keys.ReplaceIdentityFile(old, testIdentity(t, 0), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("replacing: %v, want ENOSPC", err)
	}
	if got, want := namesIn(t, dir), "filler old.key"; got != want {
		t.Errorf("the folder has %s, want %s", got, want)
	}
	if !bytes.Equal(readFile(t, old), before) {
		t.Error("the old key has changed")
	}
}
