package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// Peers knows who may connect. [keys.PeerSet] and [keys.PeerDir] are two. Lookup is asked at every
// handshake, at every [Tunnel.Peer], and once a second for each peer that is connected: one that it
// does not know any more is cut off. It must be safe for concurrent use.
type Peers interface {
	Lookup(keys.PublicKey) (keys.Peer, bool)
}

// Invites knows the invites that were issued, by what is kept of their secrets. [keys.InviteDir] is one. Both
// methods must be safe for concurrent use; that an invite enrols one key, ever, is Enrol's to see to.
type Invites interface {
	// Check returns nil if the invite would enrol somebody now. A [*keys.InviteStateError] says why not,
	// which the client is told; any other error is logged, and the client is told that it is not known.
	Check(keys.InviteHash) error
	// Enrol consumes the invite and makes the key a peer, one that Peers knows when Enrol returns. It is asked
	// when the client has proved its key. A [*keys.InviteStateError] says that somebody was faster, or
	// that the time is over.
	Enrol(keys.InviteHash, keys.PublicKey) (keys.Peer, error)
}

// Server accepts tunnels. It is an [http.Handler] that can be mounted in any HTTP/1.1 server, with
// middleware and other routes around it; [Server.HTTPServer] makes one for those who have none.
//
// Whatever is not an upgrade from somebody who knows the server's key gets the Fallback's answer, or
// a 404 like any path that does not exist. Whoever knows the key but may not connect learns why,
// sealed, and nobody else does.
//
// Identity and Peers are required. The fields must not be modified once the server is in use.
type Server struct {
	// Identity is the server's key. Close wipes it.
	Identity *keys.Identity
	// Peers says who may connect.
	Peers Peers
	// Invites lets others in who bring an invite. Nil: nobody.
	Invites Invites

	// Path is where tunnels are accepted; elsewhere the answer is a 404 or Fallback's. Empty: anywhere.
	Path string
	// Fallback answers everything that is not a tunnel's hello. It never sees the hello. Nil: a 404.
	Fallback http.Handler
	// Hosts lists the Host values that are accepted, without ports. Empty: any. Set it where web
	// browsers can reach the server: it stops DNS rebinding.
	Hosts []string
	// Origins lists the Origin values that are accepted. A request with any other one, which only web
	// browsers send, is refused. Empty: none is accepted.
	Origins []string
	// URLs lists what clients may have dialled, exactly. It is compared with what the client sealed,
	// which no proxy can rewrite. Empty: any.
	URLs []string
	// TrustedProxies lists whose X-Forwarded-For counts for limits by source. The zero Prefix stands for
	// those that come through a unix socket.
	TrustedProxies []netip.Prefix

	// Service, Suite, MaxMessage and Padding are those of [Config].
	Service    string
	Suite      cipher.Suite
	MaxMessage int
	Padding    Padding
	// ResumeFor is how long a tunnel that has lost its connection is kept for its client to come back.
	// Zero: 10 minutes. Negative: not at all.
	ResumeFor time.Duration
	// PlainConns accepts clients that ask for a [Conn] instead of a Tunnel; AcceptConn must be called.
	PlainConns bool
	// Limits bounds what clients may cost.
	Limits Limits
	// Logger gets who comes and goes and who was turned away. Nil: nothing is logged.
	Logger *slog.Logger

	timing  secure.Timing // tests shorten it
	recheck time.Duration // and this; zero: recheckPeers

	once      sync.Once
	initErr   error
	log       *slog.Logger
	handshake secure.Config
	admit     *admission
	replays   secure.ReplayCache
	sessions  ownership
	budget    *session.Budget
	tunnels   chan *Tunnel
	conns     chan *Conn
	base      context.Context // ends with the first Shutdown or Close
	endBase   context.CancelFunc
	life      context.Context // ends when no connection is taken any more
	endLife   context.CancelFunc
	closed    chan struct{} // closed when Close has closed all connections
	closeOnce sync.Once

	mu       sync.Mutex
	draining bool // no new client is taken
	stopped  bool // no connection is taken
	live     map[*member]struct{}
	watching bool
	tasks    sync.WaitGroup // every goroutine of the server's
}

