package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
)

// ErrDuplicateKey is returned when a peer is added whose key another peer has.
var ErrDuplicateKey = errors.New("another peer has this key")

// PeerSet is a set of peers in memory. The zero value is empty and ready. Its methods may be called
// from any number of goroutines at once.
type PeerSet struct {
	mu    sync.RWMutex
	byKey map[PublicKey]Peer
	names map[string]PublicKey
}

// Add adds p. A name that is there already is [fs.ErrExist], a key [ErrDuplicateKey].
func (s *PeerSet) Add(p Peer) error {
	if err := p.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.names[p.Name]; ok {
		return fmt.Errorf("keys: adding peer %q: %w", p.Name, fs.ErrExist)
	}
	if other, ok := s.byKey[p.Key]; ok {
		return duplicateKey(p.Name, other.Name)
	}
	if s.byKey == nil {
		s.byKey, s.names = make(map[PublicKey]Peer), make(map[string]PublicKey)
	}
	p.Allow = slices.Clip(slices.Clone(p.Allow))
	s.byKey[p.Key], s.names[p.Name] = p, p.Key
	return nil
}

// Remove removes the peer called name. If there is none it returns [fs.ErrNotExist].
func (s *PeerSet) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, ok := s.names[name]
	if !ok {
		return fmt.Errorf("keys: removing peer %s: %w", quoteShort(name), fs.ErrNotExist)
	}
	delete(s.names, name)
	delete(s.byKey, key)
	return nil
}

// Lookup returns the peer with the key.
func (s *PeerSet) Lookup(key PublicKey) (Peer, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.byKey[key]
	return p, ok
}

func duplicateKey(name, holder string) error {
	return &PeerFileError{
		Name: name, Err: ErrDuplicateKey,
		Problem: fmt.Sprintf("peer %q has this key already; one peer, one key", holder),
	}
}
