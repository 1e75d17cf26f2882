package forward

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// This file is what an Exit listens on for its peers, the far end of reverse forwards. PROTOCOL.md
// §7.14 to §7.17.

const (
	// maxListeners is how much may be listened on for one key.
	maxListeners = 64
	// maxArrivals is how many connections of one listener may wait for the client to be back.
	maxArrivals = 256
	// maxName is how long the name of a listener may be, in digits.
	maxName = 20
	// maxBound is how long the line that says what is listened on may be.
	maxBound = 300
)

// A listenAt is what is listened on. It is comparable.
type listenAt struct {
	path string     // of a unix socket, or
	all  bool       // all addresses of both families, or
	ip   netip.Addr // one of them
	port uint16
}

// parseListenRequest reads the request of a listen stream.
func parseListenRequest(s string) (name string, a listenAt, problem string) {
	name, text, ok := strings.Cut(s, " ")
	if !ok || !isDigits(name) || len(name) > maxName {
		return "", a, "this is not NAME ADDR:PORT"
	}
	a, problem = parseListenAt(text)
	return name, a, problem
}

func parseListenAt(s string) (a listenAt, problem string) {
	if strings.HasPrefix(s, "/") {
		return listenAt{path: s}, checkPath(s)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return a, "this is not ADDR:PORT"
	}
	if port, problem = parsePort(port, 0); problem != "" {
		return a, problem
	}
	n, _ := strconv.ParseUint(port, 10, 16) // parsePort has looked at it
	a.port = uint16(n)
	if host == "*" {
		a.all = true
		return a, ""
	}
	if a.ip, err = netip.ParseAddr(host); err != nil || a.ip.Zone() != "" {
		return listenAt{}, "this is not an address that can be listened on"
	}
	a.ip = a.ip.Unmap()
	return a, ""
}

// String is the address as it travels, and as a permission has it.
func (a listenAt) String() string {
	switch {
	case a.path != "":
		return a.path
	case a.all:
		return "*:" + strconv.Itoa(int(a.port))
	}
	return netip.AddrPortFrom(a.ip, a.port).String()
}

// allowed asks a peer's permissions.
func (a listenAt) allowed(peer keys.Peer) bool {
	switch {
	case a.path != "":
		return peer.AllowsListenUnix(a.path)
	case a.all:
		return peer.AllowsListen(netip.AddrPortFrom(netip.IPv4Unspecified(), a.port)) &&
			peer.AllowsListen(netip.AddrPortFrom(netip.IPv6Unspecified(), a.port))
	}
	return peer.AllowsListen(netip.AddrPortFrom(a.ip, a.port))
}

// overlaps says whether two addresses cannot be listened on at once.
func (a listenAt) overlaps(b listenAt) bool {
	if a.path != "" || b.path != "" {
		return a.path == b.path
	}
	if a.port != b.port || a.port == 0 {
		return false
	}
	return a.all || b.all || a.ip == b.ip || a.ip.Is4() == b.ip.Is4() && (a.ip.IsUnspecified() || b.ip.IsUnspecified())
}

// listen opens the address, and nothing beside it: Go's "tcp" takes an unspecified address of one
// family for both.
func (a listenAt) listen() (ln net.Listener, bound listenAt, err error) {
	switch {
	case a.path != "":
		ln, err = ListenUnix(a.path, 0o600)
		return ln, a, err
	case a.all:
		ln, err = net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(a.port))))
	case a.ip.Is4():
		ln, err = net.Listen("tcp4", a.String())
	default:
		ln, err = net.Listen("tcp6", a.String())
	}
	if err != nil {
		return nil, a, err
	}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
		a.port = uint16(tcp.Port)
	}
	return ln, a, nil
}

// listenFailure maps what went wrong onto a code and a text for the peer.
func listenFailure(a listenAt, err error) (tunnel.Code, string) {
	at := a.String() + ": "
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return tunnel.Unreachable, at + "in use"
	case errors.Is(err, fs.ErrPermission):
		return tunnel.NotAllowed, at + "permission denied"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return tunnel.Unreachable, at + "not an address of that host"
	case errors.Is(err, fs.ErrNotExist):
		return tunnel.Unreachable, at + "no such folder"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return tunnel.TooMany, at + "too many open files there"
	case errors.As(err, &op) && a.path != "" && op.Err != nil:
		return tunnel.Unreachable, at + strings.TrimPrefix(op.Err.Error(), a.path+" ")
	}
	return tunnel.Unreachable, at + "cannot be listened on"
}

