package tunnel_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// What the tests of hostile peers share.

// inParallel calls f for 0 to n-1, a few at a time.
func inParallel(n int, f func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	all.Wait()
}

// startRelay starts a relay whose life is shorter than the test's.
func startRelay(t *testing.T, r *tunneltest.Relay, target string) (stop func(), addr string) {
	t.Helper()
	short := &shortTB{TB: t}
	addr = r.Start(short, target)
	return func() { short.cleanup() }, addr
}

type shortTB struct {
	testing.TB
	cleanup func()
}

func (s *shortTB) Cleanup(f func()) { s.cleanup = f }

// checkNobody fails if a client stays connected.
func (h *host) checkNobody(t *testing.T) {
	t.Helper()
	eventually(t, "no connection is left", func() bool { return h.Connections() == 0 })
}

// eventually waits for what other goroutines are about to bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not after 5 s: %s", what)
		}
	}
}

// echoConns answers each message of each plain conn with the same.
func echoConns(t *testing.T, h *host) {
	t.Helper()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := h.AcceptConn(context.Background())
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				for {
					m, err := c.ReadMessage(context.Background())
					if err != nil || c.WriteMessage(context.Background(), m) != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { h.Close(); serving.Wait() })
}

// rawDial opens a TCP connection that fails the test rather than hang.
func rawDial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// upgrade is a good request with the given hello, and further fields.
func upgrade(host, hello string, fields ...string) string {
	s := "GET /wax HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: waxwire.1\r\n"
	for _, f := range fields {
		s += f + "\r\n"
	}
	return s + "Waxwire-Hello: " + hello + "\r\n\r\n"
}

// readAnswer reads the answer to a request, without its Date.
func readAnswer(t testing.TB, c net.Conn) (status int, header http.Header, body string) {
	t.Helper()
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	resp.Header.Del("Date")
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, resp.Header, ""
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("answer cut short: %v", err)
	}
	return resp.StatusCode, resp.Header, fmt.Sprint(string(b))
}

// cuttable is a dialer for one connection, which can be closed behind the tunnel's back.
func cuttable() (cut func(), dial func(context.Context, string, string) (net.Conn, error)) {
	var c net.Conn
	return func() { c.Close() }, func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		var err error
		c, err = d.DialContext(ctx, network, addr)
		return c, err
	}
}

// A valve is a dialer whose connections pass through it, so that a test can hold up or swallow what
// goes each way, and read along.
type valve struct {
	dialNext func(context.Context, string, string) (net.Conn, error)

	mu      sync.Mutex
	flow    [2]flow
	changed chan struct{}
	closed  bool
	seen    [2][]byte
	copying sync.WaitGroup
}

type flow int

const (
	passes   flow = iota
	stops         // nothing is read: to the sender, a window of zero
	vanishes      // all is read, and nothing arrives
)

// linger is how long the end of one direction takes to arrive. What the other end is sending meanwhile still
// leaves it, as over TCP; a net.Pipe that closes at once would make that a race.
const linger = time.Millisecond

// newValve puts a valve into the way of h's clients.
func newValve(t testing.TB, h *host) *valve {
	v := &valve{dialNext: h.netDial, changed: make(chan struct{})}
	h.netDial = v.dial
	t.Cleanup(func() {
		v.mu.Lock()
		v.closed = true
		v.mu.Unlock()
		v.set(passes, passes)
		v.copying.Wait()
	})
	return v
}

func (v *valve) set(toServer, toClient flow) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flow = [2]flow{tunneltest.ToServer: toServer, tunneltest.ToClient: toClient}
	close(v.changed)
	v.changed = make(chan struct{})
}

// wait returns when a direction does not stop, and whether what was read is to arrive.
func (v *valve) wait(d tunneltest.Direction) (arrives, open bool) {
	for {
		v.mu.Lock()
		flow, changed, closed := v.flow[d], v.changed, v.closed
		v.mu.Unlock()
		if closed || flow != stops {
			return flow == passes, !closed
		}
		<-changed
	}
}

func (v *valve) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	server, err := v.dialNext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	client, there := net.Pipe()
	v.copying.Go(func() { v.copy(tunneltest.ToServer, server, there) })
	v.copying.Go(func() { v.copy(tunneltest.ToClient, there, server) })
	return client, nil
}

// copy moves one direction, with room for some pieces as the buffers of sockets have.
func (v *valve) copy(d tunneltest.Direction, dst, src net.Conn) {
	pieces := make(chan []byte, 16)
	v.copying.Go(func() {
		defer dst.Close()
		for p := range pieces {
			if _, err := dst.Write(p); err != nil {
				break
			}
		}
		for range pieces {
		}
	})
	defer close(pieces)
	defer src.Close()
	for {
		if _, open := v.wait(d); !open {
			return
		}
		b := make([]byte, 16<<10)
		n, err := src.Read(b)
		if arrives, _ := v.wait(d); arrives && n > 0 {
			v.mu.Lock()
			v.seen[d] = append(v.seen[d], b[:n]...)
			v.mu.Unlock()
			pieces <- b[:n]
		}
		if err != nil {
			time.Sleep(linger) // the bubble's time
			return
		}
	}
}

// closeCodes are the codes of the WebSocket close frames that went one way.
func (v *valve) closeCodes(t *testing.T, d tunneltest.Direction) []int {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	codes := []int{}
	frames, err := tunneltest.Frames(v.seen[d])
	if err != nil {
		t.Errorf("%v: %v", d, err)
	}
	for _, f := range frames {
		if f.Opcode == 8 && len(f.Payload) >= 2 {
			codes = append(codes, int(f.Payload[0])<<8|int(f.Payload[1]))
		}
	}
	return codes
}
