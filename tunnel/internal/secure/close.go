package secure

import (
	"context"
	"net"
	"time"

	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/tunnel/internal/message"
)

const (
	closeWriteTimeout = time.Second     // for the sealed CLOSE
	closeWait         = 2 * time.Second // for the other end to close too

	// CloseTotal is when a Close that is not through is cut short, so that it takes three seconds at
	// most.
	CloseTotal = 2800 * time.Millisecond
)

// WebSocket close codes (RFC 6455 §7.4.1).
const (
	wsNone      = 0
	wsNormal    = 1000
	wsViolation = 1008
)

// An ending is one row of the close table. PROTOCOL.md §5.
type ending struct {
	err       error // what readers and writers get
	sealed    bool  // a CLOSE record goes first
	code      message.Code
	reason    string
	websocket int  // the close frame's code, or wsNone
	await     bool // wait for the other end to close, so that nothing sent last is lost
}

// end is the only way by which a Conn ends. The first caller's reason counts; all callers return when
// keys and sockets are gone.
func (c *Conn) end(e ending) {
	if !c.ending.CompareAndSwap(false, true) {
		<-c.done // a sync.Once would stop the clock of tests that fake it
		return
	}
	c.err = e.err
	defer close(c.done)
	defer c.carrier.CloseNow()
	defer time.AfterFunc(CloseTotal, c.carrier.CloseNow).Stop()
	close(c.ended)
	c.stopTasks()
	if e.sealed && !c.sendClose(e.code, e.reason) {
		e.await = false // there is nothing to be lost
	}
	c.carrier.Interrupt() // frees whoever holds tx or rx
	erase.Handshake(c.wipe)
	if e.websocket != wsNone {
		c.carrier.SendClose(e.websocket)
	}
	if e.await {
		c.carrier.AwaitEOF(closeWait)
	}
}

func (c *Conn) wipe() {
	c.tx <- struct{}{}
	c.sealer.Wipe()
	<-c.tx
	c.rx.Lock()
	c.opener.Wipe()
	c.rx.Unlock()
}

// stopTasks lets no further task start.
func (c *Conn) stopTasks() {
	k := &c.ctl
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	for _, t := range []*time.Timer{k.timer, k.pingTimer} {
		if t != nil {
			t.Stop()
		}
	}
}

// sendClose seals a CLOSE record, within a second in all, and reports whether it has left.
func (c *Conn) sendClose(code message.Code, reason string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), closeWriteTimeout)
	defer cancel()
	select {
	case c.tx <- struct{}{}:
		err := c.sendLocked(ctx, appendClose(nil, code, reason), closeWriteTimeout)
		<-c.tx
		return err == nil
	case <-ctx.Done(): // a write is stuck; there is no polite way out
		return false
	}
}

// Close tells the other end why, erases the keys and closes the connection, within three
// seconds. It is idempotent and returns when the goroutines of the Conn have ended.
func (c *Conn) Close(code message.Code, reason string) error {
	c.end(ending{err: net.ErrClosed, sealed: true, code: code, reason: reason, websocket: wsNormal, await: true})
	c.ctl.tasks.Wait()
	return nil
}

// Kill ends the Conn at once and without a word, for panics and deadlines: the other end sees a
// truncated connection.
func (c *Conn) Kill(err error) {
	c.end(ending{err: err})
	c.ctl.tasks.Wait()
}

// CutShort ends a Close of this layer or one above that has taken too long.
func (c *Conn) CutShort() {
	c.carrier.CloseNow()
	c.end(ending{err: net.ErrClosed})
}

// protocolError ends the Conn because the other end, which did prove itself, broke a rule.
func (c *Conn) protocolError(what string) error {
	c.end(ending{err: message.ErrRule, sealed: true, code: message.ProtocolError, reason: what, websocket: wsViolation, await: true})
	return c.err
}
