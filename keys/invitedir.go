package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// keepInvite is how long an invite that was used or has expired is remembered, so that who brings it can
// be told which.
const keepInvite = 7 * 24 * time.Hour

// joining is the end of the name of a claim: the file of the peer that an invite is about to make.
const joining = ".joining"

// InviteDir is a folder of the invites that a server has issued: one file each, called by the
// [InviteHash.ID], in the form of [ParseIssuedInvite]. Removing a file revokes the invite.
//
// An invite enrols one key, ever, and a crash at any moment neither loses nor doubles that:
//
//  1. The file of the peer is written as ID.joining, all of it or nothing, and never over another: who
//     gets that has won. This is the decision, and all that follows can be done by anybody.
//  2. The file of the invite is replaced by one that says by whom it was used, and when. From here on no
//     other claim counts.
//  3. ID.joining is moved into the folder of the peers. There is nothing left to do twice, so that a peer
//     that is removed later stays removed.
//
// What a crash leaves is finished by [OpenInviteDir] and by whoever asks for that invite next. Both folders
// have to be on one file system, or step 3 is a copy and a removal, and no longer one step.
//
// Its methods may be called from any number of goroutines at once, and several processes may use one
// folder. Nothing has to be closed.
type InviteDir struct {
	path  string
	peers *PeerDir

	mu sync.Mutex
}

// OpenInviteDir opens the folder at path, and makes it, for this user alone, if there is none. Keys are
// enrolled in peers. It finishes what a crash has left, and removes what is a week past its time. A folder
// that others can write is a [*FileModeError].
func OpenInviteDir(path string, peers *PeerDir) (*InviteDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	d := &InviteDir{path: filepath.Clean(path), peers: peers}
	if err := checkFolder(d.path); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	for _, f := range files {
		id := strings.TrimSuffix(f.Name(), joining)
		if !validInviteID(id) {
			continue
		}
		if id != f.Name() {
			d.settle(id) // an error stays what it is, and comes up where somebody asks for that invite
		} else if i, err := d.read(id); err == nil && time.Since(i.Expires) > keepInvite {
			os.Remove(d.file(id))
		}
	}
	return d, nil
}

func validInviteID(id string) bool {
	return len(id) == 16 && strings.Trim(id, "0123456789abcdef") == ""
}

func (d *InviteDir) file(name string) string { return filepath.Join(d.path, name) }

// Add writes the file of a new invite. If another peer has the name the error is [fs.ErrExist].
func (d *InviteDir) Add(i IssuedInvite) error {
	text, err := i.MarshalText()
	if err != nil {
		return err
	}
	if err := d.nameFree(i.Name); err != nil {
		return err
	}
	if err := checkFolder(d.path); err != nil {
		return err
	}
	return writeNew(d.file(i.Hash.ID()), text)
}

// nameFree is fs.ErrExist if there is a file for a peer of that name, be it right or wrong.
func (d *InviteDir) nameFree(name string) error {
	_, err := d.peers.Get(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.As(err, new(*NameError)):
		return err
	}
	return fmt.Errorf("keys: peer %q: %w", name, fs.ErrExist)
}

// Get returns the invite with the hash. If there is none the error is an [*InviteStateError] with
// [ErrInviteUnknown]; anything else is about its file.
func (d *InviteDir) Get(hash InviteHash) (IssuedInvite, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.get(hash)
}

func (d *InviteDir) get(hash InviteHash) (IssuedInvite, error) {
	id := hash.ID()
	if err := d.settle(id); err != nil {
		return IssuedInvite{}, err
	}
	i, err := d.read(id)
	if errors.Is(err, fs.ErrNotExist) || err == nil && i.Hash != hash {
		return IssuedInvite{}, &InviteStateError{Err: ErrInviteUnknown}
	}
	return i, err
}

// Check returns nil if the invite with the hash would enrol somebody now. An [*InviteStateError] says why
// not; any other error is about the files.
func (d *InviteDir) Check(hash InviteHash) error {
	i, err := d.Get(hash)
	if err != nil {
		return err
	}
	return i.Check(time.Now())
}

