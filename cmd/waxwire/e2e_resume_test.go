//go:build e2e && linux

package main_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A chaos is a proxy on the server host that cuts the connections between a relay and its client.
type chaos struct {
	*program
	in *os.File

	mu     sync.Mutex
	number int // of the last command
}

// behindChaos puts a chaos into the way of the clients that come after.
func (r *relay) behindChaos(t *testing.T) *chaos {
	t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	listening := regexp.MustCompile(`^listening (\S+)`)
	c := &chaos{in: out}
	c.program = r.server.start(t, command{
		name: r.chaosproxy, args: []string{serverIP + ":0", r.listen}, stdin: in, ready: listening,
	})
	in.Close()
	t.Cleanup(func() { out.Close() })
	r.url = "ws://" + listening.FindStringSubmatch(c.waitLine(t, listening))[1] + "/wax"
	r.trouble = true
	return c
}

// do gives the proxy a command and reads the answer to it.
func (c *chaos) do(answer string, result any, command ...any) error {
	c.mu.Lock()
	c.number++
	number := c.number
	_, err := fmt.Fprint(c.in, number, " ", fmt.Sprintln(command...))
	c.mu.Unlock()
	if err != nil {
		return err
	}
	line, err := c.awaitLine(regexp.MustCompile(fmt.Sprintf(`^%d `, number)))
	if err != nil {
		return err
	}
	if _, err := fmt.Sscanf(line, fmt.Sprint(number, " ", answer), result); err != nil {
		return fmt.Errorf("%v: the proxy answered %q", command, line)
	}
	return nil
}

// cut cuts all connections and returns how many of them were in use.
func (c *chaos) cut(how string, hole time.Duration) (live int, err error) {
	err = c.do("hit %d", &live, "cut", how, hole)
	return live, err
}

// harass cuts by turns, at random moments, until stop is called. hits tells how many connections in use
// it has cut.
func (c *chaos) harass(t *testing.T) (hits func() int, stop func()) {
	const mean, least, most = 200 * time.Millisecond, 200 * time.Millisecond, 600 * time.Millisecond
	seed := rand.Uint64()
	t.Logf("seed of the cuts: %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	total := 0
	enough := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for turn := 0; ; {
			select {
			case <-enough:
				return
			case <-time.After(time.Duration(rng.ExpFloat64() * float64(mean))):
			}
			hole := least + time.Duration(rng.Int64N(int64(most-least)))
			live, err := c.cut([]string{"RST", "FIN", "blackhole"}[turn%3], hole)
			if err != nil {
				t.Error(err)
				return
			}
			if live > 0 {
				turn++
			}
			mu.Lock()
			total += live
			mu.Unlock()
		}
	})
	stop = sync.OnceFunc(func() {
		close(enough)
		running.Wait()
		t.Logf("%d cuts", total)
	})
	t.Cleanup(stop)
	return func() int { mu.Lock(); defer mu.Unlock(); return total }, stop
}

// connections are the host's ends of its connections to that port.
func (h *host) connections(t *testing.T, port string) (all []string) {
	t.Helper()
	out := h.run(t, command{name: "ss", args: []string{"-Htn", "state", "established", "dport", "=", ":" + port}})
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 4 { // two queues, two addresses
			all = append(all, f[2])
		}
	}
	return all
}

// connection is the host's end of its one connection to that port.
func (h *host) connection(t *testing.T, port string) string {
	t.Helper()
	return h.nextConnection(t, port, "")
}

// nextConnection waits until there is one that differs from the last.
func (h *host) nextConnection(t *testing.T, port, last string) string {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); ; <-time.After(10 * time.Millisecond) {
		all := h.connections(t, port)
		if len(all) == 1 && all[0] != last {
			return all[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("connections of the %s to port %s: %v, want one other than %q", h.role, port, all, last)
		}
	}
}

// port is the last part of the server's URL.
func (r *relay) port() string {
	return regexp.MustCompile(`:(\d+)/wax$`).FindStringSubmatch(r.url)[1]
}

// pgbench while connections are cut: no client of it is aborted, no transaction fails, no row is lost or
// doubled.
func (e *e2e) testPgbenchCut(t *testing.T) {
	cuts, seconds := 20, 10
	if thorough() {
		cuts, seconds = 60, 30
	}
	p := e.newPostgres(t)
	r := e.newRelay(t, serverIP, "connect="+p.target())
	c := r.behindChaos(t)
	local := r.forwardTo(t, p.target())
	hits, stop := c.harass(t)
	for hits() < cuts {
		p.bench(t, local, seconds)
	}
	stop()
}

