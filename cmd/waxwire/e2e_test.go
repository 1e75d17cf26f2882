//go:build e2e && linux

package main_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestE2E runs real programs through the real waxwire, between two network namespaces. It needs
// root, Linux, and the programs:
//
//	go test -count=1 -tags e2e -run TestE2E -v ./cmd/waxwire
//
// A part of it whose program is missing is skipped, or fails with WAXWIRE_E2E=require. WAXWIRE_E2E_BINARY
// names a waxwire to test instead of one built here. With -short the big file is 64 MiB and nothing
// that takes minutes runs; with WAXWIRE_FULL=1 cuts go on for longer and idle times are ten minutes.
func TestE2E(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "network namespaces need root, which this test does not have")
	}
	e := &e2e{bin: os.Getenv("WAXWIRE_E2E_BINARY")}
	if e.bin == "" {
		e.bin = build(t, ".")
	}
	e.chaosproxy = build(t, "../../tunnel/internal/tunneltest/chaosproxy")
	e.client, e.server = newHosts(t)
	e.bigFile(t)

	t.Run("curl", e.testCurl)
	t.Run("200 parallel curls", e.testParallelCurls)
	t.Run("ssh and scp", e.testSSH)
	t.Run("ssh through pipe", e.testSSHPipe)
	t.Run("psql and pgbench", e.testPostgres)
	t.Run("unix sockets", e.testUnixSockets)
	t.Run("half-close", e.testHalfClose)
	t.Run("nginx", e.testNginx)
	t.Run("haproxy", e.testHAProxy)
	t.Run("caddy", e.testCaddy)
	t.Run("cut off", e.testCutOff)
	t.Run("lost tunnel", e.testLostTunnel)
	t.Run("sealed", e.testSealed)
	t.Run("pgbench through cuts", e.testPgbenchCut)
	t.Run("scp through cuts", e.testSCPCut)
	t.Run("ssh through cuts", e.testSSHCut)
	t.Run("caddy reloads", e.testCaddyReload)
	t.Run("waiting", func(t *testing.T) { // at the same time, for they all take more than a minute
		t.Run("nginx idle", func(t *testing.T) { t.Parallel(); e.testIdle(t, nginxCommand, false) })
		t.Run("haproxy idle", func(t *testing.T) { t.Parallel(); e.testIdle(t, haproxyCommand, false) })
		t.Run("caddy idle", func(t *testing.T) { t.Parallel(); e.testIdle(t, caddyCommand, false) })
		t.Run("nginx hears nothing", func(t *testing.T) { t.Parallel(); e.testIdle(t, nginxCommand, true) })
		t.Run("haproxy hears nothing", func(t *testing.T) { t.Parallel(); e.testIdle(t, haproxyCommand, true) })
		t.Run("redis over a blackhole", func(t *testing.T) { t.Parallel(); e.testRedisBlackhole(t) })
	})
}

