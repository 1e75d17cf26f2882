//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An sshd is a real one on the server host, with its own configuration and keys.
type sshd struct {
	*e2e
	dir, port string
}

func (e *e2e) newSSHD(t *testing.T) *sshd {
	t.Helper()
	s := &sshd{e2e: e, dir: sharedDir(t), port: e.server.freePort(t)}
	for _, name := range []string{"host", "user"} {
		e.server.run(t, command{name: "ssh-keygen", args: []string{"-q", "-t", "ed25519", "-N", "", "-f", s.path(name)}})
	}
	hostKey, err := os.ReadFile(s.path("host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "known_hosts", "target "+string(hostKey))
	s.write(t, "config", strings.Join([]string{
		"Port " + s.port,
		"ListenAddress 127.0.0.1",
		"HostKey " + s.path("host"),
		"AuthorizedKeysFile " + s.path("user.pub"),
		"PidFile none",
		"StrictModes no", // the folder is under /tmp
		"UsePAM no",
		"PasswordAuthentication no",
		"PermitRootLogin prohibit-password",
		"Subsystem sftp internal-sftp",
		"",
	}, "\n"))
	// sshd insists on this folder, which its service makes.
	if err := os.Mkdir("/run/sshd", 0o755); err == nil {
		t.Cleanup(func() { os.Remove("/run/sshd") })
	} else if !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	e.server.start(t, command{
		name: "sshd", args: []string{"-D", "-e", "-f", s.path("config")},
		ready: regexp.MustCompile(`Server listening on`),
	})
	return s
}

func (s *sshd) path(name string) string { return filepath.Join(s.dir, name) }

func (s *sshd) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// options are for ssh and scp: nothing of this machine's or user's configuration.
func (s *sshd) options(more ...string) []string {
	args := []string{"-F", "/dev/null", "-i", s.path("user")}
	for _, o := range append([]string{
		"IdentitiesOnly=yes",
		"BatchMode=yes",
		"StrictHostKeyChecking=yes",
		"HostKeyAlias=target",
		"UserKnownHostsFile=" + s.path("known_hosts"),
		"LogLevel=ERROR",
	}, more...) {
		args = append(args, "-o", o)
	}
	return args
}

// use runs ssh and scp against host, with these options to reach it.
func (s *sshd) use(t *testing.T, host string, options ...string) {
	t.Helper()
	ssh := func(remote string, stdin io.Reader) command {
		args := append(s.options(options...), "root@"+host, remote)
		return command{name: "ssh", args: args, stdin: stdin}
	}
	const size = 64 << 20
	want := hashOf(t, noise(3, size))

	// Standard input to its end, and what the far program says after that.
	begin := time.Now()
	got := string(s.client.run(t, ssh("sha256sum", noise(3, size))))
	if !strings.HasPrefix(got, want) {
		t.Errorf("ssh sha256sum printed %q, want %s", got, want)
	}
	t.Logf("ssh, %d MiB to standard input: %s", size>>20, rate(size, time.Since(begin)))

	err := s.client.try(t, ssh("echo partly >&2; exit 7", nil), io.Discard)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("ssh exit 7: got %v, want exit status 7", err)
	}

	there, back := s.path("there"), s.path("back")
	here, err := os.Create(s.path("here"))
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if _, err := io.Copy(here, noise(3, size)); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	scp := func(from, to string) command {
		return command{name: "scp", args: append(append([]string{"-q"}, s.options(options...)...), from, to)}
	}
	s.client.run(t, scp(here.Name(), "root@"+host+":"+there))
	up := time.Since(begin)
	begin = time.Now()
	s.client.run(t, scp("root@"+host+":"+there, back))
	down := time.Since(begin)
	for _, path := range []string{there, back} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := hashOf(t, f); got != want {
			t.Errorf("%s after scp: SHA-256 %s, want %s", path, got, want)
		}
		f.Close()
	}
	t.Logf("scp, %d MiB: up %s, down %s", size>>20, rate(size, up), rate(size, down))
}

func (e *e2e) testSSH(t *testing.T) {
	s := e.newSSHD(t)
	target := "127.0.0.1:" + s.port
	r := e.newRelay(t, serverIP, "connect="+target)
	host, port, err := net.SplitHostPort(r.forwardTo(t, target))
	if err != nil {
		t.Fatal(err)
	}
	s.use(t, host, "Port="+port)
}

func (e *e2e) testSSHPipe(t *testing.T) {
	s := e.newSSHD(t)
	r := e.newRelay(t, serverIP, "connect=127.0.0.1:"+s.port)
	s.use(t, "127.0.0.1", "Port="+s.port,
		fmt.Sprintf("ProxyCommand=%s --home %s pipe --server-key %s %s %%h:%%p", r.bin, r.clientHome, r.serverKey, r.url))
}

