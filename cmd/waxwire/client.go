package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// A client holds forwards to one server.
type client struct {
	*app
	server   server
	conn     *connector
	process  processReport
	keeper   *keeper[*tunnel.Tunnel]
	forwards *forward.Forwarder
	reverser *forward.Reverser
	reverses []*forward.Reverse // not changed once the client is up
	quietly  recent

	up        atomic.Bool // it has been connected
	listeners atomic.Pointer[[]*forward.Listener]
	absence   absence
}

// An absence is since when there has been no connection, over all the tries to have one again, be it the
// tunnel that makes them or, when that is lost, the keeper. It is the zero value while there is one.
type absence struct {
	mu sync.Mutex
	absent
}

type absent struct {
	since  time.Time
	reason string // why the last try failed
	tries  int
	next   time.Time // zero: now
	open   int       // connections in the tunnel, the last time somebody looked
	said   bool      // to a person
}

// begin notes that there is no connection now, if that is news, and how many wait for one.
func (a *absence) begin(open int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() {
		a.absent = absent{since: time.Now()}
	}
	a.next, a.open = time.Time{}, open
}

// failed notes that a further try did not get through, and returns how long it has been. It is not ok if
// there has been a connection since.
func (a *absence) failed(reason string, next time.Duration) (away time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() {
		return 0, false
	}
	a.reason, a.next = reason, time.Now().Add(next)
	a.tries++
	return time.Since(a.since), true
}

// speak notes that a person has been told.
func (a *absence) speak() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = !a.since.IsZero()
}

func (a *absence) get() absent {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.absent
}

// end returns what there was.
func (a *absence) end() absent {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.absent
	a.absent = absent{}
	return was
}

