package main

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"waxwire.example/waxwire/keys"
)

// A server is one that the user named: a URL and the key that it has to prove.
type server struct {
	url *url.URL
	key keys.PublicKey
}

// parseServer reads SERVER and --server-key.
func parseServer(text, key string) (server, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || !strings.Contains(text, "://"):
		return server{}, fail(codeUsage, err, fmt.Sprintf("%q is not the URL of a server", visible(text)),
			"Form: ws://HOST[:PORT]/wax or wss://HOST[:PORT]/wax, as the server prints it at start.")
	case u.Scheme != "ws" && u.Scheme != "wss":
		f := fail(codeUsage, nil, fmt.Sprintf("%q: the URL of a server begins with ws:// or wss://", visible(text)))
		if better := map[string]string{"http": "ws", "https": "wss"}[u.Scheme]; better != "" {
			v := *u
			v.Scheme = better
			f.hints = []string{"Did you mean " + v.String() + "?"}
		}
		return server{}, f
	case u.Hostname() == "":
		return server{}, usagef("%q: the host is missing", visible(text))
	case u.User != nil || u.Fragment != "":
		return server{}, usagef("%q: a name, password or #fragment cannot be used", visible(u.Redacted()))
	}
	if u.Path == "" {
		u.Path = "/wax"
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
	return server{url: u, key: k}, nil
}

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
	if s.url.Port() == "" {
		return s.host()
	}
	return s.address()
}
