package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// A served is a server in a process of its own, and a client that it knows.
type served struct {
	addr   string
	server keys.PublicKey
	client *keys.Identity
}

var listeningLine = regexp.MustCompile(`url=(?:wss?://([0-9.:]+)/\S*|unix:(\S+)) public_key=(wax1\S+)`)

// startServer runs "waxwire server" with flags; it listens on any port if they do not say where.
func startServer(t testing.TB, flags ...string) *served {
	t.Helper()
	home := t.TempDir()
	client, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Wipe)
	if out, err := exec.Command("waxwire", "--home", home, "peers", "add", "laptop", client.Public().String()).CombinedOutput(); err != nil {
		t.Fatalf("peers add: %v\n%s", err, out)
	}
	args := append([]string{"--home", home, "server"}, flags...)
	if !strings.Contains(strings.Join(flags, " "), "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	cmd := exec.Command("waxwire", args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		io.Copy(io.Discard, stderr)
		cmd.Wait()
	})
	defer time.AfterFunc(patience, func() { cmd.Process.Kill() }).Stop()
	lines := bufio.NewScanner(stderr)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if m := listeningLine.FindStringSubmatch(lines.Text()); m != nil {
			key, err := keys.ParsePublicKey(m[3])
			if err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, stderr)
			return &served{addr: m[1] + m[2], server: key, client: client}
		}
	}
	t.Fatalf("the server did not start: %q", said)
	return nil
}

// dial makes a tunnel with what change says, and gives it up.
func (s *served) dial(t testing.TB, url string, change func(*tunnel.Config)) error {
	t.Helper()
	cfg := &tunnel.Config{Identity: s.client, ServerKey: s.server}
	if change != nil {
		change(cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tun, err := tunnel.Dial(ctx, url, cfg)
	if err != nil {
		return err
	}
	defer tun.Close()
	_, err = tun.Ping(ctx)
	return err
}

// Each flag that restricts keeps out who tries to get around it, and only them.
func TestRestrictions(t *testing.T) {
	dir := t.TempDir()
	if err := writeCert(dir); err != nil {
		t.Fatal(err)
	}
	ours, theirs := newTestAuthority(t), newTestAuthority(t)
	caFile := filepath.Join(dir, "clients.pem")
	if err := os.WriteFile(caFile, ours.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	serverCert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(serverCert.Leaf)
	tlsFlags := []string{"--tls-cert", filepath.Join(dir, "cert.pem"), "--tls-key", filepath.Join(dir, "key.pem")}

	notFound := func(err error) bool { return errors.Is(err, tunnel.ErrNotFound) }
	let := func(err error) bool { return err == nil }
	sealed := func(err error) bool {
		var r *tunnel.RefusedError
		return errors.As(err, &r) && r.Reason == tunnel.URLUnexpected
	}
	noTLS := func(err error) bool {
		var op *net.OpError
		return errors.As(err, &op) && op.Op == "remote error"
	}
	header := func(host string, fields ...string) func(*tunnel.Config) {
		return func(c *tunnel.Config) {
			c.Host, c.Header = host, http.Header{}
			for i := 0; i < len(fields); i += 2 {
				c.Header.Add(fields[i], fields[i+1])
			}
		}
	}
	withTLS := func(change func(*tls.Config)) func(*tunnel.Config) {
		return func(c *tunnel.Config) {
			c.TLS = &tls.Config{RootCAs: roots}
			if change != nil {
				change(c.TLS)
			}
		}
	}
	type try struct {
		name   string
		url    string // ADDR stands for the server's address
		change func(*tunnel.Config)
		want   func(error) bool
	}
	const ws, wss = "ws://ADDR/wax", "wss://ADDR/wax"
	for _, test := range []struct {
		flag  string
		flags []string
		tries []try
	}{
		{"nothing", nil, []try{
			{"a client", ws, nil, let},
			{"a web page", ws, header("", "Origin", "https://evil.example"), notFound},
			{"a page of this very host", ws, header("relay.example", "Origin", "http://relay.example"), notFound},
			{"a page without an origin", ws, header("", "Origin", "null"), notFound},
			{"any host", ws, header("rebind.example"), let},
		}},
		{"--path", []string{"--path", "/a/b"}, []try{
			{"the path", "ws://ADDR/a/b", nil, let},
			{"the usual path", ws, nil, notFound},
			{"in capitals", "ws://ADDR/A/b", nil, notFound},
			{"with a slash", "ws://ADDR/a/b/", nil, notFound},
			{"around a corner", "ws://ADDR/x/../a/b", nil, notFound},
		}},
		{"--host-allow", []string{"--host-allow", "relay.example", "--host-allow", "[::1]"}, []try{
			{"the host", ws, header("relay.example"), let},
			{"in capitals, with a port", ws, header("RELAY.example:1"), let},
			{"the other one", ws, header("[::1]:8443"), let},
			{"its address", ws, nil, notFound},
			{"rebound", ws, header("rebind.example"), notFound},
			{"below it", ws, header("x.relay.example"), notFound},
			{"longer", ws, header("relay.example.evil.example"), notFound},
			{"said by a header", ws, header("evil.example", "X-Forwarded-Host", "relay.example", "Forwarded", "host=relay.example"), notFound},
		}},
		{"--origin-allow", []string{"--origin-allow", "https://app.example"}, []try{
			{"the origin", ws, header("", "Origin", "https://app.example"), let},
			{"none", ws, nil, let},
			{"without TLS", ws, header("", "Origin", "http://app.example"), notFound},
			{"another port", ws, header("", "Origin", "https://app.example:8443"), notFound},
			{"longer", ws, header("", "Origin", "https://app.example.evil.example"), notFound},
			{"both", ws, header("", "Origin", "https://app.example", "Origin", "https://evil.example"), notFound},
			{"null", ws, header("", "Origin", "null"), notFound},
		}},
		{"--url-allow", []string{"--url-allow", "ws://relay.example:8443/wax"}, []try{
			{"the URL", "ws://relay.example:8443/wax", nil, let},
			{"its address", ws, nil, sealed},
			{"its Host alone", ws, header("relay.example:8443"), sealed},
			{"with a query", "ws://relay.example:8443/wax?x", nil, sealed},
			{"in capitals", "ws://RELAY.example:8443/wax", nil, sealed},
		}},
		{"--tls-cert", tlsFlags, []try{
			{"TLS 1.3", wss, withTLS(nil), let},
			{"TLS 1.2", wss, withTLS(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), let},
			{"TLS 1.1", wss, withTLS(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), noTLS},
			{"no TLS", ws, nil, func(err error) bool {
				var a *tunnel.AnswerError
				return errors.As(err, &a) && a.Status == 400
			}},
		}},
		{"--tls-client-ca", append([]string{"--tls-client-ca", caFile}, tlsFlags...), []try{
			{"a certificate of ours", wss, withTLS(func(c *tls.Config) { c.Certificates = ours.issue(t, false) }), let},
			{"none", wss, withTLS(nil), noTLS},
			{"none, TLS 1.2", wss, withTLS(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), noTLS},
			{"of others", wss, withTLS(func(c *tls.Config) {
				all := theirs.issue(t, false)
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &all[0], nil }
			}), noTLS},
			{"of ours, expired", wss, withTLS(func(c *tls.Config) { c.Certificates = ours.issue(t, true) }), noTLS},
			{"the server's own", wss, withTLS(func(c *tls.Config) {
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &serverCert, nil }
			}), noTLS},
		}},
	} {
		t.Run(test.flag, func(t *testing.T) {
			s := startServer(t, test.flags...)
			for _, try := range test.tries {
				err := s.dial(t, strings.Replace(try.url, "ADDR", s.addr, 1), func(c *tunnel.Config) {
					c.NetDial = func(ctx context.Context, network, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, network, s.addr)
					}
					if try.change != nil {
						try.change(c)
					}
				})
				if !try.want(err) {
					t.Errorf("%s: got %v", try.name, err)
				}
			}
		})
	}
}

