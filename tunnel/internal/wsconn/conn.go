package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"waxwire.example/waxwire/tunnel/internal/message"
)

const (
	// messageTimeout is how long a message may take from its first byte, each way.
	messageTimeout = 10 * time.Second
	// closeTimeout bounds a close frame.
	closeTimeout = time.Second

	tcpUserTimeout = 20 * time.Second

	// maxControlFrames is how many WebSocket pings and pongs may come before [Conn.Confirmed].
	maxControlFrames = 8

	// frameHeader is the largest WebSocket frame header (RFC 6455 §5.2): 2 + 8 + 4 bytes.
	frameHeader = 14

	// readBufferSize is the WebSocket library's buffer for frame headers and small messages. Large
	// reads pass it by, so a small one costs nothing, and every idle connection holds one.
	readBufferSize = 1024
)

// Conn is one WebSocket. One goroutine may read; writers must take turns (the layer above holds a
// lock from sealing to writing anyway). The other methods may be called from anywhere.
type Conn struct {
	ws  *websocket.Conn
	net *netConn
	max int // largest message to send, in bytes

	buf  *[]byte // reader only: the message that ReadMessage returned last, from the pools
	last int     // reader only: its length, a guess for the next

	src source // writer only

	control   atomic.Int32 // control frames left before Confirmed; negative: no bound
	ponging   atomic.Bool
	pongs     sync.WaitGroup
	closeOnce sync.Once
}

func newConn(ws *websocket.Conn, nc *netConn, max int) *Conn {
	c := &Conn{ws: ws, net: nc, max: max}
	c.control.Store(maxControlFrames)
	ws.SetPingHandler(c.pong)
	ws.SetPongHandler(func(string) error { return c.countControl() })
	ws.SetCloseHandler(func(int, string) error { return nil })
	return c
}

// SetReadLimit bounds the messages that are accepted from now on, in bytes. It is called before the
// first read, and by the reader only.
func (c *Conn) SetReadLimit(n int) { c.ws.SetReadLimit(int64(n)) }

// Confirmed lifts the bound on WebSocket control frames that holds until the other end has proved
// itself by a record.
func (c *Conn) Confirmed() { c.control.Store(-1) }

// MaxMessage is the largest message that is sent in one piece, in bytes.
func (c *Conn) MaxMessage() int { return c.max }

// RemoteAddr is the address of the other end of the network connection: a proxy's, if one is in
// between.
func (c *Conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

// LocalAddr is the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.net.LocalAddr() }

// ReadMessage returns the next message, valid until the next call. A context that ends while it
// waits ends the connection.
func (c *Conn) ReadMessage(ctx context.Context) ([]byte, error) {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.Interrupt)
		defer stop()
	}
	m, err := c.readMessage()
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return m, err
}

func (c *Conn) readMessage() ([]byte, error) {
	c.Release()
	typ, r, err := c.ws.NextReader()
	if err != nil {
		return nil, readError(err)
	}
	if typ != websocket.BinaryMessage {
		return nil, message.ErrFraming
	}
	c.net.beginMessage()
	defer c.net.endMessage()
	// A buffer is taken only now that there is something to read: an idle connection holds none.
	c.buf = getBuffer(c.last + 1)
	n := 0
	for {
		if n == len(*c.buf) {
			larger := getBuffer(2 * n)
			copy(*larger, *c.buf)
			putBuffer(c.buf, n)
			c.buf = larger
		}
		k, err := r.Read((*c.buf)[n:])
		n += k
		if err == io.EOF {
			c.last = n
			return (*c.buf)[:n], nil
		}
		if err != nil {
			c.last = n
			return nil, readError(err)
		}
	}
}

// Release clears and gives back the buffer of the last message. ReadMessage does it by itself; the
// reader calls it when it will not read again.
func (c *Conn) Release() {
	if c.buf != nil {
		putBuffer(c.buf, c.last)
		c.buf = nil
	}
}

// readError tells what did not authenticate (broken framing, a message over the limit) from what
// merely ended. PROTOCOL.md §5.
func readError(err error) error {
	var closed *websocket.CloseError
	var network net.Error
	switch {
	case errors.As(err, &closed), errors.As(err, &network),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w (%v)", message.ErrTruncated, err)
	}
	return message.ErrFraming
}

// WriteMessage sends buf[off:] as one message.
func (c *Conn) WriteMessage(ctx context.Context, buf []byte, off int) error {
	return c.WriteSealed(ctx, messageTimeout, func(dst []byte) ([]byte, error) {
		return append(dst, buf[off:]...), nil
	})
}

