package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// This file reads the flags that restrict who may ask a server. An entry that could never match would
// look like a restriction that works, or shut everybody out: it is a mistake.

// parsePrefixes reads --trusted-proxy.
func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		if text == "unix" {
			list = append(list, netip.Prefix{}) // as tunnel.Server has it
			continue
		}
		p, err := netip.ParsePrefix(text)
		if a, e := netip.ParseAddr(text); e == nil {
			p, err = netip.PrefixFrom(a.WithZone(""), a.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() {
			return nil, fail(codeUsage, err, fmt.Sprintf("--trusted-proxy %s: not an address range", visible(text)),
				"Form: 10.0.0.0/8 or 127.0.0.1, or unix for what comes through a unix socket")
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// checkHosts checks --host-allow, and returns it without the brackets of addresses.
func checkHosts(hosts []string) ([]string, error) {
	var list []string
	for _, host := range hosts {
		name := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		_, err := netip.ParseAddr(name)
		if name == "" || err != nil && (strings.ContainsAny(name, ":/@*[]") || !httpguts.ValidHostHeader(name)) {
			return nil, fail(codeUsage, nil, fmt.Sprintf("--host-allow %s: this is not the name of a host", visible(host)),
				"Form: relay.example.net, without a port")
		}
		list = append(list, name)
	}
	return list, nil
}

// checkOrigins checks --origin-allow. Browsers send what RFC 6454 §6.2 makes of a URL.
func checkOrigins(origins []string) error {
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin || strings.ToLower(origin) != origin {
			return fail(codeUsage, err, fmt.Sprintf("--origin-allow %s: this is not the origin of a web page", visible(origin)),
				"Form: https://app.example.net, with the port if it is not the usual one, and no / at its end")
		}
	}
	return nil
}

// checkURLs checks --url-allow, which is compared with what clients dial, letter by letter.
func checkURLs(urls []string) error {
	for _, text := range urls {
		u, err := parseServerURL(text)
		if err != nil || u.String() != text {
			return fail(codeUsage, err, fmt.Sprintf("--url-allow %s: no client can dial this", visible(text)),
				"Form: wss://relay.example.net/wax, as clients name it")
		}
	}
	return nil
}

// check looks for flags that have no effect, or would seem to have one.
func (f *serverFlags) check() error {
	local := func(addr string) bool { return strings.HasPrefix(addr, "unix:") }
	switch {
	case f.clientCA != "" && slices.ContainsFunc(f.listen, local):
		return fail(codeUsage, nil, "--tls-client-ca: nobody shows a certificate at a unix socket",
			"Who may connect to it is what its mode says. Serve it by a server of its own.")
	case slices.Contains(f.proxies, "unix") && !slices.ContainsFunc(f.listen, local):
		return usagef("--trusted-proxy unix: there is no --listen unix:/path.sock")
	}
	return nil
}
