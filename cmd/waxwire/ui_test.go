package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestVisible(t *testing.T) {
	tests := map[string]string{
		"plain text, äöü → ✓": "plain text, äöü → ✓",
		"\x1b[2J":             `\u{1b}[2J`,
		"a\nb\tc\r":           `a\u{a}b\u{9}c\u{d}`,
		"\u202eexe.txt":       `\u{202e}exe.txt`,
		"\u2066x\u2069":       `\u{2066}x\u{2069}`,
		"\u200bzero":          `\u{200b}zero`,
		"\u2028line":          `\u{2028}line`,
		"\u009bcsi":           `\u{9b}csi`,
		"bad \xff byte":       "bad \ufffd byte",
	}
	for in, want := range tests {
		if got := visible(in); got != want {
			t.Errorf("visible(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 41_200_000: "41.2 MB", 999_949: "999.9 kB",
		999_951: "1.0 MB", 1_200_000_000: "1.2 GB", 1 << 62: "4.6 EB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("formatBytes(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{210 * time.Microsecond: "0.2 ms", 19 * time.Millisecond: "19 ms", 6 * time.Second: "6 s",
		119 * time.Second: "119 s", 12 * time.Minute: "12 min", 200 * time.Minute: "3 h 20 min"} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%v) = %s, want %s", d, got, want)
		}
	}
	if count(1, "connection") != "1 connection" || count(0, "connection") != "0 connections" {
		t.Error("count")
	}
}

func TestClosest(t *testing.T) {
	names := []string{"demo", "server", "client", "pipe", "key", "peers", "completion", "version"}
	for typed, want := range map[string]string{"sevrer": "server", "Server": "server", "cleint": "client", "comp": "completion",
		"kye": "key", "peer": "peers", "nonsense": "", "x": "", "": "", "serverserver": ""} {
		if got := closest(typed, names); got != want {
			t.Errorf("closest(%q) = %q, want %q", typed, got, want)
		}
	}
}

func TestColorAndUnicode(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	tests := []struct {
		flag     string
		terminal bool
		env      func(string) string
		want     bool
	}{
		{"auto", true, env(), true},
		{"auto", false, env(), false},
		{"auto", true, env("NO_COLOR", "1"), false},
		{"auto", true, env("TERM", "dumb"), false},
		{"auto", false, env("FORCE_COLOR", "1"), true},
		{"always", false, env("NO_COLOR", "1"), true},
		{"never", true, env("FORCE_COLOR", "1"), false},
		{"auto", true, env("NO_COLOR", "1", "FORCE_COLOR", "1"), false},
	}
	for _, tt := range tests {
		if got := wantsColor(tt.flag, tt.terminal, tt.env); got != tt.want {
			t.Errorf("%s, terminal %v, %q %q: %v", tt.flag, tt.terminal, tt.env("NO_COLOR"), tt.env("FORCE_COLOR"), got)
		}
	}
	if !hasUnicode(env("LANG", "de_DE.UTF-8")) || hasUnicode(env("LC_ALL", "C", "LANG", "de_DE.UTF-8")) || hasUnicode(env()) {
		t.Error("hasUnicode")
	}
}

// A line that is to be replaced is, on a terminal; in a file nothing is taken back.
func TestUpdate(t *testing.T) {
	for terminal, want := range map[bool]string{
		true:  "! one\n\x1b[1A\r\x1b[K! two\n\x1b[1A\r\x1b[Kok three\nfour\n",
		false: "! one\n! two\nok three\nfour\n",
	} {
		var b bytes.Buffer
		u := &ui{err: &b, terminal: terminal}
		u.updatef("one")
		u.updatef("two")
		u.okf("three")
		u.sayf("four")
		if b.String() != want {
			t.Errorf("terminal %v: got %q, want %q", terminal, b.String(), want)
		}
	}
}

// What others wrote reaches the log as text, in one line, whatever the format.
func TestLogIsClean(t *testing.T) {
	for _, format := range []string{"text", "json", "screen"} {
		var b bytes.Buffer
		log := newLogger(&b, format, slog.LevelInfo, false, false)
		log.Info("msg", "name", "a\n\x1b[31m\u202eb", "err", errors.New("x\r\ny"))
		log.Debug("not this")
		got := b.String()
		if strings.Count(got, "\n") != 1 || strings.ContainsAny(strings.TrimSuffix(got, "\n"), "\x1b\r\u202e") || !strings.Contains(got, "202e") {
			t.Errorf("%s: %q", format, got)
		}
	}
	var b bytes.Buffer
	newLogger(&b, "text", slog.LevelInfo, false, true).Info("listening", "url", "ws://x")
	if got := b.String(); got != "level=INFO msg=listening url=ws://x\n" {
		t.Errorf("under the journal: %q", got)
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isJournal(f, "") || isJournal(f, "1:2") || isJournal(new(bytes.Buffer), "1:2") {
		t.Error("taken for the journal")
	}
	dev, ino, ok := deviceAndInode(f)
	if !ok {
		if runtime.GOOS == "windows" {
			t.Skip("there is no journal on Windows")
		}
		t.Fatal("no device and inode")
	}
	if env := strings.TrimSpace(strings.Join([]string{utoa(dev), utoa(ino)}, ":")); !isJournal(f, env) {
		t.Errorf("%s is not taken for the journal", env)
	}
}

func utoa(n uint64) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return utoa(n/10) + utoa(n%10)
}

func TestStatusHosts(t *testing.T) {
	ready := &readiness{}
	ready.set(true)
	h := statusHandler("status.example", ready)
	get := func(host, method, path string) int {
		r := httptest.NewRequest(method, "http://"+host+path, nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:1": 200, "127.0.0.1:7787": 200, "127.9.9.9": 200, "[::1]:7787": 200, "[::1]": 200,
		"status.example": 200, "status.example:80": 200, "evil.example": 421, "localhost.evil.example": 421,
		"192.0.2.1": 421, "": 421, "0.0.0.0": 421, "127.0.0.1.nip.io": 421,
	} {
		if got := get(host, "GET", "/healthz"); got != want {
			t.Errorf("Host %q: %d, want %d", host, got, want)
		}
	}
	if got := get("localhost", "POST", "/healthz"); got != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", got)
	}
	ready.set(false)
	if got := get("localhost", "GET", "/readyz"); got != 503 {
		t.Errorf("not ready: %d", got)
	}
	if got := get("localhost", "GET", "/healthz"); got != 200 {
		t.Errorf("alive but not ready: %d", got)
	}
}

// A server whose certificate is renewed on disk serves the new one without being told.
func TestCertificateRenewed(t *testing.T) {
	dir := t.TempDir()
	renew := func(when time.Time) {
		t.Helper()
		if err := writeCert(dir); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"cert.pem", "key.pem"} { // the clock of the files may be coarse
			if err := os.Chtimes(filepath.Join(dir, name), when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	var said bytes.Buffer
	renew(time.Unix(1000, 0))
	c, err := loadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&said, nil))
	first := c.current(log)
	renew(time.Unix(2000, 0))
	if c.current(log) != first {
		t.Error("the files were looked at again within a second")
	}
	c.checked = time.Time{}
	second := c.current(log)
	if bytes.Equal(second.Certificate[0], first.Certificate[0]) {
		t.Error("the new certificate is not used")
	}
	if err := os.WriteFile(c.files[0], []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.checked = time.Time{}
	if said.Len() > 0 {
		t.Errorf("said: %s", said.String())
	}
	if got := c.current(log); said.Len() == 0 || got != second {
		t.Errorf("broken files: %v, said %q; want a word, and the certificate of before", got, said.String())
	}
}

func TestOwnerOf(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells who has a port")
	}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", ":0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("%s cannot be listened on here: %v", addr, err)
			continue
		}
		got := ownerOf(shownAddress(addr, l.Addr()))
		if !strings.HasSuffix(got, "(pid "+utoa(uint64(os.Getpid()))+")") {
			t.Errorf("owner of %v: %q", l.Addr(), got)
		}
		l.Close()
		if got := ownerOf(shownAddress(addr, l.Addr())); got != "" {
			t.Errorf("owner of a closed port: %q", got)
		}
	}
}

