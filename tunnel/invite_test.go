package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	wire "waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// An inviting host is one whose peers and invites are files, as the server's are.
type inviting struct {
	*host
	dir     *keys.PeerDir
	invites *keys.InviteDir
}

// newInviting makes one; start is newTestHost or newMemoryHost.
func newInviting(t testing.TB, start func(testing.TB, func(*tunnel.Server)) *host, change func(*tunnel.Server)) *inviting {
	t.Helper()
	folder := t.TempDir()
	dir, err := keys.OpenPeerDir(filepath.Join(folder, "peers"))
	if err != nil {
		t.Fatal(err)
	}
	invites, err := keys.OpenInviteDir(filepath.Join(folder, "invites"), dir)
	if err != nil {
		t.Fatal(err)
	}
	i := &inviting{dir: dir, invites: invites}
	i.host = start(t, func(s *tunnel.Server) {
		s.Peers, s.Invites = dir, invites
		if change != nil {
			change(s)
		}
	})
	return i
}

// issue returns a new invite for "guest".
func (h *inviting) issue(t testing.TB, valid time.Duration) *keys.Invite {
	t.Helper()
	made, err := keys.NewInvite(h.url, h.serverKey(), time.Now().Add(valid))
	if err != nil {
		t.Fatal(err)
	}
	may, err := keys.ParsePermission("message")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.invites.Add(keys.IssuedInvite{Hash: made.Hash(), Name: "guest", Expires: made.Expires, Allow: []keys.Permission{may}}); err != nil {
		t.Fatal(err)
	}
	return made
}

// with is the configuration of a new client with an invite.
func (h *inviting) with(t testing.TB, invite *keys.Invite) *tunnel.Config {
	t.Helper()
	cfg := h.config()
	cfg.Identity = newTestIdentity(t)
	if invite != nil {
		cfg.Invite = invite.Secret()
	}
	return cfg
}

// unconfirmed is a client whose hello was taken and that has not sent its first record.
func (h *inviting) unconfirmed(t testing.TB, cfg *tunnel.Config) *secure.Conn {
	t.Helper()
	hello, text, err := secure.NewHello(&secure.Config{Identity: cfg.Identity, Max: secure.DefaultMax}, h.serverKey(), h.url, (&session.Request{}).Append(nil), cfg.Invite)
	if err != nil {
		t.Fatal(err)
	}
	ws, answer, err := wsconn.Dial(t.Context(), h.url, wsconn.EncodeHello(text), &wsconn.DialConfig{NetDial: cfg.NetDial, Max: secure.DefaultMax})
	if err != nil {
		t.Fatal(err)
	}
	sealed, ok := wsconn.DecodeHello(answer.Hello, secure.AnswerSize)
	if !ok {
		t.Fatal("the answer has no hello")
	}
	e, err := hello.Finish(sealed, true)
	if err != nil {
		t.Fatal(err)
	}
	conn := secure.New(ws, e, secure.Timing{})
	t.Cleanup(func() { conn.Kill(net.ErrClosed) })
	return conn
}

// confirm sends the first record and returns what comes: nil if the server answers it.
func confirm(t testing.TB, conn *secure.Conn) error {
	t.Helper()
	heard := make(chan struct{})
	conn.Heard(func() { close(heard) })
	if err := conn.Start(t.Context(), nil); err != nil {
		return err
	}
	go func() {
		for {
			if _, err := conn.ReadMessage(context.Background()); err != nil {
				return
			}
		}
	}()
	<-heard
	// What came may have been the CLOSE.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := conn.Ping(ctx); err != nil {
		<-conn.Done()
		return conn.Err()
	}
	return nil
}

func wantRefused(t testing.TB, err error, reason tunnel.RefusedReason, at time.Time) {
	t.Helper()
	var refused *tunnel.RefusedError
	if !errors.As(err, &refused) || refused.Reason != reason || !refused.Time.Equal(at) {
		t.Errorf("got %v %+v, want %v at %v", err, refused, reason, at)
	}
}

// wantNotEnrolled checks for a CLOSE 3 of the server's whose text has a word.
func wantNotEnrolled(t testing.TB, err error, word string) {
	t.Helper()
	var closed *wire.CloseError
	if !errors.As(err, &closed) || closed.Code != wire.PeerRemoved || !closed.Remote || !strings.Contains(closed.Reason, word) {
		t.Errorf("got %v, want CLOSE 3 with %q", err, word)
	}
}

