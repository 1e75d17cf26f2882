//go:build e2e && linux

package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// An endless target answers each HTTP request with a body that has no length and no end: only the
// end of the connection says whether it is whole. It hands out what its connections ended with.
func (e *e2e) endlessTarget(t *testing.T) (target string, conns <-chan net.Conn, ended <-chan error) {
	t.Helper()
	listener := e.server.listen(t, "tcp", "127.0.0.1:0")
	accepted, errs := make(chan net.Conn, 8), make(chan error, 8)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					errs <- err
					return
				}
				r.Body.Close()
				accepted <- c
				if _, err = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\n"); err == nil {
					_, err = io.Copy(c, zeros{})
				}
				errs <- err
			}()
		}
	}()
	return listener.Addr().String(), accepted, errs
}

// A download is a curl in the middle of an endless body.
type download struct {
	cmd   *exec.Cmd
	ended chan error // curl's end
}

// begin starts curl and returns once a MiB has come.
func (e *e2e) begin(t *testing.T, local string) *download {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), workLimit)
	t.Cleanup(cancel)
	d := &download{ended: make(chan error, 1)}
	d.cmd = e.client.build(t, ctx, curl("http://"+local+"/"))
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, out, 1<<20); err != nil {
		t.Fatal(err)
	}
	go func() {
		io.Copy(io.Discard, out)
		d.ended <- d.cmd.Wait()
	}()
	return d
}

// wantReset waits until curl says that the connection broke: with an orderly end it would have
// taken the part that it got for all of it.
func (d *download) wantReset(t *testing.T) {
	t.Helper()
	const recvError = 56
	begin := time.Now()
	select {
	case err := <-d.ended:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != recvError {
			t.Errorf("curl ended with %v, want exit status %d", err, recvError)
		}
		t.Logf("curl noticed in %v", time.Since(begin).Round(time.Millisecond))
	case <-time.After(waitLimit):
		t.Errorf("curl did not notice in %v", waitLimit)
	}
}

// testCutOff ends one connection of many without care, at either end: the other end gets to know
// and the tunnel does not mind.
func (e *e2e) testCutOff(t *testing.T) {
	target, conns, ended := e.endlessTarget(t)
	web := e.webTarget(t, "tcp", "127.0.0.1:0")
	r := e.newRelay(t, serverIP, "connect="+target, "connect="+web)
	port, webPort := r.client.freePort(t), r.client.freePort(t)
	r.forward(t, port+":"+target, webPort+":"+web)

	t.Run("client killed", func(t *testing.T) {
		d := e.begin(t, "127.0.0.1:"+port)
		<-conns
		d.cmd.Process.Kill()
		<-d.ended
		select {
		case err := <-ended:
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the target's write ended with %v, want a broken connection", err)
			}
		case <-time.After(waitLimit):
			t.Errorf("the target still writes after %v", waitLimit)
		}
	})
	t.Run("target resets", func(t *testing.T) {
		d := e.begin(t, "127.0.0.1:"+port)
		c := (<-conns).(*net.TCPConn)
		c.SetLinger(0)
		c.Close()
		d.wantReset(t)
		<-ended
	})
	e.client.run(t, curl("--output", "/dev/null", fmt.Sprintf("http://127.0.0.1:%s/big", webPort)))
}

// testLostTunnel kills the server in the middle of a download, then starts it again: it does not know the
// session any more, so that the download cannot go on.
func (e *e2e) testLostTunnel(t *testing.T) {
	target, conns, ended := e.endlessTarget(t)
	web := e.webTarget(t, "tcp", "127.0.0.1:0")
	r := e.newRelay(t, serverIP, "connect="+target, "connect="+web)
	r.trouble = true
	port, webPort := r.client.freePort(t), r.client.freePort(t)
	r.forward(t, port+":"+target, webPort+":"+web)

	d := e.begin(t, "127.0.0.1:"+port)
	<-conns
	r.serving.cmd.Process.Kill()
	<-r.serving.ended
	if err := <-ended; err == nil {
		t.Error("the target could write to its end")
	}

	r.serve(t)
	begin := time.Now()
	d.wantReset(t)
	// curl tries again until the client has its tunnel back.
	got := e.client.run(t, curl("--retry", "60", "--retry-delay", "1", "--retry-all-errors",
		"--range", "0-9", "http://127.0.0.1:"+webPort+"/big"))
	if len(got) != 10 {
		t.Errorf("%d bytes after the server is back, want 10", len(got))
	}
	t.Logf("forwards work again %v after the server", time.Since(begin).Round(time.Millisecond))
}
