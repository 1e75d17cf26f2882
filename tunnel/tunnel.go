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

// Tunnel carries streams between a client and a server, over one connection after another, each under
// keys of its own that end with it. All its methods may be called from anywhere, at any time.
type Tunnel struct {
	session *session.Session
	mux     *mux.Mux
	binding [32]byte

	mu             sync.Mutex
	conn           *secure.Conn // the present connection, or the last one
	owner          uint32       // its number
	sent, received uint64       // bytes over the connections before it
	epochs         uint64

	status statusBoard
	wake   chan struct{} // Reconnect has been called

	lookup func() (keys.Peer, bool) // nil on a client
	joined keys.Peer                // the peer as it was when the tunnel came up

	cause closeCause
	tasks sync.WaitGroup // a client's goroutines
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

// newTunnel puts a session on a sealed connection. [Tunnel.run] comes next.
func newTunnel(conn *secure.Conn, cfg session.Config) *Tunnel {
	t := &Tunnel{
		conn:    conn,
		binding: conn.Binding(),
		wake:    make(chan struct{}, 1),
		joined:  keys.Peer{Key: conn.Peer()},
	}
	t.status.set(Status{Connected: true, Since: time.Now()})
	t.session = session.New(conn, cfg)
	return t
}

// run puts the mux on the session, which reads from then on: whatever the session calls has to be ready.
func (t *Tunnel) run(cfg mux.Config) { t.mux = mux.New(t.session, cfg) }

// attached reports whether there is a connection.
func (t *Tunnel) attached() bool { return t.session.Stats().Attached }

// adopt takes a further connection as the present one, unless one with a higher number was faster.
func (t *Tunnel) adopt(conn *secure.Conn, owner uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if owner <= t.owner {
		return
	}
	t.owner = owner
	sent, received := t.conn.Bytes()
	t.sent, t.received = t.sent+sent, t.received+received
	t.epochs += t.conn.Epochs() + 1
	t.conn = conn
}

// latest is the present connection, or the last one.
func (t *Tunnel) latest() *secure.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn
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
func (t *Tunnel) RemoteAddr() net.Addr { return t.latest().RemoteAddr() }

// Suite is the cipher of the records.
func (t *Tunnel) Suite() cipher.Suite { return t.latest().Suite() }

// Binding returns 32 bytes that are the same on both ends and of no other tunnel: those of its first
// connection.
func (t *Tunnel) Binding() [32]byte { return t.binding }

// Ping waits for a sign of life of the other end and returns how long it took. While there is no
// connection it waits for the next one.
func (t *Tunnel) Ping(ctx context.Context) (time.Duration, error) {
	for {
		_, changed := t.status.get()
		conn := t.latest()
		rtt, err := conn.Ping(ctx)
		if err == nil || ctx.Err() != nil {
			return rtt, publicError(err)
		}
		for t.latest() == conn {
			select {
			case <-changed:
				_, changed = t.status.get()
			case <-t.session.Done():
				return 0, publicError(err)
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
	}
}

// RTT is the shortest of the last round trips, 0 while none was measured.
func (t *Tunnel) RTT() time.Duration { return t.latest().RTT() }

// Rekey replaces the key that this end sends under. It happens by itself after a GiB, 2^20 records or
// two minutes, and with each new connection.
func (t *Tunnel) Rekey() error { return publicError(t.latest().Rekey(context.Background())) }

// Reconnect has the other end show within seconds that it is there, and makes a client that is waiting
// to dial again do so now. It does not wait.
func (t *Tunnel) Reconnect() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Status returns how the tunnel is connected, and a channel that is closed when that has changed.
func (t *Tunnel) Status() (Status, <-chan struct{}) { return t.status.get() }

// Stats are counters of a tunnel since it came up.
type Stats struct {
	SentBytes, ReceivedBytes uint64 // sealed, on the wire, without WebSocket framing
	Streams                  int    // open now
	Epochs                   uint64 // keys that this end has sent under
	Resumes                  uint64 // connections after the first
	RetransmittedBytes       uint64 // that were sent again after a connection was lost
	WaitingBytes             uint64 // that were sent, or wait to be, and are not acknowledged
}

// Stats returns the tunnel's counters.
func (t *Tunnel) Stats() Stats {
	t.mu.Lock()
	sent, received := t.conn.Bytes()
	st := Stats{SentBytes: t.sent + sent, ReceivedBytes: t.received + received, Epochs: t.epochs + t.conn.Epochs() + 1}
	t.mu.Unlock()
	st.Streams = t.mux.Streams()
	s := t.session.Stats()
	st.Resumes, st.RetransmittedBytes, st.WaitingBytes = s.Resumes, s.Retransmitted, uint64(s.Waiting)
	return st
}

// Drain refuses new streams of the other end from now on. The channel is closed when no stream is left.
func (t *Tunnel) Drain() <-chan struct{} {
	t.mux.Drain()
	return t.mux.Idle()
}

// Done is closed when the tunnel has ended and its keys are erased. Err then says why.
func (t *Tunnel) Done() <-chan struct{} { return t.session.Done() }

// Err is why the tunnel ended, nil while it has not: [net.ErrClosed] if this end closed it, [io.EOF]
// if the other end did and all is accounted for, [*CloseError] if one of them had a reason to give,
// above all [SessionLost] if a lost connection could not be made good, [*RefusedError] if the server
// does not want this client any more, [ErrRecord] if the other end broke a rule, [ErrTruncated] if the
// server keeps nothing for lost connections.
func (t *Tunnel) Err() error {
	err := t.session.Err()
	if err == nil {
		return nil
	}
	<-t.mux.Done() // at once: only the mux knows whether this end was closing
	if cause := t.cause.get(); cause != nil {
		return cause
	}
	if cause := t.mux.Err(); cause != nil {
		return publicError(cause)
	}
	return publicError(err)
}

// Close ends the tunnel: what was written is flushed, streams that are not finished are reset, the
// other end is told, the keys are erased. It takes three seconds at most and is idempotent. A
// [*CloseError] with [SessionLost] says that the other end has not acknowledged all that was written.
func (t *Tunnel) Close() error {
	t.note(net.ErrClosed)
	return t.close(message.OK, "")
}

// close bounds in all what each layer bounds for itself.
func (t *Tunnel) close(code message.Code, reason string) error {
	defer time.AfterFunc(secure.CloseTotal, t.session.CutShort).Stop()
	err := t.mux.Close(code, reason)
	t.tasks.Wait()
	return publicError(err)
}

// note keeps why this end closes a tunnel that is still up.
func (t *Tunnel) note(err error) {
	if t.session.Err() == nil {
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
