package secure

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
)

// Record types, the first byte of a plaintext; bit 7 says that the body is padded. PROTOCOL.md §4.
const (
	recordData  = 0x01 // a message of the layer above; an empty one is cover traffic
	recordClose = 0x02 // u16 code ‖ UTF-8 text of at most 120 bytes
	recordRekey = 0x03 // empty: the last record under this key
	recordPing  = 0x04 // 8 bytes
	recordPong  = 0x05 // the same 8 bytes
)

// recordOverhead is what a record adds to a body: the type and the tag.
const recordOverhead = 1 + cipher.Overhead

// firstMax is the largest BinaryMessage that a server takes as the first one. PROTOCOL.md §4.
const firstMax = 4096

// A Carrier is the WebSocket below, as package wsconn has it.
type Carrier interface {
	// ReadMessage returns the next message, valid until the next call and writable.
	ReadMessage(ctx context.Context) ([]byte, error)
	// WriteSealed sends what seal appends to the slice that it is given. Writers take turns.
	WriteSealed(ctx context.Context, timeout time.Duration, seal func(dst []byte) ([]byte, error)) error
	MaxMessage() int
	SetReadLimit(n int)
	Confirmed()
	Interrupt()
	SendClose(code int)
	AwaitEOF(timeout time.Duration)
	CloseNow()
	Release()
	RemoteAddr() net.Addr
}

// Timing holds the delays of a Conn. The zero value is the protocol's; tests shorten them.
type Timing struct {
	Ping  time.Duration // silence in one direction before a PING: 20 s, made 10 % longer or shorter
	Pong  time.Duration // how long the answer may take: 10 s
	Write time.Duration // how long one record may take to be written: 10 s
}

func (t Timing) withDefaults() Timing {
	if t.Ping == 0 {
		t.Ping = 20 * time.Second
	}
	if t.Pong == 0 {
		t.Pong = 10 * time.Second
	}
	if t.Write == 0 {
		t.Write = 10 * time.Second
	}
	return t
}

// Conn is a [message.Conn] whose messages are sealed. One goroutine may read; everything else may be
// called from anywhere.
type Conn struct {
	carrier Carrier
	client  bool
	peer    keys.PublicKey
	binding [32]byte
	suite   cipher.Suite
	max     int // largest BinaryMessage to receive
	sendMax int // largest BinaryMessage to send
	padding Padding
	timing  Timing

	// tx is the writer's lock: who holds its slot seals and writes, so that records leave in the order
	// of their nonces.
	tx         chan struct{}
	sealer     *cipher.Sealer
	epochStart time.Time                        // of the first record under the sealer's present key
	plaintext  []byte                           // what sealNext seals
	sealNext   func(dst []byte) ([]byte, error) // bound once: a record costs no allocation

	rx     sync.Mutex // held while a record is opened, never while one is awaited
	opener *cipher.Opener

	// Of the reading goroutine only.
	admit       func() error // asked by Start, or nil
	heard       func()       // told when a record of the server has opened, or nil
	first       []byte       // the body of the first record, if Start has read it
	dataInEpoch bool
	idleRecords *rate.Limiter

	lastSent, lastRecv atomic.Int64 // nanoseconds since start
	sentBytes          atomic.Uint64
	recvBytes          atomic.Uint64
	epochs             atomic.Uint64 // ratchets of the sealer
	start              time.Time

	ctl control

	ending atomic.Bool
	ended  chan struct{} // closed when the end has begun: no new work
	done   chan struct{} // closed when keys and sockets are gone
	err    error         // why; set before done is closed
}

// New makes a Conn of a finished handshake, which it takes over. [Conn.Start] comes next.
func New(carrier Carrier, e *Established, timing Timing) *Conn {
	c := &Conn{
		carrier: carrier,
		client:  e.Client,
		peer:    e.Peer,
		binding: e.Binding,
		suite:   e.Suite,
		max:     e.max,
		sendMax: min(carrier.MaxMessage(), e.peerMax),
		padding: e.padding,
		timing:  timing.withDefaults(),
		tx:      make(chan struct{}, 1),
		sealer:  e.sealer,
		opener:  e.opener,
		start:   time.Now(),
		ended:   make(chan struct{}),
		done:    make(chan struct{}),
		// A peer that behaves sends few records that move nothing; PROTOCOL.md §4.
		idleRecords: rate.NewLimiter(20, 64),
	}
	c.sealNext = func(dst []byte) ([]byte, error) { return c.sealer.Seal(dst, c.plaintext) }
	c.ctl.init(c.timing)
	return c
}

// Admit has Start of a server ask f as soon as the first record has opened, before anything comes of that: an
// error closes the connection instead, told to the other end if it is a [*message.CloseError]. It comes
// before Start.
func (c *Conn) Admit(f func() error) { c.admit = f }

