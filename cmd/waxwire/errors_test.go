package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

func testServer(t testing.TB, text string) server {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return server{url: u}
}

func op(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
}

// What the user is told of each kind of mistake, to the letter, and what a script makes of it.
func TestTexts(t *testing.T) {
	relay := testServer(t, "wss://relay.example.net/wax")
	plainRelay := testServer(t, "ws://relay.example.net:8443/wax")
	fp, key := keys.PublicKey{}.Short(), keys.PublicKey{}.String()
	dial := func(err error, srv server) error { return explainDial(err, srv, keys.PublicKey{}) }
	remote := func(spec string) forward.Remote {
		m, err := forward.ParseRemote(spec)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	noon := time.Date(2026, 2, 21, 12, 0, 0, 0, time.Local)
	join := func(err error) error { return explainJoin(err, &connector{server: relay}, false) }
	http := forward.Address{Network: "tcp", Addr: "localhost:80"}
	tests := []struct {
		name  string
		err   error
		exit  int
		retry bool
		text  string
	}{
		{"1 refused", dial(fmt.Errorf("tunnel: %w", op(syscall.ECONNREFUSED)), plainRelay), 4, true,
			`waxwire: cannot reach relay.example.net:8443: connection refused
  Nothing is listening there. Is "waxwire server" running, and is 8443 the right port?`},
		{"1 no route", dial(op(syscall.EHOSTUNREACH), plainRelay), 4, true,
			`waxwire: cannot reach relay.example.net:8443: no route to host`},
		{"1 no answer", dial(context.DeadlineExceeded, relay), 4, true,
			`waxwire: cannot reach relay.example.net:443: no answer in time
  Is the address right, and does a firewall let the port through?`},
		{"1 cut", dial(op(syscall.ECONNRESET), plainRelay), 4, true,
			`waxwire: cannot reach relay.example.net:8443: the connection was cut`},
		{"2 no such name", dial(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "relay.exmaple.net", IsNotFound: true}}, testServer(t, "ws://relay.exmaple.net/wax")), 4, true,
			`waxwire: cannot find relay.exmaple.net: no such host
  Is the name spelled right?`},
		{"2 no name server", dial(&net.DNSError{Err: "server misbehaving", IsTemporary: true}, relay), 4, true,
			`waxwire: cannot find relay.example.net: the name servers do not answer`},
		{"3 another web server", dial(&tunnel.AnswerError{Status: 200, Text: "200 OK"}, testServer(t, "https://relay.example.net/")), 4, false,
			`waxwire: https://relay.example.net/ answered "200 OK", not a WebSocket
  Some other web server is there. The default path is /wax; use the URL that the server prints at start.`},
		{"4 upgrade dropped", dial(&tunnel.AnswerError{Status: 400, Text: "400 Bad Request", Server: "nginx"}, relay), 4, true,
			`waxwire: wss://relay.example.net/wax answered "400 Bad Request" (Server: nginx)
  The proxy in front does not pass WebSocket upgrades. For nginx add:
    proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";`},
		{"4 nothing behind the proxy", dial(&tunnel.AnswerError{Status: 502, Text: "502 Bad Gateway", Server: "Caddy"}, relay), 4, true,
			`waxwire: wss://relay.example.net/wax answered "502 Bad Gateway" (Server: Caddy)
  The proxy in front does not reach waxwire. Is "waxwire server" running behind it?`},
		{"4 busy", dial(&tunnel.AnswerError{Status: 503, Text: "503 Service Unavailable"}, relay), 4, true,
			`waxwire: wss://relay.example.net/wax is busy: it answered "503 Service Unavailable"
  Try again in a moment.`},
		{"4 hostile", dial(&tunnel.AnswerError{Status: 200, Text: "200 \x1b]0;x\a", Server: "\u202e" + strings.Repeat("x", 100)}, relay), 4, false,
			`waxwire: wss://relay.example.net/wax answered "200 \\u{1b}]0;x\\u{7}" (Server: \u{202e}` + strings.Repeat("x", 39) + `...), not a WebSocket
  Some other web server is there. The default path is /wax; use the URL that the server prints at start.`},
		{"5 no TLS", dial(fmt.Errorf("tunnel: %w", tls.RecordHeaderError{Msg: "first record"}), testServer(t, "wss://relay.example.net:8443/wax")), 4, false,
			`waxwire: relay.example.net:8443 does not speak TLS
  The server listens on ws://. Use ws:// here, or start the server with --acme, or --tls-cert and --tls-key.`},
		{"5 certificate", dial(&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}, relay), 4, false,
			`waxwire: the certificate of relay.example.net:443 is not good: it is for another name
  It has to be for that name, and of an authority that this system trusts, or --tls-ca.`},
		{"6 bare 404", dial(tunnel.ErrNotFound, relay), 5, false,
			`waxwire: wss://relay.example.net/wax did not answer as the server with the key ` + fp + `
  Wrong path, or a server with another key: set up anew, or somebody in between.
  The server prints its URL and key at start. If it was set up anew, ask its owner for the new key.`},
		{"7 not enrolled", dial(&tunnel.RefusedError{Reason: tunnel.NotEnrolled}, relay), 5, false,
			`waxwire: relay.example.net does not know this device (` + fp + `)
  Ask its owner for an invite:  waxwire invite NAME
  Or to run:  waxwire peers add NAME ` + key},
		{"7 url", dial(&tunnel.RefusedError{Reason: tunnel.URLUnexpected}, relay), 5, false,
			`waxwire: relay.example.net does not go by the URL wss://relay.example.net/wax
  Use the URL that the server prints at start.`},
		{"7 too many", dial(&tunnel.RefusedError{Reason: tunnel.TooManySessions}, relay), 5, false,
			`waxwire: relay.example.net has too many connections of this device already
  Is it running elsewhere with the same identity?`},
		{"7 other", dial(&tunnel.RefusedError{Reason: tunnel.NoCommonSuite}, relay), 5, false,
			`waxwire: relay.example.net refuses this device: no cipher in common`},
		{"8 used", join(&tunnel.RefusedError{Reason: tunnel.InviteUsed, Time: noon}), 5, false,
			`waxwire: this invite was used at 2026-02-21 12:00 by another device
  Ask for a new one; this one will not work again.`},
		{"8 used, by whom is known", explainJoin(&tunnel.RefusedError{Reason: tunnel.InviteUsed, Time: noon}, &connector{server: relay}, true), 5, false,
			`waxwire: this invite was used at 2026-02-21 12:00
  Ask for a new one; this one will not work again.`},
		{"8 expired", join(&tunnel.RefusedError{Reason: tunnel.InviteExpired, Time: noon}), 5, false,
			`waxwire: this invite expired at 2026-02-21 12:00
  Ask for a new one; this one will not work again.`},
		{"8 not known", join(&tunnel.RefusedError{Reason: tunnel.InviteExpired}), 5, false,
			`waxwire: relay.example.net does not know this invite: it was revoked, or expired long ago
  Ask for a new one; this one will not work again.`},
		{"8 damaged", explainInviteText(&keys.InviteError{Problem: "a character is wrong or missing"}), 5, false,
			`waxwire: this invite is damaged: a character is wrong or missing
  Paste it again.`},
		{"8 of another version", explainInviteText(&keys.InviteError{Problem: "it is of version 2, and this program is too old for that", Err: keys.ErrInviteVersion}), 5, false,
			`waxwire: this invite cannot be read: it is of version 2, and this program is too old for that`},
		{"8 lost", join(&tunnel.CloseError{Code: tunnel.PeerRemoved, Reason: "too\x1b late", Remote: true}), 5, false,
			`waxwire: relay.example.net does not enrol this device: too\u{1b} late
  Ask for a new invite, with another name.`},
		{"9 privileged", explainListen(&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)}, "127.0.0.1:80", "-L 10080:localhost:80"), 1, false,
			`waxwire: cannot listen on 127.0.0.1:80: permission denied
  Ports below 1024 need a privilege (CAP_NET_BIND_SERVICE).
  Try another port:  -L 10080:localhost:80`},
		{"10 not allowed", explainStream(&tunnel.StreamError{Code: tunnel.NotAllowed, Text: "laptop may connect to localhost:80", Remote: true, Refused: true}, relay, forward.Address{Network: "tcp", Addr: "localhost:5432"}), 6, false,
			`waxwire: relay.example.net does not let laptop connect to localhost:5432
  Allowed: localhost:80. There run:  waxwire peers allow laptop connect=localhost:5432`},
		{"10 nothing allowed", explainStream(&tunnel.StreamError{Code: tunnel.NotAllowed, Text: "laptop may connect to nothing", Remote: true, Refused: true}, relay, forward.Address{Network: "unix", Addr: "/run/db"}), 6, false,
			`waxwire: relay.example.net does not let laptop connect to /run/db
  Allowed: nothing. There run:  waxwire peers allow laptop connect=unix:/run/db`},
		{"10 other words", explainStream(&tunnel.StreamError{Code: tunnel.NotAllowed, Text: "no\x1b[31m", Remote: true, Refused: true}, relay, http), 6, false,
			`waxwire: relay.example.net does not let this device connect to localhost:80
  It says: no\u{1b}[31m`},
		{"11 target down", explainStream(&tunnel.StreamError{Code: tunnel.RefusedByTarget, Text: "localhost:80: connection refused", Remote: true, Refused: true}, relay, http), 1, true,
			`waxwire: relay.example.net could not reach localhost:80: connection refused`},
		{"11 no name", explainStream(&tunnel.StreamError{Code: tunnel.NoSuchTarget, Text: "elsewhere", Remote: true, Refused: true}, relay, http), 1, true,
			`waxwire: relay.example.net could not reach localhost:80: no such target`},
		{"11 reset", explainStream(&tunnel.StreamError{Code: tunnel.Cancelled, Remote: true}, relay, http), 1, true,
			`waxwire: localhost:80 at relay.example.net broke the connection`},
		{"11 going away", explainStream(&tunnel.StreamError{Code: tunnel.GoingAway, Remote: true, Refused: true}, relay, http), 1, true,
			`waxwire: relay.example.net is shutting down and takes nothing new`},
		{"11 lost", explainStream(&tunnel.StreamError{Code: tunnel.SessionLost}, plainRelay, http), 1, true,
			`waxwire: the connection to relay.example.net:8443 was lost`},
		{"12 permission", explainReverse(&tunnel.StreamError{Code: tunnel.NotAllowed, Text: "127.0.0.1:80: permission denied", Remote: true, Refused: true}, relay, remote("80:localhost:3000")), 6, false,
			`waxwire: relay.example.net cannot listen on 127.0.0.1:80: permission denied
  Ports below 1024 need CAP_NET_BIND_SERVICE there. Try -R 10080:localhost:3000`},
		{"12 in use", explainReverse(&tunnel.StreamError{Code: tunnel.Unreachable, Text: "127.0.0.1:9000: in use by another peer", Remote: true, Refused: true}, relay, remote("9000:localhost:3000")), 6, false,
			`waxwire: relay.example.net cannot listen on 127.0.0.1:9000: in use by another peer
  Try another port:  -R 19000:localhost:3000`},
		{"12 socket", explainReverse(&tunnel.StreamError{Code: tunnel.Unreachable, Text: "/run/x: no such\x1b folder", Remote: true, Refused: true}, relay, remote("/run/x:localhost:3000")), 6, false,
			`waxwire: relay.example.net cannot listen on /run/x: no such\u{1b} folder`},
		{"12 too many", explainReverse(&tunnel.StreamError{Code: tunnel.TooMany, Text: "this peer has 64 listeners already", Remote: true, Refused: true}, relay, remote("9000:localhost:3000")), 6, false,
			`waxwire: relay.example.net cannot listen on 127.0.0.1:9000: this peer has 64 listeners already`},
		{"12 not allowed", explainReverse(&tunnel.StreamError{Code: tunnel.NotAllowed, Text: "laptop may listen on 127.0.0.1:9001", Remote: true, Refused: true}, relay, remote("9000:localhost:3000")), 6, false,
			`waxwire: relay.example.net does not let laptop listen on 127.0.0.1:9000
  Allowed: 127.0.0.1:9001. There run:  waxwire peers allow laptop listen=127.0.0.1:9000`},
		{"12 any port", explainReverse(&tunnel.StreamError{Code: tunnel.NotAllowed, Text: "laptop may listen on nothing", Remote: true, Refused: true}, relay, remote("0:localhost:3000")), 6, false,
			`waxwire: relay.example.net does not let laptop listen on 127.0.0.1:0
  Allowed: nothing. There run:  waxwire peers allow laptop 'listen=127.0.0.1:*'`},
		{"12 other words", explainReverse(&tunnel.StreamError{Code: tunnel.NotAllowed, Text: "no\x1b[31m", Remote: true, Refused: true}, relay, remote("/run/x:localhost:3000")), 6, false,
			`waxwire: relay.example.net does not let this device listen on /run/x
  It says: no\u{1b}[31m`},
		{"12 lost", explainReverse(&tunnel.StreamError{Code: tunnel.SessionLost}, relay, remote("9000:localhost:3000")), 1, true,
			`waxwire: the connection to relay.example.net was lost`},
		{"14 mode", explainKeyFile(&keys.FileModeError{Path: "/x/identity.key", Mode: 0o644}, "/x/identity.key"), 3, false,
			`waxwire: /x/identity.key can be read by other users (0644)
  chmod 600 /x/identity.key`},
		{"14 folder", explainKeyFile(&keys.FileModeError{Path: "/x", Mode: fs.ModeDir | 0o777}, "/x/identity.key"), 3, false,
			`waxwire: /x can be written by other users (0777)
  chmod go-w /x`},
		{"14 owner", explainKeyFile(&keys.FileOwnerError{Path: "/x/identity.key", UID: 1000}, "/x/identity.key"), 3, false,
			`waxwire: /x/identity.key belongs to another user (uid 1000)`},
		{"14 none", explainKeyFile(fs.ErrNotExist, "/x/identity.key"), 3, false,
			`waxwire: there is no identity in /x/identity.key
  Make one:  waxwire key new`},
		{"anything else", errors.New("something \x1b[31mred"), 1, false, `waxwire: something \u{1b}[31mred`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			exit := report(&b, tt.err, false, false)
			if got := strings.TrimSuffix(b.String(), "\n"); got != tt.text {
				t.Errorf("got\n%s\nwant\n%s", got, tt.text)
			}
			if exit != tt.exit {
				t.Errorf("exit status %d, want %d", exit, tt.exit)
			}
			if lines := strings.Count(tt.text, "\n") + 1; lines > 5 {
				t.Errorf("%d lines, at most 5", lines)
			}
			b.Reset()
			report(&b, tt.err, true, false)
			var got struct {
				Schema int
				Error  struct {
					Code      string
					Exit      int
					Retryable bool
					Message   string
				}
			}
			if err := json.Unmarshal(b.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if got.Schema != 1 || got.Error.Exit != tt.exit || got.Error.Retryable != tt.retry ||
				!strings.HasPrefix(tt.text, "waxwire: "+got.Error.Message) || got.Error.Code == "" {
				t.Errorf("JSON: %s; want exit %d, retryable %v", b.String(), tt.exit, tt.retry)
			}
		})
	}
}

