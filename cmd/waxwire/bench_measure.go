package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A benchTest measures one thing of a peer: what it returns are values by the names of benchMetrics.
type benchTest struct {
	name  string // for --only
	title string
	run   func(*measurement) (map[string]float64, error)
}

var benchTests = []benchTest{
	{"up1", "bulk up, 1 stream", func(m *measurement) (map[string]float64, error) { return m.bulk("up1", true, 1) }},
	{"up8", "bulk up, 8 streams", func(m *measurement) (map[string]float64, error) { return m.bulk("up8", true, 8) }},
	{"down1", "bulk down, 1 stream", func(m *measurement) (map[string]float64, error) { return m.bulk("down1", false, 1) }},
	{"down8", "bulk down, 8 streams", func(m *measurement) (map[string]float64, error) { return m.bulk("down8", false, 8) }},
	{"echo", "echo", (*measurement).echo},
	{"beside", "echo beside bulk", (*measurement).echoBesideBulk},
	{"many", "64 connections", (*measurement).many},
	{"new", "new connections", (*measurement).newConnections},
}

func testNames() []string {
	var names []string
	for _, t := range benchTests {
		names = append(names, t.name)
	}
	return names
}

// A measurement is one of one peer in one round.
type measurement struct {
	peer     *benchPeer
	duration time.Duration
	delay    time.Duration
	quick    bool
	timeout  time.Duration // beside what it should take
}

// warmUp is how long bulk runs before it is looked at: windows grow by doubling, in round trips.
func (m *measurement) warmUp() time.Duration {
	if m.quick {
		return 50*time.Millisecond + 6*m.delay
	}
	return 150*time.Millisecond + 16*m.delay
}

// enough is the duration, or what a few round trips take.
func (m *measurement) enough() time.Duration { return max(m.duration, 6*m.delay) }

// giveUp is when something hangs.
func (m *measurement) giveUp() time.Time { return time.Now().Add(m.warmUp() + m.enough() + m.timeout) }

// bulkBlock is what bulk consists of, over and over. Its length has no common factor with that of any buffer.
var bulkBlock = func() []byte {
	b := make([]byte, 256<<10-1)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

var errOtherBytes = errors.New("other bytes arrived than were sent")

// A checker looks at both ends of each piece of bulk that arrives.
type checker struct{ at int64 }

func (c *checker) check(p []byte) error {
	const look = 16
	ok := true
	at := func(i int) byte { return bulkBlock[(c.at+int64(i))%int64(len(bulkBlock))] }
	for i := range min(len(p), look) {
		ok = ok && p[i] == at(i) && p[len(p)-1-i] == at(len(p)-1-i)
	}
	c.at += int64(len(p))
	if !ok {
		return errOtherBytes
	}
	return nil
}

// receive takes all bulk until its end, adding up as it goes.
func receive(c io.Reader, total *atomic.Int64) error {
	buf := make([]byte, 256<<10)
	var check checker
	for {
		n, err := c.Read(buf)
		total.Add(int64(n))
		if bad := check.check(buf[:n]); bad != nil {
			return bad
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// send sends bulk until told to stop, and then the end.
func send(c net.Conn, total *atomic.Int64, stop *atomic.Bool) error {
	for !stop.Load() {
		n, err := c.Write(bulkBlock)
		total.Add(int64(n))
		if err != nil {
			return err
		}
	}
	return c.(*net.TCPConn).CloseWrite()
}

// A benchTarget is what connections end at. Their first byte says what it is to do.
type benchTarget struct {
	addr           string
	sent, received atomic.Int64 // bulk
	open           atomic.Int64
	close          func()

	mu  sync.Mutex
	err error // the first
}

const (
	targetEcho   = 'e'
	targetSink   = 's'
	targetSource = 'r'
)

func startTarget() (*benchTarget, error) {
	l, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	t := &benchTarget{addr: l.Addr().String(), close: func() { l.Close() }}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.open.Add(1)
			go func() {
				defer t.open.Add(-1)
				defer c.Close()
				if err := t.serve(c); err != nil {
					t.mu.Lock()
					t.err = errors.Join(t.err, err)
					t.mu.Unlock()
				}
			}()
		}
	}()
	return t, nil
}

func (t *benchTarget) serve(c net.Conn) error {
	var mode [1]byte
	if _, err := io.ReadFull(c, mode[:]); err != nil {
		return nil
	}
	switch mode[0] {
	case targetSink:
		return receive(c, &t.received)
	case targetSource:
		var stop atomic.Bool
		go func() {
			io.Copy(io.Discard, c)
			stop.Store(true)
		}()
		return send(c, &t.sent, &stop)
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return nil // its own end knows better
			}
		}
		if err != nil {
			return nil
		}
	}
}

