package tunnel

import (
	"sync"
	"time"
)

// Status says how a tunnel is connected at the moment.
type Status struct {
	Connected bool
	Since     time.Time     // of this connection, or of its loss
	Away      time.Duration // Connected: how long there had been none before; 0 for the first
	Err       error         // not Connected: why the connection was lost, or the last try failed
	Tries     int           // not Connected: that have failed
	Next      time.Time     // not Connected: when the next try is due; zero on a server, which waits
}

// A statusBoard holds a Status and tells when it changes.
type statusBoard struct {
	mu      sync.Mutex
	status  Status
	changed chan struct{}
}

func (b *statusBoard) set(s Status) { b.setIf(func() bool { return true }, s) }

// setIf does nothing if it is not so. Goroutines that tell of one change each, and may come to it in the
// other order, look here at what has become of it.
func (b *statusBoard) setIf(still func() bool, s Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !still() {
		return
	}
	b.status = s
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

func (b *statusBoard) get() (Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.status, b.changed
}
