package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// A trickle carries cells both ways over one stream, a few at a time, until it is stopped.
type trickle struct {
	ends     [2]*tunnel.Tunnel
	stopping chan struct{}
	tasks    sync.WaitGroup

	mu  sync.Mutex
	err error // the first
}

// startTrickle opens a stream from one end to the other. pause is how long to wait between two writes.
func startTrickle(t testing.TB, from, to *tunnel.Tunnel, seed uint64, pause func() time.Duration) *trickle {
	t.Helper()
	k := &trickle{ends: [2]*tunnel.Tunnel{from, to}, stopping: make(chan struct{})}
	a, b := pipe(t, from, to)
	for i, way := range [][2]*tunnel.Stream{{a, b}, {b, a}} {
		cells := tunneltest.Cells{Seed: seed, Stream: uint32(i)}
		sent := make(chan uint64, 1)
		k.tasks.Go(func() {
			w := cells.Writer(way[0], rand.New(rand.NewPCG(seed, uint64(i))))
			k.note("write", k.send(w, pause))
			k.note("half-close", way[0].CloseWrite())
			sent <- w.Sent()
		})
		k.tasks.Go(func() {
			checker := cells.Checker()
			_, err := io.Copy(checker, way[1])
			if err == nil {
				err = checker.Finish(<-sent)
			}
			k.note("read", err)
		})
	}
	return k
}

func (k *trickle) send(w *tunneltest.CellWriter, pause func() time.Duration) error {
	for n := uint64(1); ; n = 1 + n*7%20 {
		if err := w.Send(n); err != nil {
			return err
		}
		select {
		case <-time.After(pause()):
		case <-k.stopping:
			return nil
		}
	}
}

func (k *trickle) note(what string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil && k.err == nil {
		k.err = fmt.Errorf("%s: %w", what, err)
	}
}

// stop waits until all has arrived, and says what went wrong.
func (k *trickle) stop() error {
	close(k.stopping)
	defer time.AfterFunc(time.Minute, func() {
		k.note("stop", errors.New("not all has arrived after a minute"))
		for _, end := range k.ends {
			end.CloseWith(tunnel.Cancelled, "")
		}
	}).Stop()
	k.tasks.Wait()
	return k.err
}

// A quietConn is a client's end that can vanish without a word to the server.
type quietConn struct {
	net.Conn
	quiet atomic.Bool
}

func (c *quietConn) vanish() {
	c.quiet.Store(true)
	c.Conn.SetDeadline(time.Now())
}

func (c *quietConn) Close() error {
	if c.quiet.Load() {
		return nil
	}
	return c.Conn.Close()
}

// A wireLog is a network that keeps its wires, and the client's ends of them.
type wireLog struct {
	*tunneltest.Network
	one   sync.Mutex // one dial at a time
	mu    sync.Mutex
	wires []*tunneltest.Wire
	ends  []*quietConn
	make  func(w *tunneltest.Wire) // of each new one
}

func newWireLog() *wireLog {
	l := &wireLog{Network: tunneltest.NewNetwork()}
	l.Network.Wire = func(_ int, w *tunneltest.Wire) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.wires = append(l.wires, w)
		if l.make != nil {
			l.make(w)
		}
	}
	return l
}

