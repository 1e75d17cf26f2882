package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"
)

// drainTime is how long open connections may take to finish once an end was asked for.
const drainTime = 10 * time.Second

// closeTime is how long closing may take after that, goodbyeTime how long if it was asked for twice.
const (
	closeTime   = 4 * time.Second
	goodbyeTime = 700 * time.Millisecond
)

// catchEnd delivers the signals that ask for an end.
func catchEnd() (ends <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, endSignals...)
	return c, func() { signal.Stop(c) }
}

// catchLeave is catchEnd for a command that ends with whoever started it, which may say so with SIGHUP: ssh
// does to its ProxyCommand.
func catchLeave() (ends <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 4)
	signal.Notify(c, endSignals...)
	notifyHangup(c)
	return c, func() { signal.Stop(c) }
}

// catchHangup delivers SIGHUP, where there is one.
func catchHangup() (hangups <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	notifyHangup(c)
	return c, func() { signal.Stop(c) }
}

// dumpOnSignal writes all goroutines to the log on SIGUSR1, with what counters says.
func (a *app) dumpOnSignal(counters func() []any) (stop func()) {
	c := make(chan os.Signal, 1)
	notifyDump(c)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-c:
				var b strings.Builder
				fmt.Fprintf(&b, "goroutines=%d", runtime.NumGoroutine())
				for c := counters(); len(c) > 1; c = c[2:] {
					fmt.Fprintf(&b, " %v=%v", c[0], c[1])
				}
				b.WriteByte('\n')
				pprof.Lookup("goroutine").WriteTo(&b, 1)
				for line := range strings.Lines(b.String()) {
					if line = strings.TrimSpace(line); line != "" {
						a.ui.write("# " + line) // as asked for, whatever the level of the log
					}
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(done)
	}
}

// finish runs f, which lets open work end until its ctx does, and returns the status for the signal that
// asked for it. Another signal ends ctx, and f has only the time to say goodbye; whatever else f waits
// for, the program ends.
func finish(first os.Signal, more <-chan os.Signal, f func(ctx context.Context)) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	done := make(chan struct{})
	go func() { f(ctx); close(done) }()
	limit := time.NewTimer(drainTime + closeTime)
	defer limit.Stop()
	last := first
	for {
		select {
		case <-done:
			return silentExit(signalStatus(last))
		case <-limit.C:
			return silentExit(signalStatus(last))
		case again := <-more:
			if ctx.Err() != nil {
				return silentExit(signalStatus(again))
			}
			last = again
			cancel()
			limit.Reset(goodbyeTime)
		}
	}
}

// signalName is how a signal is called in the log.
func signalName(s os.Signal) string { return fmt.Sprint(s) }