func (h *inviting) wantGood(t testing.TB, invite *keys.Invite) {
	t.Helper()
	if err := h.invites.Check(invite.Hash()); err != nil {
		t.Errorf("the invite is %v, want good", err)
	}
}

func TestInvite(t *testing.T) {
	h := newInviting(t, newTestHost, func(s *tunnel.Server) { s.PlainConns = true })
	invite := h.issue(t, time.Hour)
	cfg := h.with(t, invite)
	client, err := tunnel.Dial(t.Context(), h.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := server.Peer(); p.Name != "guest" || p.Key != cfg.Identity.Public() || !p.AllowsMessage() || p.AllowsFiles() {
		t.Errorf("the peer is %+v", p)
	}
	used, err := h.invites.Get(invite.Hash())
	if err != nil || used.By != cfg.Identity.Public() {
		t.Fatalf("the invite was used by %v, %v", used.By, err)
	}
	pipe(t, client, server)
	// The key is enrolled: it needs no invite, and brings the used one without harm.
	for _, secret := range [][]byte{nil, invite.Secret(), make([]byte, 16)} {
		cfg.Invite = secret
		conn, err := tunnel.DialConn(t.Context(), h.url, cfg)
		if err != nil {
			t.Fatal(err)
		}
		conn.Abort()
	}
	// Everybody else is told when it was used.
	_, err = tunnel.Dial(t.Context(), h.url, h.with(t, invite))
	wantRefused(t, err, tunnel.InviteUsed, used.Used)
	// The secret is in no log.
	if text, _ := invite.MarshalText(); strings.Contains(h.log.String(), string(text)) || !strings.Contains(h.log.String(), "peer enrolled") {
		t.Errorf("the log is\n%s", h.log.String())
	}
}

func TestInviteRefused(t *testing.T) {
	h := newInviting(t, newTestHost, nil)
	expired := h.issue(t, -time.Second)
	_, err := tunnel.Dial(t.Context(), h.url, h.with(t, expired))
	wantRefused(t, err, tunnel.InviteExpired, expired.Expires)
	unknown, err := keys.NewInvite(h.url, h.serverKey(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tunnel.Dial(t.Context(), h.url, h.with(t, unknown))
	wantRefused(t, err, tunnel.InviteExpired, time.Time{})
	_, err = tunnel.Dial(t.Context(), h.url, h.with(t, nil))
	wantRefused(t, err, tunnel.NotEnrolled, time.Time{})

	// A good invite does not make up for the rest, nor is it consumed.
	good := h.issue(t, time.Hour)
	_, err = tunnel.DialConn(t.Context(), h.url, h.with(t, good))
	wantRefused(t, err, tunnel.BadPayload, time.Time{})
	h.wantGood(t, good)

	cfg := h.with(t, good)
	cfg.Invite = cfg.Invite[:15]
	if _, err := tunnel.Dial(t.Context(), h.url, cfg); err == nil || !strings.Contains(err.Error(), "Config.Invite has 15 bytes") {
		t.Errorf("an invite of 15 bytes: %v", err)
	}

	none := newTestHost(t, nil) // a server that has no invites at all
	cfg = none.config()
	cfg.Identity, cfg.Invite = newTestIdentity(t), good.Secret()
	_, err = tunnel.Dial(t.Context(), none.url, cfg)
	wantRefused(t, err, tunnel.InviteExpired, time.Time{})
}

// PROTOCOL.md §2.20: an invite that cannot be read is one that is not known, to others.
func TestInviteBroken(t *testing.T) {
	h := newInviting(t, newTestHost, func(s *tunnel.Server) { s.Invites = brokenInvites{} })
	invite := h.issue(t, time.Hour)
	_, err := tunnel.Dial(t.Context(), h.url, h.with(t, invite))
	wantRefused(t, err, tunnel.InviteExpired, time.Time{})
	if !strings.Contains(h.log.String(), "level=ERROR msg=\"an invite cannot be read\"") {
		t.Errorf("the log is\n%s", h.log.String())
	}

	h = newInviting(t, newTestHost, func(s *tunnel.Server) { s.Invites = brokenInvites{good: true} })
	err = confirm(t, h.unconfirmed(t, h.with(t, invite)))
	var closed *wire.CloseError
	if !errors.As(err, &closed) || closed.Code != wire.Internal || strings.Contains(closed.Reason, "disk") {
		t.Errorf("got %v, want CLOSE 12", err)
	}
}

// brokenInvites are those of a disk that is gone: at once, or when it is too late.
type brokenInvites struct{ good bool }

func (b brokenInvites) Check(keys.InviteHash) error {
	if b.good {
		return nil
	}
	return errors.New("no such disk")
}

func (b brokenInvites) Enrol(keys.InviteHash, keys.PublicKey) (keys.Peer, error) {
	return keys.Peer{}, errors.New("no such disk")
}

// PROTOCOL.md §2.20: "An enrolled key's invite MUST be ignored": it is not consumed.
func TestInviteOfEnrolled(t *testing.T) {
	h := newInviting(t, newTestHost, nil)
	if err := h.dir.Add(keys.Peer{Name: "laptop", Key: h.client.Public()}); err != nil {
		t.Fatal(err)
	}
	for _, invite := range []*keys.Invite{h.issue(t, time.Hour), h.issue(t, -time.Second)} {
		cfg := h.config()
		cfg.Invite = invite.Secret()
		client, err := tunnel.Dial(t.Context(), h.url, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		client.Close()
		if invite.Expires.After(time.Now()) {
			h.wantGood(t, invite)
		}
	}
	if _, err := h.dir.Get("guest"); err == nil {
		t.Error("somebody was enrolled")
	}
}

// PROTOCOL.md §2.20: of two that bring one invite at the same time one is enrolled, and the other one is told, sealed.
func TestInviteRace(t *testing.T) {
	h := newInviting(t, newTestHost, func(s *tunnel.Server) { unlimited(s) })
	const clients = 4
	invite := h.issue(t, time.Hour)
	var conns [clients]*secure.Conn
	for n := range conns {
		conns[n] = h.unconfirmed(t, h.with(t, invite)) // all are welcome so far
	}
	var all sync.WaitGroup
	var errs [clients]error
	for n, conn := range conns {
		all.Go(func() { errs[n] = confirm(t, conn) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		wantNotEnrolled(t, err, "was used at 20")
	}
	if p, err := h.dir.Get("guest"); won != 1 || err != nil {
		t.Errorf("%d have won; the peer is %+v, %v", won, p, err)
	}
}

// A slowInvites takes its time to enrol, or has done so when it is first asked, as after a crash.
type slowInvites struct {
	*keys.InviteDir
	takes time.Duration
	owed  keys.PublicKey // is enrolled by Check
}

func (s slowInvites) Enrol(hash keys.InviteHash, key keys.PublicKey) (keys.Peer, error) {
	time.Sleep(s.takes)
	return s.InviteDir.Enrol(hash, key)
}

func (s slowInvites) Check(hash keys.InviteHash) error {
	if s.owed != (keys.PublicKey{}) {
		s.InviteDir.Enrol(hash, s.owed)
	}
	return s.InviteDir.Check(hash)
}

// PROTOCOL.md §2.20: the server enrols "before it sends anything". A client that hears it is enrolled.
func TestInviteBeforeAnythingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newInviting(t, newMemoryHost, nil)
		h.Invites = slowInvites{InviteDir: h.invites, takes: 3 * time.Second}
		conn := h.unconfirmed(t, h.with(t, h.issue(t, time.Hour)))
		start, heard := time.Now(), make(chan time.Time, 1)
		conn.Heard(func() { heard <- time.Now() })
		if err := conn.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		go conn.ReadMessage(context.Background())
		if took := (<-heard).Sub(start); took < 3*time.Second {
			t.Errorf("heard after %v", took)
		}
	})
}

// What a crash has left is finished by the very hello that needs it.
func TestInviteFinishedByHello(t *testing.T) {
	h := newInviting(t, newTestHost, nil)
	cfg := h.with(t, h.issue(t, time.Hour))
	h.Invites = slowInvites{InviteDir: h.invites, owed: cfg.Identity.Public()}
	if err := confirm(t, h.unconfirmed(t, cfg)); err != nil {
		t.Error(err)
	}
}

// One client that dials twice with its invite gets both connections.
func TestInviteTwiceOneKey(t *testing.T) {
	h := newInviting(t, newTestHost, nil)
	cfg := h.with(t, h.issue(t, time.Hour))
	a, b := h.unconfirmed(t, cfg), h.unconfirmed(t, cfg)
	for _, conn := range []*secure.Conn{a, b} {
		if err := confirm(t, conn); err != nil {
			t.Error(err)
		}
	}
}

// PROTOCOL.md §2.20: the name may have been given to somebody else.
func TestInviteNameTaken(t *testing.T) {
	h := newInviting(t, newTestHost, nil)
	invite := h.issue(t, time.Hour)
	conn := h.unconfirmed(t, h.with(t, invite))
	if err := h.dir.Add(keys.Peer{Name: "guest", Key: h.client.Public()}); err != nil {
		t.Fatal(err)
	}
	wantNotEnrolled(t, confirm(t, conn), "another peer of the name")
	h.wantGood(t, invite)
}

// PROTOCOL.md §2.20: the expiry counts at the first record too.
func TestInviteExpiresBeforeConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newInviting(t, newMemoryHost, nil)
		invite := h.issue(t, 5*time.Second)
		late, inTime := h.unconfirmed(t, h.with(t, invite)), h.issue(t, time.Minute)
		other := h.unconfirmed(t, h.with(t, inTime))
		time.Sleep(6 * time.Second)
		wantNotEnrolled(t, confirm(t, late), "has expired at "+invite.Expires.Format(time.RFC3339))
		if _, err := h.dir.Get("guest"); err == nil {
			t.Error("somebody was enrolled")
		}
		if err := confirm(t, other); err != nil {
			t.Error(err)
		}
	})
}

