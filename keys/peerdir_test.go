package keys_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

func peerFile(tb testing.TB, key int, permissions ...string) string {
	tb.Helper()
	s := "key " + testPublic(tb, key).String() + "\n"
	for _, p := range permissions {
		s += "allow " + p + "\n"
	}
	return s
}

// newPeerDir makes a folder with the files, given as name and content in turn.
func newPeerDir(tb testing.TB, files ...string) (*keys.PeerDir, string) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "peers")
	if err := os.Mkdir(path, 0o700); err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(files); i += 2 {
		writeFile(tb, filepath.Join(path, files[i]), []byte(files[i+1]), 0o600)
	}
	dir, err := keys.OpenPeerDir(path)
	if err != nil {
		tb.Fatal(err)
	}
	return dir, path
}

// wantProblems checks that Refresh reports exactly the wanted problems, by a part of their texts.
func wantProblems(tb testing.TB, dir *keys.PeerDir, want ...string) {
	tb.Helper()
	got := dir.Refresh()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		ok = strings.Contains(got[i].Error(), want[i])
	}
	if !ok {
		tb.Errorf("Refresh reports %q, want %q", got, want)
	}
}

// wantPeers checks the names that List has.
func wantPeers(tb testing.TB, dir *keys.PeerDir, want string) {
	tb.Helper()
	var names []string
	for _, p := range dir.List() {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != want {
		tb.Errorf("peers are %q, want %q", got, want)
	}
}

// wantLookup checks who has the key and whether it may send messages and files, as "laptop mf".
func wantLookup(tb testing.TB, dir *keys.PeerDir, key int, want string) {
	tb.Helper()
	got := ""
	if p, ok := dir.Lookup(testPublic(tb, key)); ok {
		got = p.Name + " "
		if p.AllowsMessage() {
			got += "m"
		}
		if p.AllowsFiles() {
			got += "f"
		}
	}
	if got != want {
		tb.Errorf("Lookup of key %d finds %q, want %q", key, got, want)
	}
}

func TestPeerDirMakesItsFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "peers")
	dir, err := keys.OpenPeerDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("folder: %v, %v, want one for this user alone", info, err)
	}
	wantPeers(t, dir, "")
	wantProblems(t, dir)
}

func TestPeerDirFollowsFiles(t *testing.T) {
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0, "message"))
	laptop := filepath.Join(path, "laptop")
	wantLookup(t, dir, 0, "laptop m")
	wantLookup(t, dir, 1, "")

	writeFile(t, laptop, []byte(peerFile(t, 0, "message", "files")), 0o600)
	wantLookup(t, dir, 0, "laptop mf")

	writeFile(t, filepath.Join(path, "desk"), []byte(peerFile(t, 1)), 0o600)
	wantLookup(t, dir, 1, "desk ") // a miss looks for new files
	wantPeers(t, dir, "desk laptop")

	writeFile(t, laptop, []byte(peerFile(t, 2)), 0o600) // another key
	wantLookup(t, dir, 0, "")
	wantLookup(t, dir, 2, "laptop ")

	if err := os.Rename(laptop, filepath.Join(path, "renamed")); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 2, "renamed ")
	if err := os.Remove(filepath.Join(path, "renamed")); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 2, "")
	wantPeers(t, dir, "desk")
	wantProblems(t, dir)
}

// An edit that leaves the size and, with the clock of the file system, the times as they were. Old
// files are touched back to one second of long ago, so that only the change time tells.
func TestPeerDirSeesEditsOfOneSecond(t *testing.T) {
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0, "connect=a:80"))
	laptop := filepath.Join(path, "laptop")
	old := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	allowed := func(host string) bool {
		p, ok := dir.Lookup(testPublic(t, 0))
		if !ok {
			t.Fatal("laptop is gone")
		}
		rule, err := keys.ParsePermission("connect=" + host + ":80")
		if err != nil {
			t.Fatal(err)
		}
		return len(p.Allow) == 1 && p.Allow[0] == rule
	}
	for i := range 200 {
		host := string(rune('a' + i%2))
		f, err := os.OpenFile(laptop, os.O_WRONLY, 0) // in place: the inode stays
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(peerFile(t, 0, "connect="+host+":80")); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := os.Chtimes(laptop, old, old); err != nil {
				t.Fatal(err)
			}
		}
		if !allowed(host) {
			t.Fatalf("edit %d was not seen", i)
		}
	}
}