// Enrol consumes the invite with the hash and makes key a peer with its name and permissions. When it
// returns that is on the disk. Of any number of calls for one invite, from any number of processes, one
// succeeds; the others get an [*InviteStateError]. If there is a peer of that name the error is
// [fs.ErrExist], if key is a peer already [ErrDuplicateKey], and the invite is not consumed.
func (d *InviteDir) Enrol(hash InviteHash, key PublicKey) (Peer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, err := d.get(hash)
	if err != nil {
		return Peer{}, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	if err := i.Check(time.Now()); err != nil {
		return Peer{}, err
	}
	if other, ok := d.peers.Lookup(key); ok {
		return Peer{}, duplicateKey(i.Name, other.Name)
	}
	if err := d.nameFree(i.Name); err != nil {
		return Peer{}, err
	}
	text, err := i.peer(key, now).MarshalText()
	if err != nil {
		return Peer{}, err
	}
	id := hash.ID()
	err = writeNew(d.file(id+joining), text)
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process was faster: its claim is settled now
		return Peer{}, err
	}
	if err := d.settle(id); err != nil {
		return Peer{}, err
	}
	if i, err = d.get(hash); err != nil {
		return Peer{}, err
	}
	if i.By != key {
		return Peer{}, i.Check(time.Now())
	}
	return d.peers.Get(i.Name)
}

// settle finishes what a claim has begun, steps 2 and 3, or drops one that lost. It is nothing to do if
// there is no claim.
func (d *InviteDir) settle(id string) error {
	claim := d.file(id + joining)
	text, _, err := readUnwritable(claim, maxPeerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	i, err := d.read(id)
	if errors.Is(err, fs.ErrNotExist) { // revoked
		return d.drop(claim)
	} else if err != nil {
		return err
	}
	peer, err := ParsePeer(i.Name, text)
	if err != nil {
		return fmt.Errorf("keys: invite %s: %w", id, err)
	}
	if i.Used.IsZero() {
		i.Used, i.By = peer.Joined, peer.Key
		if text, err = i.MarshalText(); err == nil {
			err = writeReplacing(d.file(id), text)
		}
		if err != nil {
			return err
		}
	}
	if i.By != peer.Key {
		return d.drop(claim)
	}
	err = d.peers.write(peer, func(path string, text []byte) error {
		if err := checkFolder(d.peers.path); err != nil {
			return err
		}
		return moveNew(claim, path, text)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, e := os.Lstat(claim); errors.Is(e, fs.ErrNotExist) {
			return nil // another process has just finished the same
		}
	case errors.Is(err, fs.ErrExist), errors.Is(err, ErrDuplicateKey):
		if there, e := d.peers.Get(i.Name); e == nil && there.Key == peer.Key {
			return d.drop(claim) // finished, but for this
		}
		// Somebody made a peer of that name, or of that key, in the meantime: the invite is used up.
		return errors.Join(err, d.drop(claim))
	}
	return err
}

func (d *InviteDir) drop(claim string) error {
	if err := os.Remove(claim); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keys: %w", err)
	}
	return syncFolder(d.path)
}

func (d *InviteDir) read(id string) (IssuedInvite, error) {
	data, _, err := readUnwritable(d.file(id), maxInviteFile)
	if err != nil {
		return IssuedInvite{}, err
	}
	i, err := ParseIssuedInvite(id, data)
	if err == nil && i.Hash.ID() != id {
		return IssuedInvite{}, &InviteFileError{Name: id, Problem: "its hash is that of another file"}
	}
	return i, err
}

// Remove revokes the invite with the hash. If there is none the error is [fs.ErrNotExist].
func (d *InviteDir) Remove(hash InviteHash) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Remove(d.file(hash.ID())); err != nil {
		return fmt.Errorf("keys: removing invite %s: %w", hash.ID(), err)
	}
	return syncFolder(d.path)
}

// List returns the invites that would enrol somebody now, the one that expires first coming first.
// Files that are wrong are left out.
func (d *InviteDir) List() []IssuedInvite {
	d.mu.Lock()
	defer d.mu.Unlock()
	files, err := os.ReadDir(d.path)
	if err != nil {
		return nil
	}
	var list []IssuedInvite
	for _, f := range files {
		if !validInviteID(f.Name()) {
			continue
		}
		if i, err := d.read(f.Name()); err == nil && i.Check(time.Now()) == nil {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b IssuedInvite) int { return a.Expires.Compare(b.Expires) })
	return list
}
