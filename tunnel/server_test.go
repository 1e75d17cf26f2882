package tunnel_test

import (
	"bytes"
	"crypto/ecdh"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// newHello makes a client's hello that is not sent yet.
func newHello(t testing.TB, id *keys.Identity, server keys.PublicKey, url string) string {
	t.Helper()
	hello, text, err := secure.NewHello(&secure.Config{Identity: id, Max: secure.DefaultMax}, server, url, (&session.Request{}).Append(nil), nil)
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

// stranger is a way to knock without being a client.
type stranger struct {
	name    string
	request func(h *host) string
}

func strangers(t *testing.T) []stranger {
	other := newTestIdentity(t)
	fields := func(spoil ...string) func(h *host) string {
		return func(h *host) string {
			s := upgrade(h.addr, newHello(t, h.client, h.serverKey(), h.url))
			return strings.NewReplacer(spoil...).Replace(s)
		}
	}
	return []stranger{
		{"another path", fields("GET /wax ", "GET /garbage%2f..?x=y ")},
		{"the path with a slash", fields("GET /wax ", "GET /wax/ ")},
		{"no upgrade", fields("Connection: Upgrade\r\nUpgrade: websocket\r\n", "")},
		{"POST", fields("GET ", "POST ")},
		{"a body", fields("Host:", "Content-Length: 2\r\nHost:", "\r\n\r\n", "\r\n\r\nhi")},
		{"no hello", fields("Waxwire-Hello", "X-Hello")},
		{"a hello of one byte", func(h *host) string { return upgrade(h.addr, "AA") }},
		{"a hello of zeros", func(h *host) string { return upgrade(h.addr, strings.Repeat("A", 2242)) }},
		{"a random hello", func(h *host) string { return junkHello(h.addr) }},
		{"another pattern", func(h *host) string {
			return upgrade(h.addr, "Ag"+newHello(t, h.client, h.serverKey(), h.url)[2:])
		}},
		{"two hellos", func(h *host) string {
			hello := newHello(t, h.client, h.serverKey(), h.url)
			return upgrade(h.addr, hello, "Waxwire-Hello: "+hello)
		}},
		{"a hello to another key", func(h *host) string {
			return upgrade(h.addr, newHello(t, h.client, other.Public(), h.url))
		}},
		{"an Origin", fields("Upgrade: websocket\r\n", "Upgrade: websocket\r\nOrigin: https://evil.example\r\n")},
		{"the Origin of this Host", fields("Upgrade: websocket\r\n", "Upgrade: websocket\r\nOrigin: http://127.0.0.1\r\n")},
		{"Origin: null", fields("Upgrade: websocket\r\n", "Upgrade: websocket\r\nOrigin: null\r\n")},
		{"an empty Origin", fields("Upgrade: websocket\r\n", "Upgrade: websocket\r\nOrigin:\r\n")},
		{"a foreign Host", fields("Host: 127.0.0.1", "Host: rebind.example")},
		{"another version of WebSocket", fields("Version: 13", "Version: 12")},
		{"another subprotocol", fields("waxwire.1", "waxwire.2")},
		{"h2c", fields("Upgrade: websocket", "Upgrade: h2c")},
	}
}

// PROTOCOL.md §2.9, §2.12: strangers get what any path that does not exist gives, byte for byte.
func TestStrangersGetA404(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) {
		unlimited(s)
		s.Hosts = []string{"127.0.0.1"}
	})
	var upgraded, plain string
	for _, s := range strangers(t) {
		t.Run(s.name, func(t *testing.T) {
			c := rawDial(t, h.addr)
			request := s.request(h)
			io.WriteString(c, request)
			if !strings.Contains(request, "\r\nUpgrade:") {
				c.(*net.TCPConn).CloseWrite()
			}
			b, err := io.ReadAll(c) // to the end: the connection is closed
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			got := regexp.MustCompile(`Date: [^\r]*\r\n`).ReplaceAllString(string(b), "")
			want := &plain
			if strings.Contains(request, "\r\nUpgrade:") {
				want = &upgraded
			}
			if *want == "" {
				*want = got
			}
			if got != *want || !strings.HasPrefix(got, "HTTP/1.1 404 Not Found\r\n") {
				t.Errorf("got %q, want %q", got, *want)
			}
		})
	}
	const body = "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
	if want := "HTTP/1.1 404 Not Found\r\nCache-Control: no-store\r\nConnection: close\r\n" + body + "Content-Length: 19\r\n\r\n404 page not found\n"; sortedHead(upgraded) != sortedHead(want) {
		t.Errorf("an upgrade was answered %q, want %q", upgraded, want)
	}
	if want := "HTTP/1.1 404 Not Found\r\n" + body + "Content-Length: 19\r\n\r\n404 page not found\n"; sortedHead(plain) != sortedHead(want) {
		t.Errorf("a request was answered %q, want %q", plain, want)
	}
	h.dial(t) // and a client gets in
}