func TestPeerDirKeepsLastGoodState(t *testing.T) {
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0, "message"), "desk", "key broken\n")
	laptop := filepath.Join(path, "laptop")
	wantProblems(t, dir, `peer "desk": line 1: not a public key`)
	wantProblems(t, dir) // once

	writeFile(t, laptop, []byte(peerFile(t, 0, "files", "shell")), 0o600)
	wantLookup(t, dir, 0, "laptop m")
	wantLookup(t, dir, 0, "laptop m")
	wantProblems(t, dir, `peer "laptop": line 3: "shell": unknown word`)
	wantProblems(t, dir)
	if _, err := dir.Get("laptop"); err == nil {
		t.Error("Get has no error for a broken file")
	}

	writeFile(t, laptop, []byte("word\n"), 0o600) // another mistake
	wantProblems(t, dir, `peer "laptop": line 1: unknown word`)
	wantLookup(t, dir, 0, "laptop m")

	writeFile(t, laptop, []byte(peerFile(t, 0, "files")), 0o600)
	wantLookup(t, dir, 0, "laptop f")
	wantProblems(t, dir)

	writeFile(t, laptop, []byte("word\n"), 0o600) // the same mistake again
	wantProblems(t, dir, `peer "laptop": line 1: unknown word`)

	if err := os.Remove(laptop); err != nil { // removed while broken: it is gone
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "")
	wantPeers(t, dir, "")
	wantProblems(t, dir)
}

func TestPeerDirDuplicateKey(t *testing.T) {
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0), "desk", peerFile(t, 0, "message"))
	wantLookup(t, dir, 0, "desk m") // sorts first
	wantProblems(t, dir, `peer "laptop": peer "desk" has this key already`)
	wantPeers(t, dir, "desk")

	writeFile(t, filepath.Join(path, "a"), []byte(peerFile(t, 0, "files")), 0o600)
	wantLookup(t, dir, 0, "desk m") // had it first
	wantProblems(t, dir, `peer "a": peer "desk" has this key already`)
	wantProblems(t, dir)

	// A peer that takes a key it must not have keeps its own.
	writeFile(t, filepath.Join(path, "c"), []byte(peerFile(t, 1)), 0o600)
	wantLookup(t, dir, 1, "c ")
	writeFile(t, filepath.Join(path, "c"), []byte(peerFile(t, 0)), 0o600)
	wantProblems(t, dir, `peer "c": peer "desk" has this key already`)
	wantLookup(t, dir, 1, "c ")

	// With the first gone the next one counts, although its file has not changed.
	if err := os.Remove(filepath.Join(path, "desk")); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "a f")
	wantProblems(t, dir, `peer "c": peer "a" has this key already`, `peer "laptop": peer "a" has this key already`)
	if errs := dir.Refresh(); len(errs) != 0 {
		t.Errorf("reported again: %q", errs)
	}
}

func TestPeerDirNames(t *testing.T) {
	good := peerFile(t, 0)
	dir, path := newPeerDir(t, "laptop", good,
		".laptop.swp", "x", ".gitkeep", "", "laptop~", good, "laptop.tmp", good, "laptop.swp", good, "#laptop#", good,
		"Desk", good, "a.b", good)
	if err := os.Mkdir(filepath.Join(path, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, dir, `"Desk" is not a name`, `"a.b" is not a name`, "not a regular file")
	wantProblems(t, dir)
	wantPeers(t, dir, "laptop")
	if err := os.Remove(filepath.Join(path, "Desk")); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, dir)
	writeFile(t, filepath.Join(path, "Desk"), nil, 0o600)
	wantProblems(t, dir, `"Desk" is not a name`)
}

func TestPeerDirFolderMissing(t *testing.T) {
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0, "message"))
	away := path + "-away"
	if err := os.Rename(path, away); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "laptop m")
	wantLookup(t, dir, 1, "")
	wantPeers(t, dir, "laptop")
	errs := dir.Refresh()
	if len(errs) != 1 || !errors.Is(errs[0], fs.ErrNotExist) {
		t.Errorf("Refresh reports %q, want that the folder does not exist", errs)
	}
	wantProblems(t, dir)
	if err := dir.Add(keys.Peer{Name: "desk", Key: testPublic(t, 1)}); err == nil {
		t.Error("a peer was added without a folder")
	}
	if err := os.Rename(away, path); err != nil {
		t.Fatal(err)
	}
	wantProblems(t, dir)
	if err := os.Remove(filepath.Join(path, "laptop")); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if errs := dir.Refresh(); len(errs) != 1 { // missing once more: said once more
		t.Errorf("Refresh reports %q, want one problem", errs)
	}
}