// arrivals is what an Exit listens on.
type arrivals struct {
	opening sync.Mutex // held by who opens something: one at a time looks and listens

	mu     sync.Mutex
	all    map[*arrival]bool
	closed bool
}

// An arrival is one listener of one peer: the far end of a reverse forward.
type arrival struct {
	exit *Exit
	tun  *tunnel.Tunnel
	key  keys.PublicKey
	name string
	want listenAt // as asked for
	addr listenAt // with the port that was chosen
	ln   net.Listener

	over      chan struct{} // closed when it is over
	accepting chan struct{} // closed when it accepts nothing more
	gone      chan struct{} // closed when the peer has been told

	mu      sync.Mutex
	ended   bool
	code    tunnel.Code // why
	heir    *arrival    // has the listener now
	waiting int         // connections that wait for the tunnel
	conns   sync.WaitGroup
}

// open listens for a peer, in the place of what the same peer has there. Without an arrival, code and
// text say why not.
func (e *Exit) open(tun *tunnel.Tunnel, peer keys.Peer, request string) (*arrival, tunnel.Code, string) {
	name, want, problem := parseListenRequest(request)
	if problem != "" {
		return nil, tunnel.NotAllowed, problem
	}
	if !want.allowed(peer) {
		return nil, tunnel.NotAllowed, mayText(peer, mayListen, "listen=")
	}
	t := &e.arrivals
	t.opening.Lock()
	defer t.opening.Unlock()
	before, code, text := t.before(peer.Key, want)
	if code != tunnel.OK {
		return nil, code, text
	}
	l := &arrival{
		exit: e, tun: tun, key: peer.Key, name: name, want: want, addr: want,
		over: make(chan struct{}), accepting: make(chan struct{}), gone: make(chan struct{}),
	}
	for _, old := range before {
		if old.addr == want {
			l.ln = old.handOver(l)
		} else {
			old.end(tunnel.Cancelled)
		}
		<-old.accepting
	}
	if l.ln != nil {
		setAcceptDeadline(l.ln, time.Time{})
	} else {
		var err error
		if l.ln, l.addr, err = want.listen(); err != nil {
			code, text := listenFailure(want, err)
			return nil, code, text
		}
	}
	if !t.add(l) {
		l.ln.Close()
		return nil, tunnel.GoingAway, ""
	}
	return l, tunnel.OK, ""
}

// before returns what has to make way for a listener of a key. A code other than OK says that there can
// be none.
func (t *arrivals) before(key keys.PublicKey, want listenAt) (own []*arrival, code tunnel.Code, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, tunnel.GoingAway, ""
	}
	n := 0
	for l := range t.all {
		switch {
		case l.isOver(): // and about to go
		case l.key == key && l.addr.overlaps(want):
			own = append(own, l)
		case l.key == key:
			n++
		case l.addr.overlaps(want):
			return nil, tunnel.Unreachable, want.String() + ": in use by another peer"
		}
	}
	if n >= maxListeners {
		return nil, tunnel.TooMany, "this peer has " + strconv.Itoa(n) + " listeners already"
	}
	return own, tunnel.OK, ""
}

func (t *arrivals) add(l *arrival) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if t.all == nil {
		t.all = make(map[*arrival]bool)
	}
	t.all[l] = true
	return true
}

func (t *arrivals) remove(l *arrival) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, l)
}

// StopListening ends all that is listened on for peers, who are told that this end goes away, and takes
// no requests to listen from then on. Connections that have come go on. A server that shuts down calls
// it first: what is listened on is a stream that does not end by itself.
func (e *Exit) StopListening() {
	t := &e.arrivals
	t.mu.Lock()
	t.closed = true
	var all []*arrival
	for l := range t.all {
		all = append(all, l)
	}
	t.mu.Unlock()
	for _, l := range all {
		l.end(tunnel.GoingAway)
	}
	for _, l := range all {
		<-l.gone
	}
}

// end ends a listener: nothing is accepted from then on.
func (l *arrival) end(code tunnel.Code) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended, l.code = true, code
	close(l.over)
	l.ln.Close()
}

func (l *arrival) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// handOver ends a listener without closing what it listens on, which is heir's from then on: nothing
// that comes in between is turned away. It returns nil if the listener is over already.
func (l *arrival) handOver(heir *arrival) net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	l.ended, l.code, l.heir = true, tunnel.Cancelled, heir
	close(l.over)
	setAcceptDeadline(l.ln, time.Unix(1, 0))
	return l.ln
}

