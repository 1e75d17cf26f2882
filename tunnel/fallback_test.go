package tunnel_test

import (
	"crypto/rand"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"waxwire.example/waxwire/tunnel"
)

// junkHello is an upgrade in good form whose hello nobody can open.
func junkHello(addr string) string {
	hello := make([]byte, 1681)
	rand.Read(hello)
	hello[0] = 1
	return strings.Join([]string{
		"GET /wax HTTP/1.1", "Host: " + addr, "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: waxwire.1",
		"Waxwire-Hello: " + base64.RawURLEncoding.EncodeToString(hello), "", "",
	}, "\r\n")
}

// A fallback that takes its time must not take the turns of those who have a key.
func TestSlowFallbackHoldsUpNobody(t *testing.T) {
	entered, release := make(chan string), make(chan struct{})
	h := newTestHost(t, func(s *tunnel.Server) {
		s.Limits.Handshakes = 2
		s.Limits.UnconfirmedPerSource = 2
		s.Fallback = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			entered <- r.Header.Get("Waxwire-Hello")
			<-release
			io.WriteString(w, "slow site")
		})
	})
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		io.WriteString(c, junkHello(h.addr))
		if hello := <-entered; hello != "" {
			t.Errorf("the fallback sees the hello %.10s…", hello)
		}
	}
	h.dial(t)
	close(release)
	for _, c := range conns {
		answer, err := io.ReadAll(c) // the connection is closed, so this ends
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"200 OK", "slow site", "Connection: close", "Cache-Control: no-store"} {
			if !strings.Contains(string(answer), want) {
				t.Errorf("the answer has no %q:\n%s", want, answer)
			}
		}
	}
}
