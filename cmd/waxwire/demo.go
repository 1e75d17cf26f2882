package main

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// demoSize is how much the demo fetches.
const demoSize = 64 << 20

func (a *app) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show a whole tunnel at work in this process, over real sockets of this host",
		Long: `Show a whole tunnel at work: an HTTP server as the target, a waxwire server and a client with keys of
their own, in this process but over sockets of this host. A file is fetched through a forward and
compared, keys are renewed, and those who must not get in are turned away. It touches no files and
ends with status 0 only if all of it held.`,
		Example: "  waxwire demo",
		Args:    needs(),
		RunE: func(*cobra.Command, []string) error {
			d := &demo{app: a}
			defer d.end()
			return d.run()
		},
	}
}

// A demo is one run. Its steps stand in the order in which they happen.
type demo struct {
	*app
	cleanup []func()

	content []byte
	hash    [32]byte
	target  string

	url              string
	serverID, client *keys.Identity
	server           *tunnel.Server
	accepted         chan *tunnel.Tunnel // the server's end of the client's tunnel

	tun   *tunnel.Tunnel
	local string
	close func()
}

func (d *demo) run() error {
	if !d.json {
		if err := d.ui.printf("waxwire %s: what follows happens now, over sockets of this host.\n\n", readVersion().Version); err != nil {
			return err
		}
	}
	steps := []struct {
		name string
		f    func(context.Context) (string, error)
	}{
		{"target", d.startTarget},
		{"server", d.startServer},
		{"client", d.connect},
		{"forward", d.forward},
		{"fetch", d.fetchAll},
		{"rekey", d.rekey},
		{"wrong key", d.wrongKey},
		{"unknown", d.unknownClient},
		{"not allowed", d.notAllowed},
		{"close", d.closeAll},
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, step := range steps {
		begin := time.Now()
		text, err := step.f(ctx)
		d.ui.event("step", map[string]any{"name": step.name, "ok": err == nil, "seconds": time.Since(begin).Seconds(), "text": text})
		if err != nil {
			return fail(codeDemo, err, fmt.Sprintf("the demo failed at %q: %s", step.name, visible(plain(err))))
		}
		if !d.json {
			if err := d.ui.printf("%s %-12s %s\n", d.ui.mark("✓", "ok", "32"), step.name, text); err != nil {
				return err
			}
		}
	}
	if d.json {
		return nil
	}
	return d.ui.printf("\nAll of it held, in %.1f s. \"waxwire\" says how to do this between two hosts.\n", time.Since(start).Seconds())
}

func (d *demo) onEnd(f func()) { d.cleanup = append(d.cleanup, f) }

// end undoes what the steps did, the last first.
func (d *demo) end() {
	for len(d.cleanup) > 0 {
		last := len(d.cleanup) - 1
		d.cleanup[last]()
		d.cleanup = d.cleanup[:last]
	}
}

func (d *demo) startTarget(context.Context) (string, error) {
	var seed [32]byte
	crand.Read(seed[:])
	d.content = make([]byte, demoSize)
	rand.NewChaCha8(seed).Read(d.content)
	d.hash = sha256.Sum256(d.content)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	hs := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.content))
	})}
	go hs.Serve(l) // ends with Close
	d.onEnd(func() { hs.Close() })
	d.target = l.Addr().String()
	return fmt.Sprintf("an HTTP server on %s with %d MiB of random bytes, SHA-256 %s", d.target, demoSize>>20, shortHash(d.hash)), nil
}

func shortHash(h [32]byte) string { return hex.EncodeToString(h[:4]) + "..." }

func (d *demo) startServer(context.Context) (string, error) {
	var err error
	if d.serverID, err = keys.Generate(); err != nil {
		return "", err
	}
	if d.client, err = keys.Generate(); err != nil {
		return "", err
	}
	d.onEnd(d.client.Wipe)
	permission, err := keys.ParsePermission("connect=" + d.target)
	if err != nil {
		return "", err
	}
	peers := new(keys.PeerSet)
	if err := peers.Add(keys.Peer{Name: "laptop", Key: d.client.Public(), Allow: []keys.Permission{permission}}); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	d.server = &tunnel.Server{Identity: d.serverID, Peers: peers, Path: "/wax"}
	d.accepted = make(chan *tunnel.Tunnel, 1)
	hs := d.server.HTTPServer()
	var serving sync.WaitGroup
	serving.Go(func() { hs.Serve(l) })
	serving.Go(func() {
		exit := new(forward.Exit)
		for {
			tun, err := d.server.Accept(context.Background())
			if err != nil {
				return
			}
			d.accepted <- tun
			serving.Go(func() { exit.Serve(context.Background(), tun) })
		}
	})
	d.onEnd(func() {
		hs.Close()
		d.server.Close()
		serving.Wait()
	})
	d.url = "ws://" + l.Addr().String() + "/wax"
	return fmt.Sprintf("%s, key %s, lets \"laptop\" connect to %s alone", d.url, d.serverID.Public().Short(), d.target), nil
}

func (d *demo) dial(ctx context.Context, id *keys.Identity, pin keys.PublicKey) (*tunnel.Tunnel, error) {
	return tunnel.Dial(ctx, d.url, &tunnel.Config{Identity: id, ServerKey: pin})
}

