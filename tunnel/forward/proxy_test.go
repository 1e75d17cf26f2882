package forward_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// listenDynamic starts a dynamic forward.
func listenDynamic(t testing.TB, f *forward.Forwarder) string {
	t.Helper()
	l, err := forward.ParseDynamic("0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := f.Listen(l)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, f, ln)
	return ln.Local().Listen.Addr
}

// socksDial is a client of RFC 1928 and RFC 1929, written from them. It returns the reply of the server;
// the connection is good if that is 0.
func socksDial(t testing.TB, proxy string, command byte, address string, login ...string) (net.Conn, byte) {
	t.Helper()
	c := dial(t, "tcp", proxy)
	reply, err := socksAsk(c, command, address, login...)
	if err != nil {
		t.Fatal(err)
	}
	return c, reply
}

func socksAsk(c net.Conn, command byte, address string, login ...string) (byte, error) {
	// +----+----------+----------+
	// |VER | NMETHODS | METHODS  |
	// +----+----------+----------+
	method := byte(0)
	if len(login) > 0 {
		method = 2
	}
	c.Write([]byte{5, 2, 0x80, method})
	var chosen [2]byte
	if _, err := io.ReadFull(c, chosen[:]); err != nil {
		return 0, err
	}
	if chosen != [2]byte{5, method} {
		return 0, fmt.Errorf("method %v was chosen", chosen)
	}
	if len(login) > 0 {
		b := append([]byte{1, byte(len(login[0]))}, login[0]...)
		b = append(append(b, byte(len(login[1]))), login[1]...)
		c.Write(b)
		var status [2]byte
		if _, err := io.ReadFull(c, status[:]); err != nil {
			return 0, err
		}
		if status != [2]byte{1, 0} {
			return 0, fmt.Errorf("status %v", status)
		}
	}
	// +----+-----+-------+------+----------+----------+
	// |VER | CMD |  RSV  | ATYP | DST.ADDR | DST.PORT |
	// +----+-----+-------+------+----------+----------+
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	port, err := net.LookupPort("tcp", portText)
	if err != nil {
		return 0, err
	}
	b := []byte{5, command, 0}
	if a, err := netip.ParseAddr(host); err != nil {
		b = append(append(b, 3, byte(len(host))), host...)
	} else if a.Is4() {
		b = append(append(b, 1), a.AsSlice()...)
	} else {
		b = append(append(b, 4), a.AsSlice()...)
	}
	c.Write(append(b, byte(port>>8), byte(port)))
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, err
	}
	if head[0] != 5 || head[2] != 0 || head[3] != 1 {
		return 0, fmt.Errorf("reply %v", head)
	}
	_, err = io.ReadFull(c, make([]byte, 4+2))
	return head[1], err
}

// connectDial asks as a client of an HTTP proxy does, with further lines of the head.
func connectDial(t testing.TB, proxy, address string, lines ...string) (net.Conn, *http.Response) {
	t.Helper()
	c := dial(t, "tcp", proxy)
	io.WriteString(c, "CONNECT "+address+" HTTP/1.1\r\nHost: "+address+"\r\n"+strings.Join(append(lines, "\r\n"), "\r\n"))
	r, err := http.ReadResponse(bufio.NewReader(iotest{c}), &http.Request{Method: "CONNECT"})
	if err != nil {
		t.Fatal(err)
	}
	return c, r
}

// iotest reads a byte at a time: what comes after an answer stays where it is.
type iotest struct{ r io.Reader }

func (o iotest) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

// Both protocols on one port, to targets of all forms; names are resolved at the far end.
func TestDynamic(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", echo)
	port := to.(*net.TCPAddr).Port
	exit := &forward.Exit{
		Resolver: &resolver{answers: map[string][][]netip.Addr{"db.internal": {addrs("192.0.2.7")}}},
		Dial: func(_ context.Context, network, addr string) (net.Conn, error) {
			return net.Dial("tcp", to.String())
		},
	}
	p := newPair(t, exit, "connect=192.0.2.0/24:*", fmt.Sprintf("connect=127.0.0.1:%d", port), "connect=[2001:db8::1]:443")
	ev := make(events, 10)
	f := &forward.Forwarder{Dialer: p, Events: func(e forward.Event) { ev <- e }}
	proxy := listenDynamic(t, f)
	for _, address := range []string{to.String(), "192.0.2.9:65535", "db.internal:5432", "[2001:db8::1]:443"} {
		for _, how := range []string{"socks", "connect"} {
			t.Run(how+" "+address, func(t *testing.T) {
				var c net.Conn
				if how == "socks" {
					var reply byte
					if c, reply = socksDial(t, proxy, 1, address); reply != 0 {
						t.Fatalf("reply %d", reply)
					}
				} else {
					var r *http.Response
					if c, r = connectDial(t, proxy, address); r.StatusCode != 200 {
						t.Fatalf("status %s", r.Status)
					}
				}
				roundTrip(t, c, "hello")
				c.(halfCloser).CloseWrite()
				if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
					t.Errorf("at the end: got %q, %v", got, err)
				}
				if e := ev.next(t, forward.Opened); e.Local.Target.Addr != address || e.Local.Listen.Addr != proxy {
					t.Errorf("event: %+v", e)
				}
				if e := ev.next(t, forward.Closed); e.Err != nil || e.In != 5 || e.Out != 5 || e.Local.Target.Addr != address {
					t.Errorf("event: %+v; want 5 bytes each way", e)
				}
			})
		}
	}
	if got, want := f.Stats(), (forward.Stats{Total: 8, In: 40, Out: 40}); got != want {
		t.Errorf("Stats: %+v, want %+v", got, want)
	}
}