func sortedHead(answer string) string {
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n") + body
}

// A hello that was recorded on its way opens nothing, neither while its connection lasts nor after.
// PROTOCOL.md §2.18.
func TestReplayedHello(t *testing.T) {
	h := newTestHost(t, unlimited)
	var mu sync.Mutex
	var request string
	relay := &tunneltest.Relay{Head: func(d tunneltest.Direction, head []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if d == tunneltest.ToServer {
			request = string(head)
		}
		return head
	}}
	client, err := tunnel.Dial(t.Context(), "ws://"+relay.Start(t, h.addr)+"/wax", h.config())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	replay := request
	mu.Unlock()
	bare := h.answer(t, junkHello(h.addr))
	for _, when := range []string{"while the first lasts", "after it"} {
		for range 3 {
			if got := h.answer(t, replay); got != bare {
				t.Errorf("%s the hello was answered %q, want %q", when, got, bare)
			}
		}
		if when == "while the first lasts" {
			client.Close()
			h.checkNobody(t)
		}
	}
	// A refused one is remembered too.
	refused := upgrade(h.addr, newHello(t, newTestIdentity(t), h.serverKey(), h.url))
	if got := h.answer(t, refused); !strings.Contains(got, "Waxwire-Hello") {
		t.Errorf("a hello of a key that is not enrolled was answered %q, want a sealed refusal", got)
	}
	if got := h.answer(t, refused); got != bare {
		t.Errorf("its repetition was answered %q, want %q", got, bare)
	}
}

// answer is all that comes back for a request, without the date.
func (h *host) answer(t testing.TB, request string) string {
	t.Helper()
	c := rawDial(t, h.addr)
	defer c.Close()
	io.WriteString(c, request)
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`Date: [^\r]*\r\n`).ReplaceAllString(string(b), "")
}

// Other protocols' first bytes, and junk, end soon, with an answer of HTTP at most, and leave nothing.
func TestForeignProtocols(t *testing.T) {
	h := newTestHost(t, unlimited)
	junk := make([]byte, 4096)
	crand.Read(junk)
	for name, first := range map[string]string{
		"the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"a TLS ClientHello":     "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + strings.Repeat("x", 160),
		"an SSH banner":         "SSH-2.0-OpenSSH_9.2p1\r\n",
		"random bytes":          string(junk) + "\r\n\r\n",
		"one byte":              "G",
		"nothing":               "",
		"a head of 64 KiB":      "GET /wax HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, h.addr)
			io.WriteString(c, first)
			c.(*net.TCPConn).CloseWrite()
			b, err := io.ReadAll(c)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("it did not end: %v", err)
			}
			if s := string(b); s != "" && !strings.HasPrefix(s, "HTTP/1.1 4") {
				t.Errorf("got %q", s)
			}
			if strings.Contains(strings.ToLower(string(b)), "wax") {
				t.Errorf("the answer tells what is here: %q", b)
			}
		})
	}
	h.dial(t)
}

// Who does not finish its head is not waited for. In fake time.
func TestSlowHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newMemoryHost(t, nil)
		c, err := h.netDial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		begin := time.Now()
		go io.Copy(io.Discard, c)
		for {
			if _, err := c.Write([]byte("G")); err != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("a head that never ends was read for %v, want 5 s", took)
		}
	})
}

// knock upgrades as the enrolled client and returns the connection, on which nothing has been sent yet,
// and the keys to seal with.
func knock(t *testing.T, h *host, static *ecdh.PrivateKey) *socket {
	t.Helper()
	s, _ := dialStranger(t, h.addr, "", h.serverKey(), static, 3)
	return s
}

