package tunnel

import (
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// hostCheck is how often a tunnel looks whether this host has been asleep, and addressCheck whether
	// it has moved, which costs more. hostCheckAway is for both while there is no connection. With
	// wakeProbe, a host that wakes up has a new connection within ten seconds.
	hostCheck     = 4 * time.Second
	addressCheck  = 15 * time.Second
	hostCheckAway = 2 * time.Second

	// sleepGap is how far the wall clock may run ahead of the monotonic one, which stops during a
	// suspend, before that counts as having been asleep.
	sleepGap = 30 * time.Second

	// wakeProbe is how long the other end has to answer after that.
	wakeProbe = 5 * time.Second
)

// A host is what a hostWatch looks at; tests have others.
type host interface {
	now() (wall time.Time, monotonic time.Duration)
	addresses() string
}

// hostWatch notices that this host has been asleep, or has other addresses: what is connected may be
// dead, and what could not be reached may be there. One goroutine uses it.
type hostWatch struct {
	host      host
	wall      time.Time
	monotonic time.Duration
	addrs     string
	looked    time.Duration // when at addrs, by the monotonic clock
}

func newHostWatch(cfg *Config) *hostWatch {
	w := &hostWatch{host: cfg.host}
	if w.host == nil {
		w.host = systemHost{time.Now()}
	}
	w.wall, w.monotonic = w.host.now()
	w.addrs, w.looked = w.host.addresses(), w.monotonic
	return w
}

// changed reports whether something has happened since the last call. It looks at the addresses if they
// were not looked at for so long.
func (w *hostWatch) changed(addresses time.Duration) bool {
	wall, monotonic := w.host.now()
	slept := wall.Sub(w.wall)-(monotonic-w.monotonic) > sleepGap
	w.wall, w.monotonic = wall, monotonic
	if !slept && monotonic-w.looked < addresses {
		return false
	}
	addrs := w.host.addresses()
	moved := addrs != w.addrs
	w.addrs, w.looked = addrs, monotonic
	return slept || moved
}

// systemHost is the real one.
type systemHost struct{ start time.Time }

func (h systemHost) now() (time.Time, time.Duration) {
	now := time.Now()
	return now.Round(0), now.Sub(h.start) // Round(0) takes the monotonic reading away
}

func (systemHost) addresses() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var all []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && (n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast()) {
			continue
		}
		all = append(all, a.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
