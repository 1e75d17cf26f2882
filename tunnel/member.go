package tunnel

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
)

// member is one client that has been confirmed: a plain conn, or a tunnel, be it connected or not.
type member struct {
	peer      keys.Peer
	addr      net.Addr
	done      <-chan struct{}
	err       func() error
	bytes     func() (sent, received uint64)
	connected func() bool
	close     func(code message.Code, reason string)
	tunnel    *Tunnel // nil for a plain conn

	removed bool // of watchPeers only: it is being cut off
}

// recheckPeers is how often the peers of live connections are looked up again.
const recheckPeers = time.Second

// confirm waits for the client's first record, which proves that the hello was not a replay, and only
// then lets the connection count. PROTOCOL.md §4.
func (s *Server) confirm(conn *secure.Conn, v verdict, deadline time.Time, leave func()) {
	peer := v.peer
	ctx, cancel := context.WithDeadline(s.life, deadline)
	if v.invite != nil {
		conn.Admit(func() (err error) {
			peer, err = s.enrol(*v.invite, conn.Peer())
			return err
		})
	}
	err := conn.Start(ctx, nil)
	cancel()
	leave()
	if err != nil {
		conn.Kill(err)
		s.log.Debug("never confirmed", "peer", peer.Name, "addr", conn.RemoteAddr(), "err", err)
		return
	}
	switch {
	case v.claim == nil:
		c := newConn(conn)
		m := &member{
			peer: peer, addr: conn.RemoteAddr(), done: conn.Done(), err: conn.Err, bytes: conn.Bytes,
			connected: func() bool { return true },
			close:     func(code message.Code, reason string) { conn.Close(code, reason) },
		}
		if s.add(m, nil) {
			offer(s, s.conns, c, m)
		}
	case v.claim.held != nil:
		s.resume(conn, v.claim)
	default:
		s.begin(conn, peer, v.claim)
	}
}

// begin makes a tunnel of a client's first connection.
func (s *Server) begin(conn *secure.Conn, peer keys.Peer, c *claim) {
	h := &held{id: c.answer.ID, key: peer.Key, max: c.max}
	var t *Tunnel
	t = newTunnel(conn, session.Config{
		ID: c.answer.ID, Lifetime: c.answer.Lifetime, Key: session.Key(peer.Key), Budget: s.budget,
		Detached: func(why error, _ bool) { s.detached(h, t, why) },
	})
	t.joined = peer
	t.lookup = func() (keys.Peer, bool) { return s.Peers.Lookup(peer.Key) }
	h.session, h.tunnel = t.session, t
	t.run(mux.Config{})
	m := &member{
		peer: peer, addr: conn.RemoteAddr(), done: t.Done(), err: t.Err, tunnel: t,
		bytes: func() (uint64, uint64) {
			st := t.Stats()
			return st.SentBytes, st.ReceivedBytes
		},
		connected: t.attached,
		close:     func(code message.Code, reason string) { t.CloseWith(Code(code), reason) },
	}
	if s.add(m, h) {
		offer(s, s.tunnels, t, m)
	}
}

// resume gives a tunnel another connection.
func (s *Server) resume(conn *secure.Conn, c *claim) {
	t := s.sessions.tunnel(c.held)
	if !c.held.session.Attach(conn, c.answer.Owner, c.answer.Received, c.request.Received) {
		conn.Kill(ErrTruncated)
		s.log.Debug("connection came too late", "key", c.held.key, "addr", conn.RemoteAddr())
		return
	}
	if t == nil || c.held.session.Clean() { // the client has learned that now
		return
	}
	t.adopt(conn, c.answer.Owner)
	now, away := time.Now(), time.Duration(0)
	if status, _ := t.status.get(); !status.Connected {
		away = now.Sub(status.Since)
	}
	t.status.setIf(t.attached, Status{Connected: true, Since: now, Away: away})
	s.log.Info("peer resumed", "peer", t.joined.Name, "addr", conn.RemoteAddr(), "session", h4(c.held.id))
}

