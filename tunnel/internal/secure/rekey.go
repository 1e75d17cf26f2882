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

// pingSize is the body of a PING, which its PONG repeats.
const pingSize = 8

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

	pingID     uint64
	pingSent   time.Time // zero: no PING is unanswered
	pingWaits  []chan<- struct{}
	rtts       [4]time.Duration // of the last PINGs
	rttCount   int
	interval   time.Duration
	deadBefore time.Duration // how long an answer may take
	timer      *time.Timer
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
	return c.sealer.Ratchet()
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
func (c *Conn) Epochs() uint64 {
	c.tx <- struct{}{}
	defer func() { <-c.tx }()
	return c.sealer.Epoch()
}

// Ping asks the other end for a sign of life and returns how long it took.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	wait := make(chan struct{})
	begin := time.Now()
	c.requestPing(wait)
	select {
	case <-wait:
		return time.Since(begin), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-c.ended:
		return 0, c.writeErr()
	}
}

// RTT is the shortest of the last round trips that PINGs took, 0 while there is none.
func (c *Conn) RTT() time.Duration {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
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

func (c *Conn) requestPing(wait chan<- struct{}) {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	c.ctl.pingDue = true
	if wait != nil {
		c.ctl.pingWaits = append(c.ctl.pingWaits, wait)
	}
	c.sendSoonLocked()
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
	k.rtts[k.rttCount%len(k.rtts)] = time.Since(k.pingSent)
	k.rttCount++
	k.pingSent = time.Time{}
	for _, w := range k.pingWaits {
		close(w)
	}
	k.pingWaits = nil
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
		record, ping := c.nextDue()
		if record == nil {
			return
		}
		if ping {
			c.ctl.mu.Lock()
			c.ctl.pingSent = time.Now() // an answer may come before the write returns
			c.ctl.mu.Unlock()
		}
		if c.writeRecord(context.Background(), record, c.timing.Write) != nil {
			return
		}
	}
}

// nextDue returns the next record to send, nil if nothing is due: then the task ends.
func (c *Conn) nextDue() (record []byte, ping bool) {
	k := &c.ctl
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.ended:
	case k.pongDue:
		k.pongDue = false
		return append([]byte{recordPong}, k.pong[:]...), false
	case k.pingDue:
		k.pingDue = false
		k.pingID++
		return binary.BigEndian.AppendUint64([]byte{recordPing}, k.pingID), true
	}
	k.sending = false
	return nil, false
}

// startTicking begins to watch over the other end's being alive.
func (c *Conn) startTicking() {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if !c.ctl.ended {
		c.ctl.timer = time.AfterFunc(c.ctl.interval, c.tick)
	}
}

// tick sends a PING after silence in either direction, and gives the other end up if nothing at all
// has come since a PING went unanswered. PROTOCOL.md §6.
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
		if k.pingSent.IsZero() || received.After(k.pingSent) {
			k.pingDue = true
			c.sendSoonLocked()
		}
	}
	if waited := now.Sub(k.pingSent); !k.pingSent.IsZero() && !received.After(k.pingSent) {
		if waited >= k.deadBefore {
			k.mu.Unlock()
			c.end(ending{err: fmt.Errorf("%w (no answer to a ping)", message.ErrTruncated)})
			return
		}
		next = k.deadBefore - waited
	} else if k.pingDue {
		next = k.deadBefore
	}
	k.timer.Reset(max(next, time.Millisecond))
	k.mu.Unlock()
}
