package tunnel_test

import (
	"io"
	"regexp"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// A tunnel that nobody uses for a week is alive at the end, has changed its keys all along, and holds
// no more than at the start.
func TestIdleForAWeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newMemoryHost(t, nil)
		client, server := h.dial(t)
		a, b := pipe(t, client, server)
		echo := func(what string) {
			t.Helper()
			if _, err := a.Write([]byte(what)); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, len(what))
			if _, err := io.ReadFull(b, p); err != nil || string(p) != what {
				t.Fatalf("got %q, %v; want %q", p, err, what)
			}
		}
		echo("first")
		time.Sleep(time.Hour) // pools and maps reach their size
		synctest.Wait()
		goroutines, heap := inBubble(t), heapInUse()
		logged := len(h.log.String())

		time.Sleep(7 * 24 * time.Hour)
		synctest.Wait()
		if n := inBubble(t); n > goroutines || goroutines < 4 { // a reader and a writer at each end
			t.Errorf("%d goroutines, %d at the start", n, goroutines)
		}
		if grown := heapInUse() - heap; grown > 128<<10 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		if more := h.log.String()[logged:]; more != "" {
			t.Errorf("an idle tunnel was worth these lines:\n%s", more)
		}
		for who, s := range map[string]uint64{"client": client.Stats().Epochs, "server": server.Stats().Epochs} {
			if s <= 1000 {
				t.Errorf("the %s has had %d keys in a week, want one every two or three minutes", who, s)
			}
		}
		// 20 s of silence each way, and then a PING and a PONG: nothing else goes over the wire.
		const week = 7 * 24 * 3600
		if sent := client.Stats().SentBytes; sent > 4*week {
			t.Errorf("the client has sent %d bytes for nothing", sent)
		}
		echo("last")
	})
}

// inBubble counts the goroutines of the caller's bubble: those of the rest of the process come and go.
func inBubble(t *testing.T) int {
	t.Helper()
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)] // the caller's comes first
	bubble := regexp.MustCompile(`synctest bubble \d+`).Find(all)
	if bubble == nil {
		t.Fatal("not in a bubble")
	}
	return len(regexp.MustCompile(`(?m)^goroutine .*`+string(bubble)+`\b`).FindAll(all, -1))
}

// heapInUse is what lives on the heap.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // pools give up what they hold only at the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
