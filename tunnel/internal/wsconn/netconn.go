package wsconn

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// errAnswerTooLarge says that a server's answer to the upgrade does not end within the bound.
var errAnswerTooLarge = errors.New("the answer's head is too large")

// alertTimeout bounds the wait for what TLS says of a connection that was cut. It is there, or never will be.
const alertTimeout = 100 * time.Millisecond

// netConn stands between the WebSocket library and the network. It bounds the head of a server's
// answer, gives each message a deadline of its own from its first byte, and can be interrupted for
// good: after that no deadline that the library sets can bring it back.
type netConn struct {
	net.Conn

	headLeft    int  // reader only, and who writes a request: bytes that the answer may still have; negative: no bound
	inMessage   bool // reader only: a message has begun and is not yet whole
	deadlineSet bool // reader only

	mu   sync.Mutex // orders deadlines with interrupt
	dead bool

	closing atomic.Bool // one last write, the close frame, may pass although dead
}

func newNetConn(c net.Conn, headMax int) *netConn {
	tune(c)
	return &netConn{Conn: c, headLeft: headMax}
}

// Read gives a message [messageTimeout] from the first time that it has to wait for the network.
func (c *netConn) Read(p []byte) (int, error) {
	if c.headLeft == 0 {
		return 0, errAnswerTooLarge
	}
	if c.inMessage && !c.deadlineSet {
		c.deadlineSet = true
		c.setReadDeadline(time.Now().Add(messageTimeout))
	}
	if c.headLeft > 0 {
		p = p[:min(len(p), c.headLeft)]
	}
	n, err := c.Conn.Read(p)
	if c.headLeft > 0 {
		c.headLeft -= n
	}
	return n, err
}

// headDone lifts the bound on the answer's head.
func (c *netConn) headDone() { c.headLeft = -1 }

// beginMessage and endMessage mark where a message's bytes are awaited.
func (c *netConn) beginMessage() { c.inMessage = true }

func (c *netConn) endMessage() {
	c.inMessage = false
	if c.deadlineSet {
		c.deadlineSet = false
		c.setReadDeadline(time.Time{})
	}
}

func (c *netConn) setReadDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dead {
		c.Conn.SetReadDeadline(t)
	}
}

// SetWriteDeadline is what the WebSocket library calls before each write.
func (c *netConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead && !c.closing.Load() {
		return os.ErrDeadlineExceeded
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline is what the WebSocket library calls around the upgrade.
func (c *netConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return os.ErrDeadlineExceeded
	}
	return c.Conn.SetDeadline(t)
}

// Write refuses everything but a close frame once the connection is dead.
func (c *netConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	dead := c.dead && !c.closing.Load()
	c.mu.Unlock()
	if dead {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.Conn.Write(p)
	if err != nil && c.headLeft >= 0 {
		err = c.whyCut(err)
	}
	return n, err
}

// whyCut looks for the reason why a request could not be written: with TLS 1.3 a server that does not like a
// client's certificate, or misses it, says so after the client's part of the handshake, and is gone.
func (c *netConn) whyCut(err error) error {
	if _, ok := c.Conn.(*tls.Conn); !ok || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	c.setReadDeadline(time.Now().Add(alertTimeout))
	var op *net.OpError
	if _, alert := c.Conn.Read(make([]byte, 1)); errors.As(alert, &op) && op.Op == "remote error" {
		return alert
	}
	return err
}

// interrupt frees whoever reads or writes, now and from now on.
func (c *netConn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	c.Conn.SetDeadline(time.Unix(1, 0))
}
