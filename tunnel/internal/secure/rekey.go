package secure

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
)

const (
	// pingSize is the body of a PING, which its PONG repeats.
	pingSize = 8
	// pingPause keeps PINGs well below what the other end's bucket takes. PROTOCOL.md §4.
	pingPause = 100 * time.Millisecond
)

// control is what has to be sent although nobody is writing, and what is known of the other end's
// being alive.
type control struct {
	mu sync.Mutex

	ended   bool           // no task may start any more
	sending bool           // a task is sending what is due
	tasks   sync.WaitGroup // that task, and a tick that runs

	pongDue bool
	pong    [pingSize]byte // the newest PING to answer
	pingDue bool

	// One PING is open at a time, and the next one leaves no sooner than pingPause after it: the other
	// end takes few of them. Only the first does not hold up the second: it is the proof that every
	// client begins with, and a program's own Ping often follows it at once.
	pingID     uint64
	pingLast   time.Time              // when the last one left
	pingSent   time.Time              // the same; zero: it has been answered
	pingTimer  *time.Timer            // until the next one may leave
	openWaits  []chan<- time.Duration // who waits for its PONG
	nextWaits  []chan<- time.Duration // who waits for the next one's
	rtts       [4]time.Duration       // of the last PINGs
	rttCount   int
	interval   time.Duration
	deadBefore time.Duration // how long an answer may take
	timer      *time.Timer
	tickAt     time.Time // when it fires
	probe      time.Time // by when something has to come, zero if nothing more than usual is asked
}

func (k *control) init(t Timing) {
	// Both ends ping, and equal intervals would meet each other for ever.
	k.interval = t.Ping - t.Ping/10 + rand.N(t.Ping/5+1)
	k.deadBefore = t.Pong
}

// rekeyIfDueLocked ends the key's epoch where bytes, records or time ask for it. The caller holds tx.
// PROTOCOL.md §4.
func (c *Conn) rekeyIfDueLocked(ctx context.Context, timeout time.Duration) error {
	if c.sealer.Records() == 0 || !c.sealer.Due(time.Since(c.epochStart)) {
		return nil
	}
	return c.rekeyLocked(ctx, timeout)
}

func (c *Conn) rekeyLocked(ctx context.Context, timeout time.Duration) error {
	if err := c.sendLocked(ctx, []byte{recordRekey}, timeout); err != nil {
		return err
	}
	if err := c.sealer.Ratchet(); err != nil {
		return err
	}
	c.epochs.Add(1)
	return nil
}

// Rekey replaces the sending key now, as happens by itself after a GiB, 2^20 records or two minutes.
func (c *Conn) Rekey(ctx context.Context) error {
	if err := c.lockTx(ctx); err != nil {
		return err
	}
	var err error
	if c.sealer.Records() > 0 { // a key that sealed nothing needs no successor
		err = c.rekeyLocked(ctx, c.timing.Write)
	}
	<-c.tx
	return c.writeFailed(err)
}

// Epochs is how many keys this end has sent under, less one.
func (c *Conn) Epochs() uint64 { return c.epochs.Load() }

// Ping asks the other end for a sign of life and returns how long it took.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	wait := make(chan time.Duration, 1)
	c.requestPing(wait)
	select {
	case rtt := <-wait:
		return rtt, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-c.ended:
		return 0, c.writeErr()
	}
}

// RTT is the shortest of the last round trips that PINGs took, 0 while there is none. Whoever asks then
// has one sent: a server has not sent any before there was silence, and windows grow by round trips.
func (c *Conn) RTT() time.Duration {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if c.ctl.rttCount == 0 && c.ctl.pingSent.IsZero() && !c.ctl.pingDue {
		c.ctl.pingDue = true
		c.sendSoonLocked()
	}
	var rtt time.Duration
	for i := range min(c.ctl.rttCount, len(c.ctl.rtts)) {
		if rtt == 0 || c.ctl.rtts[i] < rtt {
			rtt = c.ctl.rtts[i]
		}
	}
	return rtt
}

// firstPing sends a PING before anything else can be sent.
func (c *Conn) firstPing() {
	c.ctl.mu.Lock()
	c.ctl.pingDue, c.ctl.sending = true, true
	c.ctl.mu.Unlock()
	c.sendDue()
}

// requestPing has a PING sent. wait, unless it is nil, gets the round-trip time.
func (c *Conn) requestPing(wait chan<- time.Duration) {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	c.ctl.pingDue = true
	if wait != nil {
		c.ctl.nextWaits = append(c.ctl.nextWaits, wait)
	}
	c.sendSoonLocked()
}

// Probe has the other end prove now that it is alive: without a sign of life within the given time, or
// the time that any PING has if that is less, the Conn ends.
func (c *Conn) Probe(within time.Duration) {
	c.ctl.mu.Lock()
	if received := c.start.Add(time.Duration(c.lastRecv.Load())); received.After(c.ctl.pingSent) {
		c.ctl.pingSent = time.Time{} // something else has answered it: another PING may leave
	}
	c.ctl.mu.Unlock()
	c.requestPing(nil)
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if c.ctl.timer == nil || c.ctl.ended {
		return
	}
	now := time.Now()
	c.ctl.probe = now.Add(min(within, c.ctl.deadBefore))
	if c.ctl.probe.Before(c.ctl.tickAt) {
		c.tickAfterLocked(c.ctl.probe.Sub(now))
	}
}

