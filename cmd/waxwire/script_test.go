package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var discardLog = log.New(io.Discard, "", 0)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"waxwire": main})
}

// patience is how long a script waits for anything before it fails.
const patience = 30 * time.Second

// Each script is one behaviour of the program, run as a user runs it. Beside testscript's own
// commands they have those of the map below.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Values["state"] = &state{procs: make(map[string]*process), loads: make(map[string]chan error), conns: make(map[string]*net.TCPConn)}
			env.Defer(env.Values["state"].(*state).end)
			env.Vars = append(env.Vars, "LC_ALL=C.UTF-8", "TERM=xterm", "HOME="+env.WorkDir+"/home")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   cmdExits,
			"start":   cmdStart,
			"signal":  cmdSignal,
			"ended":   cmdEnded,
			"waitfor": cmdWaitFor,
			"serve":   cmdServe,
			"fetch":   cmdFetch,
			"isreset": cmdIsReset,
			"load":    cmdLoad,
			"broken":  cmdBroken,
			"relay":   cmdRelay,
			"hold":    cmdHold,
			"open":    cmdOpen,
			"say":     cmdSay,
			"drink":   cmdDrink,
			"finish":  cmdFinish,
			"cutoff":  cmdCutOff,
			"proxy":   cmdProxy,
			"front":   cmdFront,
			"acme":    cmdACME,

			"crowd":      cmdCrowd,
			"disperse":   cmdDisperse,
			"eventually": cmdEventually,
			"limits":     cmdLimits,
			"gencert":    cmdGenCert,
			"newkey":     cmdNewKey,
		},
	})
}

// state is what a script has running.
type state struct {
	procs   map[string]*process
	loads   map[string]chan error
	conns   map[string]*net.TCPConn
	relay   *relay
	acme    *acmeServer
	cleanup []func()
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	ended  time.Time // set when exited is closed
	asked  time.Time // when the last signal was sent
}

func (s *state) end() {
	for _, p := range s.procs {
		p.cmd.Process.Kill()
		<-p.exited
	}
	for _, f := range s.cleanup {
		f()
	}
}

func stateOf(ts *testscript.TestScript) *state { return ts.Value("state").(*state) }

func noNeg(ts *testscript.TestScript, neg bool) {
	if neg {
		ts.Fatalf("this command has no !")
	}
}

// exits CODE COMMAND ARG...: runs it to its end; stdout and stderr can be looked at afterwards.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// start NAME ARG...: runs waxwire in the background, with its output in NAME.out and NAME.err.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	name := args[0]
	env := []string{}
	for _, key := range []string{"PATH", "HOME", "LC_ALL", "TERM", "TMPDIR", "SSL_CERT_FILE", "WAXWIRE_HOME", "NO_COLOR", "JOURNAL_STREAM", "XDG_RUNTIME_DIR", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"} {
		if v := ts.Getenv(key); v != "" {
			env = append(env, key+"="+v)
		}
	}
	path := ""
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p := filepath.Join(dir, "waxwire"); path == "" {
			if _, err := os.Stat(p); err == nil {
				path = p
			}
		}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Env, cmd.Dir = env, ts.MkAbs(".")
	for ext, dst := range map[string]*io.Writer{".out": &cmd.Stdout, ".err": &cmd.Stderr} {
		f, err := os.Create(ts.MkAbs(name + ext))
		ts.Check(err)
		defer f.Close()
		*dst = f
	}
	ts.Check(cmd.Start())
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		cmd.Wait()
		p.ended = time.Now()
		close(p.exited)
	}()
	stateOf(ts).procs[name] = p
}

func processOf(ts *testscript.TestScript, name string) *process {
	p := stateOf(ts).procs[name]
	if p == nil {
		ts.Fatalf("nothing was started as %s", name)
	}
	return p
}

// signal NAME INT|TERM|HUP|USR1|KILL
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	sig := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP, "USR1": sigUSR1}[args[1]]
	p := processOf(ts, args[0])
	p.asked = time.Now()
	ts.Check(p.cmd.Process.Signal(sig))
}

// ended NAME CODE [WITHIN [AFTER]]: waits for its end, so long after the last signal and not before; stdout and stderr are in
// NAME.out and NAME.err.
func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	p := processOf(ts, args[0])
	select {
	case <-p.exited:
	case <-time.After(patience):
		ts.Fatalf("%s is still running; its stderr:\n%s", args[0], ts.ReadFile(args[0]+".err"))
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("%s: exit status %s, want %s; its stderr:\n%s", args[0], got, args[1], ts.ReadFile(args[0]+".err"))
	}
	for i, text := range args[2:] {
		bound, err := time.ParseDuration(text)
		ts.Check(err)
		if took := p.ended.Sub(p.asked); (took > bound) == (i == 0) {
			ts.Fatalf("%s took %v to end, want %v", args[0], took, args[2:])
		}
	}
}

