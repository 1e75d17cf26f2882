//go:build e2e && linux

package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// The proxies have their default settings, nginx with the headers that it needs for any WebSocket.
// The client knows them by a certificate of a CA made here.

func nginxCommand(t *testing.T, dir, cert, key, port, backend string) command {
	conf := filepath.Join(dir, "nginx.conf")
	writeFile(t, conf, fmt.Sprintf(`
daemon off;
pid %[1]s/nginx.pid;
error_log stderr notice; # says when it is ready
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s:%[3]s ssl;
		server_name %[4]s;
		ssl_certificate %[5]s;
		ssl_certificate_key %[6]s;
		location / {
			proxy_pass http://%[7]s;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection "upgrade";
		}
	}
}
`, dir, serverIP, port, relayName, cert, key, backend))
	return command{
		name: "nginx", args: []string{"-p", dir, "-e", "stderr", "-c", conf},
		ready: regexp.MustCompile(`start worker process \d+`),
	}
}

func haproxyCommand(t *testing.T, dir, cert, key, port, backend string) command {
	both := filepath.Join(dir, "both.pem")
	writeFile(t, both, readFile(t, cert)+readFile(t, key))
	conf := filepath.Join(dir, "haproxy.cfg")
	// The times are those of the file that Debian installs; haproxy has none by itself.
	writeFile(t, conf, fmt.Sprintf(`
defaults
	mode http
	timeout connect 5000
	timeout client 50000
	timeout server 50000
frontend wss
	bind %s:%s ssl crt %s
	default_backend waxwire
backend waxwire
	server one %s
`, serverIP, port, both, backend))
	return command{
		name: "haproxy", args: []string{"-W", "-db", "-f", conf}, dir: dir,
		ready: regexp.MustCompile(`Loading success`),
	}
}

func caddyCommand(t *testing.T, dir, cert, key, port, backend string) command {
	conf := filepath.Join(dir, "Caddyfile")
	writeFile(t, conf, fmt.Sprintf(`
{
	admin off
}
https://%s:%s {
	tls %s %s
	reverse_proxy %s
}
`, relayName, port, cert, key, backend))
	return command{
		name: "caddy", args: []string{"run", "--config", conf, "--adapter", "caddyfile"}, dir: dir,
		env:   []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir},
		ready: regexp.MustCompile(`serving initial configuration`),
	}
}

func (e *e2e) testNginx(t *testing.T)   { e.testProxy(t, nginxCommand) }
func (e *e2e) testHAProxy(t *testing.T) { e.testProxy(t, haproxyCommand) }
func (e *e2e) testCaddy(t *testing.T)   { e.testProxy(t, caddyCommand) }

// A proxyCommand is a proxy that speaks TLS on that port of serverIP and passes on to backend.
type proxyCommand func(t *testing.T, dir, cert, key, port, backend string) command

func (e *e2e) testProxy(t *testing.T, proxy proxyCommand) {
	web := e.webTarget(t, "tcp", "127.0.0.1:0")
	p := e.newPostgres(t)
	r := e.newRelayBehind(t, proxy, "connect="+web, "connect="+p.target())
	webPort, sqlPort := e.client.freePort(t), e.client.freePort(t)
	r.forward(t, webPort+":"+web, sqlPort+":"+p.target())
	e.transfer(t, "tunnel in TLS", "127.0.0.1:"+webPort)
	p.bench(t, "127.0.0.1:"+sqlPort, 2)
}

// newRelayBehind is a waxwire server on loopback with a proxy in front.
func (e *e2e) newRelayBehind(t *testing.T, proxy proxyCommand, allow ...string) *relay {
	t.Helper()
	r := e.newRelay(t, "127.0.0.1", allow...)
	dir := sharedDir(t)
	ca, cert, key := certificate(t, dir)
	port := e.server.freePort(t)
	e.server.start(t, proxy(t, dir, cert, key, port, r.listen))
	r.url = "wss://" + relayName + ":" + port + "/wax"
	r.clientEnv = []string{"SSL_CERT_FILE=" + ca}
	return r
}

// certificate makes a CA, and a key with a certificate of that CA for relayName.
func certificate(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		t.Helper()
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, signer = template, own
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, own
	}
	caCert, caKey := make(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of a test"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	leaf, leafKey := make(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: relayName}, DNSNames: []string{relayName},
	}, caCert, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
		return path
	}
	return write("ca.pem", "CERTIFICATE", caCert.Raw), write("cert.pem", "CERTIFICATE", leaf.Raw), write("key.pem", "PRIVATE KEY", keyDER)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
