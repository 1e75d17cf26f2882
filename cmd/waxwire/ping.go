package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/tunnel"
)

func (a *app) pingCommand() *cobra.Command {
	var reach reachFlags
	var count int
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "ping SERVER --server-key wax1...",
		Short: "Measure round trips to a server, sealed ones",
		Long: `Connect to a server and measure how long it takes to answer, through everything that is in between: TLS,
proxies, and the sealing of both ends. An answer is the server's own: nobody on the way can give it.

It ends with status 0 if there was an answer.`,
		Example: `  waxwire ping wss://relay.example.net/wax --server-key wax1...
  waxwire ping wss://relay.example.net/wax --server-key wax1... -c 100 --interval 100ms
  waxwire ping wss://relay.example.net/wax --server-key wax1... --json`,
		Args:                  needs("SERVER"),
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if count < 0 || interval < 0 {
				return usagef("--count and --interval cannot be less than nothing")
			}
			c, err := a.connector(args[0], &reach)
			if err != nil {
				return err
			}
			defer c.id.Wipe()
			return a.runPing(c, count, interval)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVarP(&count, "count", "c", 4, "how many round trips; 0: until it is stopped")
	f.DurationVarP(&interval, "interval", "i", time.Second, "how long to wait between them")
	reach.add(f)
	return cmd
}

// A pingReport is what "ping --json" prints.
type pingReport struct {
	Server   string  `json:"server"`
	Cipher   string  `json:"cipher"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	Min      float64 `json:"min_ms"`
	Avg      float64 `json:"avg_ms"`
	Max      float64 `json:"max_ms"`

	min, max, sum time.Duration
}

func (r *pingReport) add(rtt time.Duration) {
	r.Received++
	r.sum += rtt
	if r.Received == 1 || rtt < r.min {
		r.min = rtt
	}
	r.max = max(r.max, rtt)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	r.Min, r.Avg, r.Max = ms(r.min), ms(r.sum/time.Duration(r.Received)), ms(r.max)
}

func (a *app) runPing(c *connector, count int, interval time.Duration) error {
	ends, stop := catchEnd()
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

	report := &pingReport{Server: c.server.String(), Cipher: tun.Suite().String()}
	var ended error
	for ended == nil && (count == 0 || report.Sent < count) {
		if report.Sent > 0 {
			ended = pause(interval, ends)
		}
		if ended == nil {
			ended = a.pingOnce(ctx, c, tun, ends, report)
		}
	}
	if err := a.sayPings(report); err != nil {
		return err
	}
	switch {
	case ended != nil:
		return ended
	case report.Received == 0:
		return fail(codeTimeout, nil, fmt.Sprintf("%s does not answer any more", c.server.name()))
	}
	return nil
}

// pause waits between round trips. A signal ends it, and all.
func pause(interval time.Duration, ends <-chan os.Signal) error {
	select {
	case <-time.After(interval):
		return nil
	case s := <-ends:
		return silentExit(signalStatus(s))
	}
}

// pingOnce makes one round trip and says how long it took. An error ends all.
func (a *app) pingOnce(ctx context.Context, c *connector, tun *tunnel.Tunnel, ends <-chan os.Signal, report *pingReport) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	type result struct {
		rtt time.Duration
		err error
	}
	done := make(chan result, 1)
	go func() {
		rtt, err := tun.Ping(ctx)
		done <- result{rtt, err}
	}()
	report.Sent++
	select {
	case r := <-done:
		switch {
		case r.err == nil:
			report.add(r.rtt)
			if !a.json {
				return a.ui.printf("%s: %.2f ms\n", c.server.name(), float64(r.rtt.Microseconds())/1000)
			}
		case errors.Is(r.err, context.DeadlineExceeded):
			a.ui.warnf("%s: no answer in %s", c.server.name(), formatDuration(c.timeout))
		default:
			if cause := tun.Err(); cause != nil {
				return c.explain(cause)
			}
			return c.explain(r.err)
		}
		return nil
	case s := <-ends:
		cancel()
		<-done
		report.Sent-- // nobody waited for it
		return silentExit(signalStatus(s))
	}
}

func (a *app) sayPings(r *pingReport) error {
	switch {
	case a.json:
		return a.ui.result(r)
	case r.Received == 0:
		return a.ui.printf("%d sent, none came back\n", r.Sent)
	}
	lost := ""
	if n := r.Sent - r.Received; n > 0 {
		lost = fmt.Sprintf(", %d lost", n)
	}
	return a.ui.printf("%s%s: min %.2f ms, avg %.2f ms, max %.2f ms, %s\n",
		count(r.Received, "sealed round trip"), lost, r.Min, r.Avg, r.Max, r.Cipher)
}
