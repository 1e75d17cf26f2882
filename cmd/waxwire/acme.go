package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/http/httpguts"
)

// acmeListen is where a server with --acme listens by itself: authorities know no other port.
const acmeListen = ":443"

// An acmeManager gets certificates by ACME (RFC 8555), keeps them in a folder of the home, and renews them.
type acmeManager struct {
	*autocert.Manager
	app       *app
	names     []string
	directory *url.URL
	problems  *acmeProblems
}

// acmeProblems listens to what an authority says of names that it could not find here, which autocert
// swallows.
type acmeProblems struct {
	http.RoundTripper

	mu     sync.Mutex
	byName map[string]*acme.Error
}

// maxAuthorization bounds what is looked at of an answer.
const maxAuthorization = 64 << 10

func (p *acmeProblems) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil {
		return resp, err
	}
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxAuthorization))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	var authz struct { // RFC 8555 §7.1.4
		Identifier struct{ Value string }
		Challenges []struct {
			Error *struct{ Type, Detail string }
		}
	}
	if err != nil || json.Unmarshal(head, &authz) != nil {
		return resp, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range authz.Challenges {
		if c.Error != nil {
			p.byName[authz.Identifier.Value] = &acme.Error{ProblemType: c.Error.Type, Detail: c.Error.Detail}
		}
	}
	return resp, nil
}

func (p *acmeProblems) of(name string) *acme.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byName[name]
}

// newACME reads the --acme flags. It is nil without --acme.
func (a *app) newACME(f *serverFlags) (*acmeManager, error) {
	if len(f.acme) == 0 {
		if f.acmeEmail != "" || f.acmeHTTP != "" || f.acmeDirectory != autocert.DefaultACMEDirectory {
			return nil, usagef("--acme-email, --acme-directory and --acme-http go with --acme")
		}
		return nil, nil
	}
	if f.cert != "" || f.key != "" {
		return nil, usagef("--acme gets certificates, --tls-cert and --tls-key have one: take one of the two")
	}
	for _, name := range f.acme {
		if _, err := netip.ParseAddr(name); err == nil || !strings.Contains(strings.Trim(name, "."), ".") ||
			strings.ContainsAny(name, ":/@*[] ") || !httpguts.ValidHostHeader(name) {
			return nil, fail(codeUsage, nil, fmt.Sprintf("--acme %s: no authority certifies this", visible(name)),
				"It has to be a name of this host in the DNS, such as relay.example.net.")
		}
	}
	if !slices.ContainsFunc(f.listen, func(addr string) bool { return !strings.HasPrefix(addr, "unix:") }) {
		return nil, usagef("--acme: a unix socket has no TLS; listen on an address as well")
	}
	if f.acmeEmail != "" && (!strings.Contains(f.acmeEmail, "@") || strings.ContainsAny(f.acmeEmail, " ,:<>")) {
		return nil, usagef("--acme-email %s: this is not an address", visible(f.acmeEmail))
	}
	directory, err := url.Parse(f.acmeDirectory)
	if err != nil || directory.Host == "" || directory.User != nil ||
		directory.Scheme != "https" && !(directory.Scheme == "http" && isLocalHost(directory.Host, "")) {
		return nil, fail(codeUsage, nil, "--acme-directory: this is not the URL of an ACME server",
			"Form: https://acme.example.net/directory")
	}
	dir, err := a.acmeCache(directory)
	if err != nil {
		return nil, err
	}
	problems := &acmeProblems{RoundTripper: http.DefaultTransport.(*http.Transport).Clone(), byName: make(map[string]*acme.Error)}
	return &acmeManager{app: a, names: f.acme, directory: directory, problems: problems, Manager: &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(dir), Email: f.acmeEmail,
		HostPolicy: autocert.HostWhitelist(f.acme...),
		Client: &acme.Client{
			DirectoryURL: directory.String(), UserAgent: "waxwire",
			HTTPClient: &http.Client{Transport: problems},
		},
	}}, nil
}