func TestReachable(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"ws://127.0.0.1:8443/wax":         "ws://127.0.0.1:8443/wax",
		"ws://[::]:8443/wax":              "ws://" + name + ":8443/wax",
		"wss://0.0.0.0:443/x":             "wss://" + name + ":443/x",
		"ws://relay.example.net:8443/wax": "ws://relay.example.net:8443/wax",
	} {
		if got := reachable(in); got != want {
			t.Errorf("reachable(%s) = %s, want %s", in, got, want)
		}
	}
}

// With a certificate for a name, the name stands for all interfaces.
func TestShownAddress(t *testing.T) {
	all, one := &net.TCPAddr{IP: net.IPv6unspecified, Port: 443}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8443}
	for _, test := range []struct {
		acme  []string
		asked string
		got   net.Addr
		want  string
	}{
		{nil, ":443", all, "[::]:443"},
		{[]string{"relay.example", "other.example"}, ":443", all, "relay.example"},
		{[]string{"relay.example"}, ":0", &net.TCPAddr{IP: net.IPv6unspecified, Port: 8443}, "relay.example:8443"},
		{[]string{"relay.example"}, "127.0.0.1:0", one, "127.0.0.1:8443"},
	} {
		if got := (&serverFlags{acme: test.acme}).shownAddress(test.asked, test.got); got != test.want {
			t.Errorf("%v, %s: got %s, want %s", test.acme, test.asked, got, test.want)
		}
	}
}

// A message that repeats is said once in a while.
func TestRecent(t *testing.T) {
	var r recent
	if !r.first("a") || r.first("a") || !r.first("b") {
		t.Error("first")
	}
	r.said["a"] = time.Now().Add(-sayAgain)
	if !r.first("a") || r.first("a") {
		t.Error("after a while")
	}
}
