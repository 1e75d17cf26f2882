package tunnel_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// A server that takes no more clients goes on with those that it has.
func TestResumeAtTheLimit(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) {
		unlimited(s)
		s.Limits.Connections = 1
		s.ResumeFor = time.Minute
	})
	var mu sync.Mutex
	var conn net.Conn
	cfg := h.config()
	cfg.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		mu.Lock()
		defer mu.Unlock()
		conn = c
		return c, err
	}
	client, err := tunnel.Dial(t.Context(), h.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	mu.Lock()
	conn.Close()
	mu.Unlock()
	eventually(t, "the client is back", func() bool {
		st, _ := client.Status()
		return client.Stats().Resumes == 1 && st.Connected
	})
}