// h4 is enough of a session's id to tell it from others in a log, and not enough to be of use.
func h4(id session.ID) string { return hex.EncodeToString(id[:2]) }

// detached notes that a tunnel has lost its connection. It is called from a reading goroutine.
func (s *Server) detached(h *held, t *Tunnel, why error) {
	t.status.setIf(func() bool { return !t.attached() }, Status{Since: time.Now(), Err: publicError(why)})
	s.log.Info("peer lost", "peer", t.joined.Name, "session", h4(h.id), "err", publicError(why))
	s.sessions.detached(h)
}

// add makes a confirmed client one of the live ones, or closes it.
func (s *Server) add(m *member, h *held) bool {
	s.mu.Lock()
	switch {
	case s.draining:
		s.mu.Unlock()
		m.close(message.GoingAway, "")
		return false
	case s.liveOfLocked(m.peer.Key) >= bound(s.Limits.PerPeer, 16): // others were faster
		s.mu.Unlock()
		m.close(message.TooMany, "too many connections of this key")
		return false
	case len(s.live) >= bound(s.Limits.Connections, 10000):
		s.mu.Unlock()
		m.close(message.TooMany, "too many clients")
		return false
	}
	s.live[m] = struct{}{}
	args := []any{"peer", m.peer.Name, "addr", m.addr}
	if h != nil {
		s.sessions.add(h)
		args = append(args, "session", h4(h.id))
	}
	s.log.Info("peer connected", args...)
	s.tasks.Go(func() {
		<-m.done
		s.mu.Lock()
		delete(s.live, m)
		s.mu.Unlock()
		if h != nil {
			s.sessions.ended(h)
			<-m.tunnel.mux.Done() // or it would take what follows for this end's doing
		}
		m.close(message.OK, "") // waits for what the layers above still do
		s.logEnd(m)
	})
	if !s.watching {
		s.watching = true
		s.tasks.Go(s.watchPeers)
	}
	s.mu.Unlock()
	return true
}

func (s *Server) logEnd(m *member) {
	sent, received := m.bytes()
	args := []any{"peer", m.peer.Name, "sent", sent, "received", received}
	switch err := publicError(m.err()); {
	case err == io.EOF, errors.Is(err, net.ErrClosed):
		s.log.Info("peer gone", args...)
	case err == ErrRecord:
		s.log.Warn("peer cut off", append(args, "err", err)...)
	default:
		s.log.Info("peer gone", append(args, "err", err)...)
	}
}

// offer hands a connection to the program's Accept, and turns it away if the program does not come.
func offer[T any](s *Server, queue chan T, c T, m *member) {
	select {
	case queue <- c:
	default:
		s.log.Error("nobody accepts: connection closed", "peer", m.peer.Name)
		m.close(message.TooMany, "the server is not accepting")
	}
}

// watchPeers cuts off peers that have been removed, within about a second. It ends when no connection
// is left.
func (s *Server) watchPeers() {
	tick := time.NewTicker(cmp.Or(s.recheck, recheckPeers))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.closed:
			return
		}
		if r, ok := s.Peers.(interface{ Refresh() []error }); ok {
			for _, err := range r.Refresh() {
				s.log.Warn("peers", "err", err)
			}
		}
		s.mu.Lock()
		if len(s.live) == 0 {
			s.watching = false
			s.mu.Unlock()
			return
		}
		members := make([]*member, 0, len(s.live))
		for m := range s.live {
			members = append(members, m)
		}
		s.mu.Unlock()
		for _, m := range members {
			if _, ok := s.Peers.Lookup(m.peer.Key); !ok && !m.removed {
				m.removed = true
				s.log.Info("peer removed", "peer", m.peer.Name)
				s.tasks.Go(func() { m.close(message.PeerRemoved, "") })
			}
		}
	}
}