// acceptBacklog is how many tunnels may wait to be accepted by the program.
const acceptBacklog = 128

const defaultResumeFor = 10 * time.Minute

func (s *Server) init() error {
	s.once.Do(func() {
		switch {
		case s.Identity == nil:
			s.initErr = errors.New("tunnel: Server.Identity is missing")
		case s.Peers == nil:
			s.initErr = errors.New("tunnel: Server.Peers is missing")
		default:
			s.initErr = checkCommon(s.Service, s.Suite, s.MaxMessage, s.Padding)
		}
		s.log = loggerOrDiscard(s.Logger)
		s.handshake = secure.Config{
			Identity: s.Identity, Service: s.Service, Suite: s.Suite, Max: maxMessage(s.MaxMessage),
			Padding: secure.Padding(s.Padding),
		}
		s.admit = newAdmission(s.Limits)
		s.tunnels = make(chan *Tunnel, acceptBacklog)
		s.conns = make(chan *Conn, acceptBacklog)
		s.base, s.endBase = context.WithCancel(context.Background())
		s.life, s.endLife = context.WithCancel(context.Background())
		s.closed = make(chan struct{})
		s.live = make(map[*member]struct{})
		sessions := newSessions(s.resumeFor(), s.Limits)
		s.sessions, s.budget = sessions, sessions.budget
	})
	return s.initErr
}

// HTTPServer returns an HTTP server for s alone, with the limits that a port open to strangers needs:
// short and small request heads, no HTTP/2 (which cannot be upgraded). The caller sets Addr or a
// listener, serves, and closes it beside s.
func (s *Server) HTTPServer() *http.Server {
	s.init()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    8 << 10,
		Protocols:         &protocols,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers one request. It returns when the upgrade is done; the tunnel lives on without it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	if err := s.init(); err != nil {
		s.log.Error("server is not usable", "err", err)
		closeUpgrade(w, r)
		http.Error(w, "500 internal server error", http.StatusInternalServerError)
		return
	}
	hello, ok := wsconn.ParseRequest(r, secure.HelloSize)
	if !ok || !s.addressed(r) {
		s.notFound(w, r)
		return
	}
	from := sourceOf(r, s.TrustedProxies)
	leave, ok := s.admit.enter(from)
	if !ok || s.isStopped() {
		if ok {
			leave()
		}
		s.tooBusy(w, r)
		return
	}
	v := s.decide(r, hello)
	if v.established == nil {
		leave() // the answer may be a slow one
		v.answer(w, r)
		return
	}
	ws, err := wsconn.Accept(w, r, wsconn.EncodeHello(v.hello), s.handshake.Max)
	if err != nil {
		leave()
		v.established.Wipe()
		s.log.Debug("upgrade", "peer", v.peer.Name, "err", err)
		return
	}
	conn := secure.New(ws, v.established, s.timing)
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		leave()
		conn.Kill(ErrServerClosed)
		return
	}
	s.tasks.Go(func() {
		s.confirm(conn, v, arrived.Add(s.confirmTimeout()), leave)
	})
	s.mu.Unlock()
}

func (s *Server) resumeFor() time.Duration {
	switch {
	case s.ResumeFor == 0:
		return defaultResumeFor
	case s.ResumeFor < 0:
		return 0
	}
	return s.ResumeFor.Round(time.Second)
}

func (s *Server) confirmTimeout() time.Duration {
	if s.Limits.ConfirmTimeout <= 0 {
		return 10 * time.Second
	}
	return s.Limits.ConfirmTimeout
}

// addressed reports whether a request is for this server, and not a web page's.
func (s *Server) addressed(r *http.Request) bool {
	if s.Path != "" && r.URL.Path != s.Path {
		return false
	}
	if len(s.Hosts) > 0 {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if !slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
			return false
		}
	}
	for _, origin := range r.Header.Values("Origin") {
		if !slices.Contains(s.Origins, origin) {
			return false
		}
	}
	return true
}