// PROTOCOL.md §2.18, §2.20: neither a hello nor its replay consumes an invite.
func TestInviteReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newInviting(t, newMemoryHost, nil)
		invite := h.issue(t, time.Hour)
		guest := newTestIdentity(t)
		hello, text, err := secure.NewHello(&secure.Config{Identity: guest, Max: secure.DefaultMax}, h.serverKey(), h.url, (&session.Request{}).Append(nil), invite.Secret())
		if err != nil {
			t.Fatal(err)
		}
		hello.Wipe()
		for n, want := range []int{101, 404, 404} {
			c, err := h.netDial(t.Context(), "tcp", "server")
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, upgrade("server", wsconn.EncodeHello(text)))
			if status, head, _ := readAnswer(t, c); status != want || want == 404 && head.Get("Waxwire-Hello") != "" {
				t.Errorf("hello %d was answered with %d %v", n, status, head)
			}
			if n > 0 {
				c.Close()
			}
			defer c.Close()
		}
		time.Sleep(11 * time.Second) // the server has given up the first
		h.wantGood(t, invite)
		if _, ok := h.dir.Lookup(guest.Public()); ok {
			t.Error("a replay has enrolled somebody")
		}
	})
}

// The invite is in every hello until the server has been heard, and in none after that.
func TestInviteUntilHeard(t *testing.T) {
	h := newInviting(t, newTestHost, func(s *tunnel.Server) {
		unlimited(s)
		s.ResumeFor = time.Minute
	})
	invite := h.issue(t, time.Hour)
	cfg := h.with(t, invite)
	var mu sync.Mutex
	var conn net.Conn
	cfg.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		mu.Lock()
		defer mu.Unlock()
		first := conn == nil
		conn = c
		if first && err == nil {
			return &mute{Conn: c}, nil
		}
		return c, err
	}
	// The first record never arrives: the second hello needs the invite to be more than a stranger's. It asks
	// for a session that never began.
	client, err := tunnel.Dial(t.Context(), h.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	conn.Close()
	mu.Unlock()
	<-client.Done()
	var closed *tunnel.CloseError
	if err := client.Err(); !errors.As(err, &closed) || closed.Code != tunnel.SessionLost {
		t.Errorf("the second hello ended in %v", err)
	}
	client.Close()
	h.wantGood(t, invite)

	// Heard, enrolled, removed: the next hello is a stranger's, not that of a used invite.
	client, err = tunnel.Dial(t.Context(), h.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.dir.Remove("guest"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	conn.Close()
	mu.Unlock()
	<-client.Done()
	wantRefused(t, client.Err(), tunnel.NotEnrolled, time.Time{})
}

// mute is a connection on which nothing leaves after the request.
type mute struct {
	net.Conn
	asked bool
}

func (m *mute) Write(p []byte) (int, error) {
	if m.asked {
		return len(p), nil
	}
	m.asked = true
	return m.Conn.Write(p)
}