// What a client may do wrong between its hello and its first record. It ends at once or by the
// deadline; nothing is accepted, no record of the server's is sent before. PROTOCOL.md §4.5, §4.6.
func TestFirstRecord(t *testing.T) {
	static := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(crand.Reader))
	const confirmTimeout = 400 * time.Millisecond
	h := newTestHost(t, func(s *tunnel.Server) {
		unlimited(s)
		s.Path = ""
		s.Limits.ConfirmTimeout = confirmTimeout
	})
	h.peers.Add(keys.Peer{Name: "static", Key: keys.PublicKey(static.PublicKey().Bytes())})
	flood := func(opcode byte, n int) func(*socket) {
		return func(s *socket) {
			for range n {
				s.Write([]byte{0x80 | opcode, 0x81, 0, 0, 0, 0, 'x'})
			}
		}
	}
	tests := []struct {
		name   string
		do     func(s *socket)
		within time.Duration
		close  bool // a sealed CLOSE 2 is sent
	}{
		{"silence", func(*socket) {}, confirmTimeout, false},
		{"EOF", func(s *socket) { s.Conn.(*net.TCPConn).CloseWrite() }, 0, false},
		{"a WebSocket close", func(s *socket) { s.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 3, 0xe8}) }, 0, false},
		{"a text message", func(s *socket) { s.frame(1, []byte("hello")) }, 0, false},
		{"a text message that is a record", func(s *socket) { s.frame(1, s.out.seal([]byte("\x0412345678"))) }, 0, false},
		{"a message that does not open", func(s *socket) { s.frame(2, make([]byte, 40)) }, 0, false},
		{"an empty message", func(s *socket) { s.frame(2, nil) }, 0, false},
		{"CLOSE", func(s *socket) { s.send([]byte{2, 0, 0}) }, 0, false},
		{"REKEY", func(s *socket) { s.send([]byte{3}) }, 0, true},
		{"PONG", func(s *socket) { s.send([]byte("\x0512345678")) }, 0, true},
		{"RENEW1", func(s *socket) { s.send([]byte{6}) }, 0, true},
		{"an unknown type", func(s *socket) { s.send([]byte{0x7f}) }, 0, true},
		{"an empty record", func(s *socket) { s.send(nil) }, 0, true},
		{"4097 bytes", func(s *socket) { s.send(make([]byte, 4097-16)) }, 0, false},
		{"192 MiB announced", func(s *socket) {
			s.Write([]byte("\x82\xff\x00\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00"))
		}, 0, false},
		{"nine pings", flood(9, 9), 0, false},
		{"nine pongs", flood(10, 9), 0, false},
		{"eight pings, then silence", flood(9, 8), confirmTimeout, false},
		{"empty continuations without end", func(s *socket) {
			s.Write([]byte{0x02, 0x80, 0, 0, 0, 0})
			go func() {
				for {
					if _, err := s.Write([]byte{0x00, 0x80, 0, 0, 0, 0}); err != nil {
						return
					}
				}
			}()
		}, confirmTimeout, false},
		{"a byte at a time", func(s *socket) {
			s.Write([]byte{0x82, 0xfe, 0x0f, 0xff, 0, 0, 0, 0})
			go func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for range tick.C {
					if _, err := s.Write([]byte{0}); err != nil {
						return
					}
				}
			}()
		}, confirmTimeout, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := knock(t, h, static)
			defer s.Close()
			begin := time.Now()
			test.do(s)
			gotClose := false
			for {
				p, err := s.receive()
				if err != nil {
					if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) && !strings.Contains(err.Error(), "frame that begins with 8a") {
						t.Errorf("the end was %v", err)
					}
					if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
						break
					}
					continue
				}
				if gotClose || !test.close || string(p[:3]) != "\x02\x00\x02" {
					t.Errorf("the server sent the record %x", p)
				}
				gotClose = true
			}
			if gotClose != test.close {
				t.Errorf("a sealed CLOSE came: %v, want %v", gotClose, test.close)
			}
			if took := time.Since(begin); took > test.within+time.Second || took < test.within-100*time.Millisecond {
				t.Errorf("it took %v, want %v", took, test.within)
			}
		})
	}
	t.Cleanup(func() { // after the parallel ones
		if n := h.Connections(); n != 0 {
			t.Errorf("%d connections count", n)
		}
	})
}

