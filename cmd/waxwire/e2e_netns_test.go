//go:build e2e && linux

package main_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A host is a network namespace: a machine of its own as far as the network goes. Nothing of the
// test is on the real machine's network.
type host struct {
	role, ns, ip string
	fd           *os.File

	mu    sync.Mutex
	ports map[string]bool // that freePort has given out
}

const (
	clientIP  = "10.99.0.1"
	serverIP  = "10.99.0.2"
	relayName = "relay.test"              // serverIP, known to both hosts
	wireName  = "wire0"                   // the link between the two, on both hosts
	waitLimit = 30 * time.Second          // for a program to become ready or to end
	workLimit = 5 * time.Minute           // for a client program to do its work
	promptly  = 8 * time.Second           // for a program with nothing left to do to end; a drain lasts 10 s
	hostsFile = "127.0.0.1 localhost\n" + // for both hosts
		serverIP + " " + relayName + "\n" +
		"127.0.0.1 " + canaryHost + "\n"
)

// newHosts makes two hosts joined by one link, and removes them when the test ends.
func newHosts(t *testing.T) (client, server *host) {
	t.Helper()
	ip := tool(t, "ip")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	makeHost := func(role, address string) *host {
		t.Helper()
		// Unique for this run: other runs may be on this machine.
		h := &host{role: role, ns: fmt.Sprintf("waxe2e-%d-%s", os.Getpid(), role), ip: address, ports: make(map[string]bool)}
		// ip mounts the files of this folder over those in /etc, for what it runs in the namespace.
		etc := filepath.Join("/etc/netns", h.ns)
		if err := os.MkdirAll(etc, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			os.RemoveAll(etc)
			os.Remove(filepath.Dir(etc)) // stays if it is somebody else's too
		})
		if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte(hostsFile), 0o644); err != nil {
			t.Fatal(err)
		}
		run("netns", "add", h.ns)
		t.Cleanup(func() {
			h.endLeftovers(t)
			run("netns", "delete", h.ns)
		})
		run("-n", h.ns, "link", "set", "lo", "up")
		fd, err := os.Open(filepath.Join("/run/netns", h.ns))
		if err != nil {
			t.Fatal(err)
		}
		h.fd = fd
		t.Cleanup(func() { fd.Close() })
		return h
	}
	client, server = makeHost("client", clientIP), makeHost("server", serverIP)
	run("link", "add", wireName, "netns", client.ns, "type", "veth", "peer", "name", wireName, "netns", server.ns)
	for _, h := range []*host{client, server} {
		run("-n", h.ns, "address", "add", h.ip+"/30", "dev", wireName)
		run("-n", h.ns, "link", "set", wireName, "up")
	}
	return client, server
}