// A postgres is a real one on the server host, on a TCP port of loopback and on a unix socket.
type postgres struct {
	*e2e
	dir, port string
}

const postgresUser = "postgres" // it refuses to run as root

func (e *e2e) newPostgres(t *testing.T) *postgres {
	t.Helper()
	for _, name := range []string{"initdb", "postgres", "psql", "pgbench", "setpriv"} {
		tool(t, name)
	}
	owner, err := user.Lookup(postgresUser)
	if err != nil {
		missing(t, err.Error())
	}
	p := &postgres{e2e: e, dir: sharedDir(t), port: e.server.freePort(t)}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	if err := os.Chown(p.dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(p.dir, "data")
	e.server.run(t, command{name: "initdb", user: postgresUser, dir: p.dir, args: []string{
		"--pgdata", data, "--auth", "trust", "--username", postgresUser, "--encoding", "UTF8", "--locale", "C", "--no-sync",
	}})
	e.server.start(t, command{
		name: "postgres", user: postgresUser, dir: p.dir, args: []string{
			"-D", data, "-p", p.port, "-k", p.dir, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
		},
		ready: regexp.MustCompile(`ready to accept connections`),
		stop:  syscall.SIGINT, // ends the sessions too
	})
	return p
}

func (p *postgres) target() string { return "127.0.0.1:" + p.port }
func (p *postgres) socket() string { return filepath.Join(p.dir, ".s.PGSQL."+p.port) }

// command is psql or pgbench on the client host.
func (p *postgres) command(name, local string, args ...string) command {
	host, port, _ := net.SplitHostPort(local)
	return command{name: name, args: append([]string{"-h", host, "-p", port, "-U", postgresUser}, args...), env: []string{
		"PGDATABASE=postgres", "PGPASSFILE=/nonexistent", "PGCONNECT_TIMEOUT=10",
	}}
}

func (p *postgres) query(t *testing.T, local, sql string) string {
	t.Helper()
	return strings.TrimSpace(string(p.client.run(t, p.command("psql", local, "-X", "-w", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql))))
}

// bench makes the tables of pgbench and runs it for that many seconds.
func (p *postgres) bench(t *testing.T, local string, seconds int) {
	t.Helper()
	p.client.run(t, p.command("pgbench", local, "-i", "-q", "-s", "2"))
	out := string(p.client.run(t, p.command("pgbench", local, "-c", "8", "-j", "2", "-T", strconv.Itoa(seconds))))
	figures := regexp.MustCompile(`(?s)actually processed: ([0-9]+).*failed transactions: ([0-9]+).*latency average = (\S+ ms).*tps = ([0-9.]+)`).FindStringSubmatch(out)
	if figures == nil {
		t.Fatalf("pgbench printed:\n%s", out)
	}
	if figures[1] == "0" || figures[2] != "0" {
		t.Errorf("pgbench: %s transactions, %s failed, want some and none", figures[1], figures[2])
	}
	t.Logf("pgbench, 8 clients: %s transactions a second, %s on average", figures[4], figures[3])
	// Each transaction moves one amount into all of these.
	sums := p.query(t, local, `select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
		(select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history),
		(select count(*) from pgbench_history)`)
	if want := "t|t|" + figures[1]; sums != want {
		t.Errorf("after pgbench: %s, want %s", sums, want)
	}
}

func (e *e2e) testPostgres(t *testing.T) {
	p := e.newPostgres(t)
	r := e.newRelay(t, serverIP, "connect="+p.target())
	local := r.forwardTo(t, p.target())

	// A result of 64 MiB, row by row.
	const rows, width = 20_000, 100
	got := md5.New()
	begin := time.Now()
	p.client.runTo(t, p.command("psql", local, "-X", "-w", "-c",
		fmt.Sprintf("copy (select repeat(md5(i::text), %d) from generate_series(1, %d) i order by i) to stdout", width, rows)), got)
	took := time.Since(begin)
	want := md5.New()
	size := int64(0)
	for i := range rows {
		sum := md5.Sum(strconv.AppendInt(nil, int64(i+1), 10))
		n, _ := want.Write(append(bytes.Repeat([]byte(hex.EncodeToString(sum[:])), width), '\n'))
		size += int64(n)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("result of psql: MD5 %x, want %x", got.Sum(nil), want.Sum(nil))
	}
	t.Logf("psql, result of %d MiB: %s", size>>20, rate(size, took))

	p.bench(t, local, 5)
}

// A unix socket at this end, at the far end, and at both.
func (e *e2e) testUnixSockets(t *testing.T) {
	p := e.newPostgres(t)
	dir := sharedDir(t)
	web := filepath.Join(dir, "web.sock")
	webTCP := e.webTarget(t, "tcp", "127.0.0.1:0")
	e.webTarget(t, "unix", web)
	r := e.newRelay(t, serverIP, "connect="+webTCP, "connect=unix:"+web, "connect=unix:"+p.socket())

	toTCP, toUnix := filepath.Join(dir, "a.sock"), filepath.Join(dir, "b.sock")
	port := e.client.freePort(t)
	r.forward(t, toTCP+":"+webTCP, toUnix+":"+web, port+":"+p.socket())

	const size = 64 << 20
	want := hashOf(t, noise(4, size))
	for name, path := range map[string]string{"unix to tcp": toTCP, "unix to unix": toUnix} {
		if info, err := os.Stat(path); err != nil || info.Mode().Type() != os.ModeSocket || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: local socket %v, %v, want a socket for its owner alone", name, info, err)
		}
		begin := time.Now()
		c := curl("--unix-socket", path, "--upload-file", "-", "http://target/")
		c.stdin = noise(4, size)
		if got := string(e.client.run(t, c)); got != want {
			t.Errorf("%s: SHA-256 %s, want %s", name, got, want)
		}
		t.Logf("%s, %d MiB up: %s", name, size>>20, rate(size, time.Since(begin)))
	}
	if got := p.query(t, "127.0.0.1:"+port, "select inet_server_addr() is null, 6 * 7"); got != "t|42" {
		t.Errorf("psql over tcp to unix: %q, want t|42", got)
	}
}

