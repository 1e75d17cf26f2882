package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// A connection is cut after byte k of what goes over it, for every k in the thorough form: in the hello, the
// answer, the first record, streams that are half closed, a rekey, a first resume, and a clean end. Nothing is
// lost, doubled or moved, no stream sees an error, both ends end cleanly, and nothing is left behind.

// A cut is where one wire of a run is cut.
type cut struct {
	wire int // number of the connection
	d    tunneltest.Direction
	at   int64
	loss tunneltest.Loss
}

func (c cut) String() string {
	return fmt.Sprintf("connection %d after byte %d %v by %v", c.wire, c.at, c.d, c.loss)
}

// A scriptRun is one run of the script.
type scriptRun struct {
	cuts         []cut
	serverCloses bool
	wires        []*tunneltest.Wire
	passed       [][2]int64 // of each wire, at the end
	hit          int        // cuts that took effect
	dials        int        // of the program
	resumes      uint64
	resent       uint64
	seen         []*recordedConn // of each wire, if record is set
	record       bool
	failed       bool
}

const (
	scriptResumeFor = 30 * time.Second
	scriptLimit     = 2 * time.Minute // of fake time
)

func (r *scriptRun) String() string {
	who := "the client"
	if r.serverCloses {
		who = "the server"
	}
	return fmt.Sprintf("cut %v; closed by %s", r.cuts, who)
}

// run plays the script in a bubble of its own.
func (r *scriptRun) run(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if r.failed = t.Failed(); r.failed {
				t.Logf("this was: %v", r)
			}
		}()
		network := tunneltest.NewNetwork()
		var mu sync.Mutex
		network.Wire = func(number int, w *tunneltest.Wire) {
			mu.Lock()
			defer mu.Unlock()
			r.wires = append(r.wires, w)
			for _, c := range r.cuts {
				if c.wire == number {
					w.CutAfter(c.d, c.at, c.loss)
				}
			}
		}
		h := newNetworkHost(t, network, func(s *tunnel.Server) { s.ResumeFor = scriptResumeFor })
		if r.record {
			h.netDial = r.recorder(network.Dial)
		}
		p, dials := dialUntilUp(t, h, h.config())
		r.dials = dials
		stuck := time.AfterFunc(scriptLimit, func() {
			t.Errorf("not through after %v", scriptLimit)
			p.client.CloseWith(tunnel.Cancelled, "")
			p.server.CloseWith(tunnel.Cancelled, "")
		})
		defer stuck.Stop()
		k := &talk{client: p.client, server: p.server, cells: 8, seed: rand.Uint64()}
		k.between = func(part int) {
			switch part {
			case 0:
				p.client.Rekey()
				p.server.Rekey()
			case 1:
				synctest.Wait()
				mu.Lock()
				r.wires[len(r.wires)-1].Cut(tunneltest.LossEOF)
				mu.Unlock()
			}
		}
		if err := k.run(); err != nil {
			t.Errorf("%v\n%s", err, h.log)
			return
		}
		r.close(t, p)
		here, there := p.client.Stats(), p.server.Stats()
		r.resumes, r.resent = here.Resumes, here.RetransmittedBytes+there.RetransmittedBytes
		r.nothingLeft(t, h)
		for i, w := range r.wires {
			r.passed = append(r.passed, [2]int64{w.Passed(0), w.Passed(1)})
			for _, c := range r.cuts {
				if c.wire == i && w.WasCut() {
					r.hit++
				}
			}
		}
	})
}

// close ends the tunnel from one end, and looks at how both see it.
func (r *scriptRun) close(t *testing.T, p pair) {
	t.Helper()
	here, there := p.client, p.server
	if r.serverCloses {
		here, there = there, here
	}
	begin := time.Now()
	if err := here.Close(); err != nil {
		t.Errorf("Close returned %v", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %v", took)
	}
	if err := here.Err(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the closing end ended with %v, want %v", err, net.ErrClosed)
	}
	select {
	case <-there.Done():
	case <-time.After(scriptResumeFor):
		t.Error("the other end has not ended")
	}
	if err := there.Err(); err != io.EOF {
		t.Errorf("the other end ended with %v, want %v", err, io.EOF)
	}
	there.Close()
}

// nothingLeft looks at what a server holds once all times are over.
func (r *scriptRun) nothingLeft(t *testing.T, h *host) {
	t.Helper()
	time.Sleep(12 * time.Second)
	synctest.Wait()
	if n := h.Unconfirmed(); n != 0 {
		t.Errorf("%d unconfirmed connections are left after 12 s", n)
	}
	time.Sleep(2 * scriptResumeFor)
	synctest.Wait()
	if n := h.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if n := len(h.Tunnels()); n != 0 {
		t.Errorf("%d tunnels are left", n)
	}
	if n := h.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if n := h.KeptBytes(); n != 0 {
		t.Errorf("%d bytes are still kept", n)
	}
}

// recorder notes what goes over each wire.
func (r *scriptRun) recorder(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		recorded := &recordedConn{Conn: c}
		r.seen = append(r.seen, recorded)
		return recorded, nil
	}
}

// A recordedConn keeps what went through it each way.
type recordedConn struct {
	net.Conn
	mu   sync.Mutex
	seen [2][]byte
}

