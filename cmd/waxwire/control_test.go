package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

// controlDir is a folder whose path is short enough for sockets.
func controlDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wax")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func testReply() statusReply {
	return statusReply{Server: &serverReport{processReport: newProcess()}}
}

// stale leaves a socket as a process does that is killed.
func stale(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

// Of several servers that start at once over a dead one's socket, one has it, and keeps it.
func TestOneControl(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" && runtime.GOOS != "freebsd" {
		t.Skip("no lock on folders here")
	}
	for range 20 {
		dir := controlDir(t)
		stale(t, filepath.Join(dir, controlServer))
		var wg sync.WaitGroup
		var mu sync.Mutex
		var have []*control
		for range 8 {
			wg.Go(func() {
				c, err := openControl(dir, controlServer, testReply)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					have = append(have, c)
				case !errors.Is(err, errControlLive):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(have) != 1 {
			t.Errorf("%d have it, want 1", len(have))
		}
		all := askAll([]string{dir})
		if len(all) != 1 || all[0].err != nil || all[0].reply.Server.PID != os.Getpid() {
			t.Errorf("asked: %+v", all)
		}
		for _, c := range have {
			c.Close()
		}
		if left := controlsIn(dir); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// Who asks sweeps up what dead processes have left, and nothing else.
func TestStaleControls(t *testing.T) {
	dir := controlDir(t)
	names := []string{controlServer, controlClient(1, 0), controlClient(2, 3)}
	for _, name := range append(names, "other.sock") {
		stale(t, filepath.Join(dir, name))
	}
	live, err := openControl(dir, controlClient(3, 0), testReply)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if got := controlsIn(dir); !slices.Equal(got, []string{live.path}) {
		t.Errorf("after a start: %v", got)
	}
	stale(t, filepath.Join(dir, controlServer))
	if all := askAll([]string{dir, filepath.Join(dir, "none")}); len(all) != 1 || all[0].path != live.path {
		t.Errorf("asked: %+v", all)
	}
	if _, err := os.Lstat(filepath.Join(dir, controlServer)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a look: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "other.sock")); err != nil {
		t.Errorf("another program's socket: %v", err)
	}
}

// A process that has another one's socket in its place by now leaves that alone.
func TestCloseControl(t *testing.T) {
	dir := controlDir(t)
	first, err := openControl(dir, controlServer, testReply)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(first.path)
	second, err := openControl(dir, controlServer, testReply)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if _, err := askControl(second.path); err != nil {
		t.Error(err)
	}
	second.Close()
	(*control)(nil).Close()
}

// Who connects is the same user or root, where the system tells; the others get nothing, and are in
// nobody's way.
func TestOwnListener(t *testing.T) {
	path := filepath.Join(controlDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type who struct {
		uid   int
		known bool
		err   error
	}
	next := make(chan who, 1)
	own := &ownListener{UnixListener: l, own: 1000, peer: func(*net.UnixConn) (int, bool, error) {
		w := <-next
		return w.uid, w.known, w.err
	}}
	accepted := make(chan net.Conn, 1)
	go func() {
		for {
			c, err := own.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for _, tt := range []struct {
		name string
		who  who
		in   bool
	}{
		{"another user", who{1001, true, nil}, false},
		{"the same user", who{1000, true, nil}, true},
		{"root", who{0, true, nil}, true},
		{"who cannot be told", who{1000, true, errors.New("no")}, false},
		{"a system that does not tell", who{0, false, nil}, true},
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		next <- tt.who
		if tt.in {
			select {
			case got := <-accepted:
				got.Close()
			case <-time.After(patience):
				t.Errorf("%s was not let in", tt.name)
			}
		} else {
			c.SetDeadline(time.Now().Add(patience))
			if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %d, %v; want the connection closed", tt.name, n, err)
			}
			if len(accepted) > 0 {
				t.Errorf("%s was let in", tt.name)
			}
		}
		c.Close()
	}
}

// The system's word on who has connected, where there is one.
func TestPeerUID(t *testing.T) {
	path := filepath.Join(controlDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	uid, known, err := peerUID(c)
	if err != nil || known && uid != os.Geteuid() {
		t.Errorf("got %d, %v, %v; want %d", uid, known, err, os.Geteuid())
	}
	if !known && (runtime.GOOS == "linux" || runtime.GOOS == "darwin" || runtime.GOOS == "freebsd") {
		t.Error("this system can tell")
	}
}

// A folder in which others may write is no place for a socket that is believed.
func TestControlDir(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	dir := controlDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openControl(dir, controlServer, testReply); err == nil || !strings.Contains(err.Error(), "can be written by other users (0777)") {
		t.Errorf("got %v", err)
	}
	stale(t, filepath.Join(dir, controlServer))
	if all := askAll([]string{dir}); len(all) > 0 {
		t.Errorf("asked: %+v", all)
	}
}

func TestRunFolders(t *testing.T) {
	for _, tt := range []struct {
		name, flag string
		env        map[string]string
		want       []string
	}{
		{"--home", "/w", map[string]string{"XDG_RUNTIME_DIR": "/run/user/1", "HOME": "/h"}, []string{"/w"}},
		{"WAXWIRE_HOME", "", map[string]string{"WAXWIRE_HOME": "/w", "XDG_RUNTIME_DIR": "/run/user/1"}, []string{"/w"}},
		{"login", "", map[string]string{"XDG_RUNTIME_DIR": "/run/user/1", "HOME": "/h"}, []string{"/run/user/1/waxwire", "/h/.local/state/waxwire"}},
		{"no login", "", map[string]string{"HOME": "/h"}, []string{"/h/.local/state/waxwire"}},
		{"state", "", map[string]string{"HOME": "/h", "XDG_STATE_HOME": "/s"}, []string{"/s/waxwire"}},
		{"relative", "", map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "s"}, []string{"/h/.local/state/waxwire"}},
		{"data alone", "", map[string]string{"XDG_DATA_HOME": "/d"}, []string{"/d/waxwire"}},
	} {
		if runtime.GOOS == "windows" {
			t.Skip("paths have another form")
		}
		h, err := findHome(tt.flag, func(name string) string { return tt.env[name] })
		if err != nil || !slices.Equal(h.run, tt.want) {
			t.Errorf("%s: got %v, %v; want %v", tt.name, h.run, err, tt.want)
		}
	}
}

// What a person reads, to the letter, of everything that can be told.
func TestStatusText(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	next, past := now.Add(4*time.Second), ago(time.Second)
	key := keys.PublicKey{}.Fingerprint()
	report := homeReport{
		Servers: []serverReport{{
			processReport: processReport{PID: 812, Started: ago(200 * time.Minute)},
			Listening:     []string{"ws://[::]:8443/wax", "ws://127.0.0.1:80/wax"}, Enrolled: 3,
			Peers: []peerReport{
				{Name: "desk", Fingerprint: key, Sessions: []sessionReport{
					{Since: ago(20 * time.Second), RTT: 3, Streams: 1, InBytes: 41_200_000, OutBytes: 300_000, Resumes: 2, RetransmittedBytes: 1_200_000, WaitingBytes: 64_000},
				}},
				{Name: "laptop", Fingerprint: key, Sessions: []sessionReport{
					{Connected: true, Since: ago(12 * time.Minute), RTT: 19.2, Streams: 3, InBytes: 5, OutBytes: 7},
					{Connected: true, Since: ago(time.Second)},
				}},
			},
		}},
		Clients: []clientReport{
			{Name: "relay", Ready: true, Session: sessionReport{Connected: true, Since: ago(12 * time.Minute), RTT: 19, Streams: 3, InBytes: 41_200_000, OutBytes: 300_000, Resumes: 1},
				Forwards: []forwardReport{
					{Listen: "127.0.0.1:8080", Target: "localhost:80", Open: 2, Total: 14},
					{Listen: "127.0.0.1:1080", Open: 1, Total: 9, Refused: 1, Type: typeDynamic},
					{Listen: "127.0.0.1:9000", Target: "localhost:3000", Total: 3, Type: typeRemote, Listening: true},
					{Listen: "*:9001", Target: "localhost:3001", Type: typeRemote},
				}},
			{Name: "away", Ready: true, Session: sessionReport{Since: ago(20 * time.Second), Reason: "cannot reach away:80: connection refused"}, Tries: 3, NextTry: &next, Waiting: 1},
			{Name: "late", Ready: true, Session: sessionReport{Since: ago(20 * time.Second)}, NextTry: &past, Waiting: 2},
			{Name: "new", Session: sessionReport{Since: ago(20 * time.Second)}},
		},
	}
	const want = `server   running 3 h 20 min   pid 812
  ws://[::]:8443/wax
  ws://127.0.0.1:80/wax
  3 peers enrolled, 2 sessions connected, 1 away
  desk     away for 20 s      -       1 stream    41.2 MB in   300.0 kB out   2 resumes   1.2 MB sent again   64.0 kB waiting
  laptop   connected 12 min   19 ms   3 streams   5 B in       7 B out
  laptop   connected 1 s      -       0 streams   0 B in       0 B out

relay   connected 12 min   19 ms   3 streams   41.2 MB in   300.0 kB out   1 resume
  L  127.0.0.1:8080 → localhost:80     2 open, 14 total
  D  127.0.0.1:1080                    1 open, 9 total, 1 refused
  R  127.0.0.1:9000 → localhost:3000   0 open, 3 total
  R  *:9001 → localhost:3001           not listening, 0 open, 0 total

away   away for 20 s, next try in 4 s, 1 connection waiting
  cannot reach away:80: connection refused

late   away for 20 s, trying now, 2 connections waiting

new   not connected yet
`
	if got := report.text(now, "→"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	report.Servers[0].Stopping = true
	if got := report.text(now, "->"); !strings.HasPrefix(got, "server   stopping ") || !strings.Contains(got, " -> ") {
		t.Errorf("got:\n%s", got)
	}
}

// Whatever comes through the sockets, it writes letters and nothing else on the terminal.
func TestStatusTextVisible(t *testing.T) {
	evil := "\x1b[2J\u202e\nx\tx"
	report := homeReport{
		Servers: []serverReport{{Listening: []string{evil}, Peers: []peerReport{{Name: evil, Sessions: []sessionReport{{}}}}}},
		Clients: []clientReport{{Name: evil, Session: sessionReport{Reason: evil}, Forwards: []forwardReport{{Listen: evil, Target: evil}}}},
	}
	got := report.text(time.Now(), "->")
	if strings.ContainsAny(got, "\x1b\u202e\t") || strings.Count(got, "\n") != 8 {
		t.Errorf("got %q", got)
	}
	if n := strings.Count(got, `\u{1b}[2J\u{202e}\u{a}x\u{9}x`); n != 6 {
		t.Errorf("it is told %d times, want 6: %q", n, got)
	}
}
