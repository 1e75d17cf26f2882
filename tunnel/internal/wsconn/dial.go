package wsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Protocol is the WebSocket subprotocol, which is also the version of the protocol. PROTOCOL.md §2.
const Protocol = "waxwire.1"

// HelloHeader carries the handshake, both ways. PROTOCOL.md §2.
const HelloHeader = "Waxwire-Hello"

// maxAnswerHead is how long the head of the answer to an upgrade may be. PROTOCOL.md §2.
const maxAnswerHead = 16 << 10

const (
	dialTimeout    = 5 * time.Second
	tlsTimeout     = 5 * time.Second
	upgradeTimeout = 5 * time.Second
)

// DialConfig says how to reach a server. The zero value will do.
type DialConfig struct {
	Header  http.Header // further fields of the request
	Host    string      // the Host field, if not the URL's
	TLS     *tls.Config
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)
	// Proxy is what to go through on the way to a server, nil for nothing; ProxyTLS is for https:// proxies.
	Proxy    func(server *url.URL) (*url.URL, error)
	ProxyTLS *tls.Config
	Max      int // largest message to send, in bytes
}

// Answer is what a server answered to an upgrade. Nothing in it is authenticated but Hello, once it
// has been opened.
type Answer struct {
	Status     int
	Text       string // "404 Not Found"
	Server     string // the Server field
	Hello      string // the Waxwire-Hello field, if there was just one
	RetryAfter time.Duration
}

// ErrAnswer says that the answer is not a switch to the protocol; the [Answer] has more.
var ErrAnswer = errors.New("the server did not switch protocols")

// Dial opens a WebSocket to a ws:// or wss:// URL with hello in the upgrade. With a nil error the
// answer is a 101; with [ErrAnswer] it is another one; with any other error there is none.
func Dial(ctx context.Context, target, hello string, cfg *DialConfig) (*Conn, *Answer, error) {
	connect, timeout, err := cfg.way(target)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var nc *netConn
	var stop func() bool
	wrap := func(c net.Conn) net.Conn {
		nc = newNetConn(c, maxAnswerHead)
		// The library looks at the context's deadline only; this also sees it cancelled.
		stop = context.AfterFunc(ctx, nc.interrupt)
		return nc
	}
	d := websocket.Dialer{
		HandshakeTimeout: timeout,
		ReadBufferSize:   readBufferSize,
		WriteBufferSize:  cfg.Max + frameHeader,
		WriteBufferPool:  writePool(cfg.Max + frameHeader),
		Subprotocols:     []string{Protocol},
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := connect(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return wrap(c), nil
		},
		NetDialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := connect(ctx, network, address)
			if err != nil {
				return nil, err
			}
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				host = address
			}
			t, err := startTLS(ctx, c, host, cfg.tls())
			if err != nil {
				return nil, err
			}
			return wrap(t), nil
		},
	}
	header := http.Header{}
	for k, v := range cfg.Header {
		header[http.CanonicalHeaderKey(k)] = v
	}
	header.Set("Cache-Control", "no-cache")
	header.Set(HelloHeader, hello)
	if cfg.Host != "" {
		header.Set("Host", cfg.Host)
	}
	ws, resp, err := d.DialContext(ctx, target, header)
	if stop != nil && !stop() && err == nil { // interrupted just now
		ws.Close()
		return nil, nil, ctx.Err()
	}
	if resp == nil {
		if err == nil {
			err = errors.New("no answer")
		}
		if cause := ctx.Err(); cause != nil {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return nil, nil, err
	}
	answer := &Answer{
		Status:     resp.StatusCode,
		Text:       resp.Status,
		Server:     resp.Header.Get("Server"),
		RetryAfter: retryAfter(resp.Header.Get("Retry-After")),
	}
	if h := resp.Header.Values(HelloHeader); len(h) == 1 {
		answer.Hello = h[0]
	}
	if err != nil {
		return nil, answer, ErrAnswer
	}
	// The library would accept an extension that nobody offered.
	if ws.Subprotocol() != Protocol || len(resp.Header.Values("Sec-WebSocket-Extensions")) != 0 {
		ws.Close()
		return nil, answer, ErrAnswer
	}
	nc.headDone()
	return newConn(ws, nc, cfg.Max), answer, nil
}

func (cfg *DialConfig) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if cfg.NetDial != nil {
		return cfg.NetDial(ctx, network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// way is how a server is connected to, directly or through a proxy, and how long all may take.
func (cfg *DialConfig) way(target string) (connect func(ctx context.Context, network, address string) (net.Conn, error), timeout time.Duration, err error) {
	const direct = dialTimeout + tlsTimeout + upgradeTimeout
	if cfg.Proxy == nil {
		return cfg.dial, direct, nil
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, 0, err
	}
	proxy, err := cfg.Proxy(u)
	if err != nil {
		return nil, 0, err
	}
	if proxy == nil {
		return cfg.dial, direct, nil
	}
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		return cfg.dialProxy(ctx, proxy, address)
	}, direct + proxyTimeout, nil
}

func (cfg *DialConfig) tls() *tls.Config {
	if cfg.TLS != nil {
		return cfg.TLS.Clone()
	}
	return &tls.Config{}
}

// startTLS speaks HTTP/1.1 only: RFC 6455 has no other, and a server that picks h2 would not upgrade. It
// keeps conf.
func startTLS(ctx context.Context, c net.Conn, host string, conf *tls.Config) (net.Conn, error) {
	conf.NextProtos = []string{"http/1.1"}
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	t := tls.Client(c, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// retryAfter reads the number form of the field (RFC 9110 §10.2.3), within reason.
func retryAfter(s string) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 300)) * time.Second
}