func (c *recordedConn) note(d tunneltest.Direction, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[d] = append(c.seen[d], p...)
}

func (c *recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.note(tunneltest.ToClient, p[:n])
	return n, err
}

func (c *recordedConn) Write(p []byte) (int, error) {
	c.note(tunneltest.ToServer, p)
	return c.Conn.Write(p)
}

// boundaries are where frames of a WebSocket end, and the head of the upgrade.
func boundaries(t *testing.T, d tunneltest.Direction, wire []byte) (at []int64) {
	t.Helper()
	frames, err := tunneltest.Frames(wire)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(bytes.Index(wire, []byte("\r\n\r\n")) + 4)
	at = append(at, end)
	for _, f := range frames {
		end += 2 + int64(len(f.Payload))
		if len(f.Payload) > 125 {
			end += 2
		}
		if d == tunneltest.ToServer {
			end += 4
		}
		at = append(at, end)
	}
	return at
}

// scriptCuts lists the cuts of single faults: every byte, or a sample with all ends of records.
func scriptCuts(t *testing.T, base *scriptRun, rng *rand.Rand, every int64) (all []cut) {
	for wire, recorded := range base.seen {
		for d, b := range recorded.seen {
			d := tunneltest.Direction(d)
			offsets := map[int64]bool{}
			for at := rng.Int64N(every); at <= int64(len(b)); at += every {
				offsets[at] = true
			}
			for _, end := range boundaries(t, d, b) {
				offsets[end-1], offsets[end], offsets[end+1] = true, true, true
			}
			for at := range offsets {
				for _, loss := range []tunneltest.Loss{tunneltest.LossEOF, tunneltest.LossReset} {
					if every == 1 || rng.IntN(2) == 0 && (every < 500 || rng.IntN(3) == 0) {
						all = append(all, cut{wire, d, at, loss})
					}
				}
			}
		}
	}
	return all
}

// baseRun is the script without a fault.
func baseRun(t *testing.T) *scriptRun {
	base := &scriptRun{record: true}
	base.run(t)
	if t.Failed() {
		t.FailNow()
	}
	if len(base.seen) != 2 || base.resumes != 1 {
		t.Fatalf("%d connections and %d resumes without a fault, want 2 and 1", len(base.seen), base.resumes)
	}
	return base
}

// playAll plays runs on all processors, and fails if hardly any of their cuts took effect.
func playAll(t *testing.T, runs []*scriptRun) {
	var next, failures, cuts, hits, dials, resumes, resent atomic.Int64
	t.Run("runs", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for i := next.Add(1) - 1; i < int64(len(runs)) && failures.Load() < 5; i = next.Add(1) - 1 {
					r := runs[i]
					r.run(t)
					if r.failed {
						failures.Add(1)
					}
					cuts.Add(int64(len(r.cuts)))
					hits.Add(int64(r.hit))
					dials.Add(int64(r.dials))
					resumes.Add(int64(r.resumes))
					resent.Add(int64(r.resent))
				}
			})
		}
	})
	t.Logf("%d runs, %d of %d cuts took effect, %d dials by the program, %d resumes, %d bytes sent again",
		len(runs), hits.Load(), cuts.Load(), dials.Load(), resumes.Load(), resent.Load())
	if t.Failed() {
		return
	}
	if hits.Load() < cuts.Load()*8/10 {
		t.Errorf("fault not exercised: of %d cuts %d took effect", cuts.Load(), hits.Load())
	}
	if resumes.Load() < int64(len(runs)) || resent.Load() < int64(len(runs)) {
		t.Errorf("fault not exercised: %d resumes and %d bytes sent again in %d runs", resumes.Load(), resent.Load(), len(runs))
	}
}

func TestCutAfterEachByte(t *testing.T) {
	rng := newTestRand(t)
	var runs []*scriptRun
	for i, c := range scriptCuts(t, baseRun(t), rng, int64(sample(97, 997, 1))) {
		runs = append(runs, &scriptRun{cuts: []cut{c}, serverCloses: i%2 == 0})
	}
	playAll(t, runs)
}

// Two cuts in one run: the second may be in the resume after the first.
func TestCutTwice(t *testing.T) {
	rng := newTestRand(t)
	base := baseRun(t)
	var runs []*scriptRun
	for range sample(200, 40, 20_000) {
		first := randomCut(rng, base, 0)
		second := randomCut(rng, base, 1+rng.IntN(2))
		runs = append(runs, &scriptRun{cuts: []cut{first, second}, serverCloses: rng.IntN(2) == 0})
	}
	playAll(t, runs)
}

// randomCut is anywhere on a wire, as often in its handshake as behind it.
func randomCut(rng *rand.Rand, base *scriptRun, wire int) cut {
	d := tunneltest.Direction(rng.IntN(2))
	b := base.seen[min(wire, 1)].seen[d]
	at := rng.Int64N(int64(len(b)))
	if rng.IntN(2) == 0 {
		at = rng.Int64N(int64(bytes.Index(b, []byte("\r\n\r\n")) + 200))
	}
	return cut{wire, d, at, tunneltest.Loss(rng.IntN(2))}
}
