package tunnel_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"waxwire.example/waxwire/tunnel"
)

// What comes through a unix socket has no address; whether its X-Forwarded-For counts is for the
// configuration to say.
func TestSourceBehindAUnixSocket(t *testing.T) {
	for _, test := range []struct {
		name    string
		trusted []netip.Prefix
		allowed bool
	}{
		{"unix sockets are trusted", []netip.Prefix{{}}, true},
		{"nobody is trusted", nil, false},
		{"all addresses are trusted", []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newTestServer(t, func(s *tunnel.Server) {
				unlimited(s)
				s.TrustedProxies = test.trusted
				s.Limits.SourceRate, s.Limits.SourceBurst = 1, 2
			})
			defer h.Close()
			busy := 0
			for i := range 6 {
				r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(junkHello("x"))))
				if err != nil {
					t.Fatal(err)
				}
				r.RemoteAddr = "@"
				r.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i+1))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code == 503 {
					busy++
				}
			}
			if (busy == 0) != test.allowed {
				t.Errorf("%d of 6 were turned away", busy)
			}
		})
	}
}

// Hosts are compared without their port, and without the brackets of an address.
func TestHosts(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) {
		unlimited(s)
		s.Hosts = []string{"relay.example", "::1"}
	})
	for host, want := range map[string]bool{
		"relay.example": true, "RELAY.example:8443": true, "[::1]:8443": true, "[::1]": true,
		"127.0.0.1": false, "relay.example.evil.example": false, "evil-relay.example": false, "relay.example.": false, "[::2]": false,
	} {
		cfg := h.config()
		cfg.Host = host
		tun, err := tunnel.Dial(t.Context(), h.url, cfg)
		if err == nil {
			tun.Close()
		}
		if (err == nil) != want || !want && !errors.Is(err, tunnel.ErrNotFound) {
			t.Errorf("Host %s: got %v, want in %v", host, err, want)
		}
	}
}
