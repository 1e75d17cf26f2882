package tunnel_test

import (
	"io"
	"net/http"
	"testing"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// newHello makes a client's hello that is not sent yet.
func newHello(t testing.TB, id *keys.Identity, server keys.PublicKey, url string) string {
	t.Helper()
	hello, text, err := secure.NewHello(&secure.Config{Identity: id, Max: secure.DefaultMax}, server, url, session.Request())
	if err != nil {
		t.Fatal(err)
	}
	hello.Wipe()
	return wsconn.EncodeHello(text)
}

// ask sends a request and returns the status of the answer, 0 if there is none.
func (h *host) ask(t testing.TB, request string) (status int) {
	t.Helper()
	c := rawDial(t, h.addr)
	defer c.Close()
	io.WriteString(c, request)
	status, _, _ = readAnswer(t, c)
	return status
}

// A fallback that panics, as a reverse proxy does whenever its client leaves, costs nobody a place.
func TestFallbackThatPanics(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) {
		s.Logger = nil
		s.Limits.UnconfirmedPerSource = 3
		s.Fallback = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	})
	other := newTestIdentity(t)
	for range 10 {
		c := rawDial(t, h.addr)
		io.WriteString(c, upgrade(h.addr, newHello(t, other, other.Public(), h.url)))
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Fatalf("got %q, %v; want nothing", b, err)
		}
	}
	h.dial(t)
}
