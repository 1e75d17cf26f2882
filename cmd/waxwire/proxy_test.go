package main

import (
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// Which proxy the environment means for which URL.
func TestProxyOfEnvironment(t *testing.T) {
	const ws, wss = "ws://relay.example.net/wax", "wss://relay.example.net/wax"
	tests := []struct {
		name, url, env string
		want, said     string // "" for directly, "!" for a mistake
	}{
		{"nothing", wss, "", "", ""},
		{"wss", wss, "HTTPS_PROXY=http://a:1 HTTP_PROXY=http://b:2 ALL_PROXY=http://c:3", "http://a:1", "HTTPS_PROXY"},
		{"ws", ws, "HTTPS_PROXY=http://a:1 HTTP_PROXY=http://b:2 ALL_PROXY=http://c:3", "http://b:2", "HTTP_PROXY"},
		{"small letters", wss, "https_proxy=http://a:1", "http://a:1", "https_proxy"},
		{"large letters first", wss, "https_proxy=http://a:1 HTTPS_PROXY=http://b:2", "http://b:2", "HTTPS_PROXY"},
		{"all", wss, "HTTP_PROXY=http://b:2 all_proxy=socks5h://c:3", "socks5h://c:3", "all_proxy"},
		{"without a scheme", wss, "HTTPS_PROXY=a:1", "http://a:1", "HTTPS_PROXY"},
		{"left out", wss, "HTTPS_PROXY=http://a:1 NO_PROXY=example.net", "", ""},
		{"left out in small letters", wss, "HTTPS_PROXY=http://a:1 no_proxy=.example.net", "", ""},
		{"another is left out", wss, "HTTPS_PROXY=http://a:1 NO_PROXY=example.org,ample.net", "http://a:1", "HTTPS_PROXY"},
		{"all are left out", wss, "ALL_PROXY=http://a:1 NO_PROXY=*", "", ""},
		{"an address range is left out", "wss://10.1.2.3/wax", "HTTPS_PROXY=http://a:1 NO_PROXY=10.0.0.0/8", "", ""},
		{"one port is left out", "wss://relay.example.net:8443/wax", "HTTPS_PROXY=http://a:1 NO_PROXY=relay.example.net:443", "http://a:1", "HTTPS_PROXY"},
		{"this host", "wss://localhost:8443/wax", "HTTPS_PROXY=http://a:1", "", ""},
		{"this host's address", "ws://[::1]:8443/wax", "HTTP_PROXY=http://a:1", "", ""},
		{"a field of a request", ws, "HTTP_PROXY=http://a:1 REQUEST_METHOD=GET", "", ""},
		{"not a field of a request", ws, "http_proxy=http://a:1 REQUEST_METHOD=GET", "http://a:1", "http_proxy"},
		{"another scheme", wss, "HTTPS_PROXY=ftp://secret:secret@a", "!", "HTTPS_PROXY"},
		{"no host", wss, "ALL_PROXY=http://", "!", "ALL_PROXY"},
		{"a path", wss, "HTTPS_PROXY=http://a:1/secret", "!", "HTTPS_PROXY"},
		{"not a URL", wss, "HTTPS_PROXY=http://me:se%cret@a", "!", "HTTPS_PROXY"},
		{"not a URL, and not asked", wss, "HTTPS_PROXY=http://me:se%cret@a NO_PROXY=*", "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u, err := url.Parse(test.url)
			if err != nil {
				t.Fatal(err)
			}
			p, err := proxyOfEnvironment(u, func(name string) string {
				for pair := range strings.FieldsSeq(test.env) {
					if value, ok := strings.CutPrefix(pair, name+"="); ok {
						return value
					}
				}
				return ""
			})
			if test.want == "!" {
				var f *failure
				if !errors.As(err, &f) || f.code != codeProxySetting || !strings.HasPrefix(f.text, test.said+": ") || strings.Contains(f.text, "ret") || f.cause != nil {
					t.Errorf("got %v, want a mistake in %s", err, test.said)
				}
				return
			}
			got, said := "", ""
			if p != nil {
				got, said = p.to.String(), p.said
			}
			if err != nil || got != test.want || said != test.said {
				t.Errorf("got %q of %s, %v; want %q of %s", got, said, err, test.want, test.said)
			}
		})
	}
}

// A server behind a proxy is not asked anything directly, only to have a better text.
func TestNothingIsAskedBesideTheProxy(t *testing.T) {
	web := httptest.NewUnstartedServer(nil)
	web.Config.ErrorLog = discardLog
	web.StartTLS()
	defer web.Close()
	srv := testServer(t, "ws://"+web.Listener.Addr().String()+"/wax")
	p, err := parseProxy("--proxy", "http://me:secret@proxy.corp:3128")
	if err != nil {
		t.Fatal(err)
	}
	for want, through := range map[code]proxies{codeTLS: nil, codeNotOurs: {srv.String(): p}} {
		srv.proxies = through
		got := explainDial(&tunnel.AnswerError{Status: 400, Text: "400 Bad Request"}, srv, keys.PublicKey{})
		if got.code != want {
			t.Errorf("with %d proxies: got %s, want %s", len(through), got.code, want)
		}
	}
}
