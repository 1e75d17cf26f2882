package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

func (a *app) pipeCommand() *cobra.Command {
	var reach reachFlags
	cmd := &cobra.Command{
		Use:   "pipe SERVER HOST:PORT",
		Short: "Connect stdin and stdout to a port or socket that the server reaches",
		Long: `Connect standard input and output to a port or unix socket that the server reaches. The end of the
input is passed on, and the program goes on until the other side has ended too. A lost connection to the
server is a pause. SERVER is the name under which "waxwire join" saved one, or a URL with --server-key, or
several URLs of one server with commas between them.`,
		Example: `  ssh -o ProxyCommand='waxwire pipe relay %h:%p' me@db.internal
  ssh -o ProxyCommand='waxwire pipe wss://relay.example.net/wax --server-key wax1... %h:%p' me@db.internal
  waxwire pipe ws://127.0.0.1:8443/wax --server-key wax1... localhost:6379
  waxwire pipe ws://127.0.0.1:8443/wax --server-key wax1... /run/app.sock
  waxwire pipe wss://relay.example.net/wax --server-key wax1... localhost:22 --proxy socks5h://127.0.0.1:1080`,
		Args:                  needs("SERVER", "HOST:PORT"),
		ValidArgsFunction:     a.completeServers,
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			target, err := forward.ParseTarget(args[1])
			if err != nil {
				return fail(codeForwardSpec, err, visible(err.Error()), "Form: HOST:PORT or /path.sock, for example localhost:22")
			}
			c, err := a.connector(args[0], &reach)
			if err != nil {
				return err
			}
			defer c.id.Wipe()
			return a.runPipe(c, target)
		},
	}
	cmd.Flags().SortFlags = false
	reach.add(cmd.Flags())
	return cmd
}

func (a *app) runPipe(c *connector, target forward.Address) error {
	ignorePipe() // a reader that has gone is seen as an error of writing, and the tunnel closed
	ends, stop := catchLeave()
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	var interrupt endCatcher
	tun, err := interrupt.first(ctx, ends, func(ctx context.Context) (*tunnel.Tunnel, error) {
		return c.first(ctx, false, nil, func(error, time.Duration, time.Duration) {})
	})
	if interrupt.signal != nil {
		return silentExit(signalStatus(interrupt.signal))
	}
	if err != nil {
		return c.explain(err)
	}
	defer tun.Close()
	st, err := tun.OpenStream(ctx, forward.Request(target))
	if err != nil {
		return explainStream(err, c.server, target)
	}

	go c.tellAway(ctx, tun)
	done := make(chan error, 1)
	go func() { done <- a.copyPipe(st, target, c.server) }()
	select {
	case err := <-done:
		// What was written is out of our hands only when the other end has it.
		if undelivered := tun.Close(); undelivered != nil && err == nil {
			return fail(codeTunnelLost, undelivered, fmt.Sprintf("%s has not confirmed that it got everything", c.server.name()))
		}
		return err
	case s := <-ends:
		st.Reset(tunnel.Cancelled)
		return silentExit(signalStatus(s))
	}
}

// tellAway says so when the server has been away for more than a moment, and when it is back.
func (c *connector) tellAway(ctx context.Context, tun *tunnel.Tunnel) {
	said := false
	for {
		st, changed := tun.Status()
		switch {
		case !st.Connected && st.Tries >= 2 && !said:
			said = true
			c.app.ui.sayf("waxwire: %s does not answer; waiting for it", c.server.name())
		case st.Connected && said:
			said = false
			c.app.ui.sayf("waxwire: %s is back after %s", c.server.name(), formatDuration(st.Away))
		}
		select {
		case <-changed:
		case <-tun.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// copyPipe copies both ways until both have ended, or one has failed.
func (a *app) copyPipe(st *tunnel.Stream, target forward.Address, srv server) error {
	sent := make(chan error, 1)
	go func() {
		in := &input{r: a.ui.in}
		_, err := io.Copy(st, in) // may outlive us: nothing ends a read of a terminal
		switch {
		case in.err != nil: // the other end must not take what it has for all there was
			st.Reset(tunnel.Cancelled)
			err = fail(codeFailure, in.err, "cannot read standard input: "+visible(plain(in.err)))
		case err == nil:
			err = st.CloseWrite()
		}
		sent <- err
	}()
	out := &output{w: a.ui.out}
	_, err := st.WriteTo(out)
	switch {
	case errors.Is(out.err, syscall.EPIPE):
		st.Reset(tunnel.Cancelled)
		return silentExit(exitPipe)
	case out.err != nil:
		st.Reset(tunnel.Cancelled)
		return fail(codeFailure, out.err, "cannot write to standard output: "+visible(plain(out.err)))
	case err != nil:
		var f *failure
		select {
		case serr := <-sent:
			if errors.As(serr, &f) {
				return f
			}
		default:
		}
		return explainStream(err, srv, target)
	}
	// The target has said all it had to say. Whoever reads our output sees the end, and may go on
	// writing; a person at a terminal is done.
	if isTerminal(a.ui.in) {
		return nil
	}
	if f, ok := a.ui.out.(*os.File); ok {
		f.Close()
	}
	var se *tunnel.StreamError
	var f *failure
	switch err := <-sent; {
	case err == nil, errors.As(err, &se) && se.Remote: // it wanted no more, and had ended properly before
		return nil
	case errors.As(err, &f):
		return f
	default:
		return explainStream(err, srv, target)
	}
}

// input remembers that it was standard input that failed, not the tunnel.
type input struct {
	r   io.Reader
	err error
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err != nil && err != io.EOF {
		i.err = err
	}
	return n, err
}

// output remembers that it was standard output that failed, not the tunnel.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.err = err
	}
	return n, err
}
