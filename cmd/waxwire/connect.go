package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// A connector dials a server for client, pipe and demo.
type connector struct {
	app     *app
	server  server
	id      *keys.Identity
	timeout time.Duration // of one try, of each URL

	tls, proxyTLS *tls.Config
	header        http.Header
	host          string

	// accept takes the streams that the server opens until the tunnel ends; nil: they are refused.
	accept func(*tunnel.Tunnel)

	invite *keys.Invite // nil: none
}

// dial makes one try. When it returns, the other end has answered a ping: it has taken this end for
// what it is, and the round trip is known.
func (c *connector) dial(ctx context.Context) (*tunnel.Tunnel, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout*time.Duration(1+len(c.server.others)))
	defer cancel()
	cfg := c.config()
	if c.invite != nil {
		cfg.Invite = c.invite.Secret()
	}
	tun, err := tunnel.Dial(ctx, c.server.String(), cfg)
	if err != nil {
		return nil, err
	}
	if _, err := tun.Ping(ctx); err != nil {
		cause := tun.Err()
		tun.Close()
		var closed *tunnel.CloseError
		if errors.As(cause, &closed) {
			return nil, cause
		}
		return nil, err
	}
	accept := c.accept
	if accept == nil {
		accept = refuseStreams
	}
	go accept(tun) // ends with the tunnel
	return tun, nil
}

// refuseStreams turns down what the server opens: nothing was asked of it.
func refuseStreams(tun *tunnel.Tunnel) {
	for {
		in, err := tun.AcceptStream(context.Background())
		if err != nil {
			return
		}
		in.Refuse(tunnel.NotAllowed, "this client takes no streams")
	}
}

// isFinal says whether an error is the server's own sealed word that it does not want this client.
// Everything else may be somebody on the way, or pass.
func isFinal(err error) bool {
	var refused *tunnel.RefusedError
	return errors.As(err, &refused) && refused.Reason != tunnel.TooManySessions
}

// A bare 404 is no verdict, since anybody can say it. A client that never reached this server gives
// up after this many of them in a row, each to a new hello, over at least this long.
const (
	notFoundTries = 3
	notFoundPause = 2500 * time.Millisecond
)

// first connects for the first time. Without wait the first failure counts, but for those answers
// that say "try again", as long as timeout allows. retry asks for the next try now.
func (c *connector) first(ctx context.Context, wait bool, retry <-chan os.Signal, failed func(err error, away, next time.Duration)) (*tunnel.Tunnel, error) {
	start := time.Now()
	notFound := 0
	for tries := 1; ; tries++ {
		tun, err := c.dial(ctx)
		if err == nil {
			return tun, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		next := max(tunnel.Backoff(tries), tunnel.RetryAfter(err))
		var answer *tunnel.AnswerError
		switch {
		case isFinal(err):
			return nil, err
		case wait:
		case errors.Is(err, tunnel.ErrNotFound):
			if notFound++; notFound >= notFoundTries {
				return nil, err
			}
			next = notFoundPause
		case errors.As(err, &answer) && answer.Status == 503 && time.Since(start)+next < c.timeout:
		default:
			return nil, err
		}
		failed(err, time.Since(start), next)
		select {
		case <-time.After(next):
		case <-retry:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// explain makes a failure of an error of dial.
func (c *connector) explain(err error) error {
	var closed *tunnel.CloseError
	if errors.As(err, &closed) && closed.Remote {
		text := fmt.Sprintf("%s closed the connection: %s", c.server.name(), closed.Code)
		if closed.Code == tunnel.PeerRemoved {
			return explainRefused(&tunnel.RefusedError{Reason: tunnel.NotEnrolled}, c.server, c.id.Public())
		}
		return fail(codeUnreachable, err, text)
	}
	return explainDial(err, c.server.of(err), c.id.Public())
}

// openClientIdentity loads this end's identity, or makes one and says what to do with it.
func (a *app) openClientIdentity() (*keys.Identity, error) {
	id, path, created, err := a.loadIdentity(true)
	if err != nil {
		return nil, err
	}
	if created {
		a.tellCreated(path, id)
		a.ui.sayf("  The server has to know it. There run:  waxwire peers add NAME %s", id.Public())
	}
	return id, nil
}

// tellCreated says that there is a new identity.
func (a *app) tellCreated(path string, id *keys.Identity) {
	a.ui.event("identity_created", map[string]any{
		"path": path, "public_key": id.Public().String(), "fingerprint": id.Public().Fingerprint(),
	})
	a.ui.sayf("  Identity     created %s (readable by you only)", shorten(path))
	a.ui.sayf("  Fingerprint  %s", id.Public().Fingerprint())
}