// queuePong answers a PING. If the last answer has not left yet, it is replaced: one PONG waits at
// most. PROTOCOL.md §4.
func (c *Conn) queuePong(body [pingSize]byte) {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	c.ctl.pong, c.ctl.pongDue = body, true
	c.sendSoonLocked()
}

// takePong reports whether a PONG answers the PING that is open.
func (c *Conn) takePong(body [pingSize]byte) bool {
	k := &c.ctl
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pingSent.IsZero() || binary.BigEndian.Uint64(body[:]) != k.pingID {
		return false
	}
	rtt := time.Since(k.pingSent)
	k.rtts[k.rttCount%len(k.rtts)] = rtt
	k.rttCount++
	k.pingSent = time.Time{}
	for _, w := range k.openWaits {
		w <- rtt
	}
	k.openWaits = nil
	if k.pingDue {
		c.sendSoonLocked()
	}
	return true
}

// sendSoonLocked has what is due sent by a task of its own, since the reading goroutine must not wait
// for a write. The caller holds ctl.mu.
func (c *Conn) sendSoonLocked() {
	k := &c.ctl
	if k.sending || k.ended {
		return
	}
	k.sending = true
	k.tasks.Go(c.sendDue)
}

func (c *Conn) sendDue() {
	for {
		record := c.nextDue()
		if record == nil || c.writeRecord(context.Background(), record, c.timing.Write) != nil {
			return
		}
	}
}

// nextDue returns the next record to send, nil if nothing is due: then the task ends.
func (c *Conn) nextDue() []byte {
	k := &c.ctl
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.ended:
	case k.pongDue:
		k.pongDue = false
		return append([]byte{recordPong}, k.pong[:]...)
	case k.pingDue && c.mayPingLocked():
		k.pingDue = false
		k.pingID++
		k.pingLast = time.Now()
		k.pingSent = k.pingLast // an answer may come before the write returns
		k.openWaits, k.nextWaits = append(k.openWaits, k.nextWaits...), nil
		return binary.BigEndian.AppendUint64([]byte{recordPing}, k.pingID)
	}
	k.sending = false
	return nil
}

// mayPingLocked reports whether a PING may leave now. If not, something will see to it later: the
// PONG that is awaited, or a timer.
func (c *Conn) mayPingLocked() bool {
	k := &c.ctl
	if !k.pingSent.IsZero() {
		return false
	}
	pause := pingPause - time.Since(k.pingLast)
	if k.pingID < 2 || pause <= 0 {
		return true
	}
	if k.pingTimer == nil {
		k.pingTimer = time.AfterFunc(pause, func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.pingTimer = nil
			c.sendSoonLocked()
		})
	}
	return false
}

// startTicking begins to watch over the other end's being alive.
func (c *Conn) startTicking() {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if !c.ctl.ended {
		c.ctl.tickAt = time.Now().Add(c.ctl.interval)
		c.ctl.timer = time.AfterFunc(c.ctl.interval, c.tick)
	}
}

// tickAfterLocked has tick run in d. The caller holds ctl.mu.
func (c *Conn) tickAfterLocked(d time.Duration) {
	c.ctl.tickAt = time.Now().Add(d)
	c.ctl.timer.Reset(d)
}

// tick sends a PING after silence in either direction, and gives the other end up if nothing at all
// has come since a PING went unanswered. PROTOCOL.md §4.
func (c *Conn) tick() {
	k := &c.ctl
	k.mu.Lock()
	if k.ended {
		k.mu.Unlock()
		return
	}
	k.tasks.Add(1)
	defer k.tasks.Done()

	now := time.Now()
	received := c.start.Add(time.Duration(c.lastRecv.Load()))
	sent := c.start.Add(time.Duration(c.lastSent.Load()))
	next := k.interval - max(now.Sub(sent), now.Sub(received))
	if next <= 0 {
		next = k.interval
		if received.After(k.pingSent) { // it lives, and owes no answer any more
			k.pingSent = time.Time{}
		}
		if k.pingSent.IsZero() {
			k.pingDue = true
			c.sendSoonLocked()
		}
	}
	if waited := now.Sub(k.pingSent); !k.pingSent.IsZero() && !received.After(k.pingSent) {
		if waited >= k.deadBefore || !k.probe.IsZero() && !now.Before(k.probe) {
			k.mu.Unlock()
			c.end(ending{err: fmt.Errorf("%w (no answer to a ping)", message.ErrTruncated)})
			return
		}
		next = k.deadBefore - waited
		if !k.probe.IsZero() {
			next = min(next, k.probe.Sub(now))
		}
	} else if k.pingDue {
		next = k.deadBefore
	} else {
		k.probe = time.Time{}
	}
	c.tickAfterLocked(max(next, time.Millisecond))
	k.mu.Unlock()
}