// WriteSealed sends one message, which seal appends to the slice that it is given: that slice is the
// WebSocket's own write buffer, so a record is sealed in the place where it leaves from. timeout
// bounds the write. Any error is final, for a message that was cut short cannot be mended; a context
// that ends while it writes ends the connection.
func (c *Conn) WriteSealed(ctx context.Context, timeout time.Duration, seal func(dst []byte) ([]byte, error)) error {
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.Interrupt)
		defer stop()
	}
	err := c.writeSealed(timeout, seal)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (c *Conn) writeSealed(timeout time.Duration, seal func(dst []byte) ([]byte, error)) error {
	c.ws.SetWriteDeadline(time.Now().Add(timeout))
	w, err := c.ws.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return fmt.Errorf("%w (%v)", message.ErrTruncated, err)
	}
	c.src = source{seal: seal}
	_, err = w.(io.ReaderFrom).ReadFrom(&c.src)
	sealErr := c.src.err
	c.src = source{}
	if sealErr != nil {
		return sealErr
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("%w (%v)", message.ErrTruncated, err)
	}
	return nil
}

// source is what the WebSocket library's writer reads a message from. The library hands Read its own
// write buffer behind the room for the frame header; the record is made there. A record that does
// not fit, because the buffer is smaller than the configuration promises, takes the long way.
type source struct {
	seal func(dst []byte) ([]byte, error)
	rest []byte
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	if s.seal != nil {
		seal := s.seal
		s.seal = nil
		out, err := seal(p[:0:len(p)])
		if err != nil {
			s.err = err
			return 0, err
		}
		if len(out) <= len(p) && (len(out) == 0 || &out[0] == &p[0]) {
			return len(out), io.EOF
		}
		s.rest = out
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	if len(s.rest) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// pong answers a WebSocket ping, off the reading goroutine: a write that waits must not hold up
// reading. While one answer waits, further pings go unanswered, which RFC 6455 §5.5.3 allows.
func (c *Conn) pong(data string) error {
	if err := c.countControl(); err != nil {
		return err
	}
	if c.ponging.CompareAndSwap(false, true) {
		c.pongs.Go(func() {
			defer c.ponging.Store(false)
			c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(messageTimeout))
		})
	}
	return nil
}

var errControlFlood = errors.New("too many control frames before the first record")

func (c *Conn) countControl() error {
	if c.control.Load() < 0 {
		return nil
	}
	if c.control.Add(-1) < 0 {
		c.control.Store(0)
		return errControlFlood
	}
	return nil
}

// Interrupt frees the reader and the writer at once and for good. It is the first step of every end;
// [Conn.SendClose] and [Conn.CloseNow] are the last.
func (c *Conn) Interrupt() { c.net.interrupt() }

// The two WebSocket close codes that are ever sent (RFC 6455 §7.4.1).
const (
	CloseNormal    = websocket.CloseNormalClosure
	CloseViolation = websocket.ClosePolicyViolation
)

// SendClose sends a WebSocket close frame without text if no write was cut short, within a second.
// It comes after Interrupt; nobody else may be writing a message.
func (c *Conn) SendClose(code int) {
	c.net.closing.Store(true)
	defer c.net.closing.Store(false)
	c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(closeTimeout))
}

// AwaitEOF waits until the other end has closed the network connection, at most timeout, and drops
// what still arrives. Closing a socket that has unread bytes would reset it, and the reset may
// overtake what was sent last. It comes after Interrupt and SendClose.
func (c *Conn) AwaitEOF(timeout time.Duration) {
	if half, ok := c.net.Conn.(interface{ CloseWrite() error }); ok {
		c.net.Conn.SetWriteDeadline(time.Now().Add(closeTimeout)) // TLS writes an alert
		half.CloseWrite()
	}
	c.net.Conn.SetReadDeadline(time.Now().Add(timeout))
	var drop [512]byte
	for {
		if _, err := c.net.Conn.Read(drop[:]); err != nil {
			return
		}
	}
}

// CloseNow closes the network connection and waits for this package's goroutines.
func (c *Conn) CloseNow() {
	c.closeOnce.Do(func() {
		c.Interrupt()
		c.net.Conn.Close()
		c.pongs.Wait()
	})
}

// Close ends the WebSocket with a close frame. It is idempotent.
func (c *Conn) Close(code message.Code, _ string) error {
	c.Interrupt()
	if code == message.OK {
		c.SendClose(CloseNormal)
	} else {
		c.SendClose(CloseViolation)
	}
	c.CloseNow()
	return nil
}

// tune asks the kernel to notice a dead network connection; the sealed pings do it sooner, these
// settings free the socket where they cannot.
func tune(c net.Conn) {
	for { // TLS, maybe in the TLS to a proxy
		t, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = t.NetConn()
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3})
	setUserTimeout(tcp)
}
