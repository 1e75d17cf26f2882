package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/cipher"
)

// A bench is one run of "waxwire bench".
type bench struct {
	*app
	rounds   int
	duration time.Duration // of one measurement
	delay    time.Duration // the round trip of the long path, 0: no such path
	quick    bool
	plot     string
	only     []string
}

func (a *app) benchCommand() *cobra.Command {
	b := &bench{app: a}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast a tunnel is on this host, beside plain TCP, WebSocket and TLS",
		Long: `Measure a tunnel on this host beside what does less: TCP copied by two hops ("raw"), WebSocket without
sealing ("ws") and WebSocket over TLS ("wss"), each as a pair of programs would do it, over sockets of
this host. Each measurement visits all four before the next one begins, and each is repeated in
rounds; what is printed are the medians of the ratios to raw within a round, with the least and the
greatest. On a busy host the ratios are to be trusted, the MB/s are not.

All of it happens in this process. CPU seconds are those of both ends, of the program that sends and
of the one that receives. All bytes that arrive are counted, and some compared; if any are missing or
wrong, the status is 1. It touches no files but that of --plot.

Measurements: ` + strings.Join(testNames(), ", ") + `.`,
		Example: `  waxwire bench
  waxwire bench --quick --only up1,echo
  waxwire bench --rounds 9 --plot bench.svg
  waxwire bench --json --delay 150ms`,
		Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.quick {
				quicken(cmd.Flags().Changed, b)
			}
			return b.run()
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&b.rounds, "rounds", 5, "how often each measurement is repeated")
	f.DurationVar(&b.duration, "duration", 500*time.Millisecond, "how long one measurement takes")
	f.BoolVar(&b.quick, "quick", false, "2 rounds of 100ms with a delay of 20ms: rough, in a minute")
	f.DurationVar(&b.delay, "delay", 50*time.Millisecond, "the round-trip time of the long path; 0: measure the short one alone")
	f.StringSliceVar(&b.only, "only", nil, "measure `NAME` alone (again for more, or separated by commas)")
	f.StringVar(&b.plot, "plot", "", "also draw the ratios, as SVG, into `FILE`")
	return cmd
}

// quicken gives the flags that the user has not set the values of --quick.
func quicken(changed func(string) bool, b *bench) {
	if !changed("rounds") {
		b.rounds = 2
	}
	if !changed("duration") {
		b.duration = 100 * time.Millisecond
	}
	if !changed("delay") {
		b.delay = 20 * time.Millisecond
	}
}

func (b *bench) check() error {
	switch {
	case b.rounds < 1 || b.rounds > 1000:
		return usagef("--rounds %d: the choice is from 1 to 1000", b.rounds)
	case b.duration < 10*time.Millisecond || b.duration > time.Minute:
		return usagef("--duration %v: the choice is from 10ms to 1m", b.duration)
	case b.delay != 0 && (b.delay < time.Millisecond || b.delay > time.Second):
		return usagef("--delay %v: the choice is 0 or from 1ms to 1s", b.delay)
	}
	for _, name := range b.only {
		if !slices.Contains(testNames(), name) {
			return fail(codeUsage, nil, fmt.Sprintf("--only %s: there is no such measurement", visible(name)),
				"The choice is "+strings.Join(testNames(), ", "))
		}
	}
	return nil
}

// run measures, unless a signal ends it at once.
func (b *bench) run() error {
	if err := b.check(); err != nil {
		return err
	}
	var plot *os.File
	if b.plot != "" { // now, and not after minutes of work
		var err error
		if plot, err = os.OpenFile(b.plot, os.O_CREATE|os.O_WRONLY, 0o644); err != nil {
			return fail(codeFailure, err, fmt.Sprintf("--plot %s: %s", visible(b.plot), visible(plain(err))))
		}
		defer plot.Close()
	}
	ends, stop := catchEnd()
	defer stop()
	type outcome struct {
		report *benchReport
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := b.measure()
		done <- outcome{r, err}
	}()
	select {
	case s := <-ends:
		b.ui.clearProgress()
		return silentExit(signalStatus(s))
	case o := <-done:
		b.ui.clearProgress()
		if o.err != nil {
			return fail(codeBench, o.err, "the bench failed: "+visible(plain(o.err)))
		}
		if err := b.print(o.report); err != nil || plot == nil {
			return err
		}
		if err := plot.Truncate(0); err != nil {
			return err
		}
		if _, err := plot.Write(o.report.svg()); err != nil {
			return err
		}
		return plot.Close()
	}
}

// progressf says what is being measured, on a terminal or with -v.
func (b *bench) progressf(format string, args ...any) {
	if b.verbose > 0 && !b.ui.terminal {
		b.ui.sayf(format, args...)
		return
	}
	b.ui.progressf(format, args...)
}

func (b *bench) print(r *benchReport) error {
	if b.json {
		return b.ui.result(r)
	}
	return b.ui.printf("%s", r.table(b.ui.unicode))
}

// measure makes all rounds of all measurements.
func (b *bench) measure() (*benchReport, error) {
	r := &benchReport{
		Version: readVersion().Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.GOMAXPROCS(0), Cipher: cipher.AES256GCM.String(),
		Rounds: b.rounds, Seconds: b.duration.Seconds(),
	}
	delays := []time.Duration{0}
	if b.delay > 0 {
		delays = append(delays, b.delay)
	}
	type path struct {
		results *benchPath
		peers   []*benchPeer
	}
	var paths []path
	for _, delay := range delays {
		p := path{results: newBenchPath(delay)}
		for _, name := range benchPeers {
			peer, err := startPeer(name, delay)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			defer peer.close()
			if peer.suite != "" {
				r.Cipher = peer.suite
			}
			p.peers = append(p.peers, peer)
		}
		paths = append(paths, p)
		r.Paths = append(r.Paths, p.results)
	}
	var tests []benchTest
	for _, t := range benchTests {
		if len(b.only) == 0 || slices.Contains(b.only, t.name) {
			tests = append(tests, t)
		}
	}
	turn := 0
	for round := range b.rounds {
		for _, p := range paths {
			for _, t := range tests {
				for i := range p.peers {
					peer := p.peers[(i+turn)%len(p.peers)] // nobody is always the first
					b.progressf("Round %d of %d, %s: %s, %s", round+1, b.rounds, p.results.title(), t.title, peer.name)
					runtime.GC() // nobody pays for what another has left
					m := &measurement{
						peer: peer, duration: b.duration, delay: p.results.delay, quick: b.quick, timeout: 30 * time.Second,
					}
					got, err := t.run(m)
					if err == nil {
						err = peer.target.settle()
					}
					if err != nil {
						return nil, fmt.Errorf("%s, %s, %s: %w", p.results.title(), t.title, peer.name, err)
					}
					p.results.add(peer.name, got)
				}
			}
			turn++
		}
	}
	r.finish()
	return r, nil
}
