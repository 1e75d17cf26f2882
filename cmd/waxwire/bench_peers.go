package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// benchPeers are compared, the first is what the others are measured by.
var benchPeers = []string{"raw", "ws", "wss", "waxwire"}

// hopBuffer is what the plain hops read at a time.
const hopBuffer = 64 << 10

// A benchPeer carries TCP connections from addr to its target, by two ends with the path between them.
type benchPeer struct {
	name    string
	addr    string
	suite   string // of waxwire's records
	target  *benchTarget
	cleanup []func()
}

func (p *benchPeer) onEnd(f func()) { p.cleanup = append(p.cleanup, f) }

func (p *benchPeer) close() {
	for len(p.cleanup) > 0 {
		last := len(p.cleanup) - 1
		p.cleanup[last]()
		p.cleanup = p.cleanup[:last]
	}
}

// startPeer starts both ends of one, a round trip of delay apart.
func startPeer(name string, delay time.Duration) (_ *benchPeer, err error) {
	p := &benchPeer{name: name}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.target, err = startTarget(); err != nil {
		return nil, err
	}
	p.onEnd(p.target.close)
	switch name {
	case "raw":
		err = p.startRaw(delay)
	case "ws":
		err = p.startWebSocket(delay, nil, nil)
	case "wss":
		var server, client *tls.Config
		if server, client, err = selfSigned(); err == nil {
			err = p.startWebSocket(delay, server, client)
		}
	default:
		err = p.startWaxwire(delay)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

func listenLoopback() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// serveEach takes connections until the end, each with a goroutine of its own.
func (p *benchPeer) serveEach(f func(net.Conn)) (addr string, err error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	p.onEnd(func() { l.Close() })
	return l.Addr().String(), nil
}

// away puts the path in front of an address.
func (p *benchPeer) away(addr string, delay time.Duration) (string, error) {
	if delay == 0 {
		return addr, nil
	}
	return p.serveEach(func(c net.Conn) { delayed(c, addr, delay) })
}

// startRaw copies TCP twice, in pieces through this program, as whoever seals them has to.
func (p *benchPeer) startRaw(delay time.Duration) error {
	hop := func(to string) func(net.Conn) {
		return func(in net.Conn) {
			defer in.Close()
			out, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer out.Close()
			both(func() { copyTCP(out, in) }, func() { copyTCP(in, out) })
		}
	}
	far, err := p.serveEach(hop(p.target.addr))
	if err == nil {
		far, err = p.away(far, delay)
	}
	if err == nil {
		p.addr, err = p.serveEach(hop(far))
	}
	return err
}

func both(f, g func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	g()
	wg.Wait()
}

// copyTCP copies without the kernel's short cut, and passes the end on.
func copyTCP(dst, src net.Conn) {
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, hopBuffer))
	if err != nil {
		dst.Close()
		src.Close()
		return
	}
	dst.(*net.TCPConn).CloseWrite()
}

// startWebSocket carries each TCP connection in a WebSocket of its own, whose empty message is the end
// of one direction.
func (p *benchPeer) startWebSocket(delay time.Duration, server, client *tls.Config) error {
	l, err := listenLoopback()
	if err != nil {
		return err
	}
	pool := new(sync.Pool)
	upgrader := websocket.Upgrader{ReadBufferSize: hopBuffer, WriteBufferSize: hopBuffer, WriteBufferPool: pool}
	hs := &http.Server{
		TLSConfig: server, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.target.addr)
			if err != nil {
				ws.Close()
				return
			}
			go spliceWebSocket(out, ws)
		}),
	}
	scheme := "ws://"
	if server == nil {
		go hs.Serve(l)
	} else {
		scheme = "wss://"
		go hs.ServeTLS(l, "", "")
	}
	p.onEnd(func() { hs.Close() })
	far, err := p.away(l.Addr().String(), delay)
	if err != nil {
		return err
	}
	dialer := websocket.Dialer{
		ReadBufferSize: hopBuffer, WriteBufferSize: hopBuffer, WriteBufferPool: pool, TLSClientConfig: client,
		HandshakeTimeout: 10 * time.Second,
	}
	p.addr, err = p.serveEach(func(in net.Conn) {
		ws, _, err := dialer.Dial(scheme+far+"/", nil)
		if err != nil {
			in.Close()
			return
		}
		spliceWebSocket(in, ws)
	})
	return err
}

func spliceWebSocket(c net.Conn, ws *websocket.Conn) {
	defer c.Close()
	defer ws.Close()
	fail := func() {
		c.Close()
		ws.Close()
	}
	both(func() {
		buf := make([]byte, hopBuffer)
		for {
			n, err := c.Read(buf)
			if n > 0 && ws.WriteMessage(websocket.BinaryMessage, buf[:n]) != nil {
				fail()
				return
			}
			if err == io.EOF {
				err = ws.WriteMessage(websocket.BinaryMessage, nil)
				if err == nil {
					return
				}
			}
			if err != nil {
				fail()
				return
			}
		}
	}, func() {
		buf := make([]byte, hopBuffer)
		for {
			_, r, err := ws.NextReader()
			if err != nil {
				fail()
				return
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{c}, r, buf)
			if err != nil {
				fail()
				return
			}
			if n == 0 {
				c.(*net.TCPConn).CloseWrite()
				return
			}
		}
	})
}

