package wsconn_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"

	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

const helloSize = 1681

func goodHello() string {
	b := make([]byte, helloSize)
	rand.Read(b)
	return wsconn.EncodeHello(b)
}

// request is a good upgrade, as lines, for tests to spoil.
func request(hello string) []string {
	return []string{
		"GET /wax HTTP/1.1",
		"Host: example.net",
		"Connection: keep-alive, Upgrade",
		"Upgrade: websocket",
		"Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Protocol: waxwire.1",
		"Waxwire-Hello: " + hello,
	}
}

func parse(t testing.TB, lines []string) (*http.Request, bool) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Join(lines, "\r\n") + "\r\n\r\n")))
	return r, err == nil
}

func TestParseRequest(t *testing.T) {
	good := goodHello()
	// The last character of 1681 bytes has four bits to spare; any but zero is another spelling.
	spelt := good[:len(good)-1] + map[bool]string{true: "B", false: "x"}[good[len(good)-1] == 'A']
	replace := func(prefix, with string) func([]string) []string {
		return func(lines []string) []string {
			for i, l := range lines {
				if strings.HasPrefix(l, prefix) {
					lines[i] = with
				}
			}
			return lines
		}
	}
	add := func(line string) func([]string) []string {
		return func(lines []string) []string { return append(lines, line) }
	}
	tests := []struct {
		name  string
		spoil func([]string) []string
		ok    bool
	}{
		{"good", func(l []string) []string { return l }, true},
		{"other subprotocols beside", replace("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: chat, waxwire.1"), true},
		{"an extension is offered", add("Sec-WebSocket-Extensions: permessage-deflate"), true},
		{"POST", replace("GET", "POST /wax HTTP/1.1"), false},
		{"HTTP/1.0", replace("GET", "GET /wax HTTP/1.0"), false},
		{"body", add("Content-Length: 1"), false},
		{"chunked body", add("Transfer-Encoding: chunked"), false},
		{"no Connection", replace("Connection", "X: y"), false},
		{"Connection: close", replace("Connection", "Connection: close"), false},
		{"Upgrade to h2c", replace("Upgrade", "Upgrade: h2c"), false},
		{"version 8", replace("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), false},
		{"two versions", add("Sec-WebSocket-Version: 13"), false},
		{"key of 15 bytes", replace("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"), false},
		{"two keys", add("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), false},
		{"another subprotocol", replace("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: waxwire.2"), false},
		{"the subprotocol in capitals", replace("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: WAXWIRE.1"), false},
		{"no hello", replace("Waxwire-Hello", "X: y"), false},
		{"two hellos", add("Waxwire-Hello: " + good), false},
		{"hello one character short", replace("Waxwire-Hello", "Waxwire-Hello: "+good[1:]), false},
		{"hello one character long", replace("Waxwire-Hello", "Waxwire-Hello: A"+good), false},
		{"padded hello", replace("Waxwire-Hello", "Waxwire-Hello: "+good[1:]+"="), false},
		{"another alphabet", replace("Waxwire-Hello", "Waxwire-Hello: +/"+good[2:]), false},
		{"another spelling of the same bytes", replace("Waxwire-Hello", "Waxwire-Hello: "+spelt), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, ok := parse(t, test.spoil(request(good)))
			if !ok {
				t.Fatal("the test's request cannot be read")
			}
			hello, ok := wsconn.ParseRequest(r, helloSize)
			if ok != test.ok {
				t.Errorf("got %v, want %v", ok, test.ok)
			}
			if ok && wsconn.EncodeHello(hello) != good {
				t.Error("the hello came back otherwise")
			}
		})
	}
}

// FuzzParseRequest: whatever is taken for a hello has the one spelling and length that a hello has.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(strings.Join(request(goodHello()), "\r\n") + "\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		if hello, ok := wsconn.ParseRequest(r, helloSize); ok {
			if len(hello) != helloSize || wsconn.EncodeHello(hello) != r.Header.Get(wsconn.HelloHeader) {
				t.Fatalf("a hello of %d bytes was taken", len(hello))
			}
		}
	})
}

// FuzzDecodeHello: decoding is the inverse of encoding, for one spelling only.
func FuzzDecodeHello(f *testing.F) {
	f.Add(goodHello())
	f.Add("AAAA\n")
	f.Fuzz(func(t *testing.T, s string) {
		if b, ok := wsconn.DecodeHello(s, helloSize); ok && wsconn.EncodeHello(b) != s {
			t.Fatalf("%q has another spelling", s)
		}
	})
}