// isStopped reports whether the server takes no connections any more.
func (s *Server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// full reports whether the server takes no new clients. Those that it has may come back: they are
// counted, connected or not.
func (s *Server) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining || len(s.live) >= bound(s.Limits.Connections, 10000)
}

// verdict is what a server makes of a hello: a connection, or how to answer.
type verdict struct {
	answer func(http.ResponseWriter, *http.Request) // set if established is nil

	established *secure.Established
	hello       []byte // for the client
	peer        keys.Peer
	invite      *keys.InviteHash // that is to enrol the client; nil: it is enrolled
	claim       *claim           // on a session; nil for a plain Conn
}

// decide opens a hello and looks at who it is. It answers nothing itself: that can take long, and a
// turn to compute is not held meanwhile.
func (s *Server) decide(r *http.Request, hello []byte) verdict {
	done, ok := s.admit.compute(r.Context())
	if !ok {
		return verdict{answer: s.tooBusy}
	}
	defer done()
	opened, err := secure.OpenHello(&s.handshake, hello)
	if err != nil {
		return verdict{answer: s.notFound}
	}
	defer opened.Wipe()
	peer, enrolled := s.Peers.Lookup(opened.Peer)
	no := refusal{reason: secure.NotEnrolled}
	var invite *keys.InviteHash
	if !enrolled && opened.Invite != nil {
		invite, no = opened.Invite, s.checkInvite(*opened.Invite)
		if peer, enrolled = s.Peers.Lookup(opened.Peer); enrolled { // by that invite, over another connection
			invite = nil
		}
	}
	welcome := enrolled || no.reason == 0
	if !s.replays.Insert(opened.ID, welcome) {
		s.log.Debug("hello repeated", "peer", opened.Peer.Short(), "addr", r.RemoteAddr)
		return verdict{answer: s.notFound}
	}
	var claim *claim
	if welcome {
		no = refusal{}
		no.reason, claim = s.judge(opened) // not before: a claim takes a number of its session
	}
	if no.reason != 0 {
		return s.refuse(r, opened, peer, no)
	}
	// One that asks to go on where that is not possible has to be told so, however full it is here.
	goesOn := claim != nil && claim.request.Resume
	if !s.admit.peer(opened.Peer, goesOn) || !goesOn && s.full() {
		return verdict{answer: s.tooBusy}
	}
	var session []byte
	if claim != nil {
		session = claim.answer.Append(nil)
	}
	text, e, err := opened.Accept(session)
	if err != nil {
		s.log.Error("handshake", "err", err)
		return verdict{answer: s.notFound}
	}
	return verdict{established: e, hello: text, peer: peer, invite: invite, claim: claim}
}

// judge decides about a hello of somebody who may come: the reason why not, or, if that is 0, which session
// it may have, none for a plain conn. The order of the reasons is PROTOCOL.md §2's.
func (s *Server) judge(o *secure.Opened) (secure.RefusedReason, *claim) {
	var request *session.Request
	var malformed error
	if o.Session != nil {
		request, malformed = session.ParseRequest(o.Session)
	}
	switch {
	case o.Problem != 0:
		return o.Problem, nil
	case malformed != nil, request == nil && !s.PlainConns:
		return secure.BadPayload, nil
	case len(s.URLs) > 0 && !slices.Contains(s.URLs, o.URL):
		return secure.URLUnexpected, nil
	case (request == nil || !request.Resume) && s.liveOf(o.Peer) >= bound(s.Limits.PerPeer, 16):
		return secure.TooManySessions, nil
	case request == nil:
		return 0, nil
	}
	return 0, s.sessions.claim(o.Peer, o.Max, request)
}

func (s *Server) liveOf(key keys.PublicKey) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.liveOfLocked(key)
}

func (s *Server) liveOfLocked(key keys.PublicKey) int {
	n := 0
	for m := range s.live {
		if m.peer.Key == key && m.connected() {
			n++
		}
	}
	return n
}

