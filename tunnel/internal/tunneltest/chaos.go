package tunneltest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Cut is a way to cut the connections through a [Chaos].
type Cut int

const (
	RST       Cut = iota // both sides get a reset
	FIN                  // both sides get an orderly end, after what has passed
	Blackhole            // nothing passes for a while, then both sides get a reset
	Stall                // nothing passes for a while, then all goes on
	HalfOpen             // the server gets a reset; the client's side stays open and takes in all, for nobody
	HalfGone             // the same the other way round
)

// Cuts are all of them.
var Cuts = []Cut{RST, FIN, Blackhole, Stall, HalfOpen, HalfGone}

func (c Cut) String() string {
	return [...]string{"RST", "FIN", "blackhole", "stall", "half-open", "half-gone"}[c]
}

// ChaosCounts are what a [Chaos] has done.
type ChaosCounts struct {
	Accepted int         // connections
	Live     int         // connections now that have carried something both ways, and are not cut
	Cuts     map[Cut]int // connections cut that were live
	Passed   [2]int64    // bytes in each [Direction]
}

// Total is how many live connections were cut in all.
func (c ChaosCounts) Total() (n int) {
	for _, cut := range c.Cuts {
		n += cut
	}
	return n
}

// Chaos is a TCP proxy in front of a server that cuts connections.
type Chaos struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup
	done     chan struct{}
	once     sync.Once
	passed   [2]atomic.Int64

	mu     sync.Mutex // guards the following
	pairs  map[*pair]struct{}
	flow   Flow
	counts ChaosCounts
}

// A pair is one connection through the proxy.
type pair struct {
	ends   [2]*net.TCPConn // each one that which a direction leads to
	passed [2]atomic.Bool

	hole chan struct{} // not nil: until it is closed, nothing passes; guarded by Chaos.mu
	cut  bool          // nothing passes any more, or not for now; guarded by Chaos.mu
}

// StartChaos starts a Chaos on a loopback port of its own. It ends with the test.
func StartChaos(t testing.TB, target string) *Chaos {
	t.Helper()
	c, err := NewChaos("127.0.0.1:0", target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// NewChaos listens on an address and passes what comes on to another.
func NewChaos(address, target string) (*Chaos, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	c := &Chaos{listener: l, target: target, done: make(chan struct{}), pairs: make(map[*pair]struct{})}
	c.counts.Cuts = make(map[Cut]int)
	c.running.Go(c.accept)
	return c, nil
}

// Addr is where it listens.
func (c *Chaos) Addr() string { return c.listener.Addr().String() }

// Close resets all connections and stops listening.
func (c *Chaos) Close() {
	c.listener.Close()
	c.mu.Lock()
	c.once.Do(func() { close(c.done) })
	for p := range c.pairs {
		reset(p.ends[:]...)
	}
	c.mu.Unlock()
	c.running.Wait()
}

// SetFlow shapes what passes from now on.
func (c *Chaos) SetFlow(f Flow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flow = f
}

// Counts returns the counters.
func (c *Chaos) Counts() ChaosCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts
	n.Cuts = make(map[Cut]int)
	for cut, hit := range c.counts.Cuts {
		n.Cuts[cut] = hit
	}
	for p := range c.pairs {
		if p.live() {
			n.Live++
		}
	}
	n.Passed = [2]int64{c.passed[ToServer].Load(), c.passed[ToClient].Load()}
	return n
}

func (p *pair) live() bool { return !p.cut && p.passed[ToServer].Load() && p.passed[ToClient].Load() }

// Cut cuts all connections that there are now, and returns how many of them were live. A [Blackhole]
// and a [Stall] last as long as hole, and so does the call.
func (c *Chaos) Cut(how Cut, hole time.Duration) (live int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*pair
	for p := range c.pairs {
		if p.live() {
			live++
		}
		if !p.cut {
			p.cut = true
			all = append(all, p)
		}
	}
	c.counts.Cuts[how] += live
	if how == Blackhole || how == Stall {
		over := make(chan struct{})
		for _, p := range all {
			p.hole = over
		}
		c.mu.Unlock()
		select {
		case <-time.After(hole):
		case <-c.done:
		}
		c.mu.Lock()
		defer close(over)
	}
	for _, p := range all {
		switch how {
		case RST, Blackhole:
			reset(p.ends[:]...)
		case FIN:
			p.ends[ToServer].CloseWrite()
			p.ends[ToClient].CloseWrite()
		case Stall:
			p.cut = false
		case HalfOpen:
			reset(p.ends[ToServer])
		case HalfGone:
			reset(p.ends[ToClient])
		}
	}
	return live
}

func reset(conns ...*net.TCPConn) {
	for _, c := range conns {
		c.SetLinger(0)
		c.Close()
	}
}

func (c *Chaos) accept() {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.running.Go(func() { c.serve(client.(*net.TCPConn)) })
	}
}

func (c *Chaos) serve(client *net.TCPConn) {
	server, err := net.Dial("tcp", c.target)
	if err != nil {
		reset(client)
		return
	}
	p := &pair{ends: [2]*net.TCPConn{ToServer: server.(*net.TCPConn), ToClient: client}}
	c.mu.Lock()
	c.counts.Accepted++
	c.pairs[p] = struct{}{}
	select {
	case <-c.done:
		reset(p.ends[:]...)
	default:
	}
	c.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { c.carry(p, ToServer) })
	both.Go(func() { c.carry(p, ToClient) })
	both.Wait()
	c.mu.Lock()
	delete(c.pairs, p)
	c.mu.Unlock()
	client.Close()
	server.Close()
}

// carry moves one direction to its end, and passes that on. What comes after a cut is dropped.
func (c *Chaos) carry(p *pair, d Direction) {
	src, dst := p.ends[1-d], p.ends[d]
	buf := make([]byte, 32<<10)
	var pace pace
	for {
		n, err := src.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			k := pace.next(c.currentFlow(), len(b), c.done)
			if !c.passes(p) {
				break
			}
			p.passed[d].Store(true)
			c.passed[d].Add(int64(k))
			if _, broken := dst.Write(b[:k]); broken != nil {
				if c.passes(p) {
					err = broken
				}
				break
			}
			b = b[k:]
		}
		if err == nil {
			continue
		}
		if c.passes(p) {
			if err == io.EOF {
				dst.CloseWrite()
			} else {
				reset(src, dst)
			}
		}
		return
	}
}

// passes waits until a hole is over. It is false after a cut.
func (c *Chaos) passes(p *pair) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if hole := p.hole; hole != nil {
		c.mu.Unlock()
		<-hole
		c.mu.Lock()
	}
	return !p.cut
}

func (c *Chaos) currentFlow() Flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flow
}