func (l *wireLog) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	_, c, err := l.dialWire(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialWire is dial, and tells which wire it is.
func (l *wireLog) dialWire(ctx context.Context, network, addr string) (*tunneltest.Wire, *quietConn, error) {
	l.one.Lock()
	defer l.one.Unlock()
	c, err := l.Network.Dial(ctx, network, addr)
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	quiet := &quietConn{Conn: c}
	l.ends = append(l.ends, quiet)
	return l.wires[len(l.wires)-1], quiet, nil
}

// last is the newest wire and the client's end of it.
func (l *wireLog) last() (*tunneltest.Wire, *quietConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wires[len(l.wires)-1], l.ends[len(l.ends)-1]
}

// A client comes back while the server still reads from its old connection, in which segments are held up
// that come out later: before the new connection has the session, or after, or never. Exactly one owner
// delivers at any time, and the old connection is ended within 100 ms of the takeover.
func TestFlap(t *testing.T) {
	rng := newTestRand(t)
	const races = 10 // in one session
	var total tallyOfRaces
	for range sample(200, 40, 2_000) / races {
		seed := rng.Uint64()
		synctest.Test(t, func(t *testing.T) { flap(t, seed, races, &total) })
		if t.Failed() {
			t.Fatalf("with the seed %d", seed)
		}
	}
	t.Logf("%d takeovers of a live connection, %d of a lost one; %d bytes sent again", total.live.Load(), total.lost.Load(), total.resent.Load())
	if total.live.Load() < total.lost.Load() || total.resent.Load() == 0 {
		t.Error("fault not exercised")
	}
}

type tallyOfRaces struct{ live, lost, resent atomic.Int64 }

func flap(t *testing.T, seed uint64, races int, total *tallyOfRaces) {
	rng := rand.New(rand.NewPCG(seed, 1))
	upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d) + 1)) }
	net := newWireLog()
	h := newNetworkHost(t, net.Network, func(s *tunnel.Server) { s.ResumeFor = time.Minute })
	h.netDial = net.dial
	client, server := h.dial(t)
	var delay atomic.Int64
	net.make = func(w *tunneltest.Wire) {
		for _, d := range []tunneltest.Direction{tunneltest.ToServer, tunneltest.ToClient} {
			w.Delay(d, time.Duration(delay.Load()))
		}
	}
	k := startTrickle(t, client, server, seed, func() time.Duration { return 4 * time.Millisecond })
	for i := range uint64(races) {
		time.Sleep(upTo(100 * time.Millisecond))
		delay.Store(int64(upTo(50 * time.Millisecond)))
		old, end := net.last()
		old.Stall(tunneltest.ToServer)
		time.Sleep(upTo(20 * time.Millisecond)) // segments pile up in it
		losses := strings.Count(h.log.String(), "peer lost")
		closed := time.Now()
		if rng.IntN(4) == 0 {
			end.Close() // which a server that writes notices
		} else {
			end.vanish()
		}
		held := time.AfterFunc(upTo(500*time.Millisecond), func() { old.Release(tunneltest.ToServer) })
		for begin := time.Now(); server.Stats().Resumes == i; time.Sleep(time.Millisecond) {
			if time.Since(begin) > 10*time.Second {
				t.Errorf("race %d: not resumed after 10 s\n%s", i, h.log)
				break
			}
		}
		if strings.Count(h.log.String(), "peer lost") > losses {
			total.lost.Add(1)
		} else {
			total.live.Add(1)
		}
		time.Sleep(100 * time.Millisecond)
		if !old.Left(tunneltest.ToServer) {
			t.Errorf("race %d: the old connection is still open 100 ms after the takeover", i)
		}
		if n := h.Connections(); n != 1 {
			t.Errorf("race %d: %d connections", i, n)
		}
		status, _ := server.Status()
		if !status.Connected || status.Away > time.Since(closed) {
			t.Errorf("race %d: the server says %+v, the client left %v ago", i, status, time.Since(closed))
		}
		if rng.IntN(2) == 0 {
			held.Stop()
			old.Release(tunneltest.ToServer) // later than all
		}
	}
	if err := k.stop(); err != nil {
		t.Errorf("%v\n%s", err, h.log)
	}
	total.resent.Add(int64(client.Stats().RetransmittedBytes + server.Stats().RetransmittedBytes))
	if n := client.Stats().Resumes; n != uint64(races) {
		t.Errorf("%d resumes in %d races", n, races)
	}
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	<-server.Done()
	if err := server.Err(); !errors.Is(err, io.EOF) {
		t.Errorf("the server's tunnel ended with %v", err)
	}
}
