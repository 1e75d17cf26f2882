package tunnel

import (
	"context"
	"net"
	"sync"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/secure"
)

// Conn is a sealed connection by itself: whole messages, in order, each read once, for programs that
// want no streams. It does not survive its network connection.
//
// One goroutine may read; everything else may be called from anywhere, at any time.
type Conn struct {
	conn *secure.Conn
	bufs sync.Pool // *[]byte, with the headroom that the layers below need
}

func newConn(c *secure.Conn) *Conn { return &Conn{conn: c} }

// ReadMessage returns the next message, which is valid until the next call. [io.EOF] is the other
// end's clean close; [ErrTruncated] a lost connection; [ErrRecord] tampering. The first error is
// final, and the call that returns it clears the last message. A context that ends while ReadMessage
// waits ends the connection.
func (c *Conn) ReadMessage(ctx context.Context) ([]byte, error) {
	m, err := c.conn.ReadMessage(ctx)
	return m, publicError(err)
}

// WriteMessage sends p as one message of 1 to [Conn.MaxMessage] bytes; p is not kept. A context that
// ends during the write ends the connection.
func (c *Conn) WriteMessage(ctx context.Context, p []byte) error {
	if len(p) == 0 || len(p) > c.MaxMessage() {
		return ErrTooLarge
	}
	b, ok := c.bufs.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	*b = append(append((*b)[:0], make([]byte, message.Headroom)...), p...)
	err := c.conn.WriteMessage(ctx, *b, message.Headroom)
	clear(*b)
	c.bufs.Put(b)
	return publicError(err)
}

// MaxMessage is the largest message that fits, in bytes.
func (c *Conn) MaxMessage() int { return c.conn.MaxMessage() }

// Ping waits for a sign of life of the other end and returns how long it took. Somebody must be
// reading.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	rtt, err := c.conn.Ping(ctx)
	return rtt, publicError(err)
}

// Peer is the key that the other end has proved.
func (c *Conn) Peer() keys.PublicKey { return c.conn.Peer() }

// Binding returns 32 bytes that are the same on both ends and of no other connection, to bind an
// authentication of the program's own to this one.
func (c *Conn) Binding() [32]byte { return c.conn.Binding() }

// Bytes are the sealed bytes that were sent and received, without WebSocket framing.
func (c *Conn) Bytes() (sent, received uint64) { return c.conn.Bytes() }

// RemoteAddr is the other end of the network connection: a proxy's, if one is in between.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Done is closed when the connection has ended and its keys are erased. Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.conn.Done() }

// Err is why the connection ended, nil while it has not.
func (c *Conn) Err() error { return publicError(c.conn.Err()) }

// Close says goodbye, erases the keys and closes the connection, within about three seconds. The
// other end reads [io.EOF]. It is idempotent.
func (c *Conn) Close() error { return c.conn.Close(message.OK, "") }

// Abort erases the keys and cuts the connection at once, without a word: the other end gets
// [ErrTruncated]. It is for a program that gives up halfway, as in a deferred call after a panic, where
// Close would make what was sent so far look complete. It is idempotent.
func (c *Conn) Abort() { c.conn.Kill(net.ErrClosed) }

// CloseWith is Close with a code and a short text for the other end.
func (c *Conn) CloseWith(code Code, reason string) error {
	return c.conn.Close(message.Code(code), reason)
}
