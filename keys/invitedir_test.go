package keys_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

// An inviteHome is a folder with peers and invites, which any number of processes could have open.
type inviteHome struct {
	path string
	*keys.InviteDir
	peers *keys.PeerDir
}

func openInviteHome(tb testing.TB, path string) *inviteHome {
	tb.Helper()
	peers, err := keys.OpenPeerDir(filepath.Join(path, "peers"))
	if err != nil {
		tb.Fatal(err)
	}
	invites, err := keys.OpenInviteDir(filepath.Join(path, "invites"), peers)
	if err != nil {
		tb.Fatal(err)
	}
	return &inviteHome{path, invites, peers}
}

func newInviteHome(tb testing.TB) *inviteHome { return openInviteHome(tb, tb.TempDir()) }

// again is the same home after a crash, or as another process has it.
func (h *inviteHome) again(tb testing.TB) *inviteHome { return openInviteHome(tb, h.path) }

// issue adds an invite that may send messages.
func (h *inviteHome) issue(tb testing.TB, name string, valid time.Duration) keys.IssuedInvite {
	tb.Helper()
	made := newTestInvite(tb)
	defer made.Wipe()
	message, err := keys.ParsePermission("message")
	if err != nil {
		tb.Fatal(err)
	}
	i := keys.IssuedInvite{
		Hash: made.Hash(), Name: name, Expires: time.Now().Add(valid).UTC().Truncate(time.Second), Allow: []keys.Permission{message},
	}
	if err := h.Add(i); err != nil {
		tb.Fatal(err)
	}
	return i
}

func (h *inviteHome) file(i keys.IssuedInvite, suffix string) string {
	return filepath.Join(h.path, "invites", i.Hash.ID()+suffix)
}

// wantState checks that an invite enrols nobody, and why.
func wantState(tb testing.TB, err, cause error, at time.Time) {
	tb.Helper()
	var state *keys.InviteStateError
	if !errors.As(err, &state) || state.Err != cause || !state.Time.Equal(at) {
		tb.Errorf("got %v, want %v at %v", err, cause, at)
	}
}

// wantFiles checks that the folder holds the invite alone, and no claim or temporary file.
func (h *inviteHome) wantFiles(tb testing.TB, n int) {
	tb.Helper()
	files, err := os.ReadDir(filepath.Join(h.path, "invites"))
	if err != nil {
		tb.Fatal(err)
	}
	if len(files) != n {
		tb.Errorf("%v in the folder, want %d files", files, n)
	}
}

