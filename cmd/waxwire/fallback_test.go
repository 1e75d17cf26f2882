package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// exchange sends a request as it stands and reads the answer.
func exchange(t testing.TB, addr, request string) (*http.Response, *bufio.Reader, net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n"))
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp, r, c
}

// What is not for waxwire reaches the backend as it is, with its own WebSockets; a hello never does.
func TestFallback(t *testing.T) {
	asked := make(chan *http.Request, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		if r.Header.Get("Upgrade") == "" {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Set-Cookie", "a=b")
			fmt.Fprintf(w, "the site says %s", body)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwelcome")
		io.Copy(c, rw)
	}))
	defer backend.Close()
	s := startServer(t, "--fallback", backend.URL)

	resp, _, _ := exchange(t, s.addr, "POST /shop?q=1;2 HTTP/1.1\nHost: www.example\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: https\nContent-Length: 5\n\nhello")
	got := <-asked
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "the site says hello" || resp.Header.Get("Set-Cookie") != "a=b" {
		t.Errorf("got %q, %v, %v", body, resp.Header, err)
	}
	if got.Host != "www.example" || got.RequestURI != "/shop?q=1;2" || got.Header.Get("X-Forwarded-For") != "127.0.0.1" || got.Header.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("the backend was asked for %s %s with %v", got.Host, got.RequestURI, got.Header)
	}

	const upgrade = "\nHost: x\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
	resp, r, c := exchange(t, s.addr, "GET /chat HTTP/1.1"+upgrade+"Sec-WebSocket-Protocol: chat\n\n")
	<-asked
	if resp.StatusCode != 101 {
		t.Fatalf("the backend's WebSocket was answered %s", resp.Status)
	}
	if b := make([]byte, 7); true {
		if _, err := io.ReadFull(r, b); err != nil || string(b) != "welcome" {
			t.Errorf("the WebSocket says %q, %v", b, err)
		}
	}
	io.WriteString(c, "echo")
	if b := make([]byte, 4); true {
		if _, err := io.ReadFull(r, b); err != nil || string(b) != "echo" {
			t.Errorf("the WebSocket says %q, %v", b, err)
		}
	}

	hello := make([]byte, 1681)
	rand.Read(hello)
	hello[0] = 1
	for _, path := range []string{"/wax", "/elsewhere"} {
		for _, name := range []string{"Waxwire-Hello", "waxwire-hello", "WAXWIRE-HELLO"} {
			exchange(t, s.addr, "GET "+path+" HTTP/1.1"+upgrade+"Sec-WebSocket-Protocol: waxwire.1\nOrigin: https://evil.example\n"+
				name+": "+base64.RawURLEncoding.EncodeToString(hello)+"\n\n")
			if got := <-asked; got.Header.Values("Waxwire-Hello") != nil || got.Header.Get("Sec-WebSocket-Key") == "" {
				t.Errorf("%s with %s: the backend got %v", path, name, got.Header)
			}
		}
	}
	if err := s.dial(t, "ws://"+s.addr+"/wax", nil); err != nil {
		t.Errorf("a client: %v", err)
	}
	backend.Close()
	if resp, _, _ := exchange(t, s.addr, "GET / HTTP/1.1\nHost: x\n\n"); resp.StatusCode != 502 {
		t.Errorf("without the backend: %s", resp.Status)
	}
}

// What a trusted proxy says of the client goes on to the backend.
func TestFallbackBehindAProxy(t *testing.T) {
	asked := make(chan *http.Request, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r }))
	defer backend.Close()
	s := startServer(t, "--fallback", backend.URL, "--trusted-proxy", "127.0.0.1")
	exchange(t, s.addr, "GET / HTTP/1.1\nHost: x\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: www.example\n\n")
	got := (<-asked).Header
	if got.Get("X-Forwarded-For") != "192.0.2.1, 127.0.0.1" || got.Get("X-Forwarded-Proto") != "https" || got.Get("X-Forwarded-Host") != "www.example" {
		t.Errorf("the backend got %v", got)
	}
}

// The deadline that the server has for strangers' requests does not cut a site's uploads and answers.
func TestFallbackTakesItsTime(t *testing.T) {
	const deadline = 50 * time.Millisecond
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		time.Sleep(4 * deadline)
		fmt.Fprintf(w, "got %s", body)
	}))
	defer backend.Close()
	h, err := newFallback(backend.URL, []netip.Prefix{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(h)
	web.Config.ReadTimeout = deadline
	web.Start()
	defer web.Close()
	r, w := io.Pipe()
	go func() {
		for range 4 {
			time.Sleep(deadline)
			io.WriteString(w, "x")
		}
		w.Close()
	}()
	for want, ask := range map[string]func() (*http.Response, error){
		"got xxxx": func() (*http.Response, error) { return http.Post(web.URL, "text/plain", r) },
		"got ":     func() (*http.Response, error) { return http.Get(web.URL) },
	} {
		resp, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != want || err != nil {
			t.Errorf("got %s, %q, %v, want %q", resp.Status, body, err, want)
		}
	}
}
