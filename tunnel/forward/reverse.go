package forward

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// ErrTakenOver says that a later request of the same key has what a reverse forward listened on: another
// client with this identity, most likely. Asking again would take it back, and so on.
var ErrTakenOver = errors.New("forward: another client with this identity listens there now")

// A Reverser is the near end of reverse forwards: it asks the other end of a tunnel to listen, and
// connects what comes there to targets of this end. The other end chooses none of them, it can only say
// for which forward a connection is; but for a dynamic one, for which whoever connects there chooses. The zero value is ready for use. Its fields are not to be changed
// in use.
type Reverser struct {
	// Dial connects to a target, nil means a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout is how long a dial may take. Zero means 10 s.
	Timeout time.Duration

	// Events is called for each event, from many goroutines, if not nil. Local is the [Remote] that a
	// connection came to: where the other end listens and what is dialled here.
	Events func(Event)

	proxyTimeout time.Duration // of tests
	counters     counters

	mu   sync.Mutex
	last uint64                  // the name of the last request to listen
	held map[string]*reverseHeld // by name
}

// A reverseHeld is a reverse forward that one tunnel was asked for.
type reverseHeld struct {
	tun     *tunnel.Tunnel
	reverse *Reverse
}

// A Reverse is one reverse forward, of one tunnel after another.
type Reverse struct {
	r      *Reverser
	remote Remote

	mu       sync.Mutex
	bound    string // where the other end listens, or did last; "" if it never has
	up       bool
	counters counters
}

// Stats may be called at any time. It is of all forwards together. Refused counts what could not be
// connected here.
func (r *Reverser) Stats() Stats { return r.counters.stats() }

// Forward adds a reverse forward. [Reverse.Hold] puts it to work.
func (r *Reverser) Forward(m Remote) *Reverse { return &Reverse{r: r, remote: m} }

// Stats may be called at any time.
func (v *Reverse) Stats() Stats { return v.counters.stats() }

// Remote is the forward, with the port that the other end really listens on, or did last.
func (v *Reverse) Remote() Remote {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.remote
	if v.bound != "" {
		m.Listen.Addr = v.bound
	}
	return m
}

// Listening says whether the other end listens.
func (v *Reverse) Listening() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.up
}

func (v *Reverse) set(bound string, up bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.up = up
	if bound != "" {
		v.bound = bound
	}
}

// Hold asks the other end of tun to listen, calls ready when it does, and returns when it no longer
// does, with the reason: a [*tunnel.StreamError] if it refused or gave up, [ErrTakenOver], or ctx's error
// if that has ended, which ends the listening and not the connections that have come. Connections come
// only while [Reverser.Serve] runs for tun.
//
// Where any port will do, the one that was chosen before is asked for first.
func (v *Reverse) Hold(ctx context.Context, tun *tunnel.Tunnel, ready func()) error {
	asked := v.remote.Listen
	if again := v.Remote().Listen; again != asked {
		err := v.hold(ctx, tun, again, ready)
		var se *tunnel.StreamError
		if !errors.As(err, &se) || !se.Refused {
			return err
		}
	}
	return v.hold(ctx, tun, asked, ready)
}

func (v *Reverse) hold(ctx context.Context, tun *tunnel.Tunnel, listen Address, ready func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// The name is known before it is asked for: a connection may come before OpenStream has returned.
	name, forget := v.r.name(tun, v)
	defer forget()
	st, err := tun.OpenStream(ctx, tunnel.Request{Kind: tunnel.KindListen, Target: name + " " + starred(listen.Addr)})
	if err != nil {
		return err
	}
	defer st.Close()
	defer context.AfterFunc(ctx, func() { st.Reset(tunnel.Cancelled) })()
	bound, err := readBound(st, listen)
	if err == nil {
		v.set(bound, true)
		defer v.set("", false)
		ready()
		_, err = st.Read(make([]byte, 1))
		if err == nil {
			err = errBound
		}
	}
	var se *tunnel.StreamError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &se) && se.Remote && !se.Refused && se.Code == tunnel.Cancelled:
		return ErrTakenOver
	}
	return err
}

// errBound says that the other end does not keep to PROTOCOL.md §7.15.
var errBound = errors.New("forward: the other end does not say what it listens on")

// readBound reads where the other end listens, which has to be what it was asked for.
func readBound(st *tunnel.Stream, asked Address) (string, error) {
	if err := st.Opened(context.Background()); err != nil {
		return "", err
	}
	line, err := bufio.NewReaderSize(st, maxBound).ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			return "", errBound
		}
		return "", err
	}
	got, problem := parseListenAt(strings.TrimSuffix(string(line), "\n"))
	want, _ := parseListenAt(starred(asked.Addr))
	if want.port == 0 {
		want.port = got.port
	}
	if problem != "" || got != want || got.path == "" && got.port == 0 {
		return "", errBound
	}
	if got.all {
		return net.JoinHostPort("", strconv.Itoa(int(got.port))), nil
	}
	return got.String(), nil
}

