package tunneltest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// wireBuffer is how much a direction of a [Wire] takes while nobody reads, as the buffers of sockets do.
const wireBuffer = 64 << 10

// A Loss says how the ends of a [Wire] see that it was cut.
type Loss int

const (
	// LossEOF is an end that looks orderly: each end reads what was on its way to it, then [io.EOF].
	LossEOF Loss = iota
	// LossReset is an error, [syscall.ECONNRESET], at once: what was on its way is gone.
	LossReset
)

func (l Loss) String() string { return [...]string{"EOF", "reset"}[l] }

// A Wire is one connection in memory that a test can do harm to, while it is in use. Its ends behave as
// TCP's do where that makes a difference to who uses them: a Write returns before anybody reads, what
// is written to an end that has gone vanishes without an error at first, and a cut takes what is on its
// way with it. Nothing in it takes real time, so that it can be in a testing/synctest bubble.
type Wire struct {
	mu      sync.Mutex
	changed sync.Cond // of anything below
	ways    [2]way
	cut     bool
}

// A way is one direction of a wire.
type way struct {
	pieces  []piece // not yet read
	size    int     // bytes in them
	passed  int64   // bytes ever put on the wire
	cutAt   int64   // of passed; negative: nowhere
	loss    Loss    // for cutAt
	flips   map[int64]byte
	delay   time.Duration
	stalled bool

	end    error     // what the reader gets after the pieces; nil while there may be more
	endAt  time.Time // and when
	broken error     // what the writer gets
	gone   bool      // the reader has closed: what is written vanishes
}

type piece struct {
	b  []byte
	at time.Time // when it can be read
}

// NewWire returns a wire without faults, and its ends.
func NewWire() (w *Wire, client, server net.Conn) {
	w = &Wire{}
	w.changed.L = &w.mu
	for d := range w.ways {
		w.ways[d].cutAt = -1
	}
	return w, &wireConn{wire: w, out: ToServer}, &wireConn{wire: w, out: ToClient}
}

// Passed is how many bytes have been put on the wire in that direction, those that a cut took included.
func (w *Wire) Passed(d Direction) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ways[d].passed
}

// WasCut says whether Cut or CutAfter has taken effect.
func (w *Wire) WasCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

// Left says whether the end that reads a direction was closed by who has it.
func (w *Wire) Left(d Direction) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ways[d].gone
}

// CutAfter cuts both directions once n bytes have been put on the wire in one, at once if they have.
// These n arrive, even with [LossReset], and what else the Write had vanishes.
func (w *Wire) CutAfter(d Direction, n int64, loss Loss) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ways[d].cutAt, w.ways[d].loss = n, loss
	if w.ways[d].passed >= n {
		w.lose(loss, d)
	}
}

// Cut cuts both directions now. It ends a stall. The first cut counts.
func (w *Wire) Cut(loss Loss) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose(loss, -1)
}

// lose is the cut; with LossReset, what the direction spared has on its way still arrives.
func (w *Wire) lose(loss Loss, spared Direction) {
	if w.cut {
		return
	}
	w.cut = true
	for d := range w.ways {
		a := &w.ways[d]
		a.stalled = false
		switch {
		case loss == LossReset:
			if Direction(d) != spared {
				a.pieces, a.size = nil, 0
			}
			a.end, a.endAt, a.broken = syscall.ECONNRESET, time.Time{}, syscall.ECONNRESET
		case a.end == nil:
			w.finish(a)
			a.broken = syscall.EPIPE
		}
	}
	w.changed.Broadcast()
}

// finish has the reader see EOF after what is on its way.
func (w *Wire) finish(a *way) {
	a.end, a.endAt = io.EOF, time.Now().Add(a.delay)
	w.wakeIn(a.delay)
}

// Flip changes bits of the byte that is number n of a direction, from 0, when it is put on the wire.
func (w *Wire) Flip(d Direction, n int64, bits byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ways[d].flips == nil {
		w.ways[d].flips = make(map[int64]byte)
	}
	w.ways[d].flips[n] ^= bits
}

// Delay makes what is put on the wire from now on, and its end, take so long to arrive.
func (w *Wire) Delay(d Direction, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ways[d].delay = delay
}

// Stall lets nothing arrive any more in a direction, not even its end, until Release.
func (w *Wire) Stall(d Direction) { w.stall(d, true) }

// Release ends a stall; what it held up arrives.
func (w *Wire) Release(d Direction) { w.stall(d, false) }

func (w *Wire) stall(d Direction, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ways[d].stalled = on && !w.cut
	w.changed.Broadcast()
}

