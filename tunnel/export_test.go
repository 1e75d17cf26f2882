package tunnel

import "time"

// A Host is a host, for tests.
type Host = host

// SetHost has the clock and the addresses of a client's host be a test's own.
func (c *Config) SetHost(h Host) { c.host = h }

// TestHost is a Host of two functions.
type TestHost struct {
	Clock func() (wall time.Time, monotonic time.Duration)
	Addrs func() string
}

func (h TestHost) now() (time.Time, time.Duration) { return h.Clock() }
func (h TestHost) addresses() string               { return h.Addrs() }

// Unconfirmed is how many connections wait for their client's first record.
func (s *Server) Unconfirmed() int {
	s.admit.mu.Lock()
	defer s.admit.mu.Unlock()
	return s.admit.unconfirmed
}

// Sessions is how many sessions the server remembers, those that have ended included.
func (s *Server) Sessions() int {
	all := s.sessions.(*sessions)
	all.mu.Lock()
	defer all.mu.Unlock()
	return len(all.byID)
}

// KeptBytes is what all sessions keep for their clients.
func (s *Server) KeptBytes() int { return s.budget.Used() }
