package tunnel_test

import (
	"testing"
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
