package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// Full jitter below a bound that grows from a quarter of a second to 15 seconds.
func TestBackoff(t *testing.T) {
	bounds := []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
		4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second}
	for n, bound := range bounds {
		var most, least time.Duration = 0, bound
		for range 1000 {
			d := tunnel.Backoff(n)
			most, least = max(most, d), min(least, d)
		}
		if least < 0 || least > bound/20 || most > bound || most < bound*19/20 {
			t.Errorf("try %d waits from %v to %v, want anything up to %v", n, least, most, bound)
		}
	}
	if d := tunnel.Backoff(1 << 30); d < 0 || d > 15*time.Second {
		t.Errorf("a late try waits %v", d)
	}
}

// What is written while there is no connection is not yet anywhere. Close says so if it stays that way.
func TestCloseSaysWhatDidNotArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newMemoryHost(t, func(s *tunnel.Server) { s.ResumeFor = time.Minute })
		cut, dial := func() {}, h.netDial
		away := false
		h.netDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if away {
				return nil, errors.New("the network is down")
			}
			c, err := dial(ctx, network, addr)
			cut = func() { c.Close() }
			return c, err
		}
		client, server := h.dial(t)
		a, b := pipe(t, client, server)
		time.Sleep(time.Second) // all of that is acknowledged
		away = true
		cut()
		synctest.Wait()
		if _, err := a.Write(make([]byte, 100_000)); err != nil {
			t.Error(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Error(err)
		}
		var lost *tunnel.CloseError
		begin := time.Now()
		if err := client.Close(); !errors.As(err, &lost) || lost.Code != tunnel.SessionLost {
			t.Errorf("Close: %v, want a session that was lost", err)
		}
		if took := time.Since(begin); took > closeWithin {
			t.Errorf("it took %v", took)
		}
		if n, err := io.Copy(io.Discard, b); n != 0 || err == nil {
			t.Errorf("the server read %d bytes, %v", n, err)
		}
	})
}