func (e *e2e) testSCPCut(t *testing.T) {
	cuts := 10
	if thorough() {
		cuts = 50
	}
	s := e.newSSHD(t)
	target := "127.0.0.1:" + s.port
	r := e.newRelay(t, serverIP, "connect="+target)
	c := r.behindChaos(t)
	_, port, _ := net.SplitHostPort(r.forwardTo(t, target))
	there := s.path("there")
	hits, stop := c.harass(t)
	for hits() < cuts {
		begin := time.Now()
		args := append([]string{"-q"}, s.options("Port="+port)...)
		s.client.run(t, command{name: "scp", args: append(args, e.file, "root@127.0.0.1:"+there)})
		took := time.Since(begin)
		f, err := os.Open(there)
		if err != nil {
			t.Fatal(err)
		}
		if got := hashOf(t, f); got != e.fileHash {
			t.Errorf("after scp: SHA-256 %s, want %s", got, e.fileHash)
		}
		f.Close()
		t.Logf("scp through cuts, %d MiB: %s", e.fileSize>>20, rate(e.fileSize, took))
	}
	stop()
}

// A person at a shell goes on typing: before, during and after each kind of cut.
func (e *e2e) testSSHCut(t *testing.T) {
	s := e.newSSHD(t)
	target := "127.0.0.1:" + s.port
	r := e.newRelay(t, serverIP, "connect="+target)
	c := r.behindChaos(t)
	_, port, _ := net.SplitHostPort(r.forwardTo(t, target))
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ssh := s.client.start(t, command{
		name: "ssh", args: append(append([]string{"-tt"}, s.options("Port="+port)...), "root@127.0.0.1", "sh"), stdin: in,
	})
	in.Close()
	number := 0
	say := func(what string) *regexp.Regexp {
		t.Helper()
		number++
		// The terminal shows what is typed too, but not the sum.
		if _, err := fmt.Fprintf(out, "echo %s $((%d + 1000))\n", what, number); err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(fmt.Sprintf(`%s %d\b`, what, number+1000))
	}
	ssh.waitLine(t, say("before"))
	for _, how := range []string{"RST", "FIN", "half-open", "half-gone", "blackhole"} {
		if how == "half-open" && !thorough() {
			continue // the client notices after 15 s
		}
		live, err := 0, error(nil)
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			live, err = c.cut(how, time.Second)
		}()
		during := say("during " + how)
		<-cut
		if err != nil || live != 1 {
			t.Errorf("%s: %d live connections were cut, %v; want one", how, live, err)
		}
		ssh.waitLine(t, during)
		ssh.waitLine(t, say("after "+how))
	}
	fmt.Fprintln(out, "exit 7")
	<-ssh.ended
	if got := ssh.cmd.ProcessState.ExitCode(); got != 7 {
		t.Errorf("ssh ended with %d, want the 7 of the shell", got)
	}
}

// Caddy closes what it has when it gets a new configuration. A transfer does not notice.
func (e *e2e) testCaddyReload(t *testing.T) {
	web := e.webTarget(t, "tcp", "127.0.0.1:0")
	var reload command
	r := e.newRelayBehind(t, func(t *testing.T, dir, cert, key, port, backend string) command {
		c := caddyCommand(t, dir, cert, key, port, backend)
		conf := filepath.Join(dir, "Caddyfile")
		admin := "unix/" + filepath.Join(dir, "admin.sock")
		writeFile(t, conf, strings.Replace(readFile(t, conf), "admin off", "admin "+admin, 1))
		reload = command{name: "caddy", env: c.env, args: []string{
			"reload", "--force", "--config", conf, "--adapter", "caddyfile", "--address", admin,
		}}
		return c
	}, "connect="+web)
	r.trouble = true
	local := r.forwardTo(t, web)

	const reloads = 5
	done := make(chan struct{})
	first := e.client.connection(t, r.port())
	var reloading sync.WaitGroup
	reloading.Go(func() {
		defer close(done)
		for range reloads {
			if err := e.server.try(t, reload, os.Stderr); err != nil {
				t.Error(err)
				return
			}
			<-time.After(300 * time.Millisecond) // of load in between
		}
	})
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
			e.transfer(t, "tunnel in TLS that is reloaded", local)
		}
	}
	reloading.Wait()
	last := e.client.connection(t, r.port())
	if last == first {
		t.Errorf("the reloads cut nothing: the connection is still the one from %s", first)
	}

	// The same while nothing moves: a request waits for its last line. To the server, Caddy 2.6 ends with
	// a close frame that is not masked, which looks like tampering each time.
	c := e.client.dial(t, "tcp", local)
	if _, err := io.WriteString(c, "GET /big HTTP/1.1\r\nHost: target\r\nRange: bytes=0-9\r\nConnection: close\r\n"); err != nil {
		t.Fatal(err)
	}
	for range reloads {
		e.server.run(t, reload)
		last = e.client.nextConnection(t, r.port(), last)
	}
	if _, err := io.WriteString(c, "\r\n"); err != nil {
		t.Fatalf("after %d reloads: %v", reloads, err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 206 ") || !strings.Contains(string(answer), "\r\nContent-Length: 10\r\n") {
		t.Errorf("after %d reloads the answer is %.200q, %v", reloads, answer, err)
	}
}