// Half-close: an end that has said all it has to say still hears all of the other's 1 MiB.
func (e *e2e) testHalfClose(t *testing.T) {
	const size = 1 << 20
	want := hashOf(t, noise(5, size))
	listener := e.server.listen(t, "tcp", "127.0.0.1:0")
	target := listener.Addr().String()
	r := e.newRelay(t, serverIP, "connect="+target)
	local := r.forwardTo(t, target)

	// accept serves one connection of the target, and gives what it saw.
	accept := func(serve func(net.Conn) error) <-chan error {
		done := make(chan error, 1)
		go func() {
			c, err := listener.Accept()
			if err == nil {
				c.SetDeadline(time.Now().Add(waitLimit))
				err = errors.Join(serve(c), c.Close())
			}
			done <- err
		}()
		return done
	}
	expect := func(r io.Reader) error {
		hash := sha256.New()
		if n, err := io.Copy(hash, r); err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		} else if got := hex.EncodeToString(hash.Sum(nil)); got != want {
			return fmt.Errorf("%d bytes, SHA-256 %s, want %d and %s", n, got, size, want)
		}
		return nil
	}
	sendAll := func(c net.Conn) error {
		if _, err := io.Copy(c, noise(5, size)); err != nil {
			return err
		}
		return c.(*net.TCPConn).CloseWrite()
	}

	hearFirst := func(c net.Conn) error {
		if err := expect(c); err != nil {
			return fmt.Errorf("the target heard %w", err)
		}
		return sendAll(c)
	}
	speakFirst := func(c net.Conn) error {
		if err := sendAll(c); err != nil {
			return err
		}
		if err := expect(c); err != nil {
			return fmt.Errorf("the target heard %w", err)
		}
		return nil
	}

	t.Run("client shuts first", func(t *testing.T) {
		done := accept(hearFirst)
		c := e.client.dial(t, "tcp", local)
		if err := sendAll(c); err != nil {
			t.Error(err)
		}
		if err := expect(c); err != nil {
			t.Errorf("the client heard %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("target shuts first", func(t *testing.T) {
		done := accept(speakFirst)
		c := e.client.dial(t, "tcp", local)
		if err := expect(c); err != nil {
			t.Errorf("the client heard %v", err)
		}
		if err := sendAll(c); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("socat", func(t *testing.T) {
		done := accept(hearFirst)
		got := sha256.New()
		e.client.runTo(t, command{
			name: "socat", args: []string{"-t", "20", "STDIO", "TCP:" + local}, stdin: noise(5, size),
			limit: waitLimit,
		}, got)
		if g := hex.EncodeToString(got.Sum(nil)); g != want {
			t.Errorf("socat heard SHA-256 %s, want %s", g, want)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("through pipe", func(t *testing.T) {
		done := accept(hearFirst)
		got := sha256.New()
		c := r.waxwire(r.clientHome, "pipe", r.url, target, "--server-key", r.serverKey)
		c.stdin, c.limit = noise(5, size), waitLimit
		e.client.runTo(t, c, got)
		if g := hex.EncodeToString(got.Sum(nil)); g != want {
			t.Errorf("pipe's standard output has SHA-256 %s, want %s", g, want)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
