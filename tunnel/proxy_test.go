package tunnel_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// A testProxy speaks HTTP and SOCKS 5, whichever it is spoken to in. It knows where names lead.
type testProxy struct {
	addr  string
	login string // USER:PASSWORD, "" for none
	names map[string]string

	mu    sync.Mutex
	asked []string // how and what for: "CONNECT relay.test:80", "name relay.test:80", "address 127.0.0.1:80"
	conns []net.Conn
	tasks sync.WaitGroup
}

func newTestProxy(t testing.TB, login string, conf *tls.Config) *testProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &testProxy{addr: l.Addr().String(), login: login, names: make(map[string]string)}
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	p.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.keep(c)
			p.tasks.Go(func() {
				defer c.Close()
				p.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.tasks.Wait()
	})
	return p
}

func (p *testProxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
}

// cut ends all connections.
func (p *testProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *testProxy) takeAsked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

func (p *testProxy) serve(c net.Conn) {
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil {
		return
	}
	if first[0] == 5 {
		p.serveSOCKS(c, r)
		return
	}
	req, err := http.ReadRequest(r)
	if err != nil || req.Method != "CONNECT" || req.Host != req.RequestURI {
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		return
	}
	if p.login != "" && req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(p.login)) {
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nProxy-Authenticate: Negotiate\r\n\r\n")
		return
	}
	d, ok := p.dial("CONNECT ", req.Host)
	if !ok {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
	join(c, r, d)
}