// The limits, at one less, at the limit, and at one more.
func TestLimits(t *testing.T) {
	static := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(crand.Reader))
	newHost := func(t *testing.T, limits func(*tunnel.Limits)) *host {
		h := newTestHost(t, func(s *tunnel.Server) {
			unlimited(s)
			s.Path = ""
			limits(&s.Limits)
		})
		h.peers.Add(keys.Peer{Name: "static", Key: keys.PublicKey(static.PublicKey().Bytes())})
		return h
	}
	// expectBusy fails if the next client is not asked to come back later.
	expectBusy := func(t *testing.T, h *host) {
		t.Helper()
		c := rawDial(t, h.addr)
		io.WriteString(c, upgrade(h.addr, newHello(t, h.client, h.serverKey(), h.url)))
		status, header, _ := readAnswer(t, c)
		if status != 503 || header.Get("Retry-After") == "" || header.Get("Cache-Control") != "no-store" {
			t.Errorf("one too many got %d %v, want a 503 with Retry-After", status, header)
		}
		var busy *tunnel.AnswerError
		if _, err := tunnel.Dial(t.Context(), h.url, h.config()); !errors.As(err, &busy) || busy.Status != 503 || busy.RetryAfter != time.Second {
			t.Errorf("a client is told %v, want a 503", err)
		}
	}
	t.Run("UnconfirmedPerSource", func(t *testing.T) {
		h := newHost(t, func(l *tunnel.Limits) { l.UnconfirmedPerSource = 3 })
		var waiting []*socket
		for range 3 {
			waiting = append(waiting, knock(t, h, static))
		}
		expectBusy(t, h)
		waiting[0].send([]byte("\x0412345678")) // confirmed: makes room
		if _, err := h.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.dialSoon(t)
	})
	t.Run("Unconfirmed", func(t *testing.T) {
		h := newHost(t, func(l *tunnel.Limits) { l.Unconfirmed = 4 })
		var waiting []net.Conn
		// Below half of the bound all are let in, above it some are turned away, at it all.
		for turns := 0; len(waiting) < 4; turns++ {
			c := rawDial(t, h.addr)
			io.WriteString(c, upgrade(h.addr, newHello(t, h.client, h.serverKey(), h.url)))
			if status, _, _ := readAnswer(t, c); status == 101 {
				waiting = append(waiting, c)
			} else if len(waiting) < 2 || turns > 500 {
				t.Fatalf("with %d waiting one got %d", len(waiting), status)
			}
		}
		for range 10 {
			expectBusy(t, h)
		}
		for _, c := range waiting {
			c.Close() // gone: makes room
		}
		h.dialSoon(t)
	})
	t.Run("SourceBurst", func(t *testing.T) {
		h := newHost(t, func(l *tunnel.Limits) { l.SourceRate, l.SourceBurst = 1, 3 })
		for range 3 {
			if status := h.ask(t, junkHello(h.addr)); status != 404 {
				t.Errorf("within the burst: %d", status)
			}
		}
		expectBusy(t, h)
		if status := h.ask(t, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); status != 404 {
			t.Errorf("a request that is no hello got %d: it costs nothing and is not counted", status)
		}
	})
	t.Run("Connections", func(t *testing.T) {
		h := newHost(t, func(l *tunnel.Limits) { l.Connections = 2 })
		one, _ := h.dial(t)
		h.dial(t)
		expectBusy(t, h)
		one.Close()
		h.dialSoon(t)
	})
	t.Run("PerPeer", func(t *testing.T) {
		h := newHost(t, func(l *tunnel.Limits) { l.PerPeer = 2 })
		one, _ := h.dial(t)
		h.dial(t)
		var refused *tunnel.RefusedError
		if _, err := tunnel.Dial(t.Context(), h.url, h.config()); !errors.As(err, &refused) || refused.Reason != tunnel.TooManySessions {
			t.Errorf("one too many: %v, want %v", err, tunnel.TooManySessions)
		}
		knock(t, h, static) // another key
		one.Close()
		h.dialSoon(t)
	})
	t.Run("PerPeer, all at once", func(t *testing.T) {
		h := newHost(t, func(l *tunnel.Limits) { l.PerPeer = 2 })
		var waiting []*socket // all answered before one is confirmed
		for range 4 {
			waiting = append(waiting, knock(t, h, static))
		}
		var out atomic.Int32
		var reading sync.WaitGroup
		for _, s := range waiting {
			s.send([]byte("\x0412345678"))
			reading.Go(func() {
				for {
					p, err := s.receive()
					if err != nil {
						return
					}
					if string(p[:3]) == "\x02\x00\x09" {
						out.Add(1)
					}
				}
			})
		}
		eventually(t, "two are told that they are too many", func() bool { return out.Load() == 2 })
		if n := h.Connections(); n != 2 {
			t.Errorf("%d connections of one key, want 2", n)
		}
		for _, s := range waiting {
			s.Close()
		}
		reading.Wait()
	})
	// What counts by the second is looked at in fake time: a machine that is busy would let more through.
	t.Run("PeerBurst", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newMemoryHost(t, func(s *tunnel.Server) {
				unlimited(s)
				s.Limits.PeerRate, s.Limits.PeerBurst = 1, 2
			})
			for range 2 {
				h.dial(t)
			}
			var busy *tunnel.AnswerError
			if _, err := tunnel.Dial(t.Context(), h.url, h.config()); !errors.As(err, &busy) || busy.Status != 503 || busy.RetryAfter != time.Second {
				t.Errorf("the third is told %v, want a 503", err)
			}
			other := h.config()
			other.Identity = newTestIdentity(t)
			h.peers.Add(keys.Peer{Name: "other", Key: other.Identity.Public()})
			if c, err := tunnel.Dial(t.Context(), h.url, other); err != nil {
				t.Errorf("another key is told %v", err)
			} else {
				c.Close()
			}
			time.Sleep(time.Second)
			h.dial(t)
		})
	})
	t.Run("refusals", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newMemoryHost(t, unlimited)
			stranger := h.config()
			stranger.Identity = newTestIdentity(t)
			refused, busy := 0, 0
			for range 30 {
				_, err := tunnel.Dial(t.Context(), h.url, stranger)
				var answer *tunnel.AnswerError
				var no *tunnel.RefusedError
				switch {
				case errors.As(err, &no):
					refused++
				case errors.As(err, &answer) && answer.Status == 503:
					busy++
				default:
					t.Error(err)
				}
			}
			if refused != 20 || busy != 10 {
				t.Errorf("%d sealed refusals and %d times 503, want 20 and 10", refused, busy)
			}
			h.dial(t)
		})
	})
}

