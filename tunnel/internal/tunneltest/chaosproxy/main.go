// Command chaosproxy is a [tunneltest.Chaos] as a program, for tests of programs in network namespaces.
//
//	chaosproxy LISTEN TARGET
//
// It says "listening ADDRESS". Each line of its input is a number and a command, and each line that it
// answers begins with that number:
//
//	1 cut RST                     1 hit 2
//	2 cut blackhole 500ms         2 hit 1
//	3 flow 0 65536 5ms            3 ok
//	4 counts                      4 accepted 3 live 0 hit 3 to_server 1000 to_client 2000
//
// It ends with its input.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: chaosproxy LISTEN TARGET")
		os.Exit(2)
	}
	c, err := tunneltest.NewChaos(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaosproxy:", err)
		os.Exit(1)
	}
	fmt.Println("listening", c.Addr())
	var running sync.WaitGroup
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		number, words, _ := strings.Cut(in.Text(), " ")
		running.Go(func() { // a hole takes its time
			fmt.Printf("%s %s\n", number, do(c, strings.Fields(words)...))
		})
	}
	c.Close()
	running.Wait()
}

// do obeys one command.
func do(c *tunneltest.Chaos, words ...string) string {
	switch {
	case len(words) == 1 && words[0] == "counts":
		n := c.Counts()
		return fmt.Sprint("accepted ", n.Accepted, " live ", n.Live, " hit ", n.Total(),
			" to_server ", n.Passed[tunneltest.ToServer], " to_client ", n.Passed[tunneltest.ToClient])
	case len(words) >= 2 && words[0] == "cut":
		var hole time.Duration
		var err error
		if len(words) > 2 {
			hole, err = time.ParseDuration(words[2])
		}
		i := slices.IndexFunc(tunneltest.Cuts, func(cut tunneltest.Cut) bool { return cut.String() == words[1] })
		if i >= 0 && err == nil {
			return fmt.Sprint("hit ", c.Cut(tunneltest.Cuts[i], hole))
		}
	case len(words) == 4 && words[0] == "flow":
		var f tunneltest.Flow
		var errs [3]error
		f.Fragment, errs[0] = strconv.Atoi(words[1])
		f.Trickle, errs[1] = strconv.Atoi(words[2])
		f.Tick, errs[2] = time.ParseDuration(words[3])
		if errors.Join(errs[:]...) == nil {
			c.SetFlow(f)
			return "ok"
		}
	}
	return "what?"
}
