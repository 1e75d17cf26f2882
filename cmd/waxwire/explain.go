package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// This file turns the errors of the library into failures: texts that name what the user typed and
// say what to do. Texts are tested as they stand.

// explainDial says why srv cannot be reached. own is the key of this end.
func explainDial(err error, srv server, own keys.PublicKey) *failure {
	var (
		refused *tunnel.RefusedError
		answer  *tunnel.AnswerError
		dns     *net.DNSError
		record  tls.RecordHeaderError
		cert    *tls.CertificateVerificationError
		proxy   *tunnel.ProxyError
		ne      net.Error
	)
	switch {
	case errors.As(err, &proxy):
		return explainProxy(proxy, srv)
	case errors.As(err, &refused):
		return explainRefused(refused, srv, own)
	case (errors.Is(err, tunnel.ErrNotFound) || errors.Is(err, tunnel.ErrAnswer)) && srv.saved != "":
		return fail(codeServerKey, err,
			fmt.Sprintf("%s did not answer as the server you joined (%s)", srv, srv.key.Short()),
			"Wrong path, or a server with another key: set up anew, or somebody in between.",
			"If it was set up anew: ask for a new invite.")
	case errors.Is(err, tunnel.ErrNotFound), errors.Is(err, tunnel.ErrAnswer):
		return fail(codeServerKey, err,
			fmt.Sprintf("%s did not answer as the server with the key %s", srv, srv.key.Short()),
			"Wrong path, or a server with another key: set up anew, or somebody in between.",
			"The server prints its URL and key at start. If it was set up anew, ask its owner for the new key.")
	case errors.As(err, &answer):
		return explainAnswer(answer, srv)
	case errors.As(err, &dns) && dns.IsNotFound:
		return fail(codeNoSuchHost, err, fmt.Sprintf("cannot find %s: no such host", srv.host()),
			"Is the name spelled right?")
	case errors.As(err, &dns):
		return fail(codeNoSuchHost, err, fmt.Sprintf("cannot find %s: the name servers do not answer", srv.host()))
	case errors.As(err, &record):
		return fail(codeNoTLS, err, fmt.Sprintf("%s does not speak TLS", srv.address()),
			"The server listens on ws://. Use ws:// here, or start the server with --acme, or --tls-cert and --tls-key.")
	case errors.As(err, &cert):
		return fail(codeCertificate, err, fmt.Sprintf("the certificate of %s is not good: %s", srv.address(), certProblem(cert)),
			"It has to be for that name, and of an authority that this system trusts, or --tls-ca.")
	case wantsClientCert(err):
		return fail(codeClientCert, err, fmt.Sprintf("%s wants a TLS certificate of this device, and not the one it got, if any", srv.address()),
			"Name one that it knows with --tls-cert and --tls-key.")
	case srv.url.Scheme == "ws" && !isNetwork(err) && speaksTLS(srv):
		return wantsTLS(err, srv)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(codeUnreachable, err, fmt.Sprintf("cannot reach %s: connection refused", srv.address()),
			fmt.Sprintf("Nothing is listening there. Is \"waxwire server\" running, and is %s the right port?", srv.port()))
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fail(codeUnreachable, err, fmt.Sprintf("cannot reach %s: no route to host", srv.address()))
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return fail(codeTimeout, err, fmt.Sprintf("cannot reach %s: no answer in time", srv.address()),
			"Is the address right, and does a firewall let the port through?")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, tunnel.ErrTruncated):
		return fail(codeUnreachable, err, fmt.Sprintf("cannot reach %s: the connection was cut", srv.address()))
	}
	return fail(codeUnreachable, err, fmt.Sprintf("cannot reach %s: %s", srv.address(), visible(plain(err))))
}