// dialSoon connects once there is room again, which the server may notice a moment later.
func (h *host) dialSoon(t *testing.T) {
	t.Helper()
	eventually(t, "there is room", func() bool {
		c, err := tunnel.Dial(t.Context(), h.url, h.config())
		if err != nil {
			return false
		}
		defer c.Close()
		s, err := h.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		return true
	})
}

// Only a trusted proxy's word counts for who asks.
func TestSourceIsWhatTrustedProxiesSay(t *testing.T) {
	tests := []struct {
		name      string
		trusted   []netip.Prefix
		forwarded func(i int) string
		allowed   bool // each request is taken for another source's
	}{
		{"nobody is trusted", nil, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, false},
		{"another proxy is trusted", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, false},
		{"this one is trusted", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, true},
		{"a client makes up what it sends to the proxy", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, func(i int) string { return fmt.Sprintf("192.0.2.%d, 198.51.100.7", i) }, false},
		{"a client says it is the proxy", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, func(i int) string { return fmt.Sprintf("192.0.2.%d, 198.51.100.7, 127.0.0.1", i) }, false},
		{"junk", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, func(i int) string { return fmt.Sprintf("192.0.2.%d, what", i) }, false},
		{"one subscriber's addresses", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, func(i int) string { return fmt.Sprintf("2001:db8::%d", i) }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newTestHost(t, func(s *tunnel.Server) {
				unlimited(s)
				s.TrustedProxies = test.trusted
				s.Limits.SourceRate, s.Limits.SourceBurst = 1, 2
			})
			busy := 0
			for i := range 6 {
				request := strings.Replace(junkHello(h.addr), "\r\n\r\n", "\r\nX-Forwarded-For: "+test.forwarded(i+1)+"\r\n\r\n", 1)
				if h.ask(t, request) == 503 {
					busy++
				}
			}
			if (busy == 0) != test.allowed {
				t.Errorf("%d of 6 were turned away", busy)
			}
		})
	}
}

