package wsconn

import (
	"bufio"
	"encoding/base64"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/websocket"
)

// IsUpgrade reports whether a request asks to switch protocols at all. Whatever refuses such a one
// must close the connection: some proxies start to pipe on the request alone. PROTOCOL.md §2.
func IsUpgrade(r *http.Request) bool { return len(r.Header.Values("Upgrade")) != 0 }

// ParseRequest looks at all of an upgrade that does not need a key, before the WebSocket library sees
// it, which would answer faults in its own ways. It returns the hello, and whether the request is a
// good one. size is the exact length of a hello, in bytes.
func ParseRequest(r *http.Request, size int) (hello []byte, ok bool) {
	h := r.Header
	if r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor < 1 ||
		r.ContentLength != 0 || len(r.TransferEncoding) != 0 ||
		!hasToken(h, "Connection", "upgrade") || !hasToken(h, "Upgrade", "websocket") ||
		!slices.Contains(tokens(h, "Sec-WebSocket-Protocol"), Protocol) {
		return nil, false
	}
	if v := h.Values("Sec-WebSocket-Version"); len(v) != 1 || v[0] != "13" {
		return nil, false
	}
	if v := h.Values("Sec-WebSocket-Key"); len(v) != 1 || !validKey(v[0]) {
		return nil, false
	}
	v := h.Values(HelloHeader)
	if len(v) != 1 {
		return nil, false
	}
	return DecodeHello(v[0], size)
}

// helloEncoding is base64url without padding, canonical: the unused bits of the last character are
// zero, so that one hello has one spelling (RFC 4648 §3.5).
var helloEncoding = base64.RawURLEncoding.Strict()

// DecodeHello reads a Waxwire-Hello of just size bytes.
func DecodeHello(s string, size int) ([]byte, bool) {
	if len(s) != helloEncoding.EncodedLen(size) || strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := helloEncoding.DecodeString(s)
	return b, err == nil && len(b) == size
}

// EncodeHello is the inverse of [DecodeHello].
func EncodeHello(b []byte) string { return helloEncoding.EncodeToString(b) }

func validKey(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) == 16
}

// tokens are the members of a comma-separated field, as RFC 9110 §5.6.1 has it.
func tokens(h http.Header, field string) []string {
	var all []string
	for _, v := range h.Values(field) {
		for t := range strings.SplitSeq(v, ",") {
			all = append(all, strings.TrimSpace(t))
		}
	}
	return all
}

// hasToken looks for a token that is compared without regard to case.
func hasToken(h http.Header, field, token string) bool {
	return slices.ContainsFunc(tokens(h, field), func(t string) bool { return strings.EqualFold(t, token) })
}

// Accept answers a good request with a 101 that carries hello, and takes the connection over. On an
// error it has been closed or answered already. max is the largest message to send, in bytes.
func Accept(w http.ResponseWriter, r *http.Request, hello string, max int) (*Conn, error) {
	hijack := &hijacker{ResponseWriter: w}
	u := websocket.Upgrader{
		HandshakeTimeout: upgradeTimeout,
		ReadBufferSize:   readBufferSize,
		WriteBufferSize:  max + frameHeader,
		WriteBufferPool:  writePool(max + frameHeader),
		Subprotocols:     []string{Protocol},
		CheckOrigin:      func(*http.Request) bool { return true }, // done by the caller
	}
	ws, err := u.Upgrade(hijack, r, http.Header{HelloHeader: {hello}})
	if err != nil {
		return nil, err
	}
	return newConn(ws, hijack.conn, max), nil
}

// hijacker puts a netConn between the HTTP server's connection and the WebSocket library.
type hijacker struct {
	http.ResponseWriter
	conn *netConn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = newNetConn(c, -1)
	return h.conn, rw, nil
}
