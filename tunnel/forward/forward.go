package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// A Dialer has the tunnel that new connections go into. Tunnel waits while there is none, as long
// as ctx lasts, and does not return one that is already Done.
type Dialer interface {
	Tunnel(ctx context.Context) (*tunnel.Tunnel, error)
}

// An EventKind says what happened to a forwarded connection.
type EventKind uint8

const (
	Opened  EventKind = 1 // the other end has accepted it
	Refused EventKind = 2 // the other end has not: Err is a *tunnel.StreamError
	Failed  EventKind = 3 // there was no tunnel to carry it: Err says why
	Closed  EventKind = 4 // it was open and has ended; Err is nil if both ways ended cleanly
	Unclear EventKind = 5 // a dynamic one said nothing that could be asked for: Err says what was wrong
)

// An Event is told to [Forwarder.Events].
type Event struct {
	Kind     EventKind
	Local    Local // with the port that is really listened on, and the target of this connection
	Err      error
	In, Out  int64 // bytes from and to the other end
	Duration time.Duration
}

// A Forwarder is the near end of local and dynamic forwards. Its fields are not to be changed in use.
type Forwarder struct {
	Dialer Dialer // required

	// Wait is how long a new connection waits for a tunnel while there is none before it is
	// reset. Zero means 30 s.
	Wait time.Duration

	// Events is called for each event, from many goroutines, if not nil.
	Events func(Event)

	// Authorize decides whether a program that uses a dynamic forward may do so, by the user name and
	// password that it gives. Nil: nobody is asked for them.
	Authorize func(user, password string) bool

	proxyTimeout time.Duration // of tests
	counters     counters
}

// Stats is what a [Forwarder], or one of its listeners, has done so far.
type Stats struct {
	Waiting int   // connections that wait for a tunnel
	Open    int   // connections that are open, those that wait among them
	Total   int   // connections that were ever taken
	Refused int   // connections that the other end did not accept
	In, Out int64 // bytes from and to the other end, of the connections that have ended
}

// counters are Stats in the making.
type counters struct {
	waiting, open, total, refused atomic.Int64
	in, out                       atomic.Int64
}

func (c *counters) stats() Stats {
	return Stats{
		Waiting: int(c.waiting.Load()), Open: int(c.open.Load()), Total: int(c.total.Load()), Refused: int(c.refused.Load()),
		In: c.in.Load(), Out: c.out.Load(),
	}
}

func (c *counters) begun() {
	c.total.Add(1)
	c.open.Add(1)
}

func (c *counters) ended(e Event) {
	c.in.Add(e.In)
	c.out.Add(e.Out)
	if e.Kind == Refused {
		c.refused.Add(1)
	}
	c.open.Add(-1)
}

// Stats may be called at any time. It is of all listeners together.
func (f *Forwarder) Stats() Stats { return f.counters.stats() }

func (f *Forwarder) wait() time.Duration {
	if f.Wait > 0 {
		return f.Wait
	}
	return 30 * time.Second
}

func (f *Forwarder) event(e Event) {
	if f.Events != nil {
		f.Events(e)
	}
}

// Listen opens the listening end of l. Connections wait in the system's queue until
// [Listener.Serve] is called.
func (f *Forwarder) Listen(l Local) (*Listener, error) {
	var ln net.Listener
	var err error
	if l.Listen.Network == "unix" {
		ln, err = ListenUnix(l.Listen.Addr, 0o600)
	} else {
		if ln, err = net.Listen("tcp", l.Listen.Addr); err == nil {
			l.Listen.Addr = listenAddr(l.Listen.Addr, ln.Addr())
		}
	}
	if err != nil {
		return nil, err
	}
	return &Listener{f: f, ln: ln, local: l}, nil
}

// listenAddr puts the port that the system has chosen in the place of 0.
func listenAddr(asked string, got net.Addr) string {
	host, _, err := net.SplitHostPort(asked)
	_, port, err2 := net.SplitHostPort(got.String())
	if err != nil || err2 != nil {
		return got.String()
	}
	return net.JoinHostPort(host, port)
}

