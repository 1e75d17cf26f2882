package main

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"waxwire.example/waxwire/tunnel/forward"
)

// A listening is one address that the server listens on.
type listening struct {
	net.Listener
	url string // unix:/path for a socket
}

// local reports whether it is a unix socket.
func (l listening) local() bool { return l.Addr().Network() == "unix" }

// listenAll opens all addresses or none. TLS is for those of the network: at a unix socket there is a proxy
// of this host, or nobody.
func listenAll(f *serverFlags, tlsConfig *tls.Config) ([]listening, error) {
	var all []listening
	for _, addr := range f.listen {
		l, err := listenOne(addr)
		if err != nil {
			for _, open := range all {
				open.Close()
			}
			return nil, err
		}
		if l.Addr().Network() == "unix" {
			all = append(all, listening{l, "unix:" + l.Addr().String()})
			continue
		}
		u := url.URL{Scheme: "ws", Host: f.shownAddress(addr, l.Addr()), Path: f.path}
		if tlsConfig != nil {
			l = tls.NewListener(l, tlsConfig)
			u.Scheme = "wss"
		}
		all = append(all, listening{l, u.String()})
	}
	return all, nil
}

func listenOne(addr string) (net.Listener, error) {
	if rest, ok := strings.CutPrefix(addr, "unix:"); ok {
		path, mode, err := parseUnixListen(rest)
		if err != nil {
			return nil, err
		}
		l, err := forward.ListenUnix(path, mode)
		if err != nil {
			return nil, explainListen(err, path, "")
		}
		return namedListener{l, path}, nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fail(codeUsage, err, fmt.Sprintf("--listen %s: this is not HOST:PORT", visible(addr)),
			"Form: 127.0.0.1:8443, [::1]:8443, :8443 for all interfaces, or unix:/path.sock")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, explainListen(err, addr, "")
	}
	return l, nil
}

// A namedListener has the address that was asked for. That of a socket that was moved into its place is the
// one it was made at.
type namedListener struct {
	net.Listener
	path string
}

func (l namedListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// parseUnixListen reads /path.sock[,mode=0660].
func parseUnixListen(text string) (path string, mode fs.FileMode, err error) {
	path, option, given := strings.Cut(text, ",")
	bits := uint64(0o600)
	if given {
		octal, ok := strings.CutPrefix(option, "mode=")
		if bits, err = strconv.ParseUint(octal, 8, 9); !ok || err != nil {
			return "", 0, fail(codeUsage, err, fmt.Sprintf("--listen unix:%s: %q is not a mode", visible(text), visible(option)),
				"Form: unix:/path.sock,mode=0660 for its group as well")
		}
	}
	if !filepath.IsAbs(path) {
		return "", 0, fail(codeUsage, nil, fmt.Sprintf("--listen unix:%s: the path does not begin with /", visible(text)),
			"Form: unix:/path.sock")
	}
	return path, fs.FileMode(bits), nil
}

// shownAddress is the name that clients have a certificate for, if there is one and it stands for all
// interfaces.
func (f *serverFlags) shownAddress(asked string, got net.Addr) string {
	shown := shownAddress(asked, got)
	host, port, err := net.SplitHostPort(shown)
	if ip, e := netip.ParseAddr(host); err != nil || len(f.acme) == 0 || e != nil || !ip.IsUnspecified() {
		return shown
	}
	if port == "443" {
		return f.acme[0]
	}
	return net.JoinHostPort(f.acme[0], port)
}

// shownAddress is what was asked for, with the port that the system has chosen in the place of 0.
func shownAddress(asked string, got net.Addr) string {
	host, port, err := net.SplitHostPort(asked)
	if err != nil || host == "" {
		return got.String()
	}
	if t, ok := got.(*net.TCPAddr); ok {
		port = fmt.Sprint(t.Port)
	}
	return net.JoinHostPort(host, port)
}
