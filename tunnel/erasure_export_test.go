package tunnel

import (
	"time"

	"waxwire.example/waxwire/tunnel/internal/secure"
)

// Tests in real time shorten what a user waits for.

func (c *Config) SetTiming(t secure.Timing) { c.timing = t }

func (s *Server) SetTiming(t secure.Timing, recheck time.Duration) {
	s.timing, s.recheck = t, recheck
}