// What comes together with a request is the first of the data, and is not lost.
func TestDynamicEarlyData(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	p := newPair(t, &forward.Exit{}, "connect="+to)
	proxy := listenDynamic(t, &forward.Forwarder{Dialer: p})
	port := netip.MustParseAddrPort(to).Port()
	for name, request := range map[string]string{
		"socks":   "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01" + string([]byte{byte(port >> 8), byte(port)}),
		"connect": "CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, "tcp", proxy)
			io.WriteString(c, request+"early")
			c.(halfCloser).CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || !strings.HasSuffix(string(got), "early") || strings.Count(string(got), "early") != 1 {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// What the far end could not do arrives as the codes and statuses of the two protocols.
func TestDynamicRefused(t *testing.T) {
	tests := []struct {
		err    error // of the dial
		reply  byte
		status int
		text   string
	}{
		{syscall.ECONNREFUSED, 5, 502, "connection refused"},
		{syscall.ENETUNREACH, 3, 502, "no route to host"},
		{context.DeadlineExceeded, 4, 504, "no answer in time"},
		{syscall.EMFILE, 1, 503, "too many open files there"},
	}
	var dialErr error
	exit := &forward.Exit{Resolver: &resolver{}, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: dialErr}
	}}
	p := newPair(t, exit, "connect=192.0.2.1:80", "connect=gone.example:80")
	ev := make(events, 10)
	proxy := listenDynamic(t, &forward.Forwarder{Dialer: p, Events: func(e forward.Event) { ev <- e }})
	check := func(t *testing.T, address string, reply byte, status int, text string) {
		t.Helper()
		c, got := socksDial(t, proxy, 1, address)
		if got != reply {
			t.Errorf("SOCKS reply %d, want %d", got, reply)
		}
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("after the reply: %q, %v; want its end", rest, err)
		}
		if e := ev.next(t, forward.Refused); e.Local.Target.Addr != address {
			t.Errorf("event: %+v", e)
		}
		_, r := connectDial(t, proxy, address)
		body, err := io.ReadAll(r.Body)
		if r.StatusCode != status || err != nil || !strings.Contains(string(body), text) {
			t.Errorf("HTTP status %s, %q, %v; want %d: %s", r.Status, body, err, status, text)
		}
		ev.next(t, forward.Refused)
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			dialErr = tt.err
			check(t, "192.0.2.1:80", tt.reply, tt.status, tt.text)
		})
	}
	t.Run("not allowed", func(t *testing.T) {
		check(t, "192.0.2.2:80", 2, 403, "laptop may connect to 192.0.2.1:80, gone.example:80")
	})
	t.Run("no such host", func(t *testing.T) { check(t, "gone.example:80", 4, 502, "no such host") })
}

// While there is no tunnel a program waits, and is then told that nothing came of it.
func TestDynamicNoTunnel(t *testing.T) {
	proxy := listenDynamic(t, &forward.Forwarder{Dialer: &absent{}, Wait: 20 * time.Millisecond})
	if _, reply := socksDial(t, proxy, 1, "192.0.2.1:80"); reply != 4 {
		t.Errorf("SOCKS reply %d, want 4", reply)
	}
	if _, r := connectDial(t, proxy, "192.0.2.1:80"); r.StatusCode != 504 {
		t.Errorf("HTTP status %s, want 504", r.Status)
	}
}

