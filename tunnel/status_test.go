package tunnel_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// goneConn is a connection that ends with its second write, which it has made: the first record.
type goneConn struct {
	net.Conn
	mu     sync.Mutex
	writes int
}

func (c *goneConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes++; c.writes == 2 {
		c.Conn.Close()
	}
	return n, err
}

// A server says that a tunnel is connected only while it is, however fast connections come and go.
func TestStatusOfAServer(t *testing.T) {
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			testStatusOfAServer(t)
		})
	}
}

func testStatusOfAServer(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) {
		unlimited(s)
		s.ResumeFor = time.Minute
		s.Limits.ResumeRate = -1
	})
	cfg := h.config()
	var mu sync.Mutex
	var first net.Conn
	dials, off := 0, false
	cfg.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if off {
			return nil, errors.New("off")
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if dials++; dials == 1 {
			first = c
			return c, err
		}
		return &goneConn{Conn: c}, err
	}
	client, err := tunnel.Dial(t.Context(), h.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	first.Close()
	mu.Unlock()
	for i := range 20 {
		client.Reconnect()
		eventually(t, "another try", func() bool {
			client.Reconnect()
			mu.Lock()
			defer mu.Unlock()
			return dials > i+1
		})
	}
	mu.Lock()
	off = true
	mu.Unlock()
	eventually(t, "nobody is connected, and the tunnel says so", func() bool {
		st, _ := server.Status()
		return h.Connections() == 0 && !st.Connected
	})
}