// selfSigned makes a certificate for this run alone, and a client's trust in it.
func selfSigned() (server, client *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots}, nil
}

// startWaxwire makes a server, a client and a forward, as the commands of these names do.
func (p *benchPeer) startWaxwire(delay time.Duration) error {
	serverID, err := keys.Generate()
	if err != nil {
		return err
	}
	clientID, err := keys.Generate()
	if err != nil {
		return err
	}
	p.onEnd(clientID.Wipe)
	permission, err := keys.ParsePermission("connect=" + p.target.addr)
	if err != nil {
		return err
	}
	peers := new(keys.PeerSet)
	if err := peers.Add(keys.Peer{Name: "bench", Key: clientID.Public(), Allow: []keys.Permission{permission}}); err != nil {
		return err
	}
	l, err := listenLoopback()
	if err != nil {
		return err
	}
	server := &tunnel.Server{Identity: serverID, Peers: peers}
	hs := server.HTTPServer()
	var serving sync.WaitGroup
	serving.Go(func() { hs.Serve(l) })
	serving.Go(func() {
		exit := new(forward.Exit)
		for {
			tun, err := server.Accept(context.Background())
			if err != nil {
				return
			}
			serving.Go(func() { exit.Serve(context.Background(), tun) })
		}
	})
	p.onEnd(func() {
		hs.Close()
		server.Close()
		serving.Wait()
	})
	far, err := p.away(l.Addr().String(), delay)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tun, err := tunnel.Dial(ctx, "ws://"+far+"/", &tunnel.Config{Identity: clientID, ServerKey: serverID.Public()})
	if err != nil {
		return err
	}
	p.onEnd(func() { tun.Close() })
	p.suite = tun.Suite().String()
	spec, err := forward.ParseLocal("127.0.0.1:0:" + p.target.addr)
	if err != nil {
		return err
	}
	f := &forward.Forwarder{Dialer: oneTunnel{tun}}
	fl, err := f.Listen(spec)
	if err != nil {
		return err
	}
	go fl.Serve(context.Background())
	p.onEnd(func() { fl.Close() })
	p.addr = fl.Local().Listen.Addr
	return nil
}

// A oneTunnel is a [forward.Dialer] that does not dial again.
type oneTunnel struct{ tun *tunnel.Tunnel }

func (t oneTunnel) Tunnel(context.Context) (*tunnel.Tunnel, error) {
	if err := t.tun.Err(); err != nil {
		return nil, fmt.Errorf("the tunnel has ended: %w", err)
	}
	return t.tun, nil
}

// inFlight is how much the long path holds each way of one connection.
const inFlight = 32 << 20

// delayed carries a connection to an address and holds each byte back for half a round trip each way.
// It lets as much pass as it can.
func delayed(in net.Conn, to string, delay time.Duration) {
	defer in.Close()
	time.Sleep(delay) // of the connection's own handshake
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	both(func() { delayOneWay(out, in, delay/2) }, func() { delayOneWay(in, out, delay/2) })
}

type heldBack struct {
	until time.Time
	buf   *[]byte // nil: the end
	n     int
}

var heldBuffers = sync.Pool{New: func() any { b := make([]byte, hopBuffer); return &b }}

func delayOneWay(dst, src net.Conn, delay time.Duration) {
	var (
		mu    sync.Mutex
		cond  = sync.Cond{L: &mu}
		queue []heldBack
		held  int
		lost  bool
	)
	fail := func() {
		mu.Lock()
		lost = true
		mu.Unlock()
		cond.Broadcast()
		dst.Close()
		src.Close()
	}
	both(func() {
		for {
			mu.Lock()
			for len(queue) == 0 && !lost {
				cond.Wait()
			}
			if lost {
				mu.Unlock()
				return
			}
			next := queue[0]
			queue = queue[1:]
			mu.Unlock()
			time.Sleep(time.Until(next.until))
			if next.buf == nil {
				dst.(*net.TCPConn).CloseWrite()
				return
			}
			_, err := dst.Write((*next.buf)[:next.n])
			heldBuffers.Put(next.buf)
			if err != nil {
				fail()
				return
			}
			mu.Lock()
			held -= next.n
			mu.Unlock()
			cond.Broadcast()
		}
	}, func() {
		for {
			buf := heldBuffers.Get().(*[]byte)
			n, err := src.Read(*buf)
			if err != nil && err != io.EOF {
				fail()
				return
			}
			next := heldBack{time.Now().Add(delay), buf, n}
			if err == io.EOF {
				next.buf = nil
			}
			mu.Lock()
			for held+n > inFlight && !lost {
				cond.Wait()
			}
			held += n
			queue = append(queue, next)
			mu.Unlock()
			cond.Broadcast()
			if err == io.EOF {
				return
			}
		}
	})
}