// Heard has a client call f as soon as the first record of the server has opened. It comes before Start.
func (c *Conn) Heard(f func()) { c.heard = f }

// Start is the confirm rule. A client proves itself by its first record: the message first, if that is
// not nil, else a PING. A server waits for it and has sent nothing before; ctx bounds that wait.
// PROTOCOL.md §4.
func (c *Conn) Start(ctx context.Context, first []byte) error {
	if c.client {
		c.carrier.SetReadLimit(c.max)
		c.carrier.Confirmed()
		stop := context.AfterFunc(ctx, c.carrier.Interrupt)
		if first != nil {
			c.writeRecord(ctx, append([]byte{recordData}, first...), c.timing.Write)
			c.requestPing(nil) // for the round-trip time
		} else {
			c.firstPing()
		}
		stop()
		if err := c.Err(); err != nil {
			return err
		}
	} else {
		c.carrier.SetReadLimit(firstMax)
		typ, body, err := c.readRecord(ctx)
		if err != nil {
			return err
		}
		switch typ {
		case recordPing, recordData:
		case recordClose: // ends as if never confirmed
			c.end(ending{err: message.ErrTruncated})
			return message.ErrTruncated
		default:
			return c.protocolError("bad first record")
		}
		if err := c.admitted(); err != nil {
			return err
		}
		c.carrier.SetReadLimit(c.max)
		c.carrier.Confirmed()
		if err := c.take(typ, body); err != nil {
			return err
		}
		if typ == recordData && len(body) > 0 {
			c.first = body
		}
	}
	c.startTicking()
	return nil
}

// admitted asks what [Conn.Admit] was given.
func (c *Conn) admitted() error {
	if c.admit == nil {
		return nil
	}
	err := c.admit()
	var closed *message.CloseError
	switch {
	case err == nil:
	case errors.As(err, &closed):
		c.end(ending{err: err, sealed: true, code: closed.Code, reason: closed.Reason, websocket: wsNormal, await: true})
	default:
		c.end(ending{err: err})
	}
	return err
}

// ReadMessage returns the next message, valid until the next call. The first error is final:
// [io.EOF] or a [*message.CloseError] if the other end closed, [net.ErrClosed] if this one did,
// [message.ErrTruncated] if the connection was lost, [message.ErrRecord] if somebody tampered.
func (c *Conn) ReadMessage(ctx context.Context) ([]byte, error) {
	if body := c.first; body != nil {
		c.first = nil
		return body, nil
	}
	select {
	case <-c.ended:
		<-c.done
		c.carrier.Release()
		return nil, c.err
	default:
	}
	for {
		typ, body, err := c.readRecord(ctx)
		if err != nil {
			c.carrier.Release()
			return nil, err
		}
		if err := c.take(typ, body); err != nil {
			c.carrier.Release()
			return nil, err
		}
		if typ == recordData && len(body) > 0 {
			return body, nil
		}
	}
}

// readRecord reads and opens one record. An error has ended the Conn already.
func (c *Conn) readRecord(ctx context.Context) (typ byte, body []byte, err error) {
	record, err := c.carrier.ReadMessage(ctx)
	if err == nil {
		c.rx.Lock()
		var plaintext []byte
		plaintext, err = c.opener.Open(record[:0], record)
		c.rx.Unlock()
		if err == nil {
			c.lastRecv.Store(int64(time.Since(c.start)))
			c.recvBytes.Add(uint64(len(record)))
			if c.heard != nil {
				c.heard()
				c.heard = nil
			}
			if len(plaintext) == 0 {
				return 0, nil, c.protocolError("empty record")
			}
			typ, body = plaintext[0], plaintext[1:]
			if typ&padded != 0 {
				var ok bool
				if body, ok = removePadding(body); !ok {
					return 0, nil, c.protocolError("bad padding")
				}
			}
			return typ &^ padded, body, nil
		}
		err = message.ErrRecord
	}
	e := ending{err: err}
	if errors.Is(err, message.ErrRecord) {
		e.websocket = wsViolation
	}
	c.end(e)
	return 0, nil, c.err
}

// take does what a record asks for, all but handing its data on.
func (c *Conn) take(typ byte, body []byte) error {
	advances := true
	switch typ {
	case recordData:
		advances = len(body) > 0
		c.dataInEpoch = c.dataInEpoch || advances
	case recordClose:
		code, reason, ok := parseClose(body)
		if !ok {
			return c.protocolError("bad CLOSE")
		}
		var err error = &message.CloseError{Code: code, Reason: reason, Remote: true}
		if code == message.OK {
			err = io.EOF
		}
		c.end(ending{err: err, websocket: wsNormal})
		return c.err
	case recordRekey:
		if len(body) != 0 {
			return c.protocolError("bad REKEY")
		}
		advances = c.dataInEpoch
		c.dataInEpoch = false
		c.rx.Lock()
		err := c.opener.Ratchet()
		c.rx.Unlock()
		if err != nil { // wiped meanwhile
			c.end(ending{err: message.ErrTruncated})
			return c.err
		}
	case recordPing:
		if len(body) != pingSize {
			return c.protocolError("bad PING")
		}
		advances = false
		c.queuePong([pingSize]byte(body))
	case recordPong:
		if len(body) != pingSize {
			return c.protocolError("bad PONG")
		}
		advances = c.takePong([pingSize]byte(body))
	default:
		return c.protocolError("unknown record type")
	}
	if !advances && !c.idleRecords.Allow() {
		return c.protocolError("too many records that move nothing")
	}
	return nil
}