// Strangers leave no more than a line in the log each, and nothing in memory.
func TestStrangersCostNothing(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) {
		logger := s.Logger
		unlimited(s)
		s.Logger = logger
	})
	other := newTestIdentity(t)
	ways := []func() string{
		func() string { return "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" },
		func() string { return "SSH-2.0-x\r\n\r\n" },
		func() string { return "\x16\x03\x01\x00\xa5\r\n\r\n" },
		func() string { return junkHello(h.addr) },
		func() string { return upgrade(h.addr, newHello(t, h.client, other.Public(), h.url)) },
		func() string { return upgrade(h.addr, newHello(t, other, h.serverKey(), h.url)) },
	}
	all := func(rounds int) {
		inParallel(rounds*len(ways), func(i int) {
			c := rawDial(t, h.addr)
			defer c.Close()
			io.WriteString(c, ways[i%len(ways)]())
			io.Copy(io.Discard, c)
		})
	}
	all(20) // pools and maps reach their size
	goroutines, heap := runtime.NumGoroutine(), heapInUse()
	logged := len(h.log.String())
	const rounds = 100
	all(rounds)
	eventually(t, "their goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
	lines := h.log.String()[logged:]
	worth := strings.Count(lines, "level=INFO") + strings.Count(lines, "level=WARN") + strings.Count(lines, "level=ERROR")
	if worth > rounds { // of six kinds, one is somebody who knows the server
		t.Errorf("%d lines for %d strangers", worth, rounds*len(ways))
	}
	h.log.reset()
	if grown := heapInUse() - heap; grown > 1<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	h.dial(t)
}

// The folder of peers is followed while the server runs: a file that breaks keeps its peer and is
// reported, one that goes takes its peer's tunnel with it within about a second.
func TestPeerDirIsFollowed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peers")
	peers, err := keys.OpenPeerDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := newTestHost(t, func(s *tunnel.Server) { s.Peers = peers })
	allow, err := keys.ParsePermission("connect=127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	if err := peers.Add(keys.Peer{Name: "laptop", Key: h.client.Public(), Allow: []keys.Permission{allow}}); err != nil {
		t.Fatal(err)
	}
	client, server := h.dial(t)
	file := filepath.Join(dir, "laptop")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(file, []byte("no peer at all\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the broken file is reported", func() bool { return strings.Contains(h.log.String(), "level=WARN") })
	if p := server.Peer(); len(p.Allow) != 1 || p.Name != "laptop" {
		t.Errorf("with a broken file the peer is %+v, want the last good one", p)
	}
	again, _ := h.dial(t)
	again.Close()

	// A change counts at the next question.
	if err := os.WriteFile(file, bytes.ReplaceAll(good, []byte("connect=127.0.0.1:80"), []byte("message")), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := server.Peer(); !p.AllowsMessage() || p.AllowsConnect("127.0.0.1", netip.MustParseAddrPort("127.0.0.1:80"), true) {
		t.Errorf("after a change the peer is allowed %v", p.Allow)
	}
	if client.Err() != nil {
		t.Fatalf("the tunnel has ended with %v", client.Err())
	}

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	waitDone(t, client)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the removed peer's tunnel ended after %v, want about a second", took)
	}
	var closed *tunnel.CloseError
	if err := client.Err(); !errors.As(err, &closed) || closed.Code != tunnel.PeerRemoved || !closed.Remote {
		t.Errorf("the client is told %v, want the code %v", err, tunnel.PeerRemoved)
	}
	var refused *tunnel.RefusedError
	if _, err := tunnel.Dial(t.Context(), h.url, h.config()); !errors.As(err, &refused) || refused.Reason != tunnel.NotEnrolled {
		t.Errorf("dialling again: %v, want %v", err, tunnel.NotEnrolled)
	}
	if n := strings.Count(h.log.String(), "msg=peers"); n != 1 {
		t.Errorf("the broken file was reported %d times:\n%s", n, h.log)
	}
}