func (w *Wire) wakeIn(d time.Duration) {
	if d > 0 {
		time.AfterFunc(d, w.wake)
	}
}

func (w *Wire) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed.Broadcast()
}

// put takes what there is room for, or all that goes to nobody, and returns how much it was.
func (w *Wire) put(d Direction, p []byte) int {
	a := &w.ways[d]
	if a.gone {
		a.broken = syscall.EPIPE // from the next write on: the other end's answer has come
		return len(p)
	}
	n := min(len(p), wireBuffer-a.size)
	if n == 0 {
		return 0
	}
	cut := a.cutAt >= 0 && a.passed+int64(n) >= a.cutAt
	if cut {
		n = int(a.cutAt - a.passed)
	}
	b := append([]byte(nil), p[:n]...)
	for at, bits := range a.flips {
		if i := at - a.passed; i >= 0 && i < int64(n) {
			b[i] ^= bits
		}
	}
	if n > 0 {
		a.pieces = append(a.pieces, piece{b, time.Now().Add(a.delay)})
		a.size += n
		a.passed += int64(n)
		w.wakeIn(a.delay)
	}
	w.changed.Broadcast()
	if cut {
		w.lose(a.loss, d)
		return len(p)
	}
	return n
}

// take reads what has arrived. It returns 0 and nil if that is nothing yet.
func (w *Wire) take(d Direction, p []byte) (int, error) {
	a := &w.ways[d]
	switch now := time.Now(); {
	case a.stalled:
		return 0, nil
	case len(a.pieces) == 0:
		if a.end == nil || now.Before(a.endAt) {
			return 0, nil
		}
		return 0, a.end
	case now.Before(a.pieces[0].at):
		return 0, nil
	}
	first := &a.pieces[0]
	n := copy(p, first.b)
	if first.b = first.b[n:]; len(first.b) == 0 {
		a.pieces = a.pieces[1:]
	}
	a.size -= n
	w.changed.Broadcast()
	return n, nil
}

// A wireConn is one end.
type wireConn struct {
	wire *Wire
	out  Direction // what this end writes

	// Guarded by the wire's mutex.
	closed      bool
	writing     bool // one Write at a time
	read, write deadline
}

func (c *wireConn) Read(p []byte) (int, error) {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if err := c.usable(&c.read); err != nil {
			return 0, opError("read", err)
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := w.take(1-c.out, p)
		if err != nil {
			return 0, opError("read", err)
		}
		if n > 0 {
			return n, nil
		}
		w.changed.Wait()
	}
}

func (c *wireConn) Write(p []byte) (n int, err error) {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	for c.writing {
		w.changed.Wait()
	}
	c.writing = true
	defer func() {
		c.writing = false
		w.changed.Broadcast()
	}()
	for {
		if err := c.usable(&c.write); err != nil {
			return n, opError("write", err)
		}
		if n == len(p) {
			return n, nil
		}
		if err := w.ways[c.out].broken; err != nil {
			return n, opError("write", err)
		}
		k := w.put(c.out, p[n:])
		if n += k; n == len(p) {
			return n, nil
		}
		if k == 0 {
			w.changed.Wait()
		}
	}
}

// usable says why this end cannot be used any more, or for now.
func (c *wireConn) usable(d *deadline) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case d.over():
		return os.ErrDeadlineExceeded
	}
	return nil
}

func opError(op string, err error) error {
	if err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "memory", Addr: addr{}, Err: err}
}

// Close ends both directions: the other end reads what is on its way, then EOF.
func (c *wireConn) Close() error {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if out := &w.ways[c.out]; out.end == nil {
		w.finish(out)
	}
	w.ways[1-c.out].gone = true
	c.read.set(time.Time{}, nil)
	c.write.set(time.Time{}, nil)
	w.changed.Broadcast()
	return nil
}

func (c *wireConn) LocalAddr() net.Addr  { return addr{} }
func (c *wireConn) RemoteAddr() net.Addr { return addr{} }

func (c *wireConn) SetDeadline(t time.Time) error      { return c.setDeadlines(t, &c.read, &c.write) }
func (c *wireConn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(t, &c.read) }
func (c *wireConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.write) }

func (c *wireConn) setDeadlines(t time.Time, all ...*deadline) error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if c.closed {
		return opError("set", net.ErrClosed)
	}
	for _, d := range all {
		d.set(t, c.wire.wake)
	}
	c.wire.changed.Broadcast()
	return nil
}

// A deadline wakes who waits when it comes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(t time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if left := time.Until(t); !t.IsZero() && left > 0 {
		d.timer = time.AfterFunc(left, wake)
	}
}

func (d *deadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }
