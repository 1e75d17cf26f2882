package tunnel_test

import (
	"io"
	"runtime"
	"testing"

	"waxwire.example/waxwire/tunnel"
)

// BenchmarkHandshake is a whole dial over loopback: connect, upgrade, hello and answer, the client's
// proof, until both ends have their tunnel. Both ends are in this process.
func BenchmarkHandshake(b *testing.B) {
	h := newTestHost(b, unlimited)
	b.ReportAllocs()
	for b.Loop() {
		client, err := tunnel.Dial(b.Context(), h.url, h.config())
		if err != nil {
			b.Fatal(err)
		}
		server, err := h.Accept(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		client.Close()
		server.Close()
		b.StartTimer()
	}
}

// BenchmarkIdle tells what lies idle costs, both ends together: tunnels, after some traffic, and streams of
// one tunnel. Stacks count, buffers of the kernel do not.
func BenchmarkIdle(b *testing.B) {
	echo := func(b *testing.B, x, y *tunnel.Stream) {
		p := make([]byte, 1000)
		if _, err := x.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(y, p); err != nil {
			b.Fatal(err)
		}
	}
	report := func(b *testing.B, n int, what string, use func()) {
		heap, stack, goroutines := memoryInUse()
		use()
		heap2, stack2, goroutines2 := memoryInUse()
		b.ReportMetric(float64(heap2-heap)/float64(n), "heap-B/"+what)
		b.ReportMetric(float64(stack2-stack)/float64(n), "stack-B/"+what)
		b.ReportMetric(float64(goroutines2-goroutines)/float64(n), "goroutines/"+what)
	}
	b.Run("tunnels", func(b *testing.B) {
		h := newTestHost(b, unlimited)
		one := func() (client, server *tunnel.Tunnel) {
			client, err := tunnel.Dial(b.Context(), h.url, h.config())
			if err != nil {
				b.Fatal(err)
			}
			if server, err = h.Accept(b.Context()); err != nil {
				b.Fatal(err)
			}
			x, y := pipe(b, client, server)
			echo(b, x, y)
			x.Close()
			y.Close()
			return client, server
		}
		client, server := one() // what there is only once
		defer client.Close()
		defer server.Close()
		const n = 500
		for b.Loop() {
			var all []*tunnel.Tunnel
			report(b, n, "tunnel", func() {
				for range n {
					client, server := one()
					all = append(all, client, server)
				}
			})
			for _, tun := range all {
				tun.Close()
			}
		}
	})
	b.Run("streams", func(b *testing.B) {
		h := newTestHost(b, unlimited)
		const n = 1000
		for b.Loop() {
			client, server := h.dial(b)
			var all []*tunnel.Stream
			report(b, n, "stream", func() {
				for range n {
					x, y := pipe(b, client, server)
					echo(b, x, y)
					all = append(all, x, y)
				}
			})
			for _, s := range all {
				s.Close()
			}
			client.Close()
			server.Close()
		}
	})
}

// memoryInUse is what lives on the heap, and what stacks take.
func memoryInUse() (heap, stack int64, goroutines int) {
	heap = heapInUse()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return heap, int64(m.StackInuse), runtime.NumGoroutine()
}

// A Write of 64 KiB and the Read of it, over a real socket: records, segments and frames of both ways,
// credit and acknowledgements among them.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and empties pools at random")
	}
	for size, most := range map[int]float64{64: 6, 64 << 10: 14} {
		h := newTestHost(t, func(s *tunnel.Server) { s.ResumeFor = 0 })
		client, server := h.dial(t)
		x, y := pipe(t, client, server)
		out, in := make([]byte, size), make([]byte, size)
		got := testing.AllocsPerRun(500, func() {
			if _, err := x.Write(out); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(y, in); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%d bytes: %.1f", size, got)
		if got > most {
			t.Errorf("Write and Read of %d bytes allocate %.1f times, want %.0f at most", size, got, most)
		}
		server.Close()
	}
}