// A refusal is why a client may not connect, and since when.
type refusal struct {
	reason secure.RefusedReason
	at     time.Time // of the use or the expiry of an invite; zero if it is not known
}

// refuse tells a client that knows this server why it may not connect, so that only it can read it.
func (s *Server) refuse(r *http.Request, o *secure.Opened, peer keys.Peer, no refusal) verdict {
	if !s.admit.refusals.Allow() {
		return verdict{answer: s.tooBusy}
	}
	s.log.Warn("refused", "reason", RefusedReason(no.reason), "peer", peer.Name,
		"key", o.Peer, "fingerprint", o.Peer.Fingerprint(), "addr", r.RemoteAddr)
	hello, err := o.Refuse(no.reason, no.at)
	if err != nil {
		s.log.Error("handshake", "err", err)
		return verdict{answer: s.notFound}
	}
	return verdict{answer: func(w http.ResponseWriter, r *http.Request) {
		closeUpgrade(w, r)
		w.Header().Set(wsconn.HelloHeader, wsconn.EncodeHello(hello))
		http.NotFound(w, r)
	}}
}

// Accept returns the next tunnel. After Shutdown or Close it returns [ErrServerClosed].
func (s *Server) Accept(ctx context.Context) (*Tunnel, error) { return accept(ctx, s, &s.tunnels) }

// AcceptConn returns the next plain connection. It needs [Server.PlainConns].
func (s *Server) AcceptConn(ctx context.Context) (*Conn, error) { return accept(ctx, s, &s.conns) }

func accept[T any](ctx context.Context, s *Server, queue *chan T) (T, error) {
	var none T
	if err := s.init(); err != nil {
		return none, err
	}
	select {
	case c := <-*queue:
		return c, nil
	case <-s.base.Done():
		return none, ErrServerClosed
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// Connections is how many clients are connected.
func (s *Server) Connections() int {
	n := 0
	for _, m := range s.members() {
		if m.connected() {
			n++
		}
	}
	return n
}

// Tunnels returns the tunnels that there are, also those whose clients are away.
func (s *Server) Tunnels() []*Tunnel {
	var all []*Tunnel
	for _, m := range s.members() {
		if m.tunnel != nil {
			all = append(all, m.tunnel)
		}
	}
	return all
}

func (s *Server) members() []*member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.live))
}

// Shutdown takes no more clients and streams, lets the open streams finish until ctx ends, over further
// connections where one is lost, and then closes all tunnels: in order where nothing was under way, else
// telling the clients that the server goes away. Its error is ctx's if streams were cut. Call Close
// afterwards.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.init(); err != nil {
		return err
	}
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.endBase()
	members := s.members()
	var err error
	for _, m := range members {
		if m.tunnel == nil {
			continue
		}
		select {
		case <-m.tunnel.Drain():
		case <-m.done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	s.stop()
	closeAll(members, true)
	return err
}

// stop takes no more connections and returns the clients that there are.
func (s *Server) stop() []*member {
	s.mu.Lock()
	s.draining, s.stopped = true, true
	s.mu.Unlock()
	s.endBase()
	s.endLife()
	return s.members()
}

// closeAll ends tunnels. In order means that those without a stream are ended cleanly.
func closeAll(members []*member, inOrder bool) {
	var all sync.WaitGroup
	for _, m := range members {
		all.Go(func() {
			code := message.GoingAway
			if inOrder && m.tunnel != nil && m.connected() && m.tunnel.mux.Streams() == 0 {
				code = message.OK
			}
			m.close(code, "")
		})
	}
	all.Wait()
}

// Close ends all tunnels within a few seconds, waits for the server's goroutines, and wipes the
// Identity. It is idempotent.
func (s *Server) Close() error {
	if err := s.init(); err != nil {
		return nil
	}
	closeAll(s.stop(), false)
	s.closeOnce.Do(func() { close(s.closed) })
	s.tasks.Wait()
	s.sessions.close()
	s.Identity.Wipe()
	return nil
}