// acmeCache is the folder for the certificates of one authority: those of its test service must not be
// taken for the real ones.
func (a *app) acmeCache(directory *url.URL) (string, error) {
	h, err := a.home()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(directory.String()))
	dir := filepath.Join(h.data, "acme", fmt.Sprintf("%s-%x", strings.ReplaceAll(directory.Host, ":", "_"), sum[:4]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fail(codeTLSFiles, err, fmt.Sprintf("cannot keep certificates in %s: %s", shorten(dir), visible(cause(err))))
	}
	for _, one := range []string{filepath.Dir(dir), dir} {
		if info, err := os.Stat(one); err == nil && othersCanRead(info) {
			return "", fail(codeKeyFileMode, nil, fmt.Sprintf("%s can be read by other users (%04o)", shorten(one), info.Mode().Perm()),
				"chmod 700 "+shorten(one))
		}
	}
	return dir, nil
}

// config is how to serve TLS with certificates that are got by ACME. What an authority connects with to see
// that the name is this host's is for that alone: a server of HTTP closes it when the handshake is done.
func (m *acmeManager) config() *tls.Config {
	challenge := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ALPNProto}, GetCertificate: m.GetCertificate}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: m.GetCertificate,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if slices.Equal(hello.SupportedProtos, challenge.NextProtos) {
				return challenge, nil
			}
			return nil, nil
		},
	}
}

// obtain gets the certificates before anybody asks for them, and says what came of it. Those that it cannot
// have it tries again, seldom: authorities count failures.
func (m *acmeManager) obtain(ctx context.Context) {
	for _, name := range m.names {
		go func() { // not waited for: what is under way cannot be cut short
			for wait := time.Minute; ; wait = min(4*wait, 4*time.Hour) {
				err := m.obtainOne(name)
				if err == nil || ctx.Err() != nil {
					return
				}
				f := m.explain(err, name)
				m.app.ui.event("certificate_failed", map[string]any{"name": name, "reason": f.text, "next_s": wait.Seconds()})
				m.app.log.Warn("no certificate", "name", name, "reason", f.text, "hint", strings.Join(f.hints, " "), "next", wait)
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return
				}
			}
		}()
	}
}

func (m *acmeManager) obtainOne(name string) error {
	cert, err := m.GetCertificate(&tls.ClientHelloInfo{ // as most clients have it: ECDSA
		ServerName: name, SupportedCurves: []tls.CurveID{tls.CurveP256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
	if err != nil {
		return err
	}
	until := ""
	if cert.Leaf != nil {
		until = cert.Leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	m.app.ui.event("certificate", map[string]any{"name": name, "until": until})
	m.app.log.Info("certificate", "name", name, "until", until)
	return nil
}

// explain says why there is no certificate.
func (m *acmeManager) explain(err error, name string) *failure {
	var op *net.OpError
	what := fmt.Sprintf("no certificate for %s: ", name)
	problem := m.problems.of(name)
	if said := (*acme.Error)(nil); errors.As(err, &said) {
		problem = said
	}
	switch {
	case problem != nil:
		f := fail(codeACME, err, what+fmt.Sprintf("%s says: %s", m.directory.Host, visible(cut(problem.Detail, 200))))
		switch strings.TrimPrefix(problem.ProblemType, "urn:ietf:params:acme:error:") {
		case "connection", "tls", "unauthorized", "dns":
			f.hints = []string{fmt.Sprintf("The authority has to reach this host as %s, at port 443, or at port 80 with --acme-http.", name)}
		case "rateLimited":
			f.hints = []string{"It counts failures: find the cause of the first one before the next try."}
		}
		return f
	case errors.As(err, &op), errors.Is(err, context.DeadlineExceeded):
		return fail(codeACME, err, what+"cannot reach "+m.directory.Host)
	}
	return fail(codeACME, err, what+visible(cut(plain(err), 200)))
}

// startHTTP answers what the authority asks for at port 80, and sends all else to https.
func (m *acmeManager) startHTTP(addr string) (*http.Server, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fail(codeUsage, err, fmt.Sprintf("--acme-http %s: this is not HOST:PORT", visible(addr)), "Form: :80")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, explainListen(err, addr, "")
	}
	s := &http.Server{
		Handler: m.HTTPHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host := r.Host
			if h, _, err := net.SplitHostPort(host); err == nil {
				host = h
			}
			if !slices.Contains(m.names, strings.ToLower(host)) || r.Method != http.MethodGet && r.Method != http.MethodHead {
				http.NotFound(w, r)
				return
			}
			http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusFound)
		})),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(m.app.log.Handler(), slog.LevelDebug),
	}
	m.app.log.Info("acme", "http", l.Addr().String())
	go s.Serve(l) // ends with Close
	return s, nil
}