func setAcceptDeadline(ln net.Listener, t time.Time) {
	ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(t) // those of TCP and unix both have it
}

// serve does a listener from the answer to its request to its end, and that of its connections.
func (l *arrival) serve(in *tunnel.Incoming, stop <-chan struct{}) {
	defer l.conns.Wait()
	log := l.exit.logger().With("listen", l.addr.String())
	st, err := in.Accept()
	if err == nil {
		_, err = st.Write([]byte(l.addr.String() + "\n"))
	}
	log = log.With("peer", l.exit.peer(l.tun).Name)
	if err == nil {
		log.Info("listening for a peer")
	} else { // it was given up in the meantime, or the tunnel has gone
		l.end(tunnel.Cancelled)
	}
	var wg sync.WaitGroup
	wg.Go(l.accept)
	if st != nil {
		wg.Go(func() { l.end(readEnd(st)) })
	}
	select {
	case <-l.over:
	case <-stop:
		l.end(tunnel.GoingAway)
	}
	<-l.accepting
	l.exit.arrivals.remove(l)
	if st != nil {
		if l.code != tunnel.OK { // it is set
			st.Reset(l.code)
		}
		st.Close()
	}
	close(l.gone)
	wg.Wait()
	if err == nil {
		log.Info("no longer listening for a peer", "why", l.code.String())
	}
}

// readEnd waits for the end of the stream of a listener, and returns with what to end it. The peer has
// nothing to say.
func readEnd(st *tunnel.Stream) tunnel.Code {
	n, err := st.Read(make([]byte, 1))
	switch {
	case n > 0:
		return tunnel.ProtocolError
	case errors.Is(err, net.ErrClosed):
		return tunnel.Cancelled
	}
	return tunnel.OK
}

// accept takes connections until the listener is over.
func (l *arrival) accept() {
	defer close(l.accepting)
	var delay time.Duration
	for {
		c, err := l.ln.Accept()
		select {
		case <-l.over:
			if c != nil {
				l.inherit(c)
			}
			return
		default:
		}
		if err == nil {
			delay = 0
			if !l.want.allowed(l.exit.peer(l.tun)) { // it was, when it began
				reset(c)
				l.end(tunnel.NotAllowed)
				return
			}
			l.take(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			l.end(tunnel.Internal)
			return
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second) // out of descriptors, mostly
		select {
		case <-l.over:
		case <-time.After(delay):
		}
	}
}

// take carries a connection on a goroutine of its own, unless too many wait already.
func (l *arrival) take(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting >= maxArrivals || l.ended {
		reset(c)
		return
	}
	l.waiting++
	l.conns.Go(func() { l.carry(c) })
}

// inherit gives a connection that came too late for this listener to the one that has its place.
func (l *arrival) inherit(c net.Conn) {
	l.mu.Lock()
	heir := l.heir
	l.mu.Unlock()
	if heir == nil {
		reset(c)
		return
	}
	heir.take(c)
}

// carry carries one connection from its accept to its end.
func (l *arrival) carry(c net.Conn) {
	up := l.connected()
	l.mu.Lock()
	l.waiting--
	l.mu.Unlock()
	if !up {
		l.inherit(c)
		return
	}
	st, err := l.tun.OpenStream(context.Background(), tunnel.Request{Kind: tunnel.KindAccepted, Target: l.name})
	if err != nil {
		reset(c)
		return
	}
	log := l.exit.logger().With("listen", l.addr.String())
	sent, received, err := splice(c, &openingStream{Stream: st, opened: func() { log.Debug("connection opened") }})
	log.Debug("connection closed", "in", sent, "out", received, "err", err)
}

// arrivalWait is how long a connection waits for a client that is away. The client may come back with
// another session: what is begun in the old one would be lost.
const arrivalWait = 30 * time.Second

// connected waits until the tunnel is connected, or the listener is over.
func (l *arrival) connected() bool {
	timer := time.NewTimer(arrivalWait)
	defer timer.Stop()
	for {
		st, changed := l.tun.Status()
		if st.Connected {
			return true
		}
		select {
		case <-changed:
		case <-l.over:
			return false
		case <-l.tun.Done():
			return false
		case <-timer.C:
			return false
		}
	}
}