func explainRefused(e *tunnel.RefusedError, srv server, own keys.PublicKey) *failure {
	switch e.Reason {
	case tunnel.NotEnrolled:
		return fail(codeNotEnrolled, e, fmt.Sprintf("%s does not know this device (%s)", srv.name(), own.Short()),
			"Ask its owner for an invite:  waxwire invite NAME",
			"Or to run:  waxwire peers add NAME "+own.String())
	case tunnel.URLUnexpected:
		return fail(codeRefused, e, fmt.Sprintf("%s does not go by the URL %s", srv.name(), srv),
			"Use the URL that the server prints at start.")
	case tunnel.TooManySessions:
		return fail(codeRefused, e, fmt.Sprintf("%s has too many connections of this device already", srv.name()),
			"Is it running elsewhere with the same identity?")
	}
	return fail(codeRefused, e, fmt.Sprintf("%s refuses this device: %s", srv.name(), e.Reason))
}

func explainAnswer(e *tunnel.AnswerError, srv server) *failure {
	text := strings.TrimSpace(visible(e.Text))
	from := ""
	if e.Server != "" {
		from = fmt.Sprintf(" (Server: %s)", visible(cut(e.Server, 40)))
	}
	switch {
	case e.Status == http.StatusServiceUnavailable:
		return fail(codeBusy, e, fmt.Sprintf("%s is busy: it answered %q%s", srv, text, from), "Try again in a moment.")
	case e.Status == http.StatusBadRequest && srv.url.Scheme == "ws" && speaksTLS(srv):
		return wantsTLS(e, srv)
	case e.Status == http.StatusBadGateway, e.Status == http.StatusGatewayTimeout:
		return fail(codeUpgrade, e, fmt.Sprintf("%s answered %q%s", srv, text, from),
			"The proxy in front does not reach waxwire. Is \"waxwire server\" running behind it?")
	case slices.Contains([]int{http.StatusBadRequest, http.StatusUpgradeRequired}, e.Status) && e.Server != "":
		return fail(codeUpgrade, e, fmt.Sprintf("%s answered %q%s", srv, text, from),
			"The proxy in front does not pass WebSocket upgrades. For nginx add:",
			`  proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";`)
	}
	return fail(codeNotOurs, e, fmt.Sprintf("%s answered %q%s, not a WebSocket", srv, text, from),
		"Some other web server is there. The default path is /wax; use the URL that the server prints at start.")
}

func wantsTLS(err error, srv server) *failure {
	u := *srv.url
	u.Scheme = "wss"
	return fail(codeTLS, err, fmt.Sprintf("%s speaks TLS only", srv.address()),
		fmt.Sprintf("Use %s here.", u.String()))
}

// speaksTLS asks a server that did not understand HTTP whether it does TLS. The certificate does not
// matter: only a better text depends on it.
func speaksTLS(srv server) bool {
	if srv.proxied() { // it cannot be asked directly, maybe, and must not be
		return false
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true}}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", srv.address())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// wantsClientCert reports whether the other end broke off TLS for want of a certificate that it likes. The
// type of its alert is nobody's to see.
func wantsClientCert(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	return slices.ContainsFunc([]string{
		"certificate required", "bad certificate", "unknown certificate", "unknown certificate authority", "expired certificate", "revoked certificate",
	}, func(alert string) bool { return op.Err.Error() == "tls: "+alert })
}

func isNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || errors.Is(err, context.DeadlineExceeded)
}

func certProblem(e *tls.CertificateVerificationError) string {
	var (
		name    x509.HostnameError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(e, &name):
		return "it is for another name"
	case errors.As(e, &unknown):
		return "this system does not know who signed it"
	case errors.As(e, &invalid) && invalid.Reason == x509.Expired:
		return "it has expired or is not valid yet"
	}
	return "it does not verify"
}

// explainStream says why a stream to target was refused or ended.
func explainStream(err error, srv server, target forward.Address) *failure {
	var se *tunnel.StreamError
	if !errors.As(err, &se) || !se.Remote {
		return fail(codeTunnelLost, err, fmt.Sprintf("the connection to %s was lost", srv.name()))
	}
	if se.Code == tunnel.NotAllowed {
		return explainNotAllowed(se, srv, target)
	}
	if se.Code == tunnel.GoingAway {
		return fail(codeTunnelLost, err, fmt.Sprintf("%s is shutting down and takes nothing new", srv.name()))
	}
	if !se.Refused {
		return fail(codeTarget, err, fmt.Sprintf("%s at %s broke the connection", target, srv.name()))
	}
	return fail(codeTarget, err, targetDown(se, srv, target))
}

