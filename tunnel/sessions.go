package tunnel

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

const (
	// maxTombs is how many sessions that have ended are remembered, so that their clients can learn it.
	maxTombs       = 4096
	maxTombsPerKey = 64

	defaultKeptBytes = 1 << 30
)

// An ownership knows which session is whose, and for how long. It is all that a server asks about sessions
// that it has no connection of, so that several servers could share one.
type ownership interface {
	// claim finds what a client may have: the session that it asks for, or a new one.
	claim(key keys.PublicKey, max int, r *session.Request) *claim
	// add keeps a session that has begun.
	add(*held)
	// detached waits for the client of a session that has lost its connection.
	detached(*held)
	// ended forgets a session, or remembers that it has ended in order.
	ended(*held)
	// tunnel is a session's, nil if it has ended.
	tunnel(*held) *Tunnel
	// close forgets all.
	close()
}

// sessions is the ownership of one process, in memory. It knows which session is whose. It decides nothing about a connection before that
// is confirmed; who owns a session is the session's own word ([session.Session.Attach]).
type sessions struct {
	lifetime time.Duration
	perKey   int
	budget   *session.Budget
	making   atomic.Bool // somebody makes room

	mu     sync.Mutex
	byID   map[session.ID]*held
	tombs  int
	closed bool
}

// held is a session that a server keeps for a client: in use, waiting for the client to come back, or
// ended and remembered.
type held struct {
	id      session.ID
	key     keys.PublicKey
	max     int // the largest message that the client takes
	session *session.Session

	// Guarded by sessions.mu.
	tunnel *Tunnel     // nil if it has ended: what came in its streams may be much
	timer  *time.Timer // until it is forgotten
	away   time.Time   // since when it waits for its client; zero if it does not
	tomb   bool        // it has ended
}

// A claim is what a hello may have once it is confirmed: a held session, or a new one.
type claim struct {
	held    *held // nil: a new one
	request *session.Request
	answer  *session.Answer
	max     int
}

func newSessions(lifetime time.Duration, l Limits) *sessions {
	kept := defaultKeptBytes
	if m := memory() / 4; m > 0 {
		kept = int(min(m, defaultKeptBytes))
	}
	s := &sessions{
		lifetime: lifetime, perKey: bound(l.PerPeer, 16),
		budget: session.NewBudget(bound(l.KeptBytes, kept)),
		byID:   make(map[session.ID]*held),
	}
	s.budget.Full = func() {
		if s.making.CompareAndSwap(false, true) {
			go s.makeRoom()
		}
	}
	return s
}

// claim finds what a client asks for. Another key's session is as unknown as one that never was.
// PROTOCOL.md §6.
func (s *sessions) claim(key keys.PublicKey, max int, r *session.Request) *claim {
	if r.Resume {
		s.mu.Lock()
		h := s.byID[r.ID]
		s.mu.Unlock()
		if h != nil && h.key == key && h.max == max {
			if a, ok := h.session.Answer(r); ok {
				return &claim{held: h, request: r, answer: a, max: max}
			}
		}
	}
	a := &session.Answer{Unknown: r.Resume, Owner: 1, Lifetime: s.lifetime}
	rand.Read(a.ID[:])
	return &claim{request: r, answer: a, max: max}
}

// add keeps a session.
func (s *sessions) add(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[h.id] = h
}

// tunnel is a session's, nil if it has ended.
func (s *sessions) tunnel(h *held) *Tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.tunnel
}

// detached waits for the client of a session to come back, as long as its lifetime. A key may have so
// many that wait; past that the one goes that has waited the longest.
func (s *sessions) detached(h *held) {
	s.mu.Lock()
	h.away = time.Now()
	s.timerLocked(h, func() { s.expire(h) })
	waiting := 0
	var oldest *held
	for _, o := range s.byID {
		if o.key != h.key || o.away.IsZero() || o.tomb {
			continue
		}
		if o.session.Stats().Attached {
			continue
		}
		waiting++
		if oldest == nil || o.away.Before(oldest.away) {
			oldest = o
		}
	}
	s.mu.Unlock()
	if waiting > s.perKey {
		go oldest.session.LoseAway(0, lost("too many sessions of this key"))
	}
}

func (s *sessions) timerLocked(h *held, f func()) {
	if h.timer != nil {
		h.timer.Stop()
	}
	if !s.closed {
		h.timer = time.AfterFunc(s.lifetime, f)
	}
}

func lost(why string) error { return &message.CloseError{Code: message.SessionLost, Reason: why} }

// expire ends a session whose client has not come back.
func (s *sessions) expire(h *held) {
	h.session.LoseAway(s.lifetime, lost("the client did not come back in time")) // unless it has been back
}

// ended forgets a session that was lost, and remembers one that has ended cleanly for as long as its
// client may still ask.
func (s *sessions) ended(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
	}
	if !h.session.Clean() || s.lifetime == 0 || s.closed || s.tombs >= maxTombs || s.tombsOfLocked(h.key) >= maxTombsPerKey {
		delete(s.byID, h.id)
		return
	}
	h.tomb, h.tunnel = true, nil
	s.tombs++
	s.timerLocked(h, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.byID, h.id)
		s.tombs--
	})
}

func (s *sessions) tombsOfLocked(key keys.PublicKey) (n int) {
	for _, h := range s.byID {
		if h.key == key && h.tomb {
			n++
		}
	}
	return n
}

// makeRoom ends the session that has waited the longest, of the key that keeps the most. Many may ask for
// it at once: one at a time is done, if there is still no room.
func (s *sessions) makeRoom() {
	defer s.making.Store(false)
	most := s.budget.Most()
	if most == (session.Key{}) || !s.budget.Spent() {
		return
	}
	s.mu.Lock()
	var oldest *held
	for _, h := range s.byID {
		if session.Key(h.key) == most && !h.tomb && !h.away.IsZero() && !h.session.Stats().Attached &&
			(oldest == nil || h.away.Before(oldest.away)) {
			oldest = h
		}
	}
	s.mu.Unlock()
	if oldest != nil {
		oldest.session.LoseAway(0, lost("the server has no room for what was waiting"))
	}
}

// close stops all timers.
func (s *sessions) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, h := range s.byID {
		if h.timer != nil {
			h.timer.Stop()
		}
	}
	clear(s.byID)
}
