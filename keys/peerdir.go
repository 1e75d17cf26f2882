package keys

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// PeerDir is a folder of peers: one file each, called as the peer, in the form of [ParsePeer]. It
// notices what other programs do there.
//
//   - A new or changed file counts from the next Lookup or Refresh, a removed one no longer.
//   - A file that becomes wrong, unreadable or writable by others keeps its last good state until it
//     is right or removed, and each problem is reported once. One that never was right is no peer.
//   - Of two files with one key the one that had it first counts, at first sight the one whose name
//     sorts first; the other is wrong.
//   - While the folder itself is missing or cannot be read, all peers keep their last good state:
//     neither does an unmounted disk lock everybody out, nor is it silent. While others can write
//     the folder, removals count, and nothing else that changes.
//   - Names that begin with a dot, and those of temporary and backup files (NAME~, NAME.tmp,
//     NAME.swp, #NAME#), are ignored. Other names that are not those of a peer are reported.
//
// Its methods may be called from any number of goroutines at once, and several processes may use one
// folder. Nothing has to be closed.
type PeerDir struct {
	path string

	mu       sync.Mutex
	entries  map[string]*peerEntry // by file name: each file that counts or is wrong
	byKey    map[PublicKey]string  // to the names of the peers that count
	folder   string                // the problem of the folder last reported
	problems []problem             // found since the last Refresh returned
}

// peerEntry is what is known of one file.
type peerEntry struct {
	state    fileState
	settled  bool // state says all: content read later would be the same
	good     bool // peer counts
	peer     Peer
	reported string // the problem last reported, or empty
}

type problem struct {
	name string
	err  error
}

// fileState tells one content of a file from another without reading it.
type fileState struct {
	modified, changed int64 // ns
	size              int64
	inode, device     uint64
	owner             int
	mode              fs.FileMode
}

// settleTime is how long a file must have been left alone before its state says whether it has
// changed: file systems count time in steps, of up to two seconds, and two writes within one leave
// the same state.
const settleTime = 2500 * time.Millisecond

// settled reports whether a file of this state that was read at now can be told from a later one.
func (s fileState) settled(now time.Time) bool {
	last := max(s.modified, s.changed)
	return now.UnixNano()-last > int64(settleTime)
}

// OpenPeerDir reads the folder at path, and makes it, for this user alone, if there is none. Files
// that are wrong are no error here: [PeerDir.Refresh] reports them. A folder that others can write
// is a [*FileModeError].
func OpenPeerDir(path string) (*PeerDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	path = filepath.Clean(path)
	d := &PeerDir{path: path, entries: make(map[string]*peerEntry), byKey: make(map[PublicKey]string)}
	if err := d.refreshLocked(); err != nil {
		return nil, err
	}
	return d, nil
}

// Lookup returns the peer with the key, as its file is now. A key that is not known makes it look
// through the folder.
func (d *PeerDir) Lookup(key PublicKey) (Peer, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name, ok := d.byKey[key]; ok {
		d.refreshFileLocked(name)
		if p, ok := d.peerLocked(key); ok {
			return p, true
		}
		// Its file is gone or has another key; a new file may have this one.
	}
	d.reportFolderLocked(d.refreshLocked())
	return d.peerLocked(key)
}

func (d *PeerDir) peerLocked(key PublicKey) (Peer, bool) {
	name, ok := d.byKey[key]
	if !ok {
		return Peer{}, false
	}
	return d.entries[name].peer, true
}

// Refresh looks through the folder and returns the problems that are new since it last returned, in
// the order of the names. They are [*PeerFileError], [*NameError], [*FileModeError],
// [*FileOwnerError] or, for the folder itself, that of the system.
func (d *PeerDir) Refresh() []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reportFolderLocked(d.refreshLocked())
	slices.SortStableFunc(d.problems, func(a, b problem) int { return cmp.Compare(a.name, b.name) })
	var errs []error
	for _, p := range d.problems {
		errs = append(errs, p.err)
	}
	d.problems = nil
	return errs
}

// List returns the peers that count, in the order of their names.
func (d *PeerDir) List() []Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reportFolderLocked(d.refreshLocked())
	var list []Peer
	for _, name := range slices.Sorted(maps.Values(d.byKey)) {
		list = append(list, d.entries[name].peer)
	}
	return list
}

