package tunnel_test

import (
	"strings"
	"sync"
	"testing"

	"waxwire.example/waxwire/tunnel"
)

// logBuffer collects log lines from any goroutine.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// The server's log says in the client's words why it closed, and names the package once.
func TestLogOfClose(t *testing.T) {
	h := newTestHost(t, nil)
	client, _ := h.dial(t)
	if err := client.CloseWith(tunnel.TooMany, "enough"); err != nil {
		t.Fatal(err)
	}
	const want = `err="tunnel: closed by the other end: too many: \"enough\""`
	eventually(t, "the log says that the peer has gone", func() bool { return strings.Contains(h.log.String(), "peer gone") })
	if log := h.log.String(); !strings.Contains(log, want) {
		t.Errorf("the log has no %s:\n%s", want, log)
	}
}
