package tunnel

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"

	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/tunnel/internal/mux"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// Dial opens a tunnel to the server at a ws:// or wss:// URL, or, if that cannot be reached, at one of
// [Config.Alternates]. ctx bounds the dial, not the tunnel. A tunnel that loses its connection dials
// again by itself, as long as it takes, and goes on where it was.
//
// When Dial returns, the server has proved its key and this end has sent its proof. Errors:
// [*RefusedError] is the server's own word; [ErrNotFound], [ErrAnswer] and [*AnswerError] are answers
// that nobody vouches for; [*ProxyError] is about a proxy on the way; anything else is the network's. With Alternates they come in a [*DialError],
// which is about the last URL that was tried.
func Dial(ctx context.Context, url string, cfg *Config) (*Tunnel, error) {
	d, err := newDialer(url, cfg)
	if err != nil {
		return nil, err
	}
	var request session.Request
	conn, e, err := d.first(ctx, request.Append(nil))
	if err != nil {
		d.invite.wipe()
		return nil, err
	}
	a, err := session.ParseAnswer(e.Session, &request)
	if err != nil {
		d.invite.wipe()
		conn.Kill(secure.ErrAnswer)
		return nil, ErrAnswer
	}
	if err := d.start(ctx, conn, nil); err != nil {
		d.invite.wipe()
		return nil, err
	}
	lost := make(chan detachment, 1)
	t := newTunnel(conn, session.Config{
		Client: true, ID: a.ID, Lifetime: a.Lifetime,
		Detached: func(why error, heard bool) { lost <- detachment{why, heard} },
	})
	t.run(mux.Config{Client: true})
	t.tasks.Go(func() { t.keepConnected(d, lost) })
	return t, nil
}

// DialConn opens a plain sealed connection: whole messages both ways, without streams. The server
// must have [Server.PlainConns] set.
func DialConn(ctx context.Context, url string, cfg *Config) (*Conn, error) {
	d, err := newDialer(url, cfg)
	if err != nil {
		return nil, err
	}
	defer d.invite.wipe() // there is no further hello
	conn, _, err := d.first(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := d.start(ctx, conn, nil); err != nil {
		return nil, err
	}
	return newConn(conn), nil
}

// A dialer makes connections to one server. Only one goroutine uses it at a time.
type dialer struct {
	cfg    *Config
	urls   []string
	at     int // the one to try next
	invite *invite
}

// An invite is the secret of one, until the server has been heard.
type invite struct {
	mu     sync.Mutex
	secret []byte // nil: there is none, or no longer
}

func newInvite(secret []byte) *invite {
	i := new(invite)
	if len(secret) > 0 {
		erase.Do(func() {
			i.secret = bytes.Clone(secret)
			erase.Trace("invite", i.secret)
		})
	}
	return i
}

// wipe forgets it. It may be called from any goroutine, any number of times.
func (i *invite) wipe() {
	i.mu.Lock()
	defer i.mu.Unlock()
	erase.Bytes(i.secret)
	i.secret = nil
}

func newDialer(url string, cfg *Config) (*dialer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d := &dialer{cfg: cfg, urls: append([]string{url}, cfg.Alternates...)}
	for _, u := range d.urls {
		if err := checkURL(u); err != nil {
			return nil, err
		}
	}
	d.invite = newInvite(cfg.Invite)
	return d, nil
}

func checkURL(target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return publicError(err)
	}
	if (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("tunnel: the URL must be ws://HOST[:PORT]/PATH or wss://…")
	}
	return nil
}

// first tries each URL once.
func (d *dialer) first(ctx context.Context, request []byte) (conn *secure.Conn, e *secure.Established, err error) {
	for range d.urls {
		conn, e, err = d.dial(ctx, request)
		var refused *RefusedError
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) {
			break
		}
	}
	return conn, e, err
}

// dial is the way up for a client: the hello in the upgrade of a WebSocket, and the sealed answer. The
// first record, by [dialer.start], comes next. PROTOCOL.md §2. After a failure it is the next URL's turn.
func (d *dialer) dial(ctx context.Context, request []byte) (conn *secure.Conn, e *secure.Established, err error) {
	cfg, target := d.cfg, d.urls[d.at]
	defer func() { err = d.next(err) }()
	ctx, cancel := context.WithTimeout(ctx, cfg.handshakeTimeout())
	defer cancel()

	max := maxMessage(cfg.MaxMessage)
	d.invite.mu.Lock()
	hello, text, err := secure.NewHello(&secure.Config{
		Identity: cfg.Identity, Service: cfg.Service, Suite: cfg.Suite, Max: max,
		Padding: secure.Padding(cfg.Padding),
	}, cfg.ServerKey, target, request, d.invite.secret)
	d.invite.mu.Unlock()
	if err != nil {
		return nil, nil, publicError(err)
	}
	defer hello.Wipe()

	ws, answer, err := wsconn.Dial(ctx, target, wsconn.EncodeHello(text), &wsconn.DialConfig{
		Header: cfg.Header, Host: cfg.Host, TLS: cfg.TLS, NetDial: cfg.NetDial,
		Proxy: cfg.Proxy, ProxyTLS: cfg.ProxyTLS, Max: max,
	})
	if err != nil {
		return nil, nil, answerError(hello, answer, err)
	}
	sealed, ok := wsconn.DecodeHello(answer.Hello, secure.AnswerSize)
	if !ok {
		ws.CloseNow()
		return nil, nil, ErrAnswer
	}
	if e, err = hello.Finish(sealed, true); err != nil {
		ws.CloseNow()
		return nil, nil, publicError(err)
	}
	conn = secure.New(ws, e, cfg.timing)
	conn.Heard(d.invite.wipe)
	return conn, e, nil
}

// start sends the first record: first, or a PING. PROTOCOL.md §4.
func (d *dialer) start(ctx context.Context, conn *secure.Conn, first []byte) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.handshakeTimeout())
	defer cancel()
	return d.next(publicError(conn.Start(ctx, first)))
}

// next makes it the next URL's turn after an error, which it gives the name of this one.
func (d *dialer) next(err error) error {
	if err == nil || len(d.urls) == 1 {
		return err
	}
	err = &DialError{URL: d.urls[d.at], Err: err}
	d.at = (d.at + 1) % len(d.urls)
	return err
}

// answerError makes an error of any answer but a good 101.
func answerError(hello *secure.Hello, answer *wsconn.Answer, err error) error {
	if !errors.Is(err, wsconn.ErrAnswer) {
		return publicError(err)
	}
	if answer.Status == http.StatusNotFound {
		if answer.Hello == "" {
			return ErrNotFound
		}
		sealed, ok := wsconn.DecodeHello(answer.Hello, secure.AnswerSize)
		if !ok {
			return ErrAnswer
		}
		_, err := hello.Finish(sealed, false)
		return publicError(err)
	}
	return &AnswerError{
		Status: answer.Status, Text: answer.Text, Server: answer.Server, RetryAfter: answer.RetryAfter,
	}
}