// Get returns the peer called name. If there is none the error is [fs.ErrNotExist]; if its file is
// wrong, Get says why, even where the last good state still counts.
func (d *PeerDir) Get(name string) (Peer, error) {
	if err := d.checkName(name); err != nil {
		return Peer{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reportFolderLocked(d.refreshLocked())
	p, _, err := d.readLocked(name)
	if err != nil {
		return Peer{}, err
	}
	return p, nil
}

// Add writes the file of a new peer. If there is one of that name, right or wrong, the error is
// [fs.ErrExist]; if another peer has the key, [ErrDuplicateKey].
func (d *PeerDir) Add(p Peer) error { return d.write(p, writeNew) }

// Put writes the file of p in place of the one there is, or a new one. Comments in the old one are
// lost. If another peer has the key the error is [ErrDuplicateKey].
func (d *PeerDir) Put(p Peer) error { return d.write(p, writeReplacing) }

func (d *PeerDir) write(p Peer, write func(string, []byte) error) error {
	if err := d.checkName(p.Name); err != nil {
		return err
	}
	text, err := p.MarshalText()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refreshLocked(); err != nil { // without the folder nobody knows whose the key is
		return err
	}
	if holder, ok := d.byKey[p.Key]; ok && holder != p.Name {
		return duplicateKey(p.Name, holder)
	}
	if err := write(filepath.Join(d.path, p.Name), text); err != nil {
		return err
	}
	d.refreshFileLocked(p.Name)
	return nil
}

// Remove removes the file of the peer called name. If there is none the error is [fs.ErrNotExist].
func (d *PeerDir) Remove(name string) error {
	if err := d.checkName(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Remove(filepath.Join(d.path, name)); err != nil {
		return fmt.Errorf("keys: removing peer %q: %w", name, err)
	}
	d.dropLocked(name)
	if err := syncFolder(d.path); err != nil {
		return fmt.Errorf("keys: removing peer %q: %w", name, err)
	}
	return nil
}

// checkName also refuses the names that are devices on Windows: nul, con, com1.
func (d *PeerDir) checkName(name string) error {
	if err := ValidName(name); err != nil {
		return err
	}
	if !filepath.IsLocal(name) {
		return &NameError{Name: name}
	}
	return nil
}

// refreshLocked brings all entries up to date. Its error is about the folder; then nothing changed,
// except that removed files are forgotten if that can be seen.
func (d *PeerDir) refreshLocked() error {
	folderErr := checkFolder(d.path)
	files, err := os.ReadDir(d.path) // sorted by name
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	present := make(map[string]bool, len(files))
	for _, f := range files {
		present[f.Name()] = true
	}
	for name := range d.entries { // first, so that a renamed file finds its key free
		if !present[name] {
			d.dropLocked(name)
		}
	}
	if folderErr != nil {
		return folderErr
	}
	for _, f := range files {
		name := f.Name()
		switch {
		case ignoredName(name):
		case d.checkName(name) != nil:
			d.reportLocked(name, d.entryLocked(name), d.checkName(name))
		default:
			d.refreshFileLocked(name)
		}
	}
	return nil
}

func ignoredName(name string) bool {
	return name[0] == '.' || strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".tmp") ||
		strings.HasSuffix(name, ".swp") || name[0] == '#' && name[len(name)-1] == '#'
}

func (d *PeerDir) entryLocked(name string) *peerEntry {
	e := d.entries[name]
	if e == nil {
		e = new(peerEntry)
		d.entries[name] = e
	}
	return e
}

// refreshFileLocked brings the entry of one file up to date, and reads it only if it has changed.
func (d *PeerDir) refreshFileLocked(name string) {
	path := filepath.Join(d.path, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			// A link to nothing: wrong, but not removed.
			d.reportLocked(name, d.entryLocked(name), &PeerFileError{Name: name, Problem: "its link points to nothing", Err: fs.ErrNotExist})
			return
		}
		if _, err := os.ReadDir(d.path); err == nil { // else it is the folder that is missing
			d.dropLocked(name)
		}
		return
	}
	e := d.entryLocked(name)
	if err == nil && e.settled && e.state == newFileState(info) {
		return
	}
	now := time.Now()
	p, state, err := d.readLocked(name)
	if errors.Is(err, fs.ErrNotExist) {
		return // removed just now: the next look will see it
	}
	if mode, ok := errors.AsType[*FileModeError](err); ok && mode.Path == d.path {
		d.reportFolderLocked(err)
		return
	}
	e.state, e.settled = state, err == nil && state.settled(now)
	if err != nil {
		d.reportLocked(name, e, err)
		return
	}
	e.reported = ""
	if e.good && e.peer.Key != p.Key {
		delete(d.byKey, e.peer.Key)
	}
	e.good, e.peer = true, p
	d.byKey[p.Key] = name
}

// readLocked reads and checks the file of name. A key that another peer holds is an error.
func (d *PeerDir) readLocked(name string) (Peer, fileState, error) {
	data, info, err := readUnwritable(filepath.Join(d.path, name), maxPeerFile)
	if err != nil {
		return Peer{}, fileState{}, err
	}
	p, err := ParsePeer(name, data)
	if err != nil {
		return Peer{}, fileState{}, err
	}
	if holder, ok := d.byKey[p.Key]; ok && holder != name {
		return Peer{}, fileState{}, duplicateKey(name, holder)
	}
	return p, newFileState(info), nil
}

// reportLocked notes a problem, once until it is another or was gone in between.
func (d *PeerDir) reportLocked(name string, e *peerEntry, err error) {
	if text := err.Error(); text != e.reported {
		e.reported = text
		d.addProblemLocked(name, err)
	}
}

func (d *PeerDir) reportFolderLocked(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != d.folder && err != nil {
		d.addProblemLocked("", err)
	}
	d.folder = text
}

// addProblemLocked keeps one problem a file, the newest, so that they cannot pile up where nobody
// calls Refresh.
func (d *PeerDir) addProblemLocked(name string, err error) {
	d.problems = slices.DeleteFunc(d.problems, func(p problem) bool { return p.name == name })
	d.problems = append(d.problems, problem{name, err})
}

// dropLocked forgets a file that is gone.
func (d *PeerDir) dropLocked(name string) {
	e := d.entries[name]
	if e == nil {
		return
	}
	if e.good && d.byKey[e.peer.Key] == name {
		delete(d.byKey, e.peer.Key)
	}
	delete(d.entries, name)
	d.problems = slices.DeleteFunc(d.problems, func(p problem) bool { return p.name == name })
}