// Each code has its line in the catalogue and its own text.
func TestCatalogue(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != 1 || !strings.HasPrefix(spec.Names[0].Name, "code") {
			return true
		}
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := catalogue[code(text)]; !ok {
			t.Errorf("%s is not in the catalogue", spec.Names[0].Name)
		}
		if seen[text] {
			t.Errorf("%q is there twice", text)
		}
		seen[text] = true
		return true
	})
	if len(seen) != len(catalogue) || len(seen) < 20 {
		t.Errorf("%d codes, %d lines in the catalogue", len(seen), len(catalogue))
	}
}

func TestReportSilent(t *testing.T) {
	var b bytes.Buffer
	if got := report(&b, silentExit(130), false, true); got != 130 || b.Len() != 0 {
		t.Errorf("a silent exit: %d, %q", got, b.String())
	}
	if got := report(&b, nil, true, true); got != 0 || b.Len() != 0 {
		t.Errorf("no error: %d, %q", got, b.String())
	}
	err := fail(codeFailure, errors.New("the library's \x1bwords"), "what: why", "do this")
	if report(&b, fmt.Errorf("wrapped: %w", err), false, true); b.String() != "waxwire: what: why\n  do this\n  (the library's \\u{1b}words)\n" {
		t.Errorf("verbose: %q", b.String())
	}
}