func (p *testProxy) serveSOCKS(c net.Conn, r *bufio.Reader) {
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(r, b)
		return b
	}
	methods := read(int(read(2)[1]))
	want := byte(0)
	if p.login != "" {
		want = 2
	}
	if !slices.Contains(methods, want) {
		c.Write([]byte{5, 0xff})
		return
	}
	c.Write([]byte{5, want})
	if want == 2 {
		user := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(user)+":"+string(password) != p.login {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
	}
	how, host := "address ", ""
	switch head := read(4); head[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 4:
		host = net.IP(read(16)).String()
	case 3:
		how, host = "name ", string(read(int(read(1)[0])))
	}
	port := read(2)
	d, ok := p.dial(how, net.JoinHostPort(host, fmt.Sprint(int(port[0])<<8|int(port[1]))))
	if !ok {
		c.Write([]byte{5, 2, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	c.Write([]byte{5, 0, 0, 3, 4, 'n', 'a', 'm', 'e', 1, 2})
	join(c, r, d)
}

func (p *testProxy) dial(how, address string) (net.Conn, bool) {
	p.mu.Lock()
	p.asked = append(p.asked, how+address)
	host, port, _ := net.SplitHostPort(address)
	if to, ok := p.names[host]; ok {
		address = to
	}
	p.mu.Unlock()
	if port == "1" {
		return nil, false
	}
	d, err := net.Dial("tcp", address)
	if err != nil {
		return nil, false
	}
	p.keep(d)
	return d, true
}

func join(c net.Conn, r io.Reader, d net.Conn) {
	defer d.Close()
	go func() {
		io.Copy(d, r)
		d.Close()
	}()
	io.Copy(c, d)
}

// testTLS is a certificate for 127.0.0.1 and example.com, and who trusts it.
func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: pool}
}

// serveTLS serves h a second time, with TLS.
func (h *host) serveTLS(t testing.TB, conf *tls.Config) (addr string) {
	t.Helper()
	web := httptest.NewUnstartedServer(h.Server)
	web.Config, web.TLS = h.HTTPServer(), conf
	web.StartTLS()
	t.Cleanup(web.Close)
	return web.Listener.Addr().String()
}

func through(t testing.TB, cfg *tunnel.Config, proxy string) *tunnel.Config {
	t.Helper()
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Proxy = func(*url.URL) (*url.URL, error) { return u, nil }
	return cfg
}

// A tunnel goes through each kind of proxy, for ws:// and for wss://, and the name of the server is the
// proxy's to find, which is the only one that could.
func TestProxies(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	for _, kind := range []struct {
		name, scheme, login, asked string
		tls                        bool
	}{
		{name: "HTTP", scheme: "http", asked: "CONNECT "},
		{name: "HTTP with a login", scheme: "http", login: "me:p@ss:word", asked: "CONNECT "},
		{name: "HTTPS", scheme: "https", tls: true, asked: "CONNECT "},
		{name: "HTTPS with a login", scheme: "https", login: "me:", tls: true, asked: "CONNECT "},
		{name: "SOCKS", scheme: "socks5h", asked: "name "},
		{name: "SOCKS with a login", scheme: "socks5h", login: "me:p@ss:word", asked: "name "},
	} {
		for _, scheme := range []string{"ws", "wss"} {
			t.Run(kind.name+" to "+scheme, func(t *testing.T) {
				h := newTestHost(t, func(s *tunnel.Server) { s.ResumeFor = time.Minute })
				var conf *tls.Config
				if kind.tls {
					conf = serverTLS
				}
				p := newTestProxy(t, kind.login, conf)
				target, port := h.addr, "80"
				if scheme == "wss" {
					target, port = h.serveTLS(t, serverTLS), "443"
				}
				p.names["example.com"] = target
				u := url.URL{Scheme: kind.scheme, Host: p.addr}
				if name, password, ok := strings.Cut(kind.login, ":"); ok {
					u.User = url.UserPassword(name, password)
				}
				cfg := through(t, h.config(), u.String())
				cfg.TLS, cfg.ProxyTLS = clientTLS, clientTLS
				dialled := make(chan string, 8)
				cfg.NetDial = func(ctx context.Context, network, address string) (net.Conn, error) {
					dialled <- address
					return new(net.Dialer).DialContext(ctx, network, address)
				}
				tun, err := tunnel.Dial(t.Context(), scheme+"://example.com/wax", cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer tun.Close()
				if _, err := tun.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
				want := kind.asked + "example.com:" + port
				if got := p.takeAsked(); !slices.Equal(got, []string{want}) {
					t.Errorf("the proxy was asked for %q, want %q once", got, want)
				}
				if at := <-dialled; at != p.addr {
					t.Errorf("dialled %s, want the proxy %s and nobody else", at, p.addr)
				}
				p.cut() // and the next connection goes the same way
				if _, err := tun.Ping(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := p.takeAsked(); !slices.Contains(got, want) {
					t.Errorf("to resume, the proxy was asked for %q, want %q", got, want)
				}
			})
		}
	}
}

// socks5:// is for those who do not want the proxy to see names.
func TestProxyGetsAddresses(t *testing.T) {
	h := newTestHost(t, nil)
	p := newTestProxy(t, "", nil)
	_, port, _ := net.SplitHostPort(h.addr)
	tun, err := tunnel.Dial(t.Context(), "ws://localhost:"+port+"/wax", through(t, h.config(), "socks5://"+p.addr))
	if err != nil {
		t.Fatal(err)
	}
	tun.Close()
	if got, want := p.takeAsked(), "address 127.0.0.1:"+port; !slices.Equal(got, []string{want}) {
		t.Errorf("the proxy was asked for %q, want %q", got, want)
	}
}

// No URL of a proxy, no proxy: and Proxy is asked with the URL that is dialled.
func TestProxyOfSome(t *testing.T) {
	h := newTestHost(t, nil)
	cfg := h.config()
	var asked []string
	cfg.Proxy = func(u *url.URL) (*url.URL, error) {
		asked = append(asked, u.String())
		return nil, nil
	}
	tun, err := tunnel.Dial(t.Context(), h.url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	tun.Close()
	if !slices.Equal(asked, []string{h.url}) {
		t.Errorf("asked for the proxy of %q, want %q", asked, h.url)
	}
	broken := errors.New("broken")
	cfg.Proxy = func(*url.URL) (*url.URL, error) { return nil, broken }
	if _, err := tunnel.Dial(t.Context(), h.url, cfg); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// Whatever is wrong with a proxy is told as the proxy's fault, without the login in it.
func TestProxyErrors(t *testing.T) {
	h := newTestHost(t, nil)
	serverTLS, _ := testTLS(t)
	open, closed := newTestProxy(t, "", nil), newTestProxy(t, "me:right", nil)
	secure := newTestProxy(t, "", serverTLS)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	// scripted answers whatever it is asked, once.
	scripted := func(answer string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		t.Cleanup(func() { l.Close(); serving.Wait() })
		serving.Go(func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			c.Read(make([]byte, 1))
			io.WriteString(c, answer)
			io.Copy(io.Discard, c)
		})
		return l.Addr().String()
	}
	hints := strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("x", 1000)+"\r\n\r\n", 32)
	tests := []struct {
		name, proxy, target string
		want                tunnel.ProxyError // Proxy and Err apart
		err                 string            // what Err's text has in it, "" if Err is nil
	}{
		{"nobody there", "http://me:secret@" + nobody, "", tunnel.ProxyError{}, "refused"},
		{"no login", "http://" + closed.addr, "", tunnel.ProxyError{Reached: true, Login: true, Schemes: []string{"Basic", "Negotiate"}, Text: "407 Proxy Authentication Required"}, ""},
		{"a wrong password", "http://me:secret@" + closed.addr, "", tunnel.ProxyError{Reached: true, Login: true, Schemes: []string{"Basic", "Negotiate"}, Text: "407 Proxy Authentication Required"}, ""},
		{"no login for SOCKS", "socks5h://" + closed.addr, "", tunnel.ProxyError{Reached: true, Login: true, Text: "no acceptable method"}, ""},
		{"a wrong password for SOCKS", "socks5h://me:secret@" + closed.addr, "", tunnel.ProxyError{Reached: true, Login: true, Text: "name or password refused"}, ""},
		{"the target is refused", "http://" + open.addr, "ws://127.0.0.1:1/wax", tunnel.ProxyError{Reached: true, Text: "502 Bad Gateway"}, ""},
		{"the target is refused by SOCKS", "socks5h://" + open.addr, "ws://127.0.0.1:1/wax", tunnel.ProxyError{Reached: true, Text: "not allowed by its rules"}, ""},
		{"an unknown authority", "https://" + secure.addr, "", tunnel.ProxyError{Reached: true}, "x509"},
		{"https:// to a proxy without TLS", "https://" + open.addr, "", tunnel.ProxyError{Reached: true}, "TLS"},
		{"not HTTP", "http://" + scripted("SSH-2.0-x\r\n\r\n"), "", tunnel.ProxyError{Reached: true}, "malformed"},
		{"not SOCKS", "socks5h://" + scripted("HTTP/1.1 400 Bad Request\r\n\r\n"), "", tunnel.ProxyError{Reached: true}, "SOCKS 5"},
		{"a method that was not offered", "socks5h://" + scripted("\x05\x02"), "", tunnel.ProxyError{Reached: true}, "not offered"},
		{"an unknown SOCKS failure", "socks5h://" + scripted("\x05\x00\x05\x77\x00\x01"), "", tunnel.ProxyError{Reached: true, Text: "failure 119"}, ""},
		{"an unknown kind of address", "socks5h://" + scripted("\x05\x00\x05\x00\x00\x09"), "", tunnel.ProxyError{Reached: true}, "kind of address"},
		{"an endless head", "http://" + scripted("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 40000)), "", tunnel.ProxyError{Reached: true}, "too large"},
		{"endless hints", "http://" + scripted(hints), "", tunnel.ProxyError{Reached: true}, "too large"},
		{"more than the answer", "http://" + scripted("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101"), "", tunnel.ProxyError{Reached: true}, "after its answer"},
		{"silence", "http://" + scripted(""), "", tunnel.ProxyError{Reached: true}, "deadline"},
		{"silence for SOCKS", "socks5h://" + scripted(""), "", tunnel.ProxyError{Reached: true}, "deadline"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := through(t, h.config(), test.proxy)
			cfg.HandshakeTimeout = 10 * time.Second
			if test.err == "deadline" {
				cfg.HandshakeTimeout = 100 * time.Millisecond
			}
			target := test.target
			if target == "" {
				target = h.url
			}
			tun, err := tunnel.Dial(t.Context(), target, cfg)
			if err == nil {
				tun.Close()
				t.Fatal("it got through")
			}
			var pe *tunnel.ProxyError
			if !errors.As(err, &pe) {
				t.Fatalf("got %v, want a ProxyError", err)
			}
			u, _ := url.Parse(test.proxy)
			got := *pe
			got.Proxy, got.Err = "", nil
			if fmt.Sprint(got) != fmt.Sprint(test.want) || pe.Proxy != u.Host {
				t.Errorf("got %+v of %s, want %+v of %s", got, pe.Proxy, test.want, u.Host)
			}
			if (test.err != "") != (pe.Err != nil) || pe.Err != nil && !strings.Contains(pe.Err.Error(), test.err) {
				t.Errorf("its cause is %v, want %q", pe.Err, test.err)
			}
			if text := fmt.Sprintf("%v %+v", err, pe); strings.Contains(text, "secret") {
				t.Errorf("the password is in %q", text)
			}
		})
	}
	for _, proxy := range []string{"ftp://me:secret@127.0.0.1", "http://me:secret@", "//127.0.0.1"} {
		if _, err := tunnel.Dial(t.Context(), h.url, through(t, h.config(), proxy)); err == nil || !strings.Contains(err.Error(), "must be http://") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", proxy, err)
		}
	}
}

// What goes through a proxy is the same sealed WebSocket: neither the login nor anything else reaches the
// server that it should not have.
func TestProxyLoginStaysWithTheProxy(t *testing.T) {
	h := newTestHost(t, nil)
	p := newTestProxy(t, "me:secret", nil)
	var mu sync.Mutex
	var seen bytes.Buffer
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		d, err := net.Dial("tcp", h.addr)
		if err != nil {
			c.Close()
			return
		}
		join(c, io.TeeReader(c, writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return seen.Write(b)
		})), d)
		c.Close()
	})
	p.names["example.com"] = l.Addr().String()
	tun, err := tunnel.Dial(t.Context(), "ws://example.com/wax", through(t, h.config(), "http://me:secret@"+p.addr))
	if err != nil {
		t.Fatal(err)
	}
	tun.Close()
	mu.Lock()
	defer mu.Unlock()
	if !bytes.Contains(seen.Bytes(), []byte("GET /wax")) {
		t.Fatal("nothing was seen: this test does not do what it thinks")
	}
	for _, word := range []string{"Proxy-", "secret", base64.StdEncoding.EncodeToString([]byte("me:secret"))} {
		if bytes.Contains(seen.Bytes(), []byte(word)) {
			t.Errorf("the server got %q", word)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
