package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// A server is one that the user named: one or more URLs that lead to it, and the key that it has to prove.
type server struct {
	url    *url.URL
	others []*url.URL
	key    keys.PublicKey
	saved  string // its name, if it was joined

	proxies proxies // on the way there
}

// parseServerURLs reads one URL or several with commas between them.
func parseServerURLs(text string) ([]*url.URL, error) {
	var urls []*url.URL
	for one := range strings.SplitSeq(text, ",") {
		u, err := parseServerURL(one)
		if err != nil {
			return nil, err
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// parseServer reads URLs of a server and --server-key.
func parseServer(text, key string) (server, error) {
	urls, err := parseServerURLs(text)
	if err != nil {
		return server{}, err
	}
	if key == "" {
		return server{}, fail(codeUsage, nil, "--server-key is missing: a server is only trusted by its key",
			"\"waxwire key show\" prints it there. Form: --server-key wax1...")
	}
	k, err := keys.ParsePublicKey(key)
	if err != nil {
		return server{}, fail(codeUsage, err, fmt.Sprintf("--server-key: %s", visible(plain(err))),
			"\"waxwire key show\" prints it on the server.")
	}
	return server{url: urls[0], others: urls[1:], key: k}, nil
}

func parseServerURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || !strings.Contains(text, "://"):
		return nil, fail(codeUsage, err, fmt.Sprintf("%q is not the URL of a server", visible(text)),
			"Form: ws://HOST[:PORT]/wax or wss://HOST[:PORT]/wax, as the server prints it at start.")
	case u.Scheme != "ws" && u.Scheme != "wss":
		f := fail(codeUsage, nil, fmt.Sprintf("%q: the URL of a server begins with ws:// or wss://", visible(text)))
		if better := map[string]string{"http": "ws", "https": "wss"}[u.Scheme]; better != "" {
			v := *u
			v.Scheme = better
			f.hints = []string{"Did you mean " + v.String() + "?"}
		}
		return nil, f
	case u.Hostname() == "":
		return nil, usagef("%q: the host is missing", visible(text))
	case u.User != nil || u.Fragment != "":
		return nil, usagef("%q: a name, password or #fragment cannot be used", visible(u.Redacted()))
	}
	if u.Path == "" {
		u.Path = "/wax"
	}
	return u, nil
}

// alternates are the other URLs.
func (s server) alternates() []string {
	texts := []string{}
	for _, u := range s.others {
		texts = append(texts, u.String())
	}
	return texts
}

// of is the server under the URL that an error is about.
func (s server) of(err error) server {
	var which *tunnel.DialError
	if errors.As(err, &which) {
		for _, u := range s.others {
			if u.String() == which.URL {
				s.url = u
			}
		}
	}
	return s
}

// proxied reports whether it is reached through a proxy.
func (s server) proxied() bool { return s.proxies.of(s.url) != nil }

func (s server) String() string { return s.url.String() }
func (s server) host() string   { return s.url.Hostname() }

func (s server) port() string {
	switch {
	case s.url.Port() != "":
		return s.url.Port()
	case s.url.Scheme == "wss":
		return "443"
	}
	return "80"
}

func (s server) address() string { return net.JoinHostPort(s.host(), s.port()) }

// name is how the server is called in what is said about it.
func (s server) name() string {
	if s.saved != "" {
		return s.saved
	}
	if s.url.Port() == "" {
		return s.host()
	}
	return s.address()
}