// Only what a trusted proxy says of its clients counts: who makes it up shares one source's limits.
func TestTrustedProxyFlag(t *testing.T) {
	hello := make([]byte, 1681)
	rand.Read(hello)
	hello[0] = 1
	for _, test := range []struct {
		name, trusted, forwarded string
		limited                  bool
	}{
		{"nobody is trusted", "192.0.2.1", "198.51.%d.%d", true},
		{"this one is trusted", "127.0.0.0/8", "198.51.%d.%d", false},
		{"a client says it has come far", "127.0.0.0/8", "198.51.%d.%d, 203.0.113.9", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startServer(t, "--trusted-proxy", test.trusted)
			busy := false
			for i := 0; i < 3000 && !busy; i++ {
				if i == 600 && !test.limited { // more than one source may send at once
					return
				}
				c, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(c, "GET /wax HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
					"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: waxwire.1\r\nX-Forwarded-For: "+test.forwarded+"\r\n"+
					"Waxwire-Hello: %s\r\n\r\n", i/250, i%250, base64.RawURLEncoding.EncodeToString(hello))
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				c.Close()
				if err != nil {
					t.Fatal(err)
				}
				busy = resp.StatusCode == 503
			}
			if busy != test.limited {
				t.Errorf("turned away: %v, want %v", busy, test.limited)
			}
		})
	}
}

// A testAuthority signs certificates of clients.
type testAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestAuthority(t testing.TB) *testAuthority {
	t.Helper()
	a := &testAuthority{}
	a.cert, a.key = a.sign(t, time.Now().Add(time.Hour), true)
	return a
}

func (a *testAuthority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *testAuthority) issue(t testing.TB, expired bool) []tls.Certificate {
	t.Helper()
	end := time.Now().Add(time.Hour)
	if expired {
		end = time.Now().Add(-time.Minute)
	}
	cert, key := a.sign(t, end, false)
	return []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
}

func (a *testAuthority) sign(t testing.TB, end time.Time, authority bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		IsCA: authority, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := tmpl, key
	if !authority {
		tmpl.Subject.CommonName = "laptop"
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
