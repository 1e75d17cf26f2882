package tunnel

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"waxwire.example/waxwire/tunnel/internal/mux"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// Dial opens a tunnel to the server at a ws:// or wss:// URL. ctx bounds the dial, not the tunnel.
//
// When Dial returns, the server has proved its key and this end has sent its proof. Errors:
// [*RefusedError] is the server's own word; [ErrNotFound], [ErrAnswer] and [*AnswerError] are answers
// that nobody vouches for; anything else is the network's.
func Dial(ctx context.Context, url string, cfg *Config) (*Tunnel, error) {
	conn, e, err := dial(ctx, url, cfg, session.Request())
	if err != nil {
		return nil, err
	}
	if _, err := session.ParseAnswer(e.Session); err != nil {
		conn.Kill(secure.ErrAnswer)
		return nil, ErrAnswer
	}
	return newTunnel(conn, mux.Config{Client: true}), nil
}

// DialConn opens a plain sealed connection: whole messages both ways, without streams. The server
// must have [Server.PlainConns] set.
func DialConn(ctx context.Context, url string, cfg *Config) (*Conn, error) {
	conn, _, err := dial(ctx, url, cfg, nil)
	if err != nil {
		return nil, err
	}
	return newConn(conn), nil
}

// dial is the way up for a client: the hello in the upgrade of a WebSocket, the sealed answer, the
// first record. PROTOCOL.md §2, §4.
func dial(ctx context.Context, target string, cfg *Config, request []byte) (*secure.Conn, *secure.Established, error) {
	if err := cfg.check(); err != nil {
		return nil, nil, err
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, nil, publicError(err)
	}
	if (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, nil, errors.New("tunnel: the URL must be ws://HOST[:PORT]/PATH or wss://…")
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.handshakeTimeout())
	defer cancel()

	max := maxMessage(cfg.MaxMessage)
	hello, text, err := secure.NewHello(&secure.Config{
		Identity: cfg.Identity, Service: cfg.Service, Suite: cfg.Suite, Max: max,
		Padding: secure.Padding(cfg.Padding),
	}, cfg.ServerKey, target, request)
	if err != nil {
		return nil, nil, publicError(err)
	}
	defer hello.Wipe()

	ws, answer, err := wsconn.Dial(ctx, target, wsconn.EncodeHello(text), &wsconn.DialConfig{
		Header: cfg.Header, Host: cfg.Host, TLS: cfg.TLS, NetDial: cfg.NetDial, Max: max,
	})
	if err != nil {
		return nil, nil, answerError(hello, answer, err)
	}
	sealed, ok := wsconn.DecodeHello(answer.Hello, secure.AnswerSize)
	if !ok {
		ws.CloseNow()
		return nil, nil, ErrAnswer
	}
	e, err := hello.Finish(sealed, true)
	if err != nil {
		ws.CloseNow()
		return nil, nil, publicError(err)
	}
	conn := secure.New(ws, e, cfg.timing)
	if err := conn.Start(ctx); err != nil {
		return nil, nil, publicError(err)
	}
	return conn, e, nil
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
