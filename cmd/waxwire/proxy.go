package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/net/http/httpproxy"

	"waxwire.example/waxwire/tunnel"
)

// What --proxy may say apart from a URL.
const (
	proxyEnv  = "env"
	proxyNone = "none"
)

const proxyForm = "Form: http://[USER[:PASSWORD]@]HOST:PORT, or https://, socks5h:// or socks5:// in its place"

// A proxy is one to go through, and who said so. It must only be shown by its address: the URL may have a
// password in it.
type proxy struct {
	to   *url.URL
	said string // "--proxy", "HTTPS_PROXY"
}

// url is nil for no proxy.
func (p *proxy) url() *url.URL {
	if p == nil {
		return nil
	}
	return p.to
}

// address is where the proxy is.
func (p *proxy) address() string {
	if port := p.to.Port(); port != "" {
		return net.JoinHostPort(p.to.Hostname(), port)
	}
	return net.JoinHostPort(p.to.Hostname(), proxySchemes[p.to.Scheme])
}

// proxySchemes are the kinds of proxies, with their usual ports.
var proxySchemes = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// proxies says what to go through to which URL.
type proxies map[string]*proxy

func (p proxies) of(u *url.URL) *proxy { return p[u.String()] }

// secure reports whether one of them is spoken to with TLS.
func (p proxies) secure() bool {
	for _, one := range p {
		if one.to.Scheme == "https" {
			return true
		}
	}
	return false
}

// findProxies reads --proxy, and the environment if that is what it says, for each of the URLs.
func (a *app) findProxies(flag string, urls []*url.URL) (proxies, error) {
	found := make(proxies)
	for _, u := range urls {
		var p *proxy
		var err error
		switch flag {
		case proxyNone:
			continue
		case proxyEnv:
			p, err = proxyOfEnvironment(u, os.Getenv)
		default:
			p, err = parseProxy("--proxy", flag)
		}
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		if err := a.askProxyPassword(p, found); err != nil {
			return nil, err
		}
		found[u.String()] = p
		if at := p.address(); a.verbose > 0 && a.screen() {
			a.ui.sayf("  Proxy        %s for %s (%s)", visible(at), u.Host, p.said)
		} else if a.verbose > 0 {
			a.log.Info("proxy", "proxy", at, "server", u.Host, "said_by", p.said)
		}
	}
	return found, nil
}

// parseProxy reads the URL of a proxy. It may hold a password, so that no error repeats it.
func parseProxy(said, text string) (*proxy, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || proxySchemes[u.Scheme] == "":
		return nil, fail(codeProxySetting, nil, said+": this is not the URL of a proxy", proxyForm)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fail(codeProxySetting, nil, said+": the URL of a proxy ends with its port", proxyForm)
	}
	return &proxy{to: u, said: said}, nil
}

// proxyOfEnvironment is what the environment says about a URL: ws:// is HTTP, wss:// is HTTPS, and
// ALL_PROXY counts for what has no variable of its own.
func proxyOfEnvironment(u *url.URL, getenv func(string) string) (*proxy, error) {
	names := []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"}
	plain := *u
	plain.Scheme = "https"
	if u.Scheme == "ws" {
		plain.Scheme = "http"
		names = []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"}
		if getenv("REQUEST_METHOD") != "" { // in a CGI program that is a field of the request
			names = names[1:]
		}
	}
	i := slices.IndexFunc(names, func(name string) bool { return getenv(name) != "" })
	if i < 0 {
		return nil, nil
	}
	never := getenv("NO_PROXY")
	if never == "" {
		never = getenv("no_proxy")
	}
	// The package drops what it cannot read, and everything would go directly: here it only says whether
	// NO_PROXY, or an address of this host, has a proxy left out.
	const any = "http://proxy.invalid"
	if to, err := (&httpproxy.Config{HTTPProxy: any, HTTPSProxy: any, NoProxy: never}).ProxyFunc()(&plain); err != nil || to == nil {
		return nil, nil
	}
	text := getenv(names[i])
	if !strings.Contains(text, "://") { // proxy.corp:3128, as everywhere
		text = "http://" + text
	}
	return parseProxy(names[i], text)
}