// WriteMessage seals and sends buf[off:]; buf[off-1] is overwritten. Any number of goroutines may
// call it at once. A context that ends while the write waits for its turn changes nothing; one that
// ends during the write ends the connection.
func (c *Conn) WriteMessage(ctx context.Context, buf []byte, off int) error {
	if len(buf)-off > c.MaxMessage() {
		return message.ErrTooLarge
	}
	buf[off-1] = recordData
	return c.writeRecord(ctx, buf[off-1:], c.timing.Write)
}

// MaxMessage is the largest message that fits one record, in bytes: what both ends' limits leave.
func (c *Conn) MaxMessage() int { return c.sendMax - recordOverhead }

// writeRecord seals and writes a plaintext, type first, and a REKEY before it where one is due.
func (c *Conn) writeRecord(ctx context.Context, plaintext []byte, timeout time.Duration) error {
	if err := c.lockTx(ctx); err != nil {
		return err
	}
	err := c.rekeyIfDueLocked(ctx, timeout)
	if err == nil {
		err = c.sendLocked(ctx, plaintext, timeout)
	}
	<-c.tx
	return c.writeFailed(err)
}

// writeFailed ends the Conn if a write did not succeed: what was cut short cannot be mended.
func (c *Conn) writeFailed(err error) error {
	if err == nil {
		return nil
	}
	c.end(ending{err: message.ErrTruncated})
	return c.writeErr()
}

// lockTx takes the writer's turn.
func (c *Conn) lockTx(ctx context.Context) error {
	select {
	case <-c.ended:
		return c.writeErr()
	default:
	}
	select {
	case c.tx <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended:
		return c.writeErr()
	}
}

// writeErr is why nothing can be written any more: not io.EOF, which is the reader's good news.
func (c *Conn) writeErr() error {
	<-c.done
	if c.err == io.EOF {
		return &message.CloseError{Code: message.OK, Remote: true}
	}
	return c.err
}

// sendLocked seals and writes one record. The caller holds tx.
func (c *Conn) sendLocked(ctx context.Context, plaintext []byte, timeout time.Duration) error {
	if c.padding != PadNone {
		given := plaintext
		if plaintext = c.padding.appendPadding(given, c.sendMax-cipher.Overhead); &plaintext[0] != &given[0] {
			defer clear(plaintext) // a copy, and nobody else's
		}
	}
	if c.sealer.Records() == 0 {
		c.epochStart = time.Now()
	}
	c.plaintext = plaintext
	err := c.carrier.WriteSealed(ctx, timeout, c.sealNext)
	c.plaintext = nil
	if err == nil {
		c.lastSent.Store(int64(time.Since(c.start)))
		c.sentBytes.Add(uint64(len(plaintext) + cipher.Overhead))
	}
	return err
}

// Peer is the key that the other end has proved.
func (c *Conn) Peer() keys.PublicKey { return c.peer }

// Binding is the handshake's hash: 32 bytes that are the same on both ends and of no other connection.
func (c *Conn) Binding() [32]byte { return c.binding }

// Suite is the AEAD of the records.
func (c *Conn) Suite() cipher.Suite { return c.suite }

// RemoteAddr is the other end of the network connection.
func (c *Conn) RemoteAddr() net.Addr { return c.carrier.RemoteAddr() }

// Bytes are the sealed bytes that were sent and received.
func (c *Conn) Bytes() (sent, received uint64) { return c.sentBytes.Load(), c.recvBytes.Load() }

// Done is closed when the Conn has ended and its keys are gone; Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why the Conn ended, nil while it has not.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

func appendClose(dst []byte, code message.Code, reason string) []byte {
	dst = binary.BigEndian.AppendUint16(append(dst, recordClose), uint16(code))
	return append(dst, message.CutReason(reason)...)
}

func parseClose(body []byte) (code message.Code, reason string, ok bool) {
	if len(body) < 2 || len(body) > 2+message.MaxReason || !utf8.Valid(body[2:]) {
		return 0, "", false
	}
	return message.Code(binary.BigEndian.Uint16(body)), string(body[2:]), true
}