// endLeftovers fails the test if a program outlived what started it.
func (h *host) endLeftovers(t *testing.T) {
	pids, err := exec.Command("ip", "netns", "pids", h.ns).Output()
	if err != nil {
		t.Errorf("ip netns pids: %v", err)
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		n, err := strconv.Atoi(pid)
		if err != nil || n == os.Getpid() { // this process has threads there for a moment
			continue
		}
		cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		if len(cmdline) == 0 { // a zombie, or gone
			continue
		}
		t.Errorf("still running on %s: %s %q", h.ns, pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		syscall.Kill(n, syscall.SIGKILL)
	}
}

// inside runs f on a thread whose new sockets are the host's. They stay so afterwards.
func (h *host) inside(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine and nobody else gets it.
		runtime.LockOSThread()
		err := unix.Setns(int(h.fd.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("on %s: %v", h.ns, err)
	}
}

// listen listens on the host, until the test ends.
func (h *host) listen(t *testing.T, network, address string) (l net.Listener) {
	t.Helper()
	h.inside(t, func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

// dial connects from the host, for a short talk. address is a literal one: the resolver uses other
// threads.
func (h *host) dial(t *testing.T, network, address string) (c net.Conn) {
	t.Helper()
	h.inside(t, func() (err error) {
		c, err = net.DialTimeout(network, address, waitLimit)
		return err
	})
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitLimit)); err != nil {
		t.Fatal(err)
	}
	return c
}

// freePort is a TCP port that nothing uses on the host and nobody else gets. It stays free: all that
// runs there is ours.
func (h *host) freePort(t *testing.T) string {
	t.Helper()
	for {
		l := h.listen(t, "tcp", "0.0.0.0:0")
		defer l.Close() // at the end, so that the next one differs
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		taken := h.ports[port]
		h.ports[port] = true
		h.mu.Unlock()
		if !taken {
			return port
		}
	}
}

// A command is a program to run on a host.
type command struct {
	name  string   // found by tool
	args  []string //
	user  string   // root if empty
	dir   string   // of work
	env   []string // beside HOME, PATH, LANG and TMPDIR
	stdin io.Reader
	ready *regexp.Regexp // start waits until a line of its output matches
	stop  syscall.Signal // asks it to end, SIGTERM if zero
	limit time.Duration  // for its work, workLimit if zero
}

// build makes an exec.Cmd that is the program itself: "ip netns exec" and setpriv replace
// themselves, so that its PID is the program's.
func (h *host) build(t *testing.T, ctx context.Context, c command) *exec.Cmd {
	t.Helper()
	args := []string{"netns", "exec", h.ns}
	if c.user != "" {
		args = append(args, tool(t, "setpriv"), "--reuid", c.user, "--regid", c.user, "--clear-groups", "--")
	}
	args = append(args, tool(t, c.name))
	cmd := exec.CommandContext(ctx, tool(t, "ip"), append(args, c.args...)...)
	home := c.dir
	if home == "" {
		home = "/nonexistent"
	}
	cmd.Dir = c.dir
	cmd.Env = append([]string{"HOME=" + home, "PATH=" + searchPath(), "LANG=C.UTF-8", "TMPDIR=" + os.TempDir()}, c.env...)
	cmd.Stdin = c.stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// A program is a command that runs beside the test.
type program struct {
	name   string
	cmd    *exec.Cmd
	output *output
	ended  chan struct{} // closed when it has ended, err set before
	err    error
}

// start starts a program, waits until it is ready, and ends it with the test.
func (h *host) start(t *testing.T, c command) *program {
	t.Helper()
	p := &program{name: filepath.Base(c.name), output: newOutput(), ended: make(chan struct{})}
	p.cmd = h.build(t, context.Background(), c)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.end(t, cmp.Or(c.stop, syscall.SIGTERM))
		if t.Failed() {
			t.Logf("%s %s said:\n%s", p.name, strings.Join(c.args, " "), p.output.tail(4000))
		}
	})
	if c.ready != nil {
		p.waitLine(t, c.ready)
	}
	return p
}

// waitLine returns the first line of the output that matches.
func (p *program) waitLine(t *testing.T, re *regexp.Regexp) string {
	t.Helper()
	line, err := p.awaitLine(re)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// awaitLine is waitLine for other goroutines than the test's.
func (p *program) awaitLine(re *regexp.Regexp) (string, error) {
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	ended := p.ended
	for {
		line, more := p.output.find(re)
		if line != "" {
			return line, nil
		}
		select {
		case <-more:
		case <-ended:
			ended = nil
			if line, _ := p.output.find(re); line == "" {
				return "", fmt.Errorf("%s ended before it said %q: %v", p.name, re, p.err)
			}
		case <-limit.C:
			return "", fmt.Errorf("%s did not say %q in %v", p.name, re, waitLimit)
		}
	}
}

// end asks the program to end, and fails the test if it does not.
func (p *program) end(t *testing.T, signal syscall.Signal) {
	select {
	case <-p.ended:
		return
	default:
	}
	p.cmd.Process.Signal(signal)
	begin := time.Now()
	select {
	case <-p.ended:
		if took := time.Since(begin); took > promptly {
			t.Errorf("%s took %v to end, with nothing left to do", p.name, took)
		}
	case <-time.After(waitLimit):
		t.Errorf("%s did not end %v after %v", p.name, waitLimit, signal)
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.ended
	}
}

// run runs a command to its end, which must be exit 0, and returns what it wrote to stdout.
func (h *host) run(t *testing.T, c command) []byte {
	t.Helper()
	var out bytes.Buffer
	h.runTo(t, c, &out)
	return out.Bytes()
}

func (h *host) runTo(t *testing.T, c command, stdout io.Writer) {
	t.Helper()
	if err := h.try(t, c, stdout); err != nil {
		t.Fatal(err)
	}
}

// try is for other goroutines than the test's, and for commands that may fail.
func (h *host) try(t *testing.T, c command, stdout io.Writer) error {
	t.Helper()
	limit := cmp.Or(c.limit, workLimit)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := h.build(t, ctx, c)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(err, fmt.Errorf("not done after %v", limit))
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(c.name), strings.Join(c.args, " "), err, tailOf(stderr.String(), 4000))
	}
	return nil
}

// An output keeps what a program says and wakes those who wait for a line of it.
type output struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // closed and replaced at each write
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	close(o.more)
	o.more = make(chan struct{})
	return len(p), nil
}

func (o *output) find(re *regexp.Regexp) (line string, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for l := range strings.Lines(string(o.text)) {
		if re.MatchString(l) {
			return l, o.more
		}
	}
	return "", o.more
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

func (o *output) tail(n int) string { return tailOf(o.String(), n) }

func tailOf(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// searchPath is PATH with the folders where servers are, which users often do not have in it.
func searchPath() string {
	path := os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
	versions, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	return strings.Join(append([]string{path}, versions...), ":")
}

// tool is the path of a program. Where it is missing, the test is skipped, or fails if
// WAXWIRE_E2E=require says that all must be there.
func tool(t *testing.T, name string) string {
	t.Helper()
	if filepath.IsAbs(name) {
		return name
	}
	for dir := range strings.SplitSeq(searchPath(), ":") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(path) {
			return path
		}
	}
	missing(t, name+" is not installed")
	return ""
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("WAXWIRE_E2E") == "require" {
		t.Fatalf("%s, and WAXWIRE_E2E=require", what)
	}
	t.Skipf("%s (WAXWIRE_E2E=require makes this a failure)", what)
}
