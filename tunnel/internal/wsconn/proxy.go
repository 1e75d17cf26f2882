package wsconn

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// proxyTimeout bounds what a proxy may take, from TLS to it until it has reached the server.
const proxyTimeout = 10 * time.Second

// maxProxyHead is how long a proxy's answer to a CONNECT may be, further heads before it included.
const maxProxyHead = 16 << 10

// A ProxyError says that a proxy could not be reached, or did not connect to the server. It has
// neither the name nor the password of the proxy's URL.
type ProxyError struct {
	Proxy   string   // its address, HOST:PORT
	Reached bool     // it was spoken to
	Login   bool     // it wants a name and password, or others
	Schemes []string // how it would take them, if it speaks HTTP: "Basic", "Negotiate"
	Text    string   // what it answered, if it did
	Err     error    // what happened, if it did not
}

func (e *ProxyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("proxy %s: %v", e.Proxy, e.Err)
	}
	return fmt.Sprintf("proxy %s answered %q", e.Proxy, e.Text)
}

func (e *ProxyError) Unwrap() error { return e.Err }

// proxyPorts are the schemes of proxies, with the ports that they have by themselves. A socks5 proxy gets
// addresses, a socks5h proxy names.
var proxyPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// proxyAddress is where a proxy is.
func proxyAddress(proxy *url.URL) (string, error) {
	port := proxyPorts[proxy.Scheme]
	if port == "" || proxy.Hostname() == "" {
		return "", errors.New("the proxy's URL must be http://, https://, socks5:// or socks5h:// and a host")
	}
	if p := proxy.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(proxy.Hostname(), port), nil
}