func (d *demo) connect(ctx context.Context) (string, error) {
	start := time.Now()
	tun, err := d.dial(ctx, d.client, d.serverID.Public())
	if err != nil {
		return "", err
	}
	took := time.Since(start)
	d.tun = tun
	d.onEnd(func() { tun.Close() })
	rtt, err := tun.Ping(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("key %s, tunnel up in %s: X25519+ML-KEM-768, %s; round trip %.2f ms",
		d.client.Public().Short(), formatDuration(took), tun.Suite(), float64(rtt)/float64(time.Millisecond)), nil
}

// Tunnel makes the demo a [forward.Dialer].
func (d *demo) Tunnel(context.Context) (*tunnel.Tunnel, error) { return d.tun, nil }

func (d *demo) forward(ctx context.Context) (string, error) {
	spec, err := forward.ParseLocal("0:" + d.target)
	if err != nil {
		return "", err
	}
	f := &forward.Forwarder{Dialer: d}
	l, err := f.Listen(spec)
	if err != nil {
		return "", err
	}
	serveCtx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { l.Serve(serveCtx) })
	d.close = sync.OnceFunc(func() {
		cancel()
		d.tun.Close() // before the wait: open connections end with it
		serving.Wait()
	})
	d.onEnd(d.close)
	d.local = l.Local().Listen.Addr
	arrow := d.ui.arrow()
	return fmt.Sprintf("%s %s server %s %s", d.local, arrow, arrow, d.target), nil
}

// fetch gets the first n bytes of the content through the forward and compares them.
func (d *demo) fetch(ctx context.Context, n int) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+d.local+"/", nil)
	if err != nil {
		return 0, err
	}
	if n < demoSize {
		req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", n-1))
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true, ReadBufferSize: 64 << 10}
	got := make([]byte, n)
	start := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, got); err != nil {
		return 0, err
	}
	took := time.Since(start)
	if more, _ := io.Copy(io.Discard, resp.Body); more > 0 {
		return 0, fmt.Errorf("%d bytes too many arrived", more)
	}
	if want := sha256.Sum256(d.content[:n]); sha256.Sum256(got) != want {
		return 0, errors.New("other bytes arrived than were sent")
	}
	return took, nil
}

func (d *demo) fetchAll(ctx context.Context) (string, error) {
	took, err := d.fetch(ctx, demoSize)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d MiB in %.2f s, %.0f MB/s; the SHA-256 is the same", demoSize>>20, took.Seconds(), demoSize/1e6/took.Seconds()), nil
}

func (d *demo) rekey(ctx context.Context) (string, error) {
	var far *tunnel.Tunnel
	select {
	case far = <-d.accepted:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	for _, tun := range []*tunnel.Tunnel{d.tun, far} {
		before := tun.Stats().Epochs
		if err := tun.Rekey(); err != nil {
			return "", err
		}
		if after := tun.Stats().Epochs; after != before+1 {
			return "", fmt.Errorf("epoch %d came after %d", after, before)
		}
	}
	if _, err := d.fetch(ctx, 1<<20); err != nil {
		return "", err
	}
	return fmt.Sprintf("both directions have new keys, the old ones are erased (%s); 1 MiB more, the same SHA-256", erase.Guard()), nil
}

// refused dials as somebody who must not get in.
func (d *demo) refused(ctx context.Context, pin keys.PublicKey, isIt func(error) bool) (time.Duration, error) {
	stranger, err := keys.Generate()
	if err != nil {
		return 0, err
	}
	defer stranger.Wipe()
	start := time.Now()
	tun, err := d.dial(ctx, stranger, pin)
	if err == nil {
		tun.Close()
		return 0, errors.New("it was let in")
	}
	if !isIt(err) {
		return 0, err
	}
	return time.Since(start), nil
}

func (d *demo) wrongKey(ctx context.Context) (string, error) {
	took, err := d.refused(ctx, d.client.Public(), func(err error) bool { return errors.Is(err, tunnel.ErrNotFound) })
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a client that expects another server key gets a plain 404 and gives nothing away (%.1f ms)", took.Seconds()*1000), nil
}

func (d *demo) unknownClient(ctx context.Context) (string, error) {
	took, err := d.refused(ctx, d.serverID.Public(), func(err error) bool {
		var refused *tunnel.RefusedError
		return errors.As(err, &refused) && refused.Reason == tunnel.NotEnrolled
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a client that is not enrolled is told so, sealed, and not let in (%.1f ms)", took.Seconds()*1000), nil
}

func (d *demo) notAllowed(ctx context.Context) (string, error) {
	host, _, err := net.SplitHostPort(d.target)
	if err != nil {
		return "", err
	}
	target := net.JoinHostPort(host, "22")
	st, err := d.tun.OpenStream(ctx, tunnel.Request{Kind: tunnel.KindTCP, Target: target})
	if err != nil {
		return "", err
	}
	defer st.Reset(tunnel.Cancelled)
	var se *tunnel.StreamError
	if err := st.Opened(ctx); err == nil {
		return "", fmt.Errorf("%s was connected", target)
	} else if !errors.As(err, &se) || se.Code != tunnel.NotAllowed {
		return "", err
	}
	return fmt.Sprintf("\"laptop\" asks for %s and is refused: %s", target, visible(se.Text)), nil
}

func (d *demo) closeAll(ctx context.Context) (string, error) {
	start := time.Now()
	d.close()
	if err := d.tun.Err(); !errors.Is(err, net.ErrClosed) {
		return "", fmt.Errorf("the tunnel ended with: %v", err)
	}
	if c, err := net.DialTimeout("tcp", d.local, time.Second); err == nil {
		c.Close()
		return "", errors.New("the local port is still open")
	}
	if err := d.server.Close(); err != nil {
		return "", err
	}
	if n := d.server.Connections(); n != 0 {
		return "", fmt.Errorf("%d connections are left", n)
	}
	return fmt.Sprintf("both ends said goodbye, the keys are erased, the port is closed (%s)", formatDuration(time.Since(start))), nil
}