// hangingTunnel has a far end that never decides about a stream.
func TestDynamicNoVerdict(t *testing.T) {
	hang := make(chan struct{})
	exit := &forward.Exit{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-hang
		return nil, errNotDialled
	}}
	p := newPair(t, exit, "connect=192.0.2.1:80")
	proxy := listenDynamic(t, &forward.Forwarder{Dialer: p, Wait: 50 * time.Millisecond})
	if _, reply := socksDial(t, proxy, 1, "192.0.2.1:80"); reply != 4 {
		t.Errorf("reply %d, want 4", reply)
	}
	close(hang)
}

// Requests, each with the answer it gets and what is made of it.
var proxyRequests = []struct {
	name, request string
	answer        string // what it begins with; "" for none at all
	target        string // "" if there is none
	auth          bool
}{
	{name: "ipv4", request: "\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", answer: "\x05\x00", target: "192.0.2.1:80"},
	{name: "ipv6", request: "\x05\x01\x00\x05\x01\x00\x04 \x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\xbb", answer: "\x05\x00", target: "[2001:db8::1]:443"},
	{name: "mapped", request: "\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x50", answer: "\x05\x00", target: "127.0.0.1:80"},
	{name: "name", request: "\x05\x02\x01\x00\x05\x01\x00\x03\x0bDB.Internal\x15\x38", answer: "\x05\x00", target: "db.internal:5432"},
	{name: "bind", request: "\x05\x01\x00\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50", answer: "\x05\x00\x05\x07"},
	{name: "udp", request: "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", answer: "\x05\x00\x05\x07"},
	{name: "address type", request: "\x05\x01\x00\x05\x01\x00\x02\xc0\x00\x02\x01\x00\x50", answer: "\x05\x00\x05\x08"},
	{name: "port 0", request: "\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x00", answer: "\x05\x00\x05\x01"},
	{name: "number for a name", request: "\x05\x01\x00\x05\x01\x00\x03\x0a2130706433\x00\x50", answer: "\x05\x00\x05\x04"},
	{name: "line in a name", request: "\x05\x01\x00\x05\x01\x00\x03\x03a\nb\x00\x50", answer: "\x05\x00\x05\x04"},
	{name: "empty name", request: "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", answer: "\x05\x00\x05\x04"},
	{name: "reserved", request: "\x05\x01\x00\x05\x01\x01\x01\xc0\x00\x02\x01\x00\x50", answer: "\x05\x00\x05\x01"},
	{name: "no method", request: "\x05\x01\x01\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", answer: "\x05\xff"},
	{name: "no methods", request: "\x05\x00", answer: "\x05\xff"},
	{name: "cut short", request: "\x05\x01\x00\x05\x01\x00\x01\xc0", answer: "\x05\x00"},
	{name: "socks login", request: "\x05\x02\x00\x02\x01\x04user\x06secret\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", auth: true, answer: "\x05\x02\x01\x00", target: "192.0.2.1:80"},
	{name: "socks wrong login", request: "\x05\x01\x02\x01\x04user\x06secreT\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", auth: true, answer: "\x05\x02\x01\x01"},
	{name: "socks without login", request: "\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50", auth: true, answer: "\x05\xff"},

	{name: "socks4", request: "\x04\x01\x00\x50\xc0\x00\x02\x01\x00"},
	{name: "tls", request: "\x16\x03\x01\x02\x00"},
	{name: "ssh", request: "SSH-2.0-x\r\n"},
	{name: "get", request: "GET http://192.0.2.1/ HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n"},
	{name: "post", request: "POST / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n\r\n"},
	{name: "lower case", request: "connect db:80 HTTP/1.1\r\nHost: db:80\r\n\r\n"},
	{name: "another C", request: "COPY /a HTTP/1.1\r\nHost: db\r\n\r\n"},
	{name: "C alone", request: "C"},

	{name: "connect", request: "CONNECT Db:80 HTTP/1.1\r\nHost: dB:80\r\nUser-Agent: x\r\n\r\n", target: "db:80"},
	{name: "connect ipv6", request: "CONNECT [2001:DB8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n", target: "[2001:db8::1]:443"},
	{name: "connect 1.0", request: "CONNECT db:80 HTTP/1.0\r\n\r\n", target: "db:80"},
	{name: "host without port", request: "CONNECT db:80 HTTP/1.1\r\nHost: db\r\nContent-Length: 0\r\n\r\n", target: "db:80"},
	{name: "no host", request: "CONNECT db:80 HTTP/1.1\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "another host", request: "CONNECT db:80 HTTP/1.1\r\nHost: rebind.example:80\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "another port", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:81\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "two hosts", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nhost: db:80\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "origin", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nOrigin: https://evil.example\r\n\r\n", answer: "HTTP/1.1 403 "},
	{name: "empty origin", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\noRIGIN:\r\n\r\n", answer: "HTTP/1.1 403 "},
	{name: "sec-fetch-site", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nSec-Fetch-Site: none\r\n\r\n", answer: "HTTP/1.1 403 "},
	{name: "content", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nContent-Length: 5\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "chunked", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nTransfer-Encoding: chunked\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "path", request: "CONNECT /run/db.sock HTTP/1.1\r\nHost: /run/db.sock\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "url", request: "CONNECT http://db:80/ HTTP/1.1\r\nHost: db:80\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "user", request: "CONNECT a@db:80 HTTP/1.1\r\nHost: a@db:80\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "no port", request: "CONNECT db HTTP/1.1\r\nHost: db\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "http 2", request: "CONNECT db:80 HTTP/2.0\r\nHost: db:80\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "bare line feeds", request: "CONNECT db:80 HTTP/1.1\nHost: db:80\n\n", answer: "HTTP/1.1 400 "},
	{name: "continued line", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nX: a\r\n b: c\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "space before colon", request: "CONNECT db:80 HTTP/1.1\r\nHost : db:80\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "zero byte", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nX: \x00\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "two spaces", request: "CONNECT  db:80 HTTP/1.1\r\nHost: db:80\r\n\r\n", answer: "HTTP/1.1 400 "},
	{name: "one long line", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n", answer: "HTTP/1.1 431 "},
	{name: "many lines", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\n" + strings.Repeat("X: y\r\n", 2000) + "\r\n", answer: "HTTP/1.1 431 "},
	{name: "connect login", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nProxy-Authorization: basic dXNlcjpzZWNyZXQ=\r\n\r\n", auth: true, target: "db:80"},
	{name: "connect wrong login", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nProxy-Authorization: Basic dXNlcjpzZWNyZVQ=\r\n\r\n", auth: true, answer: "HTTP/1.1 407 "},
	{name: "connect without login", request: "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\n\r\n", auth: true, answer: "HTTP/1.1 407 "},
}

// userSecret is an authorizer.
func userSecret(user, password string) bool { return user == "user" && password == "secret" }

// wire is one end of a connection: what the program says, and what it is told.
type wire struct {
	io.Reader
	said bytes.Buffer
	read int
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.read += n
	return n, err
}

func (w *wire) Write(p []byte) (int, error) { return w.said.Write(p) }

func authorizerOf(auth bool) func(string, string) bool {
	if auth {
		return userSecret
	}
	return nil
}

// Each request arrives in one piece, and in pieces of one byte.
func TestProxyRequests(t *testing.T) {
	for _, tt := range proxyRequests {
		for _, piece := range []int{1 << 20, 1} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, piece), func(t *testing.T) {
				var r io.Reader = strings.NewReader(tt.request)
				if piece == 1 {
					r = iotest{r}
				}
				w := &wire{Reader: r}
				got, _, err := forward.ReadProxyRequest(w, authorizerOf(tt.auth))
				if got.Addr != tt.target || (err == nil) != (tt.target != "") {
					t.Errorf("got %v, %v; want %q", got, err, tt.target)
				}
				if said := w.said.String(); !strings.HasPrefix(said, tt.answer) || tt.answer == "" && said != "" {
					t.Errorf("answered %q, want %q", said, tt.answer)
				}
				if w.read > forward.MaxProxyHead {
					t.Errorf("read %d bytes, want %d at most", w.read, forward.MaxProxyHead)
				}
			})
		}
	}
}

// The head may be so long, and a byte more not.
func TestProxyHeadLimit(t *testing.T) {
	head := "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\nX: "
	for over := range 2 {
		request := head + strings.Repeat("x", forward.MaxProxyHead-len(head)-4+over) + "\r\n\r\n"
		w := &wire{Reader: strings.NewReader(request)}
		if _, _, err := forward.ReadProxyRequest(w, nil); (err == nil) != (over == 0) {
			t.Errorf("a head of %d bytes: %v", len(request), err)
		}
	}
}

// Whatever a program says, nothing breaks; what is made of it is a target that the other end can be
// asked for, and what is answered is one of a few things.
func FuzzProxyRequest(f *testing.F) {
	for _, tt := range proxyRequests {
		f.Add([]byte(tt.request), tt.auth)
	}
	f.Fuzz(func(t *testing.T, request []byte, auth bool) {
		w := &wire{Reader: bytes.NewReader(request)}
		target, rest, err := forward.ReadProxyRequest(w, authorizerOf(auth))
		said := w.said.Bytes()
		if w.read > forward.MaxProxyHead || len(said) > 4096 {
			t.Fatalf("read %d bytes, answered %d", w.read, len(said))
		}
		if len(request) > 0 && request[0] != 5 && !bytes.HasPrefix(request, []byte("CONNECT ")) && len(said) > 0 {
			t.Fatalf("answered %q", said)
		}
		if err != nil {
			if target != (forward.Address{}) || len(rest) > 0 {
				t.Fatalf("got %v, %q with %v", target, rest, err)
			}
			return
		}
		if again, err := forward.ParseTarget(target.Addr); err != nil || again != target || target.Network != "tcp" {
			t.Fatalf("target %+v: read again it is %+v, %v", target, again, err)
		}
		if !bytes.HasSuffix(request[:w.read], rest) {
			t.Fatalf("what came after it is %q", rest)
		}
	})
}

// A program that is slow to say what it wants, or says what nobody understands, is closed without a word.
func TestDynamicClosed(t *testing.T) {
	ev := make(events, 10)
	f := &forward.Forwarder{Dialer: &absent{}, Events: func(e forward.Event) { ev <- e }}
	const limit = 2 * time.Second
	forward.SetProxyTimeout(f, limit)
	proxy := listenDynamic(t, f)
	start := time.Now()
	slow := dial(t, "tcp", proxy)
	for _, request := range []string{"GET / HTTP/1.1\r\nHost: " + proxy + "\r\nOrigin: https://evil.example\r\n\r\n", "\x04\x01", "Capital letter"} {
		c := dial(t, "tcp", proxy)
		io.WriteString(c, request)
		if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
			t.Errorf("%q: got %q, %v; want nothing", request, got, err)
		}
		c.Close()
		ev.next(t, forward.Unclear)
	}
	io.WriteString(slow, "\x05\x01")
	if got, err := io.ReadAll(slow); err != nil || len(got) > 0 {
		t.Errorf("slow: got %q, %v", got, err)
	}
	if took := time.Since(start); took < limit {
		t.Errorf("it was closed after %v", took)
	}
	slow.Close()
	if e := ev.next(t, forward.Unclear); !errors.Is(e.Err, os.ErrDeadlineExceeded) {
		t.Errorf("event: %v", e.Err)
	}
}

// net/http as the client, with and without a login.
func TestDynamicHTTPClient(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	}).String()
	p := newPair(t, &forward.Exit{}, "connect="+to)
	proxy := listenDynamic(t, &forward.Forwarder{Dialer: p, Authorize: userSecret})
	for user, want := range map[string]string{"user:secret@": "hello", "user:wrong@": "", "": ""} {
		tr := &http.Transport{DisableKeepAlives: true, Proxy: func(*http.Request) (*url.URL, error) { return url.Parse("socks5h://" + user + proxy) }}
		got := ""
		if r, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://" + to); err == nil {
			b, _ := io.ReadAll(r.Body)
			r.Body.Close()
			got = string(b)
		}
		if got != want {
			t.Errorf("login %q: got %q, want %q", user, got, want)
		}
	}
}

func TestDynamicLostTunnel(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", func(c net.Conn) { io.Copy(io.Discard, c) }).String()
	p := newPair(t, &forward.Exit{}, "connect="+to)
	proxy := listenDynamic(t, &forward.Forwarder{Dialer: p})
	c, reply := socksDial(t, proxy, 1, to)
	if reply != 0 {
		t.Fatalf("reply %d", reply)
	}
	p.server.CloseWith(tunnel.GoingAway, "")
	wantReset(t, c)
}

// The time to say what is wanted does not count for what comes afterwards.
func TestDynamicLater(t *testing.T) {
	to := target(t, "tcp", "127.0.0.1:0", echo).String()
	f := &forward.Forwarder{Dialer: newPair(t, &forward.Exit{}, "connect="+to)}
	const limit = 200 * time.Millisecond
	forward.SetProxyTimeout(f, limit)
	c, reply := socksDial(t, listenDynamic(t, f), 1, to)
	if reply != 0 {
		t.Fatalf("reply %d", reply)
	}
	<-time.After(2 * limit)
	roundTrip(t, c, "later")
}

// A program that has said more than is read gets the answer all the same: a reset does not overtake it.
func TestDynamicAnswerArrives(t *testing.T) {
	proxy := listenDynamic(t, &forward.Forwarder{Dialer: &absent{}, Wait: time.Millisecond})
	for range 20 {
		c := dial(t, "tcp", proxy)
		io.WriteString(c, "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\n\r\n"+strings.Repeat("x", 3*forward.MaxProxyHead))
		<-time.After(5 * time.Millisecond) // the answer, and what would come after it, are here
		if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 504 ") {
			t.Fatalf("got %q, %v", got, err)
		}
		c.Close()
	}
}