func explainNotAllowed(se *tunnel.StreamError, srv server, target forward.Address) *failure {
	permission := "connect=" + target.Addr
	if target.Network == "unix" {
		permission = "connect=unix:" + target.Addr
	}
	name, allowed, ok := forward.Permitted(se.Text)
	if !ok {
		f := fail(codeNotAllowed, se, fmt.Sprintf("%s does not let this device connect to %s", srv.name(), target))
		if se.Text != "" {
			f.hints = []string{"It says: " + visible(se.Text)}
		}
		return f
	}
	list := "nothing"
	if len(allowed) > 0 {
		list = visible(strings.Join(allowed, ", "))
	}
	return fail(codeNotAllowed, se, fmt.Sprintf("%s does not let %s connect to %s", srv.name(), name, target),
		fmt.Sprintf("Allowed: %s. There run:  waxwire peers allow %s %s", list, name, permission))
}

// explainReverse says why the server does not listen for a reverse forward.
func explainReverse(err error, srv server, m forward.Remote) *failure {
	var se *tunnel.StreamError
	if !errors.As(err, &se) || !se.Remote {
		return fail(codeTunnelLost, err, fmt.Sprintf("the connection to %s was lost", srv.name()))
	}
	if se.Code == tunnel.GoingAway {
		return fail(codeTunnelLost, err, fmt.Sprintf("%s is shutting down and takes nothing new", srv.name()))
	}
	listen := m.Listen.String()
	if why, ok := strings.CutPrefix(se.Text, listen+": "); ok {
		f := fail(codeRemoteListen, se, fmt.Sprintf("%s cannot listen on %s: %s", srv.name(), listen, visible(why)))
		_, port, _ := net.SplitHostPort(m.Listen.Addr)
		switch {
		case m.Listen.Network != "tcp":
		case se.Code == tunnel.NotAllowed && len(port) < 4:
			f.hints = []string{fmt.Sprintf("Ports below 1024 need CAP_NET_BIND_SERVICE there. Try -R %s", otherRemote(m))}
		case !anyPort(m.Listen):
			f.hints = []string{fmt.Sprintf("Try another port:  -R %s", otherRemote(m))}
		}
		return f
	}
	if se.Code != tunnel.NotAllowed {
		why := se.Code.String()
		if se.Text != "" {
			why = visible(se.Text)
		}
		return fail(codeRemoteListen, se, fmt.Sprintf("%s cannot listen on %s: %s", srv.name(), listen, why))
	}
	name, allowed, ok := forward.Permitted(se.Text)
	if !ok {
		f := fail(codeNotAllowed, se, fmt.Sprintf("%s does not let this device listen on %s", srv.name(), listen))
		if se.Text != "" {
			f.hints = []string{"It says: " + visible(se.Text)}
		}
		return f
	}
	list := "nothing"
	if len(allowed) > 0 {
		list = visible(strings.Join(allowed, ", "))
	}
	return fail(codeNotAllowed, se, fmt.Sprintf("%s does not let %s listen on %s", srv.name(), name, listen),
		fmt.Sprintf("Allowed: %s. There run:  waxwire peers allow %s %s", list, name, listenPermission(m.Listen)))
}

// listenPermission is what a peer needs to have something listened on.
func listenPermission(a forward.Address) string {
	if a.Network == "unix" {
		return "listen=unix:" + a.Addr
	}
	text := a.String()
	if port, ok := strings.CutSuffix(text, ":0"); ok {
		text = port + ":*"
	}
	if strings.Contains(text, "*") { // a shell would look for files
		return "'listen=" + text + "'"
	}
	return "listen=" + text
}

// otherRemote is the same forward on a port that is probably free.
func otherRemote(m forward.Remote) string {
	_, other, _ := strings.Cut(otherPort(forward.Local(m)), " ") // without the flag
	return other
}

