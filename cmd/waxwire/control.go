package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

// A running server or client can be asked what it is doing, through a unix socket in a folder of its
// home: control.sock is the server's, of which there is one a home, and each client has its own. Only
// the same user may connect, and root: the socket's mode says so, and where the system tells who
// connects, that is checked too, since not all systems look at the mode.
//
// What is spoken is HTTP: GET /status answers with a statusReply, and a server has further routes.

const controlServer = "control.sock"

// controlClient is the name of a client's socket. There is a further one for clients that have the same
// number, in different containers, say.
func controlClient(pid, try int) string {
	if try == 0 {
		return fmt.Sprintf("control-client-%d.sock", pid)
	}
	return fmt.Sprintf("control-client-%d-%d.sock", pid, try)
}

// clientControls are the names that this process may use.
func clientControls() (names []string) {
	for try := range 4 {
		names = append(names, controlClient(os.Getpid(), try))
	}
	return names
}

var controlNames = regexp.MustCompile(`^control(-client-[0-9]+(-[0-9]+)?)?\.sock$`)

const (
	controlTimeout = 2 * time.Second // of one question
	controlMax     = 64 << 20        // of one answer
	controlAtOnce  = 16              // questions
)

// A control is the socket of this process.
type control struct {
	path string
	info os.FileInfo
	http *http.Server
	once sync.Once
}

// errControlLive says that another process answers at a control socket.
var errControlLive = errors.New("another process is there")

// A controlRoute is a further thing that a process can be asked for at its socket.
type controlRoute struct {
	pattern string
	handler http.HandlerFunc
}

// openControl makes a socket at which report is asked for. One that a dead process has left is replaced.
func openControl(dir, name string, report func() statusReply, more ...controlRoute) (*control, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := checkControlDir(dir); err != nil {
		return nil, err
	}
	unlock := lockDir(dir)
	defer unlock()
	path := filepath.Join(dir, name)
	if err := removeStale(path); err != nil {
		return nil, err
	}
	for _, other := range controlsIn(dir) {
		removeStale(other)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then it may be another one's
	err = os.Chmod(path, 0o600)
	info, err2 := os.Lstat(path)
	if err := errors.Join(err, err2); err != nil {
		l.Close()
		return nil, err
	}
	c := &control{path: path, info: info, http: &http.Server{
		Handler:           controlHandler(report, more),
		ReadHeaderTimeout: controlTimeout,
		ReadTimeout:       controlTimeout,
		WriteTimeout:      2 * controlTimeout,
		MaxHeaderBytes:    8 << 10,
	}}
	c.http.SetKeepAlivesEnabled(false)
	go c.http.Serve(&ownListener{UnixListener: l, peer: peerUID, own: os.Geteuid()}) // ends with Close
	return c, nil
}

// Close removes the socket. A nil control has none.
func (c *control) Close() {
	if c == nil {
		return
	}
	c.once.Do(func() {
		unlock := lockDir(filepath.Dir(c.path))
		defer unlock()
		if info, err := os.Lstat(c.path); err == nil && os.SameFile(info, c.info) {
			os.Remove(c.path)
		}
		c.http.Close()
	})
}

// removeStale removes a socket at which nobody answers. Called under the folder's lock, under which
// sockets are also made: what does not answer now will never do.
func removeStale(path string) error {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, controlTimeout)
	switch {
	case err == nil:
		c.Close()
		return errControlLive
	case isRefused(err):
		return os.Remove(path)
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

// controlsIn returns the sockets of a folder.
func controlsIn(dir string) (paths []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if controlNames.MatchString(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

func controlHandler(report func() statusReply, more []controlRoute) http.Handler {
	turns := make(chan struct{}, controlAtOnce)
	mux := http.NewServeMux()
	status := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(report())
	}
	for _, route := range append([]controlRoute{{"GET /status", status}}, more...) {
		mux.HandleFunc(route.pattern, func(w http.ResponseWriter, r *http.Request) {
			select {
			case turns <- struct{}{}:
				defer func() { <-turns }()
			default:
				http.Error(w, "too many questions at once", http.StatusServiceUnavailable)
				return
			}
			route.handler(w, r)
		})
	}
	return mux
}

// An ownListener takes connections of one user, and of root, who may look anyway. Where the system does
// not tell who connects, the socket's mode has to do.
type ownListener struct {
	*net.UnixListener
	peer func(*net.UnixConn) (uid int, known bool, err error)
	own  int
}

func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, known, err := l.peer(c)
		if err == nil && (!known || uid == l.own || uid == 0) {
			return c, nil
		}
		c.Close()
	}
}

// askControl asks the process behind a socket what it is doing.
func askControl(path string) (reply statusReply, err error) {
	err = callControl(path, http.MethodGet, "/status", &reply)
	return reply, err
}

// callControl asks the process behind a socket for anything.
func callControl(path, method, what string, reply any) error {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	req, err := http.NewRequest(method, "http://waxwire"+what, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: t, Timeout: controlTimeout}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %q", resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, controlMax)).Decode(reply)
}

// An asked is what came of asking one socket.
type asked struct {
	path  string
	reply statusReply
	err   error
}

// askAll asks all processes whose sockets are in these folders, in the order of their names, and removes
// what dead ones have left.
func askAll(dirs []string) []asked {
	var all []asked
	for _, dir := range dirs {
		if checkControlDir(dir) != nil {
			continue
		}
		for _, path := range controlsIn(dir) {
			all = append(all, asked{path: path})
		}
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, controlAtOnce)
	for i := range all {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			all[i].reply, all[i].err = askControl(all[i].path)
		})
	}
	wg.Wait()
	return slices.DeleteFunc(all, func(a asked) bool {
		if isRefused(a.err) {
			unlock := lockDir(filepath.Dir(a.path))
			defer unlock()
			return removeStale(a.path) == nil
		}
		return errors.Is(a.err, os.ErrNotExist) // it has just ended
	})
}

// openControl makes this process's socket. Only that the home's server runs already is an error: without
// a socket a process does all it has to do, and nobody can look at it.
func (a *app) openControl(report func() statusReply, more []controlRoute, names ...string) (*control, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	dir := h.run[0]
	for _, name := range names {
		var c *control
		c, err = openControl(dir, name, report, more...)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errControlLive) {
			break
		}
	}
	if errors.Is(err, errControlLive) && names[0] == controlServer {
		return nil, alreadyRunning(h, filepath.Join(dir, controlServer))
	}
	why := visible(plainControl(err))
	if a.screen() {
		a.ui.warnf("\"waxwire status\" will not see this process: %s", why)
	} else {
		a.log.Warn("no control socket", "dir", dir, "err", why)
	}
	return nil, nil
}

func alreadyRunning(h home, path string) *failure {
	text := fmt.Sprintf("the server of %s is already running", shorten(h.data))
	if reply, err := askControl(path); err == nil && reply.Server != nil {
		text += fmt.Sprintf(" (pid %d)", reply.Server.PID)
	}
	return fail(codeRunning, errControlLive, text,
		"\"waxwire status\" shows what it does. A second one needs a home of its own: --home DIR")
}

// plainControl is why there is no socket, without the names of system calls.
func plainControl(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil && len(op.Addr.String()) > 100 {
		return "the path of its socket is too long: " + op.Addr.String()
	}
	return plain(err)
}