func TestEnrol(t *testing.T) {
	h := newInviteHome(t)
	i := h.issue(t, "laptop", time.Hour)
	if err := h.Check(i.Hash); err != nil {
		t.Fatal(err)
	}
	if list := h.List(); len(list) != 1 || list[0].Name != "laptop" {
		t.Errorf("the list is %+v", list)
	}
	if info, err := os.Stat(h.file(i, "")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	before := time.Now().Truncate(time.Second)
	p, err := h.Enrol(i.Hash, testPublic(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "laptop" || p.Key != testPublic(t, 1) || !p.AllowsMessage() || p.AllowsFiles() || p.Joined.Before(before) {
		t.Errorf("enrolled as %+v", p)
	}
	wantLookup(t, h.peers, 1, "laptop m")
	wantLookup(t, h.again(t).peers, 1, "laptop m")
	h.wantFiles(t, 1)
	// Once and never again, not for the same key either, and not when the peer is removed.
	for range 2 {
		wantState(t, h.Check(i.Hash), keys.ErrInviteUsed, p.Joined)
		for n := 1; n < 3; n++ {
			_, err := h.again(t).Enrol(i.Hash, testPublic(t, n))
			wantState(t, err, keys.ErrInviteUsed, p.Joined)
		}
		if got, err := h.Get(i.Hash); err != nil || got.By != testPublic(t, 1) {
			t.Errorf("used by %v, %v", got.By, err)
		}
		if err := h.peers.Remove("laptop"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	wantPeers(t, h.again(t).peers, "")
	if list := h.List(); len(list) != 0 {
		t.Errorf("the list is %+v", list)
	}
}

func TestEnrolNobody(t *testing.T) {
	h := newInviteHome(t)
	expired, good := h.issue(t, "late", -time.Second), h.issue(t, "laptop", time.Hour)
	_, err := h.Enrol(expired.Hash, testPublic(t, 1))
	wantState(t, err, keys.ErrInviteExpired, expired.Expires)
	wantState(t, h.Check(expired.Hash), keys.ErrInviteExpired, expired.Expires)
	unknown := good.Hash
	unknown[31]++ // its file has the name of the good one's
	_, err = h.Enrol(unknown, testPublic(t, 1))
	wantState(t, err, keys.ErrInviteUnknown, time.Time{})
	wantState(t, h.Check(keys.InviteHash{1}), keys.ErrInviteUnknown, time.Time{})

	// A name that is taken, or a key that is a peer already, costs no invite.
	if err := h.peers.Add(keys.Peer{Name: "laptop", Key: testPublic(t, 2)}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Enrol(good.Hash, testPublic(t, 1)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := h.Add(good); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an invite for a name that is taken: %v", err)
	}
	if _, err := h.Enrol(good.Hash, testPublic(t, 2)); !errors.Is(err, keys.ErrDuplicateKey) {
		t.Errorf("a key that is a peer: %v", err)
	}
	if err := h.peers.Remove("laptop"); err != nil {
		t.Fatal(err)
	}
	if err := h.Check(good.Hash); err != nil {
		t.Errorf("it was consumed: %v", err)
	}
	if err := h.Add(good); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same invite twice: %v", err)
	}
	// Revoked.
	if err := h.Remove(good.Hash); err != nil {
		t.Fatal(err)
	}
	_, err = h.Enrol(good.Hash, testPublic(t, 1))
	wantState(t, err, keys.ErrInviteUnknown, time.Time{})
	if err := h.Remove(good.Hash); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	wantPeers(t, h.peers, "")
}

// Of many who come with one invite at once, in several processes, one is enrolled, and all others are told
// when it was used.
func TestEnrolRace(t *testing.T) {
	const processes, each, rounds = 3, 2, 8
	for range rounds {
		h := newInviteHome(t)
		i := h.issue(t, "laptop", time.Hour)
		var all sync.WaitGroup
		var mu sync.Mutex
		won, lost := 0, 0
		for n := range processes {
			dir := h.again(t)
			for m := range each {
				all.Go(func() {
					key := testPublic(t, n*each+m)
					p, err := dir.Enrol(i.Hash, key)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil && p.Key == key:
						won++
					case errors.Is(err, keys.ErrInviteUsed):
						lost++
					default:
						t.Errorf("got %+v, %v", p, err)
					}
				})
			}
		}
		all.Wait()
		if won != 1 || lost != processes*each-1 {
			t.Fatalf("%d have won and %d lost", won, lost)
		}
		h = h.again(t)
		got, err := h.Get(i.Hash)
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := h.peers.Lookup(got.By); !ok || p.Name != "laptop" {
			t.Errorf("the winner is %v, the peer %+v", got.By, p)
		}
		wantPeers(t, h.peers, "laptop")
		h.wantFiles(t, 1)
	}
}

// What a crash leaves after each step is finished, neither lost nor doubled, and not done again later.
func TestEnrolCrash(t *testing.T) {
	peer := func(n int) []byte {
		return []byte("key " + testPublic(t, n).String() + "\njoined 2026-02-21T10:03:07Z\nallow message\n")
	}
	joined := time.Date(2026, 2, 21, 10, 3, 7, 0, time.UTC)
	used := func(h *inviteHome, i keys.IssuedInvite, n int) {
		i.Used, i.By = joined, testPublic(t, n)
		text, err := i.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, h.file(i, ""), text, 0o600)
	}
	for _, tt := range []struct {
		name  string
		leave func(h *inviteHome, i keys.IssuedInvite)
		want  string // what becomes of key 1
		by    int    // who has used it; 0: nobody knows it
	}{
		{"after the claim", func(h *inviteHome, i keys.IssuedInvite) {
			writeFile(t, h.file(i, ".joining"), peer(1), 0o600)
		}, "laptop m", 1},
		{"before the move", func(h *inviteHome, i keys.IssuedInvite) {
			writeFile(t, h.file(i, ".joining"), peer(1), 0o600)
			used(h, i, 1)
		}, "laptop m", 1},
		{"between two names of one file", func(h *inviteHome, i keys.IssuedInvite) {
			writeFile(t, h.file(i, ".joining"), peer(1), 0o600)
			used(h, i, 1)
			writeFile(t, filepath.Join(h.path, "peers", "laptop"), peer(1), 0o600)
		}, "laptop m", 1},
		{"a claim that came too late", func(h *inviteHome, i keys.IssuedInvite) {
			writeFile(t, h.file(i, ".joining"), peer(1), 0o600)
			used(h, i, 2)
		}, "", 2},
		{"revoked", func(h *inviteHome, i keys.IssuedInvite) {
			writeFile(t, h.file(i, ".joining"), peer(1), 0o600)
			os.Remove(h.file(i, ""))
		}, "", 0},
		{"the name was taken", func(h *inviteHome, i keys.IssuedInvite) {
			writeFile(t, h.file(i, ".joining"), peer(1), 0o600)
			writeFile(t, filepath.Join(h.path, "peers", "laptop"), peer(3), 0o600)
		}, "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, restart := range []bool{true, false} { // found at the next start, or when somebody comes
				h := newInviteHome(t)
				i := h.issue(t, "laptop", time.Hour)
				tt.leave(h, i)
				claim, _ := os.Stat(h.file(i, ".joining"))
				taken := tt.name == "the name was taken"
				if restart {
					h = h.again(t)
				} else if err := h.Check(i.Hash); errors.As(err, new(*keys.InviteStateError)) == taken || errors.Is(err, fs.ErrExist) != taken {
					t.Errorf("the invite is %v", err)
				}
				if file, err := os.Stat(filepath.Join(h.path, "peers", "laptop")); tt.want != "" && tt.name[:3] != "bet" && (err != nil || !os.SameFile(claim, file)) {
					t.Error("the claim was not moved") // it was copied: two steps, between which it could be done twice
				}
				wantLookup(t, h.peers, 1, tt.want)
				if tt.by == 0 {
					wantState(t, h.Check(i.Hash), keys.ErrInviteUnknown, time.Time{})
					h.wantFiles(t, 0)
				} else {
					wantState(t, h.Check(i.Hash), keys.ErrInviteUsed, joined)
					if got, _ := h.Get(i.Hash); got.By != testPublic(t, tt.by) {
						t.Errorf("used by %v", got.By)
					}
					h.wantFiles(t, 1)
				}
				if tt.want == "" {
					continue
				}
				if err := h.peers.Remove("laptop"); err != nil {
					t.Fatal(err)
				}
				h = h.again(t)
				h.Check(i.Hash)
				wantPeers(t, h.peers, "")
			}
		})
	}
}

// A file that is wrong enrols nobody, and is no invite that is not known.
func TestBrokenInvite(t *testing.T) {
	h := newInviteHome(t)
	i := h.issue(t, "laptop", time.Hour)
	good := readFile(t, h.file(i, ""))
	other := h.issue(t, "phone", time.Hour)
	for name, file := range map[string][]byte{
		"cut short":     good[:len(good)/2],
		"another's":     readFile(t, h.file(other, "")),
		"unknown words": append([]byte("not-before 2027-01-01T00:00:00Z\n"), good...),
	} {
		writeFile(t, h.file(i, ""), file, 0o600)
		if _, err := h.Enrol(i.Hash, testPublic(t, 1)); !errors.As(err, new(*keys.InviteFileError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	writeFile(t, h.file(i, ""), good, 0o600)
	writeFile(t, h.file(i, ".joining"), []byte("key x\n"), 0o600)
	if _, err := h.Enrol(i.Hash, testPublic(t, 1)); !errors.As(err, new(*keys.PeerFileError)) {
		t.Errorf("a broken claim: %v", err)
	}
	os.Remove(h.file(i, ".joining"))
	if _, err := h.Enrol(i.Hash, testPublic(t, 1)); err != nil {
		t.Error(err)
	}
}

// What is long past its time is forgotten.
func TestInvitesAreForgotten(t *testing.T) {
	h := newInviteHome(t)
	old, recent := h.issue(t, "old", -8*24*time.Hour), h.issue(t, "recent", -6*24*time.Hour)
	h = h.again(t)
	wantState(t, h.Check(old.Hash), keys.ErrInviteUnknown, time.Time{})
	wantState(t, h.Check(recent.Hash), keys.ErrInviteExpired, recent.Expires)
}