func TestPeerDirReplacedByFile(t *testing.T) {
	dir, path := newPeerDir(t, "laptop", peerFile(t, 0, "message"))
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, nil, 0o600)
	wantLookup(t, dir, 0, "laptop m")
	wantPeers(t, dir, "laptop")
	if errs := dir.Refresh(); len(errs) == 0 {
		t.Error("nothing is reported")
	}
}

func TestPeerDirAddPutRemove(t *testing.T) {
	dir, path := newPeerDir(t, "broken", "word\n")
	laptop := peerWith(t, "message")
	if err := dir.Add(laptop); err != nil {
		t.Fatal(err)
	}
	if got, want := string(readFile(t, filepath.Join(path, "laptop"))), peerFile(t, 0, "message"); got != want {
		t.Errorf("the file is %q, want %q", got, want)
	}
	wantLookup(t, dir, 0, "laptop m")
	for _, name := range []string{"laptop", "broken"} {
		if err := dir.Add(keys.Peer{Name: name, Key: testPublic(t, 1)}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("adding %s: %v, want fs.ErrExist", name, err)
		}
	}
	for what, write := range map[string]func(keys.Peer) error{"Add": dir.Add, "Put": dir.Put} {
		if err := write(keys.Peer{Name: "desk", Key: laptop.Key}); !errors.Is(err, keys.ErrDuplicateKey) {
			t.Errorf("%s of a known key: %v, want ErrDuplicateKey", what, err)
		}
		var nameErr *keys.NameError
		if err := write(keys.Peer{Name: "../desk", Key: testPublic(t, 1)}); !errors.As(err, &nameErr) {
			t.Errorf("%s of ../desk: %v, want a NameError", what, err)
		}
	}
	// A file that another program added a moment ago counts too.
	writeFile(t, filepath.Join(path, "other"), []byte(peerFile(t, 2)), 0o600)
	if err := dir.Add(keys.Peer{Name: "desk", Key: testPublic(t, 2)}); !errors.Is(err, keys.ErrDuplicateKey) {
		t.Errorf("adding the key of a new file: %v, want ErrDuplicateKey", err)
	}

	laptop.Allow = peerWith(t, "files").Allow
	if err := dir.Put(laptop); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "laptop f")
	if p, err := dir.Get("laptop"); err != nil || !p.AllowsFiles() || p.Name != "laptop" {
		t.Errorf("Get = %v, %v, want laptop with files", p, err)
	}
	laptop.Key = testPublic(t, 3)
	if err := dir.Put(laptop); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 0, "")
	wantLookup(t, dir, 3, "laptop f")

	if err := dir.Remove("laptop"); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, dir, 3, "")
	for _, name := range []string{"laptop", "nobody"} {
		if err := dir.Remove(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removing %s: %v, want fs.ErrNotExist", name, err)
		}
		if _, err := dir.Get(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("getting %s: %v, want fs.ErrNotExist", name, err)
		}
	}
	if err := dir.Remove("../peers/other"); err == nil {
		t.Error("Remove took a path")
	}
	if _, err := dir.Get("../peers/other"); err == nil {
		t.Error("Get took a path")
	}
	if err := dir.Put(keys.Peer{Name: "broken", Key: testPublic(t, 1)}); err != nil {
		t.Errorf("putting over a broken file: %v", err)
	}
	wantPeers(t, dir, "broken other")
	if got, want := namesIn(t, path), "broken other"; got != want {
		t.Errorf("the folder has %s, want %s", got, want)
	}
}

func TestPeerDirAddRace(t *testing.T) {
	dir, path := newPeerDir(t)
	second, err := keys.OpenPeerDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	won := 0
	var wg sync.WaitGroup
	for i := range 6 {
		d := dir
		if i%2 == 1 {
			d = second
		}
		key := testPublic(t, i)
		wg.Go(func() {
			err := d.Add(keys.Peer{Name: "laptop", Key: key})
			if err != nil && !errors.Is(err, fs.ErrExist) {
				t.Errorf("error %v, want fs.ErrExist", err)
			}
			if err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
			d.Lookup(key)
			d.Refresh()
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d of 6 added laptop, want 1", won)
	}
	wantPeers(t, dir, "laptop")
}
