package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpguts"

	"waxwire.example/waxwire/tunnel"
)

// reachFlags say which server to dial and how to get there: the flags of all commands that do.
type reachFlags struct {
	key, proxy, ca, serverName, cert, certKey, host string
	headers                                         []string
	timeout                                         time.Duration
}

func (f *reachFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.key, "server-key", "", "the public key of a server that is named by its URL, `wax1...`")
	f.addWay(fl)
}

// addWay adds the flags that say how to get to a server that is known by other means.
func (f *reachFlags) addWay(fl *pflag.FlagSet) {
	fl.StringVar(&f.proxy, "proxy", proxyEnv, "go through this proxy, as `URL`; env: as HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say; none: directly")
	fl.StringVar(&f.ca, "tls-ca", "", "trust the authorities of this `FILE` for wss://, in place of the system's")
	fl.StringVar(&f.serverName, "tls-server-name", "", "ask for, and verify, the certificate of this `NAME`")
	fl.StringVar(&f.cert, "tls-cert", "", "show this certificate `FILE` to a TLS server that wants one")
	fl.StringVar(&f.certKey, "tls-key", "", "and its key `FILE`")
	fl.StringVar(&f.host, "host", "", "send this `NAME` as the Host, in place of the URL's")
	fl.StringArrayVar(&f.headers, "header", nil, "send this field too, as `'NAME: VALUE'` (repeatable)")
	fl.DurationVar(&f.timeout, "connect-timeout", 10*time.Second, "how long one try may take")
}

// connector reads what the flags say about server, and this end's identity. The identity is the
// connector's, to be wiped.
func (a *app) connector(text string, f *reachFlags) (*connector, error) {
	srv, err := a.findServer(text, f.key)
	if err != nil {
		return nil, err
	}
	c, err := a.wayTo(srv, f)
	if err != nil {
		return nil, err
	}
	if c.id, err = a.openClientIdentity(); err != nil {
		return nil, err
	}
	return c, nil
}

// wayTo is a connector without an identity.
func (a *app) wayTo(srv server, f *reachFlags) (_ *connector, err error) {
	if f.timeout <= 0 {
		return nil, usagef("--connect-timeout has to be more than nothing")
	}
	c := &connector{app: a, timeout: f.timeout}
	if c.header, err = parseHeaders(f.headers); err != nil {
		return nil, err
	}
	if c.host, err = parseHostField(f.host); err != nil {
		return nil, err
	}
	if srv.proxies, err = a.findProxies(f.proxy, append([]*url.URL{srv.url}, srv.others...)); err != nil {
		return nil, err
	}
	if err := c.setTLS(f, srv); err != nil {
		return nil, err
	}
	c.server = srv
	return c, nil
}

// setTLS applies the --tls flags. One that nothing is made of is a mistake.
func (c *connector) setTLS(f *reachFlags, srv server) error {
	secure := srv.url.Scheme == "wss" || slices.ContainsFunc(srv.others, func(u *url.URL) bool { return u.Scheme == "wss" })
	switch {
	case secure:
	case f.serverName != "":
		return usagef("--tls-server-name is for wss:// URLs")
	case f.cert != "" || f.certKey != "":
		return usagef("--tls-cert and --tls-key are for wss:// URLs")
	case f.ca != "" && !srv.proxies.secure():
		return usagef("--tls-ca is for wss:// URLs")
	}
	c.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.serverName}
	c.proxyTLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := readAuthorities("--tls-ca", f.ca)
		if err != nil {
			return err
		}
		c.tls.RootCAs = x509.NewCertPool()
		c.tls.RootCAs.AppendCertsFromPEM(pem)
		// A proxy may have its certificate of another authority than the server.
		if c.proxyTLS.RootCAs, err = x509.SystemCertPool(); err != nil {
			c.proxyTLS.RootCAs = x509.NewCertPool()
		}
		c.proxyTLS.RootCAs.AppendCertsFromPEM(pem)
	}
	cert, err := loadCertificate(f.cert, f.certKey)
	if err != nil || cert == nil {
		return err
	}
	c.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return cert.current(c.app.log), nil
	}
	return nil
}

// parseHostField reads --host.
func parseHostField(host string) (string, error) {
	if host == "" {
		return "", nil
	}
	if u, err := url.Parse("//" + host + "/"); err != nil || u.Host != host || !httpguts.ValidHostHeader(host) {
		return "", fail(codeUsage, err, fmt.Sprintf("--host %s: this is not a host", visible(host)), "Form: NAME or NAME:PORT")
	}
	return host, nil
}

// takenHeaders are the fields that the protocol, or HTTP itself, has a use for.
var takenHeaders = []string{
	"Cache-Control", "Connection", "Content-Length", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Waxwire-Hello",
}

// parseHeaders reads --header.
func parseHeaders(texts []string) (http.Header, error) {
	header := http.Header{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, ":")
		value = strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			// What is in it may be a secret.
			return nil, fail(codeUsage, nil, "--header: this is not a field of HTTP", "Form: 'NAME: VALUE'")
		}
		name = http.CanonicalHeaderKey(name)
		if slices.Contains(takenHeaders, name) || strings.HasPrefix(name, "Sec-Websocket-") {
			f := usagef("--header %s: waxwire says this itself", name)
			if name == "Host" {
				f.hints = []string{"There is --host for that."}
			}
			return nil, f
		}
		header.Add(name, value)
	}
	return header, nil
}

// config is how to dial the server.
func (c *connector) config() *tunnel.Config {
	return &tunnel.Config{
		Identity: c.id, ServerKey: c.server.key, Alternates: c.server.alternates(),
		HandshakeTimeout: c.timeout, Logger: c.app.log,
		TLS: c.tls, ProxyTLS: c.proxyTLS, Header: c.header, Host: c.host,
		Proxy: func(u *url.URL) (*url.URL, error) { return c.server.proxies.of(u).url(), nil },
	}
}