// targetDown is what happened at the other end, in one line.
func targetDown(se *tunnel.StreamError, srv server, target forward.Address) string {
	why := se.Code.String()
	if rest, ok := strings.CutPrefix(se.Text, target.Addr+": "); ok {
		why = visible(rest)
	}
	return fmt.Sprintf("%s could not reach %s: %s", srv.name(), target, why)
}

// explainListen says why a local end cannot be opened. try is what to ask for instead, "" for none.
func explainListen(err error, address, try string) *failure {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		text := fmt.Sprintf("cannot listen on %s: in use", address)
		if owner := ownerOf(address); owner != "" {
			text += " by " + owner
		}
		return withHint(fail(codePortInUse, err, text), try)
	case errors.Is(err, fs.ErrPermission):
		f := fail(codeCannotListen, err, fmt.Sprintf("cannot listen on %s: permission denied", address))
		if _, port, e := net.SplitHostPort(address); e == nil && len(port) < 4 {
			f.hints = []string{"Ports below 1024 need a privilege (CAP_NET_BIND_SERVICE)."}
		}
		return withHint(f, try)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fail(codeCannotListen, err, fmt.Sprintf("cannot listen on %s: this host does not have that address", address))
	}
	var op *net.OpError
	why := plain(err)
	if errors.As(err, &op) && op.Err != nil {
		why = op.Err.Error()
	}
	return fail(codeCannotListen, err, fmt.Sprintf("cannot listen on %s: %s", address, visible(why)))
}

func withHint(f *failure, try string) *failure {
	if try != "" {
		f.hints = append(f.hints, "Try another port:  "+try)
	}
	return f
}

// explainKeyFile says what is wrong with the identity's file.
func explainKeyFile(err error, path string) *failure {
	short := shorten(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(codeNoIdentity, err, fmt.Sprintf("there is no identity in %s", short), "Make one:  waxwire key new")
	case errors.Is(err, fs.ErrExist):
		return fail(codeExists, err, fmt.Sprintf("%s is there already and is not overwritten", short),
			"Whoever knows that key would no longer know this device. Move the file away first.")
	}
	var (
		mode  *keys.FileModeError
		owner *keys.FileOwnerError
		file  *keys.KeyFileError
	)
	switch {
	case errors.As(err, &mode) && mode.Mode.IsDir():
		return fail(codeKeyFileMode, err, fmt.Sprintf("%s can be written by other users (%04o)", shorten(mode.Path), mode.Mode.Perm()),
			"chmod go-w "+shorten(mode.Path))
	case errors.As(err, &mode):
		return fail(codeKeyFileMode, err, fmt.Sprintf("%s can be read by other users (%04o)", shorten(mode.Path), mode.Mode.Perm()),
			"chmod 600 "+shorten(mode.Path))
	case errors.As(err, &owner):
		return fail(codeKeyFileMode, err, fmt.Sprintf("%s belongs to another user (uid %d)", shorten(owner.Path), owner.UID))
	case errors.Is(err, keys.ErrPassphrase):
		return fail(codePassphraseWrong, err, fmt.Sprintf("the passphrase of %s is wrong, or the file is damaged", short))
	case errors.Is(err, keys.ErrPassphraseNeeded):
		return fail(codePassphrase, err, fmt.Sprintf("%s needs its passphrase and there is nobody to ask", short),
			"Name a file that has it with --passphrase-file or WAXWIRE_PASSPHRASE_FILE.")
	case errors.As(err, &file):
		return fail(codeKeyFile, err, fmt.Sprintf("%s: %s", short, visible(file.Problem)))
	case errors.Is(err, fs.ErrPermission):
		return fail(codeKeyFile, err, fmt.Sprintf("cannot open %s: permission denied", short))
	}
	return fail(codeKeyFile, err, fmt.Sprintf("%s: %s", short, visible(plain(err))))
}

// plain is an error without the names of packages and system calls in front.
func plain(err error) string {
	text := err.Error()
	for _, prefix := range []string{"tunnel: ", "keys: ", "dial tcp: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

// cause is what a call to the system failed of, without the call and its arguments.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return plain(err)
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "..."
	}
	return s
}