// askProxyPassword asks for the password of a name that stands without one, once.
func (a *app) askProxyPassword(p *proxy, known proxies) error {
	for _, other := range known {
		if p.to.String() == other.asked() {
			p.to = other.to
			return nil
		}
	}
	if p.to.User == nil || !a.canAsk() {
		return nil
	}
	if _, given := p.to.User.Password(); given {
		return nil
	}
	password, err := a.prompt(fmt.Sprintf("Password of %s for the proxy %s: ", visible(p.to.User.Username()), visible(p.address())))
	if err != nil {
		return fail(codeProxyLogin, err, fmt.Sprintf("no password for the proxy %s was given", visible(p.address())))
	}
	defer clear(password)
	with := *p.to
	with.User = url.UserPassword(p.to.User.Username(), string(password))
	p.to = &with
	return nil
}

// asked is a proxy's URL as it was before its password was asked for.
func (p *proxy) asked() string {
	u := *p.to
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	return u.String()
}

// explainProxy says what is wrong with the proxy, or between it and the server.
func explainProxy(e *tunnel.ProxyError, srv server) *failure {
	var (
		dns  *net.DNSError
		cert *tls.CertificateVerificationError
		ne   net.Error
	)
	at := visible(e.Proxy)
	from := "--proxy none goes directly."
	p := srv.proxies.of(srv.url)
	if p != nil && p.said != "--proxy" {
		from = fmt.Sprintf("It comes from %s. %s", p.said, from)
	}
	switch {
	case e.Login:
		return explainProxyLogin(e, p, at)
	case e.Err == nil:
		f := fail(codeProxyRefused, e, fmt.Sprintf("the proxy %s does not connect to %s: it answered %q", at, srv.address(), visible(cut(e.Text, 60))))
		if srv.port() != "443" {
			f.hints = append(f.hints, "Many proxies let nothing but port 443 through.")
		}
		return f
	case errors.As(e.Err, &cert):
		return fail(codeCertificate, e, fmt.Sprintf("the certificate of the proxy %s is not good: %s", at, certProblem(cert)),
			"It has to be for that name, and of an authority that this system trusts, or --tls-ca.")
	case errors.Is(e.Err, context.DeadlineExceeded), errors.As(e.Err, &ne) && ne.Timeout():
		if e.Reached {
			return fail(codeProxyUnreachable, e, fmt.Sprintf("the proxy %s has not reached %s in time", at, srv.address()), from)
		}
		return fail(codeProxyUnreachable, e, fmt.Sprintf("cannot reach the proxy %s: no answer in time", at), from)
	case errors.As(e.Err, &dns):
		return fail(codeProxyUnreachable, e, fmt.Sprintf("cannot find %s, for the proxy: no such host", visible(dns.Name)), from)
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return fail(codeProxyUnreachable, e, fmt.Sprintf("cannot reach the proxy %s: connection refused", at), from)
	case !e.Reached:
		return fail(codeProxyUnreachable, e, fmt.Sprintf("cannot reach the proxy %s: %s", at, visible(cut(plain(e.Err), 100))), from)
	}
	kind := "an HTTP"
	if p != nil && strings.HasPrefix(p.to.Scheme, "socks") {
		kind = "a SOCKS 5"
	} else if p != nil && p.to.Scheme == "https" {
		kind = "an HTTPS"
	}
	return fail(codeProxyRefused, e, fmt.Sprintf("%s did not answer as %s proxy does", at, kind), from)
}

func explainProxyLogin(e *tunnel.ProxyError, p *proxy, at string) *failure {
	status := ""
	if strings.HasPrefix(e.Text, "407") {
		status = " (407)"
	}
	if basic := func(s string) bool { return strings.EqualFold(s, "Basic") }; len(e.Schemes) > 0 && !slices.ContainsFunc(e.Schemes, basic) {
		return fail(codeProxyLogin, e, fmt.Sprintf("the proxy %s wants a login%s by %s", at, status, visible(cut(strings.Join(e.Schemes, " or "), 60))),
			"waxwire can do Basic only. A proxy of your own in between may do the rest.")
	}
	said, scheme, with := "--proxy", "http", false
	if p != nil {
		said, scheme, with = p.said, p.to.Scheme, p.to.User != nil
	}
	form := fmt.Sprintf("Set %s=%s://USER@%s (you are asked for the password), or --proxy none to go direct.", said, scheme, at)
	if said == "--proxy" {
		form = fmt.Sprintf("Use --proxy %s://USER@%s (you are asked for the password), or --proxy none to go direct.", scheme, at)
	}
	if with {
		return fail(codeProxyLogin, e, fmt.Sprintf("the proxy %s does not take this name and password%s", at, status), form)
	}
	return fail(codeProxyLogin, e, fmt.Sprintf("the proxy %s wants a login%s", at, status), form)
}
