//go:build e2e && linux

package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

const (
	canaryHost = "canary-target.test" // 127.0.0.1 on both hosts
	canaryText = "canary: nobody on the wire may read this. "
)

// testSealed records the link while text goes through the tunnel both ways, and looks for it, for
// the target's name and for the client's key. That the recording and the search work is shown by
// the same transfer without the tunnel.
func (e *e2e) testSealed(t *testing.T) {
	text := bytes.Repeat([]byte(canaryText), 2000)
	listener := e.server.listen(t, "tcp", "0.0.0.0:0")
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	go func() { // sends back what it gets, with the target's name
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			got := make([]byte, len(text))
			if n, err := io.ReadFull(c, got); err == nil {
				c.Write([]byte(canaryHost + "\n"))
				c.Write(got[:n])
			}
			c.Close()
		}
	}()
	talk := func(t *testing.T, address string) {
		t.Helper()
		c := e.client.dial(t, "tcp", address)
		defer c.Close()
		if _, err := c.Write(text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(canaryHost)+1+len(text))
		if n, err := io.ReadFull(c, got); err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if want := canaryHost + "\n" + string(text); string(got) != want {
			t.Fatal("the echo is not what was sent")
		}
	}

	t.Run("control", func(t *testing.T) {
		wire := e.record(t, func() { talk(t, net.JoinHostPort(serverIP, port)) })
		for _, canary := range []string{canaryText, canaryHost} {
			if !bytes.Contains(wire, []byte(canary)) {
				t.Errorf("%q is not in the recording of a transfer without a tunnel: the search proves nothing", canary)
			}
		}
	})
	t.Run("tunnel", func(t *testing.T) {
		target := canaryHost + ":" + port
		r := e.newRelay(t, serverIP, "connect="+target)
		wire := e.record(t, func() { talk(t, r.forwardTo(t, target)) })
		if len(wire) < 2*len(text) {
			t.Fatalf("the recording has %d bytes, less than went through the tunnel (%d)", len(wire), 2*len(text))
		}
		canaries := map[string]string{"the text": strings.TrimSpace(canaryText), "the target's name": canaryHost}
		for name, text := range map[string]string{"client": r.clientKey, "server": r.serverKey} {
			key, err := keys.ParsePublicKey(text)
			if err != nil {
				t.Fatal(err)
			}
			canaries[name+" key"] = text
			canaries[name+" key, raw"] = string(key[:])
			canaries[name+" key, hex"] = hex.EncodeToString(key[:])
			canaries[name+" fingerprint"] = key.Fingerprint()
		}
		canaries["the peer's name"] = "laptop"
		for name, canary := range canaries {
			if at := bytes.Index(wire, []byte(canary)); at >= 0 {
				t.Errorf("%s (%q) is on the wire, at byte %d of the recording", name, canary, at)
			}
			// In base64 it looks different at each of three offsets; what the neighbours touch is cut off.
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
				for shift := range 3 {
					encoded := encoding.EncodeToString([]byte(strings.Repeat("?", shift) + canary))
					if len(encoded) < 20 {
						continue // would be found by chance
					}
					if inner := encoded[4 : len(encoded)-4]; bytes.Contains(wire, []byte(inner)) {
						t.Errorf("%s (%q) is on the wire in base64", name, canary)
					}
				}
			}
		}
		if !t.Failed() {
			t.Logf("%d KiB recorded, none of %d canaries in it", len(wire)>>10, len(canaries))
		}
	})
}

// record gives all that the server's end of the link carried while f ran.
func (e *e2e) record(t *testing.T, f func()) []byte {
	t.Helper()
	path := filepath.Join(sharedDir(t), "wire.pcapng")
	dump := e.server.start(t, command{
		name: "dumpcap", args: []string{"-q", "-i", wireName, "-B", "64", "-w", path},
		// It says "File:" when the first packet can come.
		ready: regexp.MustCompile(`^File: `),
	})
	f()
	// The last packets may be on their way from the kernel: a connection made now comes after
	// them, and is looked for in the file.
	mark := []byte("end of recording " + time.Now().Format(time.RFC3339Nano))
	listener := e.server.listen(t, "tcp", serverIP+":0")
	defer listener.Close()
	c := e.client.dial(t, "tcp", listener.Addr().String())
	defer c.Close()
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := c.Write(mark); err != nil {
			t.Fatal(err)
		}
		select {
		case <-again.C:
		case <-limit.C:
			t.Fatalf("the recording did not reach its end in %v", waitLimit)
		}
		wire, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(wire, mark) {
			dump.end(t, syscall.SIGINT)
			if lost := regexp.MustCompile(`dropped on interface.*: \d+/([1-9]\d*)`).FindString(dump.output.String()); lost != "" {
				t.Errorf("the recording is not complete: %s", lost)
			}
			return wire
		}
	}
}
