package tunnel

import (
	"context"
	"net"
	"sync"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
)

// Tunnel carries streams between a client and a server, under keys that end with it. All its methods
// may be called from anywhere, at any time.
type Tunnel struct {
	conn *secure.Conn
	mux  *mux.Mux

	lookup func() (keys.Peer, bool) // nil on a client
	joined keys.Peer                // the peer as it was when the tunnel came up

	cause closeCause
}

// closeCause keeps the first reason that this end gave, so that Err can tell it.
type closeCause struct {
	mu  sync.Mutex
	err error
}

func (c *closeCause) set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *closeCause) get() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// newTunnel stacks session and mux on a sealed connection.
func newTunnel(conn *secure.Conn, cfg mux.Config) *Tunnel {
	return &Tunnel{
		conn:   conn,
		mux:    mux.New(session.New(conn), cfg),
		joined: keys.Peer{Key: conn.Peer()},
	}
}

// OpenStream opens a stream and returns without waiting for the other end's verdict: the request and
// up to 16 KiB of data leave at once. [Stream.Opened] waits for it. ctx bounds the call, not the
// stream.
func (t *Tunnel) OpenStream(ctx context.Context, r Request) (*Stream, error) {
	s, err := t.mux.Open(ctx, uint64(r.Kind), []byte(r.Target))
	if err != nil {
		return nil, publicError(err)
	}
	return &Stream{stream: s, tunnel: t, request: r}, nil
}

// AcceptStream returns the next stream that the other end asks for. It must be accepted or refused.
func (t *Tunnel) AcceptStream(ctx context.Context) (*Incoming, error) {
	s, err := t.mux.Accept(ctx)
	if err != nil {
		return nil, publicError(err)
	}
	return &Incoming{&Stream{
		stream: s, tunnel: t,
		request: Request{Kind: Kind(s.Kind()), Target: string(s.Request())},
	}}, nil
}

// Peer is the other end. On a server it is what [Server.Peers] says now, so that a changed permission
// counts from the next time somebody asks; a peer that is gone has none. On a client it has a key only.
func (t *Tunnel) Peer() keys.Peer {
	if t.lookup == nil {
		return t.joined
	}
	if p, ok := t.lookup(); ok {
		return p
	}
	return keys.Peer{Name: t.joined.Name, Key: t.joined.Key}
}

// RemoteAddr is the other end of the network connection: a proxy's, if one is in between.
func (t *Tunnel) RemoteAddr() net.Addr { return t.conn.RemoteAddr() }

// Suite is the cipher of the records.
func (t *Tunnel) Suite() cipher.Suite { return t.conn.Suite() }

// Binding returns 32 bytes that are the same on both ends and of no other connection.
func (t *Tunnel) Binding() [32]byte { return t.conn.Binding() }

// Ping waits for a sign of life of the other end and returns how long it took.
func (t *Tunnel) Ping(ctx context.Context) (time.Duration, error) {
	rtt, err := t.conn.Ping(ctx)
	return rtt, publicError(err)
}

// RTT is the shortest of the last round trips, 0 while none was measured.
func (t *Tunnel) RTT() time.Duration { return t.conn.RTT() }

// Rekey replaces the key that this end sends under. It happens by itself after a GiB, 2^20 records or
// two minutes.
func (t *Tunnel) Rekey() error { return publicError(t.conn.Rekey(context.Background())) }

// Stats are counters of a tunnel since it came up.
type Stats struct {
	SentBytes, ReceivedBytes uint64 // sealed, on the wire, without WebSocket framing
	Streams                  int    // open now
	Epochs                   uint64 // keys that this end has sent under
}

// Stats returns the tunnel's counters.
func (t *Tunnel) Stats() Stats {
	sent, received := t.conn.Bytes()
	return Stats{SentBytes: sent, ReceivedBytes: received, Streams: t.mux.Streams(), Epochs: t.conn.Epochs() + 1}
}

// Drain refuses new streams of the other end from now on. The channel is closed when no stream is left.
func (t *Tunnel) Drain() <-chan struct{} {
	t.mux.Drain()
	return t.mux.Idle()
}

// Done is closed when the tunnel has ended and its keys are erased. Err then says why.
func (t *Tunnel) Done() <-chan struct{} { return t.conn.Done() }

// Err is why the tunnel ended, nil while it has not: [net.ErrClosed] if this end closed it, [io.EOF]
// if the other end did and all is accounted for, [*CloseError] if one of them had a reason to give,
// [ErrTruncated] or [ErrRecord] if neither did.
func (t *Tunnel) Err() error {
	err := t.conn.Err()
	if err == nil {
		return nil
	}
	<-t.mux.Done() // at once: only the session knows whether the end was clean
	if cause := t.cause.get(); cause != nil {
		return cause
	}
	if cause := t.mux.Err(); cause != nil {
		return publicError(cause)
	}
	return publicError(err)
}

// Close ends the tunnel: what was written is flushed, streams that are not finished are reset, the
// other end is told, the keys are erased. It takes three seconds at most and is idempotent.
func (t *Tunnel) Close() error {
	t.note(net.ErrClosed)
	return t.close(message.OK, "")
}

// close bounds in all what each layer bounds for itself.
func (t *Tunnel) close(code message.Code, reason string) error {
	defer time.AfterFunc(secure.CloseTotal, t.conn.CutShort).Stop()
	return t.mux.Close(code, reason)
}

// note keeps why this end closes a tunnel that is still up.
func (t *Tunnel) note(err error) {
	if t.conn.Err() == nil {
		t.cause.set(err)
	}
}

// CloseWith is Close with a code and a short text for the other end.
func (t *Tunnel) CloseWith(code Code, reason string) error {
	if code == OK {
		return t.Close()
	}
	t.note(&CloseError{Code: code, Reason: reason})
	return t.close(message.Code(code), reason)
}