// waitfor FILE REGEXP [VAR...]: waits until the file matches, and sets VARs to the groups.
func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		b := readStart(ts.MkAbs(args[0]))
		if m := re.FindSubmatch(b); m != nil {
			for i, name := range args[2:] {
				ts.Setenv(name, string(m[i+1]))
			}
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never matched %q; it has:\n%s", args[0], args[1], b)
		}
		<-tick.C
	}
}

// readStart reads what a file that is being written has, up to a bound: a reader that waits for the end of
// a file may never see it.
func readStart(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	return b
}

// serve KIND VAR: a server of the test's own; VAR is set to its address.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	s := stateOf(ts)
	var l net.Listener
	var err error
	if args[0] == "unix" {
		l, err = net.Listen("unix", ts.MkAbs("t.sock"))
	} else {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	ts.Check(err)
	ts.Setenv(args[1], l.Addr().String())
	s.cleanup = append(s.cleanup, func() { l.Close() })
	answer := func(status int, fields ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(fields); i += 2 {
				w.Header().Set(fields[i], fields[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, "hello from the target\n")
		}
	}
	switch args[0] {
	case "http", "unix":
		go http.Serve(l, answer(200))
	case "head": // leaves what it was asked in head.log
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var b bytes.Buffer
			fmt.Fprintf(&b, "Host: %s\n", r.Host)
			r.Header.Write(&b)
			os.WriteFile(ts.MkAbs("head.log"), b.Bytes(), 0o600)
		}))
	case "nginx400":
		go http.Serve(l, answer(400, "Server", "nginx"))
	case "nginx502":
		go http.Serve(l, answer(502, "Server", "nginx\u202e"))
	case "busy":
		go http.Serve(l, answer(503, "Retry-After", "60"))
	case "404":
		go http.Serve(l, answer(404))
	case "tls":
		cert, err := tls.LoadX509KeyPair(ts.MkAbs("cert.pem"), ts.MkAbs("key.pem"))
		ts.Check(err)
		go (&http.Server{Handler: answer(404), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
			ErrorLog: discardLog}).ServeTLS(l, "", "")
	case "echo": // sends back what it got once it has all of it
		go eachConn(l, func(c net.Conn) {
			b, _ := io.ReadAll(c)
			c.Write(b)
		})
	case "source": // sends more than any pipe holds, and keeps the connection until the script ends
		over := make(chan struct{})
		s.cleanup = append(s.cleanup, func() { close(over) })
		go eachConn(l, func(c net.Conn) {
			c.Write(make([]byte, 8<<20))
			<-over
		})
	case "hold": // says hello and keeps the connection
		go eachConn(l, func(c net.Conn) {
			io.WriteString(c, "hello\n")
			io.Copy(io.Discard, c)
		})
	case "silent": // takes what comes and says nothing
		go eachConn(l, func(c net.Conn) { io.Copy(io.Discard, c) })
	case "talk": // says hello and sends back what it gets as it comes
		go eachConn(l, func(c net.Conn) {
			io.WriteString(c, "hello\n")
			io.Copy(c, c)
		})
	case "big": // says hello and sends what cmdDrink wants
		go eachConn(l, func(c net.Conn) {
			io.WriteString(c, "hello\n")
			io.Copy(c, bigData())
		})
	case "nobody": // refuses connections
		l.Close()
		addr, free, err := boundPort()
		ts.Check(err)
		s.cleanup = append(s.cleanup, free)
		ts.Setenv(args[1], addr)
	default:
		ts.Fatalf("no such kind of server")
	}
}

func eachConn(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			f(c)
		}()
	}
}

// fetch ADDR|/path [STATUS [HOST]]: an HTTP GET whose body has to be the target's, or whose status
// has to be STATUS.
func cmdFetch(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	network, addr := "tcp", strings.TrimPrefix(args[0], "http://")
	addr, path, _ := strings.Cut(addr, "/")
	if addr == "" {
		network, addr, path = "unix", "/"+path, ""
	}
	var d net.Dialer
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, addr)
	}}
	req, err := http.NewRequest("GET", "http://localhost/"+path, nil)
	ts.Check(err)
	if len(args) > 2 {
		req.Host = args[2]
	}
	resp, err := (&http.Client{Transport: t, Timeout: patience}).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if len(args) > 1 {
		if got := strconv.Itoa(resp.StatusCode); got != args[1] {
			ts.Fatalf("status %s, want %s: %s", got, args[1], body)
		}
		return
	}
	if string(body) != "hello from the target\n" {
		ts.Fatalf("got %q", body)
	}
}