// testIdle has a query wait behind a proxy for longer than it keeps a connection on which nothing moves:
// 50 s haproxy, 60 s nginx. The connection stays, since waxwire sees to it that something moves. In
// the other form it cannot, because it is stopped meanwhile: then the proxy cuts, and the query lives
// on in the next connection.
func (e *e2e) testIdle(t *testing.T, proxy proxyCommand, stopped bool) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	const pause = 65 * time.Second
	seconds := 75
	if thorough() && !stopped {
		seconds = 600
	}
	p := e.newPostgres(t)
	r := e.newRelayBehind(t, proxy, "connect="+p.target())
	r.trouble = stopped
	port := r.client.freePort(t)
	client := r.forward(t, port+":"+p.target())
	tool(t, "psql")
	before := e.client.connection(t, r.port())
	var out strings.Builder
	ended := make(chan error, 1)
	c := p.command("psql", "127.0.0.1:"+port, "-X", "-w", "-A", "-t", "-c", fmt.Sprintf("select pg_sleep(%d), 'still here'", seconds))
	c.limit = time.Duration(seconds)*time.Second + waitLimit
	go func() { ended <- e.client.try(t, c, &out) }()
	if stopped {
		e.server.waitQuery(t, p)
		for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
			for _, program := range []*program{client, r.serving} {
				if err := program.cmd.Process.Signal(signal); err != nil {
					t.Error(err)
				}
			}
			if signal == syscall.SIGSTOP {
				<-time.After(pause)
			}
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	} else if got := strings.TrimSpace(out.String()); got != "|still here" {
		t.Errorf("psql printed %q, want |still here", got)
	}
	after := e.client.connection(t, r.port())
	if same := before == after; same == stopped {
		t.Errorf("the connection from %s is now one from %s; stopped: %v", before, after, stopped)
	}
}

// waitQuery waits until the query of an idle test has reached the server.
func (h *host) waitQuery(t *testing.T, p *postgres) {
	t.Helper()
	c := p.command("psql", p.target(), "-X", "-w", "-A", "-t", "-c", "select count(*) from pg_stat_activity where query like 'select pg_sleep%'")
	for deadline := time.Now().Add(waitLimit); strings.TrimSpace(string(h.run(t, c))) != "1"; {
		if time.Now().After(deadline) {
			t.Fatal("the query does not arrive")
		}
	}
}

// A subscriber waits while the link swallows everything for a minute. It gets what was published
// meanwhile, and what is published afterwards.
func (e *e2e) testRedisBlackhole(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	const minute = time.Minute
	tool(t, "redis-cli")
	dir, port := sharedDir(t), e.server.freePort(t)
	e.server.start(t, command{
		name: "redis-server", dir: dir, ready: regexp.MustCompile(`Ready to accept connections`),
		args: []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir},
	})
	r := e.newRelay(t, serverIP, "connect=127.0.0.1:"+port)
	r.trouble = true
	_, local, _ := net.SplitHostPort(r.forwardTo(t, "127.0.0.1:"+port))
	subscriber := e.client.start(t, command{
		name: "redis-cli", args: []string{"-p", local, "subscribe", "news"}, ready: regexp.MustCompile(`^news`),
	})
	publish := func(text string) {
		t.Helper()
		got := e.server.run(t, command{name: "redis-cli", args: []string{"-p", port, "publish", "news", text}})
		if strings.TrimSpace(string(got)) != "1" {
			t.Errorf("redis gave %q to so many subscribers: %q, want 1", text, got)
		}
	}
	publish("at first")
	subscriber.waitLine(t, regexp.MustCompile(`^at first`))
	before := e.client.connection(t, r.port())

	nft := func(rules string) {
		e.server.run(t, command{name: "nft", args: []string{"-f", "-"}, stdin: strings.NewReader(rules)})
	}
	table := "inet hole" + r.port()
	nft(fmt.Sprintf(`table %[1]s {
	chain incoming { type filter hook input priority 0; tcp dport %[2]s counter drop; }
	chain outgoing { type filter hook output priority 0; tcp sport %[2]s counter drop; }
}
`, table, r.port()))
	hole := time.After(minute)
	publish("meanwhile")
	<-hole
	if line, _ := subscriber.output.find(regexp.MustCompile(`^meanwhile`)); line != "" {
		t.Error("something came through the blackhole")
	}
	counted := string(e.server.run(t, command{name: "nft", args: append([]string{"list", "table"}, strings.Fields(table)...)}))
	if swallowed := regexp.MustCompile(`counter packets [1-9]`).FindAllString(counted, -1); len(swallowed) != 2 {
		t.Errorf("the blackhole did not swallow both ways:\n%s", counted)
	}
	nft("delete table " + table + "\n")
	begin := time.Now()
	publish("afterwards")
	subscriber.waitLine(t, regexp.MustCompile(`^afterwards`))
	t.Logf("resumed %v after the blackhole", time.Since(begin).Round(time.Millisecond))
	got := regexp.MustCompile(`(?m)^(at first|meanwhile|afterwards)$`).FindAllString(subscriber.output.String(), -1)
	if strings.Join(got, ", ") != "at first, meanwhile, afterwards" {
		t.Errorf("the subscriber got %q", got)
	}
	if after := e.client.connection(t, r.port()); after == before {
		t.Errorf("the connection from %s outlived the blackhole: nothing had to be resumed", before)
	}
}
