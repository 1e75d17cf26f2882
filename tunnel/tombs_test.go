package tunnel_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// A session that has ended is remembered, for its client's sake, and what was in it is not: a client could
// fill the memory that way.
func TestRememberedSessionsAreSmall(t *testing.T) {
	const sessions, streams, size = 30, 250, 16000
	h := newTestHost(t, func(s *tunnel.Server) {
		unlimited(s)
		s.ResumeFor = time.Minute
	})
	go func() { // accepts tunnels, and none of their streams
		for {
			if _, err := h.Accept(context.Background()); err != nil {
				return
			}
		}
	}()
	heap := func() int {
		runtime.GC()
		runtime.GC() // twice: pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	for range sessions {
		client, err := tunnel.Dial(t.Context(), h.url, h.config())
		if err != nil {
			t.Fatal(err)
		}
		for range streams {
			s, err := client.OpenStream(t.Context(), tunnel.Request{Kind: tunnel.KindApp, Target: "test"})
			if err != nil {
				t.Fatal(err)
			}
			s.Write(make([]byte, size))
			s.CloseWrite()
		}
		client.Close()
	}
	eventually(t, "all have ended", func() bool { return len(h.Tunnels()) == 0 })
	each := 0
	for range 50 { // their goroutines have yet to end
		if each = (heap() - before) / sessions; each < 100<<10 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("each of %d sessions that have ended takes %d KiB", sessions, each>>10)
}