// isreset ADDR: a connection there ends in a reset.
func cmdIsReset(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	c, err := net.Dial("tcp", args[0])
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = io.Copy(io.Discard, c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		ts.Fatalf("got %v, want ECONNRESET", err)
	}
}

// load NAME ADDR: a connection whose data is read as fast as it comes; a MiB of it is there.
func cmdLoad(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	c, err := net.Dial("tcp", args[1])
	ts.Check(err)
	s := stateOf(ts)
	s.cleanup = append(s.cleanup, func() { c.Close() })
	_, err = io.CopyN(io.Discard, c, 1<<20)
	ts.Check(err)
	end := make(chan error, 1)
	s.loads[args[0]] = end
	go func() {
		_, err := io.Copy(io.Discard, c)
		end <- err
	}()
}

// broken NAME: that load ends in a reset, which nobody can take for its end.
func cmdBroken(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	select {
	case err := <-stateOf(ts).loads[args[0]]:
		if !errors.Is(err, syscall.ECONNRESET) {
			ts.Fatalf("it ended in %v, want ECONNRESET", err)
		}
	case <-time.After(patience):
		ts.Fatalf("it has not ended")
	}
}

// hold ADDR: a connection that stays open until the script ends; its first line was read.
func cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	c, err := net.Dial("tcp", args[0])
	ts.Check(err)
	stateOf(ts).cleanup = append(stateOf(ts).cleanup, func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 6)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello\n" {
		ts.Fatalf("got %q, %v", b, err)
	}
}

// A relay stands between client and server at an address that stays.
type relay struct {
	mu    sync.Mutex
	to    string
	conns map[net.Conn]bool
}

// relay start VAR, relay to ADDR, relay cut: cut resets what is open and refuses what comes.
func cmdRelay(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	s := stateOf(ts)
	switch args[0] {
	case "start":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(args[1], l.Addr().String())
		r := &relay{conns: make(map[net.Conn]bool)}
		s.relay = r
		s.cleanup = append(s.cleanup, func() { l.Close(); r.set("") })
		go eachConn(l, r.serve)
	case "to":
		s.relay.set(strings.TrimSuffix(strings.TrimPrefix(args[1], "ws://"), "/wax"))
	case "cut":
		s.relay.set("")
	}
}

func (r *relay) set(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	for c := range r.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	clear(r.conns)
}

func (r *relay) serve(c net.Conn) {
	r.mu.Lock()
	to := r.to
	if to == "" {
		r.mu.Unlock()
		c.(*net.TCPConn).SetLinger(0)
		return
	}
	d, err := net.Dial("tcp", to)
	if err == nil {
		r.conns[c], r.conns[d] = true, true
	}
	r.mu.Unlock()
	if err != nil {
		return
	}
	defer d.Close()
	go io.Copy(d, c)
	io.Copy(c, d)
}

// limits NAME core|nofile VALUE: what the system says of a running process.
func cmdLimits(ts *testscript.TestScript, neg bool, args []string) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", processOf(ts, args[0]).cmd.Process.Pid))
	ts.Check(err)
	name := map[string]string{"core": "Max core file size", "nofile": "Max open files"}[args[1]]
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			f := strings.Fields(rest)
			want := args[2]
			if want == "hard" {
				want = f[1]
			}
			if (f[0] == want) == neg {
				ts.Fatalf("%s: %s, want %s (neg %v)", name, f[0], want, neg)
			}
			return
		}
	}
	ts.Fatalf("no such limit")
}

// gencert: a new cert.pem and key.pem for 127.0.0.1 and localhost.
func cmdGenCert(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	ts.Check(writeCert(ts.MkAbs(".")))
}

// writeCert writes a new cert.pem and key.pem, signed by itself.
func writeCert(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
}

// newkey HOME VAR: makes the identity of HOME and sets VAR to its public key.
func cmdNewKey(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	ts.Check(ts.Exec("waxwire", "--home", args[0], "key", "new", "-q"))
	var out bytes.Buffer
	out.WriteString(ts.ReadFile("stdout"))
	ts.Setenv(args[1], strings.TrimSpace(out.String()))
}