// settle waits until nothing of a measurement is left, and says what went wrong at this end.
func (t *benchTarget) settle() error {
	for end := time.Now().Add(10 * time.Second); t.open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%d connections are still open at the target", t.open.Load())
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// dial opens a connection through the peer for one purpose.
func (m *measurement) dial(mode byte) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", m.peer.addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(m.giveUp())
	if _, err := c.Write([]byte{mode}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// A load is bulk that runs until finish.
type load struct {
	target         *benchTarget
	up             bool
	conns          []net.Conn
	wg             sync.WaitGroup
	stop           atomic.Bool
	sent, received atomic.Int64
	before         int64 // what the target had counted
	mu             sync.Mutex
	err            error
}

// startLoad starts n streams of bulk.
func (m *measurement) startLoad(up bool, n int) (*load, error) {
	l := &load{target: m.peer.target, up: up}
	mode, counter := byte(targetSource), &l.target.sent
	if up {
		mode, counter = targetSink, &l.target.received
	}
	l.before = counter.Load()
	for range n {
		c, err := m.dial(mode)
		if err != nil {
			l.finish()
			return nil, err
		}
		l.conns = append(l.conns, c)
		l.wg.Go(func() {
			defer c.Close()
			var err error
			if up {
				if err = send(c, &l.sent, &l.stop); err == nil {
					_, err = io.Copy(io.Discard, c) // until the target has had all of it
				}
			} else {
				err = receive(c, &l.received)
			}
			if err != nil {
				l.mu.Lock()
				l.err = errors.Join(l.err, err)
				l.mu.Unlock()
			}
		})
	}
	return l, nil
}

// arrived is how many bytes have.
func (l *load) arrived() int64 {
	if l.up {
		return l.target.received.Load() - l.before
	}
	return l.received.Load()
}

// finish ends the load in good order and compares what was sent with what arrived.
func (l *load) finish() error {
	l.stop.Store(true)
	if !l.up {
		for _, c := range l.conns {
			c.(*net.TCPConn).CloseWrite()
		}
	}
	l.wg.Wait()
	if l.err != nil {
		return l.err
	}
	sent := l.sent.Load()
	if !l.up {
		sent = l.target.sent.Load() - l.before
	}
	if got := l.arrived(); got != sent {
		return fmt.Errorf("%d bytes arrived of %d", got, sent)
	}
	return nil
}

// bulk measures MB/s, and CPU seconds for each GB.
func (m *measurement) bulk(name string, up bool, streams int) (map[string]float64, error) {
	l, err := m.startLoad(up, streams)
	if err != nil {
		return nil, err
	}
	time.Sleep(m.warmUp())
	cpu, n, start := cpuTime(), l.arrived(), time.Now()
	for giveUp := m.giveUp(); ; { // again where the host does other things
		time.Sleep(m.enough())
		if l.arrived() > n || time.Now().After(giveUp) {
			break
		}
	}
	cpu, n = cpuTime()-cpu, l.arrived()-n
	took := time.Since(start)
	if err := l.finish(); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("no byte arrived")
	}
	got := map[string]float64{name: float64(n) / 1e6 / took.Seconds()}
	if cpu > 0 {
		got[name+"_cpu"] = cpu.Seconds() / (float64(n) / 1e9)
	}
	return got, nil
}

// echoUntil makes round trips of 64 bytes, one after the other, until a time and at least one.
func echoUntil(c net.Conn, end time.Time, each func(time.Duration)) error {
	var p, q [64]byte
	for i := 0; i == 0 || time.Now().Before(end); i++ {
		for j := range p {
			p[j] = byte(i + j)
		}
		start := time.Now()
		if _, err := c.Write(p[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, q[:]); err != nil {
			return err
		}
		each(time.Since(start))
		if !bytes.Equal(p[:], q[:]) {
			return errOtherBytes
		}
	}
	return nil
}

// roundTrips measures p50 and p99 of an echo in microseconds.
func (m *measurement) roundTrips(name string) (map[string]float64, error) {
	c, err := m.dial(targetEcho)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := echoUntil(c, time.Now().Add(m.warmUp()/4), func(time.Duration) {}); err != nil {
		return nil, err
	}
	var all []time.Duration
	if err := echoUntil(c, time.Now().Add(m.enough()), func(d time.Duration) { all = append(all, d) }); err != nil {
		return nil, err
	}
	slices.Sort(all)
	at := func(p float64) float64 { return float64(all[int(p*float64(len(all)-1)+0.5)].Nanoseconds()) / 1e3 }
	return map[string]float64{name + "_p50": at(0.5), name + "_p99": at(0.99)}, nil
}

func (m *measurement) echo() (map[string]float64, error) { return m.roundTrips("echo") }

// echoBesideBulk is echo while one other connection sends, and then receives, all it can.
func (m *measurement) echoBesideBulk() (map[string]float64, error) {
	got := make(map[string]float64)
	for _, up := range []bool{true, false} {
		l, err := m.startLoad(up, 1)
		if err != nil {
			return nil, err
		}
		time.Sleep(m.warmUp())
		name := "beside_down"
		if up {
			name = "beside_up"
		}
		trips, err := m.roundTrips(name)
		if err := errors.Join(err, l.finish()); err != nil {
			return nil, err
		}
		for k, v := range trips {
			got[k] = v
		}
	}
	return got, nil
}

// many measures round trips a second of 64 connections that each have one on its way.
func (m *measurement) many() (map[string]float64, error) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 64 {
		c, err := m.dial(targetEcho)
		if err != nil {
			return nil, err
		}
		conns = append(conns, c)
	}
	run := func(d time.Duration) (float64, error) {
		var trips atomic.Int64
		start := time.Now()
		err := atOnce(len(conns), func(i int) error {
			return echoUntil(conns[i], start.Add(d), func(time.Duration) { trips.Add(1) })
		})
		return float64(trips.Load()) / time.Since(start).Seconds(), err
	}
	if _, err := run(m.warmUp() / 4); err != nil {
		return nil, err
	}
	rate, err := run(m.enough())
	if err != nil {
		return nil, err
	}
	return map[string]float64{"many": rate}, nil
}

// atOnce runs f n times at the same time.
func atOnce(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// newConnections measures how many connections a second are opened, used for one byte and closed, one
// after the other and 16 at a time.
func (m *measurement) newConnections() (map[string]float64, error) {
	one := func() error {
		c, err := net.DialTimeout("tcp", m.peer.addr, 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		p := [2]byte{targetEcho, 'x'}
		if _, err := c.Write(p[:]); err != nil {
			return err
		}
		var q [1]byte
		if _, err := io.ReadFull(c, q[:]); err != nil {
			return err
		}
		if q[0] != 'x' {
			return errOtherBytes
		}
		return nil
	}
	got := make(map[string]float64)
	for _, workers := range []int{1, 16} {
		var n atomic.Int64
		start := time.Now()
		end := start.Add(m.enough())
		err := atOnce(workers, func(int) error {
			for again := true; again; again = time.Now().Before(end) {
				if err := one(); err != nil {
					return err
				}
				n.Add(1)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		got[fmt.Sprintf("new%d", workers)] = float64(n.Load()) / time.Since(start).Seconds()
	}
	return got, nil
}