// build builds a program of this module, once for the whole test.
func build(t *testing.T, path string) (program string) {
	t.Helper()
	program = filepath.Join(sharedDir(t), "program")
	if out, err := exec.Command("go", "build", "-o", program, path).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// thorough runs the long forms.
func thorough() bool { return os.Getenv("WAXWIRE_FULL") != "" }

// e2e is what the tests share: the two hosts, the program and a big file.
type e2e struct {
	bin, chaosproxy string
	client, server  *host

	file     string // path
	fileSize int64  // bytes
	fileHash string // SHA-256 in hex
}

// sharedDir is a temporary folder with a short path, for unix sockets, that other users may pass
// through, for programs that do not run as root.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wax")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bigFile makes a file that does not compress.
func (e *e2e) bigFile(t *testing.T) {
	t.Helper()
	e.fileSize = 1 << 30
	if testing.Short() {
		e.fileSize = 64 << 20
	}
	e.file = filepath.Join(sharedDir(t), "big")
	f, err := os.Create(e.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.CopyBuffer(io.MultiWriter(f, hash), noise(1, e.fileSize), make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	e.fileHash = hex.EncodeToString(hash.Sum(nil))
}

// noise is n bytes that look random and are the same for the same seed.
func noise(seed byte, n int64) io.Reader {
	block, err := aes.NewCipher(append(make([]byte, 15), seed))
	if err != nil {
		panic(err)
	}
	stream := cipher.StreamReader{S: cipher.NewCTR(block, make([]byte, aes.BlockSize)), R: zeros{}}
	return io.LimitReader(stream, n)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func hashOf(t *testing.T, r io.Reader) string {
	t.Helper()
	hash := sha256.New()
	if _, err := io.Copy(hash, r); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// A relay is a waxwire server with one peer, and the peer's side of it.
type relay struct {
	*e2e
	serverHome, clientHome string
	listen                 string // the server's address
	url                    string // where the client finds it
	serverKey, clientKey   string
	clientEnv              []string
	serving                *program
	trouble                bool // is what this test makes: programs may end and complain
}

// newRelay starts a server on that address of the server host, port chosen. allow is what the client may do.
func (e *e2e) newRelay(t *testing.T, ip string, allow ...string) *relay {
	t.Helper()
	dir := sharedDir(t)
	r := &relay{
		e2e:        e,
		serverHome: filepath.Join(dir, "server"),
		clientHome: filepath.Join(dir, "client"),
		listen:     ip + ":" + e.server.freePort(t),
	}
	r.url = "ws://" + r.listen + "/wax"
	for _, home := range []string{r.serverHome, r.clientHome} {
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.serverKey = r.newKey(t, e.server, r.serverHome)
	r.clientKey = r.newKey(t, e.client, r.clientHome)
	add := []string{"peers", "add", "laptop", r.clientKey}
	for _, a := range allow {
		add = append(add, "--allow", a)
	}
	e.server.run(t, r.waxwire(r.serverHome, add...))

	r.serve(t)
	return r
}

// serve starts the server, again if it has ended.
func (r *relay) serve(t *testing.T) {
	t.Helper()
	c := r.waxwire(r.serverHome, "server", "--listen", r.listen, "--path", "/wax")
	c.ready = regexp.MustCompile(`(?i)\blistening\b`)
	r.serving = r.start(t, r.server, c)
}

// alarm is what a log of a day without trouble does not have.
var alarm = regexp.MustCompile(`level=(WARN|ERROR)|\b(WRN|ERR)\b|panic:|fatal error:|DATA RACE`)

// start starts a waxwire that has to do with good peers and targets only.
func (r *relay) start(t *testing.T, h *host, c command) *program {
	t.Helper()
	var p *program
	t.Cleanup(func() { // after its end
		if p == nil || r.trouble {
			return
		}
		if line, _ := p.output.find(alarm); line != "" {
			t.Errorf("waxwire on the %s raised a false alarm: %s", h.role, line)
		}
	})
	p = h.start(t, c)
	t.Cleanup(func() { // before its end
		if r.trouble {
			return
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if err != nil {
			t.Errorf("waxwire on the %s ended by itself: %v", h.role, err)
			return
		}
		peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
		if peak == nil {
			t.Errorf("waxwire on the %s ended by itself", h.role) // and waits to be collected
			return
		}
		kib, _ := strconv.Atoi(string(peak[1]))
		t.Logf("peak memory of waxwire on the %s: %d MiB", h.role, kib>>10)
	})
	return p
}

func (r *relay) newKey(t *testing.T, h *host, home string) string {
	t.Helper()
	h.run(t, r.waxwire(home, "key", "new"))
	key := strings.TrimSpace(string(h.run(t, r.waxwire(home, "key", "show"))))
	if !regexp.MustCompile(`^wax1[a-z0-9]{58}$`).MatchString(key) {
		t.Fatalf("key show printed %q, want a public key alone", key)
	}
	return key
}

func (r *relay) waxwire(home string, args ...string) command {
	return command{name: r.bin, args: append([]string{"--home", home}, args...), dir: home}
}

// forward starts a client with these -L specs and waits until its tunnel stands.
func (r *relay) forward(t *testing.T, specs ...string) *program {
	t.Helper()
	args := []string{"client", r.url, "--server-key", r.serverKey}
	for _, s := range specs {
		args = append(args, "-L", s)
	}
	c := r.waxwire(r.clientHome, args...)
	c.env = r.clientEnv
	c.ready = regexp.MustCompile(`(?i)\bready\b`)
	return r.start(t, r.client, c)
}

// forwardTo is forward to one TCP target, and returns the local address.
func (r *relay) forwardTo(t *testing.T, target string) string {
	t.Helper()
	port := r.client.freePort(t)
	r.forward(t, port+":"+target)
	return "127.0.0.1:" + port
}

// webTarget is an HTTP server on the server host, in this process so that it can hash what comes.
//
//	GET  /big       the big file
//	PUT  /          answers with the SHA-256 of the body
//	GET  /gate/N    waits until gate requests are there at once, then answers with noise N
func (e *e2e) webTarget(t *testing.T, network, address string) (target string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /big", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, e.file) })
	mux.HandleFunc("PUT /", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		n, err := io.CopyBuffer(hash, r.Body, make([]byte, 256<<10))
		if err != nil {
			t.Logf("upload ended after %d bytes: %v", n, err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%x", hash.Sum(nil))
	})
	var waiting sync.WaitGroup
	waiting.Add(gateCount)
	mux.HandleFunc("GET /gate/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseUint(r.PathValue("n"), 10, 8)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		waiting.Done()
		waiting.Wait()
		w.Header().Set("Content-Length", strconv.Itoa(gateSize))
		io.Copy(w, noise(byte(n), gateSize))
	})
	l := e.server.listen(t, network, address)
	server := &http.Server{Handler: mux}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return l.Addr().String()
}

const (
	gateCount = 200
	gateSize  = 256 << 10
)

func curl(args ...string) command {
	return command{name: "curl", args: append([]string{"--fail", "--silent", "--show-error", "--noproxy", "*"}, args...)}
}

// transfer moves the big file both ways over that address of the client host.
func (e *e2e) transfer(t *testing.T, way, address string) {
	t.Helper()
	// Hashed as it comes: a disk would be slower than the tunnel.
	hash := sha256.New()
	begin := time.Now()
	e.client.runTo(t, curl("http://"+address+"/big"), hash)
	down := time.Since(begin)
	if got := hex.EncodeToString(hash.Sum(nil)); got != e.fileHash {
		t.Errorf("download: SHA-256 %s, want %s", got, e.fileHash)
	}

	begin = time.Now()
	got := string(e.client.run(t, curl("--upload-file", e.file, "http://"+address+"/")))
	up := time.Since(begin)
	if got != e.fileHash {
		t.Errorf("upload: SHA-256 %s, want %s", got, e.fileHash)
	}
	t.Logf("%s, %d MiB: down %s, up %s", way, e.fileSize>>20, rate(e.fileSize, down), rate(e.fileSize, up))
}

func rate(n int64, d time.Duration) string {
	return fmt.Sprintf("%.0f MB/s (%.2f s)", float64(n)/1e6/d.Seconds(), d.Seconds())
}

func (e *e2e) testCurl(t *testing.T) {
	target := e.webTarget(t, "tcp", "127.0.0.1:0")
	r := e.newRelay(t, serverIP, "connect="+target)
	e.transfer(t, "tunnel", r.forwardTo(t, target))
	e.transfer(t, "no tunnel", e.webTarget(t, "tcp", serverIP+":0"))
}

// All 200 are there at once: the target answers none before it has all of their requests.
func (e *e2e) testParallelCurls(t *testing.T) {
	target := e.webTarget(t, "tcp", "127.0.0.1:0")
	// By name this time.
	target = strings.Replace(target, "127.0.0.1", "localhost", 1)
	r := e.newRelay(t, serverIP, "connect="+target)
	local := r.forwardTo(t, target)
	tool(t, "curl") // a skip is for this goroutine only
	begin := time.Now()
	var group sync.WaitGroup
	for n := range gateCount {
		group.Go(func() {
			got, want := sha256.New(), sha256.New()
			io.Copy(want, noise(byte(n), gateSize))
			if err := e.client.try(t, curl("--max-time", "60", fmt.Sprintf("http://%s/gate/%d", local, n)), got); err != nil {
				t.Error(err)
			} else if g, w := got.Sum(nil), want.Sum(nil); string(g) != string(w) {
				t.Errorf("curl %d: SHA-256 %x, want %x", n, g, w)
			}
		})
	}
	group.Wait()
	t.Logf("%d curls at once, %d KiB each: %s", gateCount, gateSize>>10, rate(gateCount*gateSize, time.Since(begin)))
}
