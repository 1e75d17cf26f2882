package main

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// proxy http|tls|negotiate|deny VAR [USER:PASSWORD]: a proxy that speaks HTTP, with TLS by cert.pem or
// without, and SOCKS 5. It alone knows that every name is this host's. What it is asked is in proxy.log.
func cmdProxy(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[1], l.Addr().String())
	s := stateOf(ts)
	s.cleanup = append(s.cleanup, func() { l.Close() })
	p := &scriptProxy{kind: args[0], log: ts.MkAbs("proxy.log")}
	if len(args) > 2 {
		p.login = args[2]
	}
	if p.kind == "tls" {
		cert, err := tls.LoadX509KeyPair(ts.MkAbs("cert.pem"), ts.MkAbs("key.pem"))
		ts.Check(err)
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
	}
	go eachConn(l, p.serve)
}

type scriptProxy struct {
	kind, log, login string
	mu               sync.Mutex
}

func (p *scriptProxy) serve(c net.Conn) {
	r := bufio.NewReader(c)
	if first, err := r.Peek(1); err != nil {
		return
	} else if first[0] == 5 {
		p.serveSOCKS(c, r)
		return
	}
	req, err := http.ReadRequest(r)
	if err != nil || req.Method != "CONNECT" {
		return
	}
	switch {
	case p.kind == "deny":
		io.WriteString(c, "HTTP/1.1 403 Forbidden\x1b[2J\r\n\r\n")
	case p.kind == "negotiate":
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\n\r\n")
	case p.login != "" && req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(p.login)):
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n")
	default:
		p.join(c, r, "CONNECT", req.Host, "HTTP/1.1 200 OK\r\n\r\n")
	}
}

func (p *scriptProxy) serveSOCKS(c net.Conn, r *bufio.Reader) {
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(r, b)
		return b
	}
	method := byte(0)
	if p.login != "" {
		method = 2
	}
	if !slices.Contains(read(int(read(2)[1])), method) {
		c.Write([]byte{5, 0xff})
		return
	}
	c.Write([]byte{5, method})
	if method == 2 {
		user := string(read(int(read(2)[1])))
		if user+":"+string(read(int(read(1)[0]))) != p.login {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
	}
	what, host := "address", ""
	if head := read(4); head[3] == 3 {
		what, host = "name", string(read(int(read(1)[0])))
	} else {
		host = net.IP(read(4)).String()
	}
	port := read(2)
	p.join(c, r, what, fmt.Sprintf("%s:%d", host, int(port[0])<<8|int(port[1])), "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
}

// join connects to the port of address on this host.
func (p *scriptProxy) join(c net.Conn, r io.Reader, how, address, ok string) {
	p.mu.Lock()
	f, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(f, "%s %s\n", how, address)
		f.Close()
	}
	p.mu.Unlock()
	_, port, _ := strings.Cut(address, ":")
	d, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return
	}
	defer d.Close()
	io.WriteString(c, ok)
	go func() {
		io.Copy(d, r)
		d.Close()
	}()
	io.Copy(c, d)
}

// front SOCKET VAR: passes what connects to VAR on to a unix socket.
func cmdFront(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[1], l.Addr().String())
	s, path := stateOf(ts), ts.MkAbs(args[0])
	s.cleanup = append(s.cleanup, func() { l.Close() })
	go eachConn(l, func(c net.Conn) {
		d, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		defer d.Close()
		go func() {
			io.Copy(d, c)
			d.Close()
		}()
		io.Copy(c, d)
	})
}