// A Listener is the listening end of one local or dynamic forward.
type Listener struct {
	f     *Forwarder
	ln    net.Listener
	local Local

	counters counters
}

// Stats may be called at any time, also after Close.
func (l *Listener) Stats() Stats { return l.counters.stats() }

// Local is the forward, with the port that is really listened on.
func (l *Listener) Local() Local { return l.local }

// Close stops listening. Connections that are open go on; a unix socket is removed.
func (l *Listener) Close() error { return l.ln.Close() }

// Serve takes connections until Close, and returns when all of them have ended. Its error is nil
// after Close. When ctx ends, connections that wait for a tunnel are reset, and Serve returns as
// if closed.
func (l *Listener) Serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	var delay time.Duration
	for {
		c, err := l.ln.Accept()
		switch {
		case err == nil:
			delay = 0
			wg.Go(func() { l.serve(ctx, c) })
		case errors.Is(err, net.ErrClosed):
			return nil
		default: // out of descriptors, mostly: others will be given back
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
		}
	}
}

// serve carries one connection from its accept to its end.
func (l *Listener) serve(ctx context.Context, c net.Conn) {
	l.f.counters.begun()
	l.counters.begun()
	var e Event
	refused := false // and has been told so
	if l.local.Dynamic() {
		e, refused = l.carryDynamic(ctx, c)
	} else {
		e = l.carry(ctx, c)
	}
	l.counters.ended(e)
	l.f.counters.ended(e)
	l.f.event(e)
	if refused {
		linger(c)
	}
}

func (l *Listener) carry(ctx context.Context, c net.Conn) Event {
	start := time.Now()
	st, err := l.openStream(ctx, l.local.Target)
	if err != nil {
		reset(c)
		return Event{Kind: Failed, Local: l.local, Err: err}
	}
	opening := &openingStream{Stream: st, opened: func() { l.f.event(Event{Kind: Opened, Local: l.local}) }}
	out, in, err := splice(c, opening)

	e := Event{Kind: Closed, Local: l.local, Err: err, In: in, Out: out, Duration: time.Since(start)}
	if opening.refusal != nil {
		var se *tunnel.StreamError
		if e.Kind, e.Err = Failed, opening.refusal; errors.As(opening.refusal, &se) && se.Refused {
			e.Kind = Refused
		}
	}
	return e
}

// An openingStream is a stream whose verdict is not known yet. Data goes along with the request,
// so that nothing waits for the other end's dial; that it was accepted is known before the first
// byte comes back.
type openingStream struct {
	*tunnel.Stream
	opened  func()
	refusal error // set by WriteTo
}

func (s *openingStream) WriteTo(w io.Writer) (int64, error) {
	if err := s.Opened(context.Background()); err != nil {
		s.refusal = err
		return 0, err
	}
	s.opened()
	return s.Stream.WriteTo(w)
}

// openStream opens a stream in the present tunnel, waiting for one if there is none.
func (l *Listener) openStream(ctx context.Context, target Address) (*tunnel.Stream, error) {
	f := l.f
	for _, c := range []*counters{&f.counters, &l.counters} {
		c.waiting.Add(1)
		defer c.waiting.Add(-1)
	}
	ctx, cancel := context.WithTimeout(ctx, f.wait())
	defer cancel()
	for {
		tun, err := f.Dialer.Tunnel(ctx)
		if err != nil {
			return nil, err
		}
		st, err := tun.OpenStream(ctx, Request(target))
		if err == nil {
			return st, nil
		}
		if tun.Err() == nil || ctx.Err() != nil {
			return nil, err
		}
		// It went down between the two calls: the Dialer knows by now, or will wait for the next.
	}
}

// Request is what asks the other end for a target.
func Request(target Address) tunnel.Request {
	if target.Network == "unix" {
		return tunnel.Request{Kind: tunnel.KindUnix, Target: target.Addr}
	}
	return tunnel.Request{Kind: tunnel.KindTCP, Target: target.Addr}
}