func (a *app) clientCommand() *cobra.Command {
	var (
		reach reachFlags
		specs forwardSpecs
		wait  bool
	)
	cmd := &cobra.Command{
		Use:   "client SERVER [-L SPEC] [-R SPEC] [-D SPEC]...",
		Short: "Hold forwards to a server",
		Long: `Hold forwards to a server, of any number and kind:
  -L  what connects to a port or unix socket here is connected to one that the server reaches
  -R  what connects to a port or unix socket of the server is connected to one that this host reaches
  -D  a port here is a SOCKS5 and HTTP proxy, whose connections the server makes

Ports open once the server is there. When it is lost for a while it is dialled again until it is back: what
is open goes on where it was, new connections wait for it. What the server listens on belongs to the key
of this client: no other one gets it, and a client that is started again takes it over.

SERVER is the name under which "waxwire join" saved one, or a URL with --server-key, or several URLs of one
server with commas between them: where one fails, the next has its turn.

For -L and -R a SPEC is [BIND:]PORT:HOST:PORT, [BIND:]PORT:/path.sock, /path.sock:HOST:PORT or
/path.sock:/path.sock, for -D it is [BIND:]PORT, and so it may be for -R: then the server's port is the proxy,
and this host makes the connections, to whatever is asked for. BIND is 127.0.0.1 unless written; PORT 0
takes any port that is free.`,
		Example: `  waxwire client relay -L 8080:localhost:80
  waxwire client ws://relay.example.net:8443/wax --server-key wax1... -L 8080:localhost:80
  waxwire client wss://relay.example.net/wax --server-key wax1... -L 5432:/run/postgresql/.s.PGSQL.5432
  waxwire client wss://relay.example.net/wax --server-key wax1... -L 0:db.internal:5432 --wait
  waxwire client wss://relay.example.net/wax --server-key wax1... -L 8080:localhost:80 --proxy http://me@proxy.corp:3128
  waxwire client wss://10.0.0.5/wax --server-key wax1... -L 8080:localhost:80 --tls-ca ca.pem --tls-server-name relay.internal
  waxwire client wss://relay.example.net/wax --server-key wax1... -R 9000:localhost:3000 -D 1080 --wait`,
		Args:                  needs("SERVER"),
		ValidArgsFunction:     a.completeServers,
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			forwards, err := specs.parse()
			if err != nil {
				return err
			}
			conn, err := a.connector(args[0], &reach)
			if err != nil {
				return err
			}
			defer conn.id.Wipe()
			c := &client{app: a, server: conn.server, conn: conn, process: newProcess()}
			return c.run(forwards, wait)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVarP(&specs.local, "local", "L", nil, "forward a port or socket of this host, as `SPEC` (repeatable)")
	f.StringArrayVarP(&specs.remote, "remote", "R", nil, "forward a port or socket of the server's host, as `SPEC` (repeatable)")
	f.StringArrayVarP(&specs.dynamic, "dynamic", "D", nil, "be a SOCKS5 and HTTP proxy on a port, as `SPEC` (repeatable)")
	reach.add(f)
	f.BoolVar(&wait, "wait", false, "if the server cannot be reached at first, go on trying")
	return cmd
}

// run connects, opens the local ends, and holds both until it is told to end.
func (c *client) run(wanted forwards, wait bool) error {
	if c.screen() && c.verbose == 0 {
		c.level.Set(slog.LevelWarn) // the screen says the rest
	}
	ends, stop := catchEnd()
	defer stop()
	hangups, stopHangups := catchHangup()
	defer stopHangups()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	retry := make(chan struct{})
	c.keeper = &keeper[*tunnel.Tunnel]{
		dial: c.conn.dial, final: isFinal, retry: retry, backoff: tunnel.Backoff,
		lost: c.sayGone, failed: c.sayFailed, back: c.sayBack,
	}
	c.forwards = &forward.Forwarder{Dialer: c.keeper, Events: c.sayEvent}
	c.reverser = &forward.Reverser{Events: c.sayReverse}
	if len(wanted.remotes) > 0 {
		c.conn.accept = func(tun *tunnel.Tunnel) { c.reverser.Serve(context.Background(), tun) }
	}
	ctl, err := c.openControl(c.report, nil, clientControls()...)
	if err != nil {
		return err
	}
	defer ctl.Close()

	c.absence.begin(0)
	var interrupt endCatcher
	tun, err := interrupt.first(ctx, ends, func(ctx context.Context) (*tunnel.Tunnel, error) {
		if !wait { // whoever waits for an answer reads why at the end
			return c.conn.first(ctx, false, nil, func(err error, away, next time.Duration) {
				c.log.Debug("cannot connect", "err", err, "next", next)
			})
		}
		return c.conn.first(ctx, true, hangups, c.sayFailed)
	})
	if interrupt.signal != nil {
		return silentExit(signalStatus(interrupt.signal))
	}
	if err != nil {
		return c.conn.explain(err)
	}

	listeners, err := c.listen(wanted.locals)
	if err != nil {
		tun.Close()
		return err
	}
	c.listeners.Store(&listeners)
	var serving, keeping sync.WaitGroup
	reverseCtx, stopReverse := context.WithCancel(ctx)
	defer stopReverse()
	if err := c.reverse(reverseCtx, &keeping, ends, tun, wanted.remotes); err != nil {
		for _, l := range listeners {
			l.Close()
		}
		tun.Close()
		return err
	}
	c.absence.end()
	c.up.Store(true)
	c.sayReady(tun, listeners)
	start := time.Now()
	defer c.dumpOnSignal(c.counters)()

	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
	for _, l := range listeners {
		serving.Go(func() { l.Serve(serveCtx) })
	}
	ended := make(chan error, 1)
	keeping.Go(func() { ended <- c.keeper.run(ctx, tun) })
	keeping.Go(func() { c.watch(ctx) })
	keeping.Go(func() {
		for {
			select {
			case <-hangups:
				if tun, ok := c.keeper.Current(); ok {
					tun.Reconnect()
					continue
				}
				select {
				case retry <- struct{}{}:
				default: // about to try
				}
			case <-ctx.Done():
				return
			}
		}
	})

	closeAll := func() {
		for _, l := range listeners {
			l.Close()
		}
		stopServing() // connections that wait for a tunnel have waited enough
		stopReverse()
	}
	var result error
	select {
	case err := <-ended: // the server's verdict
		result = c.conn.explain(err)
		closeAll()
		serving.Wait()
	case s := <-ends:
		result = finish(s, ends, func(ctx context.Context) {
			closeAll()
			c.drain(ctx, &serving)
			cancel() // before the tunnel closes, so that nobody dials again
			if tun, ok := c.keeper.Current(); ok {
				tun.Close()
			}
			serving.Wait()
		})
	}
	cancel()
	c.sayStopped(c.stats(), time.Since(start))
	return result
}

// drain waits for the open connections to end, until ctx ends.
func (c *client) drain(ctx context.Context, serving *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		serving.Wait()
		for c.reverser.Stats().Open > 0 && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if n := c.stats().Open; n > 0 {
		select {
		case <-done:
			return
		case <-time.After(100 * time.Millisecond): // most are about to end
		}
		if c.screen() {
			c.ui.sayf("Waiting up to %s for %s. Again to stop at once.", formatDuration(drainTime), count(n, "connection"))
		} else {
			c.log.Info("stopping", "open", n, "most", drainTime)
		}
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (c *client) counters() []any {
	s := c.stats()
	return []any{"open", s.Open, "waiting", s.Waiting, "total", s.Total, "in", s.In, "out", s.Out}
}

// What follows says what happens, to a person, to a log, or as events.

func (c *client) sayReady(tun *tunnel.Tunnel, listeners []*forward.Listener) {
	c.ui.event("connected", map[string]any{
		"server": c.server.String(), "rtt_ms": float64(tun.RTT().Microseconds()) / 1000, "cipher": tun.Suite().String(),
	})
	if c.screen() {
		c.ui.okf("%s, %s, X25519+ML-KEM-768, %s", c.server.name(), formatDuration(tun.RTT()), tun.Suite())
	} else {
		c.log.Info("connected", "server", c.server.String(), "rtt", tun.RTT().Round(10*time.Microsecond), "cipher", tun.Suite().String())
	}
	for _, l := range listeners {
		c.sayForwarding(l.Local())
	}
	for _, v := range c.reverses {
		c.sayReversing(v.Remote())
	}
	c.ui.event("ready", nil)
	if c.screen() {
		c.ui.sayf("Ready. Ctrl-C to stop.")
	} else {
		c.log.Info("ready")
	}
}

// watch tells when the tunnel has no connection for a while, and when it has one again.
func (c *client) watch(ctx context.Context) {
	for {
		tun, err := c.keeper.Tunnel(ctx)
		if err != nil {
			return
		}
		for away, up := false, true; up; {
			st, changed := tun.Status()
			select {
			case <-tun.Done(): // the rest is the keeper's to tell
				up = false
				continue
			default:
			}
			switch {
			case !st.Connected && st.Tries == 0:
				c.sayLost(st.Err)
				away = true
			case !st.Connected:
				c.absence.begin(c.inTunnel())
				c.sayFailed(st.Err, 0, time.Until(st.Next))
				away = true
			case away:
				c.sayBack(tun, 0, 0)
				away = false
			}
			select {
			case <-changed:
			case <-tun.Done():
				up = false
			case <-ctx.Done():
				return
			}
		}
	}
}

// sayLost says that there is no connection. What is open waits for the next one.
func (c *client) sayLost(err error) {
	open := c.inTunnel()
	c.absence.begin(open)
	c.ui.event("lost", map[string]any{"reason": visible(fmt.Sprint(err)), "waiting": open})
	if !c.screen() {
		c.log.Info("connection lost", "server", c.server.String(), "waiting", open, "err", err)
	}
}

// inTunnel is how many connections are open in the tunnel, which those that wait for one are not.
func (c *client) inTunnel() int {
	s := c.stats()
	return max(0, s.Open-s.Waiting)
}

// sayGone says that the tunnel is over, and with it what was open in it. Some of that may be closed by
// now, and was not when the connection was lost.
func (c *client) sayGone(tun *tunnel.Tunnel) {
	err, open := tun.Err(), max(c.absence.get().open, c.inTunnel())
	c.absence.begin(open)
	c.ui.event("session_lost", map[string]any{"reason": visible(fmt.Sprint(err)), "open": open})
	switch {
	case !c.screen() && errors.Is(err, io.EOF):
		c.log.Info("the server has ended the session in order", "server", c.server.String(), "open", open)
	case !c.screen():
		c.log.Warn("session lost", "server", c.server.String(), "open", open, "err", err)
	case open > 0:
		c.absence.speak()
		c.ui.warnf("%s cannot go on with %s: reset.", c.server.name(), count(open, "open connection"))
	}
}

// sayFailed says that a try did not get through: the first of all, the tunnel's, or the keeper's. How long
// each of them has been trying is not the point.
func (c *client) sayFailed(err error, _, next time.Duration) {
	waiting := c.stats().Open
	why := asFailure(c.conn.explain(err)).text
	away, ok := c.absence.failed(why, next)
	if !ok { // finding out why took so long
		return
	}
	c.ui.event("retry", map[string]any{
		"reason": why, "away_s": away.Seconds(), "next_s": next.Seconds(), "waiting": waiting,
	})
	if !c.screen() {
		c.log.Warn("cannot connect", "reason", why, "away", away.Round(time.Millisecond), "next", next.Round(time.Millisecond), "waiting", waiting)
		return
	}
	if away+next < time.Second && c.up.Load() {
		return // over before anybody has read it
	}
	c.absence.speak()
	line := fmt.Sprintf("%s has not answered for %s.", c.server.name(), formatDuration(away))
	if !c.up.Load() {
		line = why + "."
	}
	if waiting > 0 {
		verb := "are"
		if waiting == 1 {
			verb = "is"
		}
		line += fmt.Sprintf(" %s %s waiting.", count(waiting, "connection"), verb)
	}
	c.ui.updatef("%s Next try in %s.", line, formatDuration(max(0, next)))
}

// sayBack says that there is a connection again, by the tunnel's doing or the keeper's.
func (c *client) sayBack(*tunnel.Tunnel, time.Duration, int) {
	was := c.absence.end()
	away := time.Since(was.since)
	c.ui.event("back", map[string]any{"away_s": away.Seconds(), "tries": was.tries + 1})
	switch {
	case !c.screen():
		c.log.Info("connected again", "server", c.server.String(), "away", away.Round(time.Millisecond), "tries", was.tries+1)
	case was.said:
		c.ui.okf("%s is back after %s.", c.server.name(), formatDuration(away))
	}
}

// sayEvent tells what became of a connection, of the bad news each kind once in a while.
func (c *client) sayEvent(e forward.Event) {
	local := e.Local.Listen.Addr
	switch e.Kind {
	case forward.Opened:
		c.log.Debug("connection opened", "listen", local)
		return
	case forward.Closed:
		c.log.Debug("connection closed", "listen", local, "in", e.In, "out", e.Out, "err", e.Err)
		return
	case forward.Unclear:
		c.log.Debug("neither SOCKS5 nor HTTP CONNECT", "listen", local, "err", e.Err)
		return
	case forward.Failed:
		var se *tunnel.StreamError
		if errors.As(e.Err, &se) { // given up by its own program, or lost with the tunnel, which was said
			c.log.Debug("connection ended early", "listen", local, "err", e.Err)
			return
		}
	}
	f := explainStream(e.Err, c.server, e.Local.Target)
	var se *tunnel.StreamError
	if errors.As(e.Err, &se) {
		c.ui.event("refused", map[string]any{"listen": local, "target": e.Local.Target.Addr, "code": string(f.code), "reason": f.text})
	} else {
		f = fail(codeTunnelLost, e.Err, fmt.Sprintf("%s did not come back in time", c.server.name()))
	}
	if !c.quietly.first(local + f.text) {
		return
	}
	if !c.screen() {
		c.log.Warn("connection refused", "listen", local, "target", e.Local.Target.Addr, "code", string(f.code), "reason", f.text, "hint", strings.Join(f.hints, " "))
		return
	}
	c.ui.warnf("%s: %s", local, f.text)
	for _, h := range f.hints {
		c.ui.warnIndented(h)
	}
}

func (c *client) sayStopped(s forward.Stats, d time.Duration) {
	c.ui.event("stopped", map[string]any{"connections": s.Total, "in": s.In, "out": s.Out, "seconds": d.Seconds()})
	if c.screen() {
		c.ui.sayf("Stopped. %s, %s in, %s out, %s.", count(s.Total, "connection"), formatBytes(s.In), formatBytes(s.Out), formatDuration(d))
	} else {
		c.log.Info("stopped", "connections", s.Total, "in", s.In, "out", s.Out, "uptime", d.Round(time.Millisecond))
	}
}

// An endCatcher runs something that a signal may cut short.
type endCatcher struct{ signal os.Signal }

func (e *endCatcher) first(ctx context.Context, ends <-chan os.Signal, f func(context.Context) (*tunnel.Tunnel, error)) (*tunnel.Tunnel, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		tun *tunnel.Tunnel
		err error
	}
	done := make(chan result, 1)
	go func() {
		tun, err := f(ctx)
		done <- result{tun, err}
	}()
	select {
	case r := <-done:
		return r.tun, r.err
	case e.signal = <-ends:
		cancel()
		if r := <-done; r.tun != nil {
			r.tun.Close()
		}
		return nil, context.Canceled
	}
}
