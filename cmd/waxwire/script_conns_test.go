package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// What scripts do with connections that stay open while things happen to the tunnel.

// bigSize is more than windows and kernels hold between a target and a reader that waits.
const bigSize = 64 << 20

// bigData is bigSize bytes of which no two places look alike.
func bigData() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{'b', 'i', 'g'}), bigSize) }

// open NAME ADDR: a connection to a target that says hello first.
func cmdOpen(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	c, err := net.Dial("tcp", args[1])
	ts.Check(err)
	s := stateOf(ts)
	s.cleanup = append(s.cleanup, func() { c.Close() })
	s.conns[args[0]] = c.(*net.TCPConn)
	wantRead(ts, c, "hello\n")
}

func connOf(ts *testscript.TestScript, name string) *net.TCPConn {
	c := stateOf(ts).conns[name]
	if c == nil {
		ts.Fatalf("nothing was opened as %s", name)
	}
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func wantRead(ts *testscript.TestScript, c net.Conn, want string) {
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		ts.Fatalf("got %q, %v; want %q", b[:n], err, want)
	}
}

// say NAME TEXT: a line goes there and comes back, through whatever there is in between.
func cmdSay(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	c := connOf(ts, args[0])
	_, err := io.WriteString(c, args[1]+"\n")
	ts.Check(err)
	wantRead(ts, c, args[1]+"\n")
}

// crowd NAME N ADDR: so many, NAME0 and so on.
func cmdCrowd(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := range n {
		cmdOpen(ts, false, []string{fmt.Sprint(args[0], i), args[2]})
	}
}

// disperse NAME N: of the crowd the first N say something and finish, the others are cut off.
func cmdDisperse(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := 0; stateOf(ts).conns[fmt.Sprint(args[0], i)] != nil; i++ {
		name := fmt.Sprint(args[0], i)
		if i >= n {
			cmdCutOff(ts, false, []string{name})
			continue
		}
		cmdSay(ts, false, []string{name, strings.Repeat(name, 1000)})
		cmdFinish(ts, false, []string{name})
	}
}

// drink NAME: what a big target sends is there to the last byte, and then its end.
func cmdDrink(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	c := connOf(ts, args[0])
	want, got, expected := bigData(), make([]byte, 64<<10), make([]byte, 64<<10)
	for at := 0; ; {
		n, err := c.Read(got)
		m, _ := io.ReadFull(want, expected[:n])
		if string(got[:n]) != string(expected[:m]) {
			ts.Fatalf("what came after %d bytes is not what was sent", at)
		}
		at += n
		if err == io.EOF && at == bigSize {
			return
		}
		if err != nil {
			ts.Fatalf("after %d bytes: %v", at, err)
		}
	}
}

// finish NAME: this end is done, and the other one then too, in order.
func cmdFinish(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	c := connOf(ts, args[0])
	ts.Check(c.CloseWrite())
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		ts.Fatalf("got %q, %v; want a clean end", b, err)
	}
	c.Close()
}

// cutoff NAME: that connection ends in a reset, which nobody can take for its end.
func cmdCutOff(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	if _, err := io.Copy(io.Discard, connOf(ts, args[0])); !errors.Is(err, syscall.ECONNRESET) {
		ts.Fatalf("it ended in %v, want ECONNRESET", err)
	}
}

// eventually REGEXP COMMAND ARG...: runs it until its stdout matches.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if err == nil && re.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("it never matched %q; it has:\n%s%v", args[0], out, err)
		}
	}
}