// name gives a request to listen a name of its own, until forget is called.
func (r *Reverser) name(tun *tunnel.Tunnel, v *Reverse) (name string, forget func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	name = strconv.FormatUint(r.last, 10)
	if r.held == nil {
		r.held = make(map[string]*reverseHeld)
	}
	r.held[name] = &reverseHeld{tun, v}
	return name, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.held, name)
	}
}

// find returns the forward that a tunnel was asked for under a name, nil if it was not.
func (r *Reverser) find(tun *tunnel.Tunnel, name string) *Reverse {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.held[name]; h != nil && h.tun == tun {
		return h.reverse
	}
	return nil
}

// Serve takes the streams that the other end opens until the tunnel ends or ctx does, and returns why
// when all of them have ended. Those that belong to no forward that this tunnel was asked for are
// refused. When ctx ends, streams that are open go on.
func (r *Reverser) Serve(ctx context.Context, tun *tunnel.Tunnel) error {
	var wg sync.WaitGroup
	dialing, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		in, err := tun.AcceptStream(ctx)
		if err != nil {
			if tun.Err() != nil {
				cancel() // a tunnel that has gone waits for no dial
			}
			wg.Wait()
			return err
		}
		req := in.Request()
		v := r.find(tun, req.Target)
		if req.Kind != tunnel.KindAccepted || v == nil {
			in.Refuse(tunnel.NotAllowed, "this was not asked for")
			continue
		}
		wg.Go(func() { v.serve(dialing, in) })
	}
}

// serve does one connection from its arrival to its end.
func (v *Reverse) serve(ctx context.Context, in *tunnel.Incoming) {
	for _, c := range []*counters{&v.r.counters, &v.counters} {
		c.begun()
	}
	e := v.carry(ctx, in)
	for _, c := range []*counters{&v.r.counters, &v.counters} {
		c.ended(e)
	}
	v.r.event(e)
}

func (r *Reverser) event(e Event) {
	if r.Events != nil {
		r.Events(e)
	}
}

func (v *Reverse) carry(ctx context.Context, in *tunnel.Incoming) Event {
	start, local := time.Now(), Local(v.Remote())
	if local.Dynamic() {
		return v.carryDynamic(ctx, in, local)
	}
	conn, err := v.r.dial(ctx, local.Target)
	if err != nil {
		code, text := dialFailure(local.Target.Addr, err)
		in.Refuse(code, "") // what is connected to here is not for the other end to know
		return Event{Kind: Refused, Local: local, Err: &tunnel.StreamError{Code: code, Text: text, Refused: true}}
	}
	st, err := in.Accept()
	if err != nil { // it was given up in the meantime, or the tunnel has gone
		reset(conn)
		return Event{Kind: Failed, Local: local, Err: err}
	}
	v.r.event(Event{Kind: Opened, Local: local})
	out, received, err := splice(conn, st)
	return Event{Kind: Closed, Local: local, Err: err, In: received, Out: out, Duration: time.Since(start)}
}

// carryDynamic carries a connection that says itself where it wants to go. That is said to this end: the
// other one passes on what comes.
func (v *Reverse) carryDynamic(ctx context.Context, in *tunnel.Incoming, local Local) Event {
	start := time.Now()
	st, err := in.Accept()
	if err != nil {
		return Event{Kind: Failed, Local: local, Err: err}
	}
	st.SetDeadline(start.Add(cmp.Or(v.r.proxyTimeout, proxyTimeout)))
	r, err := readProxyRequest(st, nil)
	if err != nil {
		st.Close()
		return Event{Kind: Unclear, Local: local, Err: err}
	}
	st.SetDeadline(time.Time{})
	local.Target = r.target
	conn, err := v.r.dial(ctx, r.target)
	if err != nil {
		code, text := dialFailure(r.target.Addr, err)
		st.Write(r.answer.refused(code, text))
		st.Close()
		return Event{Kind: Refused, Local: local, Err: &tunnel.StreamError{Code: code, Text: text, Refused: true}}
	}
	early := int64(len(r.rest()))
	if _, err = st.Write(r.answer.accepted()); err == nil && early > 0 {
		_, err = conn.Write(r.rest())
	}
	if err != nil {
		st.Reset(tunnel.Cancelled)
		reset(conn)
		return Event{Kind: Closed, Local: local, Err: err, Duration: time.Since(start)}
	}
	r = nil // and its buffer
	v.r.event(Event{Kind: Opened, Local: local})
	out, received, err := splice(conn, st)
	return Event{Kind: Closed, Local: local, Err: err, In: received + early, Out: out, Duration: time.Since(start)}
}

// dial connects to a target of this end.
func (r *Reverser) dial(ctx context.Context, target Address) (net.Conn, error) {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if r.Dial != nil {
		return r.Dial(ctx, target.Network, target.Addr)
	}
	return new(net.Dialer).DialContext(ctx, target.Network, target.Addr)
}
