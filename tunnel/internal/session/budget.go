package session

import "sync"

// A Key names whose session it is: the other end's public key.
type Key [32]byte

// A Budget bounds what all sessions of a server keep together, and those of one key: an eighth of it.
// Any number of goroutines may use it at once. A nil Budget has no bound.
type Budget struct {
	total int

	mu   sync.Mutex
	used int
	keys map[Key]int

	// Full is called when a session finds the Budget spent: it may end detached sessions to make room.
	// It must not block. Nil: nobody does.
	Full func()
}

// NewBudget returns a Budget of so many bytes.
func NewBudget(total int) *Budget { return &Budget{total: total, keys: make(map[Key]int)} }

// take charges n bytes to a key, if there is room.
func (b *Budget) take(k Key, n int) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	spent := b.used+n > b.total
	ok := !spent && b.keys[k]+n <= b.total/8
	if ok {
		b.addLocked(k, n)
	}
	b.mu.Unlock()
	if spent && b.Full != nil {
		b.Full()
	}
	return ok
}

// force charges what cannot wait.
func (b *Budget) force(k Key, n int) {
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.addLocked(k, n)
	}
}

func (b *Budget) give(k Key, n int) { b.force(k, -n) }

func (b *Budget) addLocked(k Key, n int) {
	b.used += n
	if b.keys[k] += n; b.keys[k] == 0 {
		delete(b.keys, k)
	}
}

// Most is the key whose sessions keep the most.
func (b *Budget) Most() (most Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for k, used := range b.keys {
		if used > n {
			most, n = k, used
		}
	}
	return most
}

// Spent reports whether a large segment would not fit any more.
func (b *Budget) Spent() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used+1<<largestClass > b.total
}

// Used is what all sessions keep at present.
func (b *Budget) Used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