// dialProxy connects to address through a proxy.
func (cfg *DialConfig) dialProxy(ctx context.Context, proxy *url.URL, address string) (net.Conn, error) {
	at, err := proxyAddress(proxy)
	if err != nil {
		return nil, err
	}
	c, err := cfg.dial(ctx, "tcp", at)
	if err != nil {
		return nil, &ProxyError{Proxy: at, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	through, err := cfg.throughProxy(ctx, c, proxy, address)
	interrupted := !stop()
	if err == nil && interrupted {
		err = &ProxyError{Err: ctx.Err()}
	}
	if err != nil {
		c.Close()
		var pe *ProxyError
		if !errors.As(err, &pe) {
			pe = &ProxyError{Err: err}
		}
		if cause := ctx.Err(); cause != nil && pe.Err != nil {
			pe.Err = cause
		}
		pe.Proxy, pe.Reached = at, true
		return nil, pe
	}
	return through, nil
}

// throughProxy has a proxy connect to address. Nothing that the far end sends may be read here: what is
// returned begins with it.
func (cfg *DialConfig) throughProxy(ctx context.Context, c net.Conn, proxy *url.URL, address string) (net.Conn, error) {
	switch proxy.Scheme {
	case "http":
		return c, cfg.connectHTTP(c, proxy.User, address)
	case "https":
		conf := &tls.Config{}
		if cfg.ProxyTLS != nil {
			conf = cfg.ProxyTLS.Clone()
		}
		t, err := startTLS(ctx, c, proxy.Hostname(), conf)
		if err != nil {
			return nil, err
		}
		return t, cfg.connectHTTP(t, proxy.User, address)
	case "socks5":
		resolved, err := resolve(ctx, address)
		if err != nil {
			return nil, err
		}
		return c, connectSOCKS(c, proxy.User, resolved)
	default:
		return c, connectSOCKS(c, proxy.User, address)
	}
}

// connectHTTP asks an HTTP proxy for a tunnel. RFC 9110 §9.3.6.
func (cfg *DialConfig) connectHTTP(c net.Conn, user *url.Userinfo, address string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", address, address)
	if user != nil {
		password, _ := user.Password()
		fmt.Fprintf(&b, "Proxy-Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	b.WriteString("\r\n")
	if _, err := io.WriteString(c, b.String()); err != nil {
		return err
	}
	limited := &io.LimitedReader{R: c, N: maxProxyHead}
	r := bufio.NewReader(limited)
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil {
			if limited.N == 0 {
				err = errAnswerTooLarge
			}
			return err
		}
		switch status := resp.StatusCode; {
		case status < 200 && status != http.StatusSwitchingProtocols: // there is another answer to come
			continue
		case status < 200 || status > 299:
			e := &ProxyError{Login: status == http.StatusProxyAuthRequired, Text: resp.Status}
			for _, challenge := range resp.Header.Values("Proxy-Authenticate") {
				scheme, _, _ := strings.Cut(challenge, " ")
				if len(e.Schemes) < 4 && scheme != "" {
					e.Schemes = append(e.Schemes, scheme)
				}
			}
			return e
		case r.Buffered() > 0: // not the server's: a client speaks first
			return errors.New("it sent something after its answer")
		}
		return nil
	}
}

// SOCKS version 5: RFC 1928, and RFC 1929 for names and passwords.
const (
	socksVersion    = 5
	socksNone       = 0 // methods
	socksPassword   = 2
	socksNoMethod   = 0xff
	socksConnect    = 1
	socksIPv4       = 1
	socksName       = 3
	socksIPv6       = 4
	socksAuthFormat = 1
)

var socksReplies = []string{
	"", "general failure", "not allowed by its rules", "network unreachable", "host unreachable",
	"connection refused", "TTL expired", "command not supported", "kind of address not supported",
}

// connectSOCKS asks a SOCKS proxy for a connection.
func connectSOCKS(c net.Conn, user *url.Userinfo, address string) error {
	request, err := appendSOCKSRequest(nil, address)
	if err != nil {
		return err
	}
	methods := []byte{socksNone}
	if user != nil {
		methods = append(methods, socksPassword)
	}
	if _, err := c.Write(append([]byte{socksVersion, byte(len(methods))}, methods...)); err != nil {
		return err
	}
	var b [255 + 2]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return err
	}
	switch method := b[1]; {
	case b[0] != socksVersion:
		return errors.New("it does not speak SOCKS 5")
	case method == socksNoMethod:
		return &ProxyError{Login: true, Text: "no acceptable method"}
	case !slices.Contains(methods, method):
		return errors.New("it wants a method of authentication that was not offered")
	case method == socksPassword:
		if err := loginSOCKS(c, user); err != nil {
			return err
		}
	}
	if _, err := c.Write(request); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return err
	}
	switch reply := b[1]; {
	case b[0] != socksVersion:
		return errors.New("it does not speak SOCKS 5")
	case reply != 0 && int(reply) < len(socksReplies):
		return &ProxyError{Text: socksReplies[reply]}
	case reply != 0:
		return &ProxyError{Text: "failure " + strconv.Itoa(int(reply))}
	}
	size := 0
	switch b[3] {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		if _, err := io.ReadFull(c, b[:1]); err != nil {
			return err
		}
		size = int(b[0])
	default:
		return errors.New("its answer has an unknown kind of address")
	}
	_, err = io.ReadFull(c, b[:size+2])
	return err
}

func loginSOCKS(c net.Conn, user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	if len(name) > 255 || len(password) > 255 {
		return errors.New("a name or password for SOCKS has 255 bytes at most")
	}
	login := append([]byte{socksAuthFormat, byte(len(name))}, name...)
	login = append(append(login, byte(len(password))), password...)
	if _, err := c.Write(login); err != nil {
		return err
	}
	var b [2]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if b[1] != 0 {
		return &ProxyError{Login: true, Text: "name or password refused"}
	}
	return nil
}

// appendSOCKSRequest appends the request to connect to address, whose name is left for the proxy to find.
func appendSOCKSRequest(dst []byte, address string) ([]byte, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	dst = append(dst, socksVersion, socksConnect, 0)
	switch ip, err := netip.ParseAddr(host); {
	case err == nil && ip.Is4():
		dst = append(append(dst, socksIPv4), ip.AsSlice()...)
	case err == nil:
		dst = append(append(dst, socksIPv6), ip.WithZone("").AsSlice()...)
	case len(host) > 255:
		return nil, errors.New("the server's name is too long for SOCKS")
	default:
		dst = append(append(dst, socksName, byte(len(host))), host...)
	}
	return append(dst, byte(port>>8), byte(port)), nil
}

// resolve finds the address of a name here, for proxies that are to get no names.
func resolve(ctx context.Context, address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return address, nil
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	// Most proxies have IPv4, not all have IPv6.
	i := max(0, slices.IndexFunc(all, func(a netip.Addr) bool { return a.Unmap().Is4() }))
	return net.JoinHostPort(all[i].Unmap().String(), port), nil
}
