package secure

import "sync"

// Bounds of the replay cache, in hellos. Those of strangers, who are neither enrolled nor have an invite that
// is good, are kept apart, so that they cannot push out the others. PROTOCOL.md §2.
const (
	replayEnrolled = 65536
	replayRefused  = 4096
)

// A ReplayCache knows the hellos that a server has seen, by their ephemeral key, which a client uses once. It uses no
// clock: the oldest make room. The zero value is ready; it is safe for concurrent use.
type ReplayCache struct {
	mu       sync.Mutex
	enrolled replayRing
	refused  replayRing
}

// A HelloID tells one hello from another: its ephemeral key.
type HelloID [32]byte

// Insert notes a hello and reports whether it is new.
func (c *ReplayCache) Insert(id HelloID, enrolled bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.enrolled.has(id) || c.refused.has(id) {
		return false
	}
	if enrolled {
		c.enrolled.insert(id, replayEnrolled)
	} else {
		c.refused.insert(id, replayRefused)
	}
	return true
}

// replayRing is a set that forgets its oldest member when it is full.
type replayRing struct {
	set  map[HelloID]struct{}
	ring []HelloID
	next int
}

func (r *replayRing) has(id HelloID) bool {
	_, ok := r.set[id]
	return ok
}

func (r *replayRing) insert(id HelloID, max int) {
	if r.set == nil {
		r.set = make(map[HelloID]struct{})
	}
	if len(r.ring) < max {
		r.ring = append(r.ring, id)
	} else {
		delete(r.set, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % max
	}
	r.set[id] = struct{}{}
}
