package forward

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// The grammars of [ParseLocal], [ParseRemote] and [ParseDynamic] as a person is told them.
const (
	LocalForm   = "[BIND:]PORT:HOST:PORT, for example 8080:localhost:80"
	RemoteForm  = "[BIND:]PORT[:HOST:PORT], for example 9000:localhost:3000"
	DynamicForm = "[BIND:]PORT, for example 1080"
)

// An Address is where one end of a forward listens or what it dials.
type Address struct {
	Network string // "tcp" or "unix"
	Addr    string // "host:port", IPv6 in brackets; for unix an absolute path
}

// String is the address as a user writes it in a forward.
func (a Address) String() string { return starred(a.Addr) }

// A Local is a local forward, ssh's -L: who connects to Listen here is connected to Target there.
// Without a Target it is a dynamic one, ssh's -D: each connection says itself, as to a SOCKS5 or HTTP
// proxy, what it is to be connected to. It is comparable.
type Local struct {
	Listen Address // an IP address and port (0: any free one), or the path of a unix socket
	Target Address // as the other end is asked for it; names are resolved there
}

// Dynamic says whether each connection says itself what it is to be connected to.
func (l Local) Dynamic() bool { return l.Target == Address{} }

// String is the forward as [ParseLocal] or [ParseDynamic] reads it, with everything written out.
func (l Local) String() string { return specString(l.Listen, l.Target) }

// A Remote is a reverse forward, ssh's -R: who connects to Listen there is connected to Target here.
// Without a Target each connection says itself, as to a SOCKS5 or HTTP proxy, what it is to be connected to,
// whatever that is. It is comparable.
type Remote struct {
	Listen Address // at the other end: an IP address and port (0: any free one), or the path of a unix socket
	Target Address // here
}

// Dynamic says whether each connection says itself what it is to be connected to.
func (r Remote) Dynamic() bool { return r.Target == Address{} }

// String is the forward as [ParseRemote] reads it, with everything written out.
func (r Remote) String() string { return specString(r.Listen, r.Target) }

func specString(listen, target Address) string {
	text := starred(listen.Addr)
	if target == (Address{}) {
		return text
	}
	return text + ":" + target.Addr
}

// starred writes all interfaces as a user does.
func starred(listen string) string {
	if strings.HasPrefix(listen, ":") {
		return "*" + listen
	}
	return listen
}

// A SpecError says what is wrong with a forward that a user wrote.
type SpecError struct {
	Flag    string // as the user knows it: "-L"
	Spec    string // what was written
	Problem string // in words, quoting the part that is meant
}

func (e *SpecError) Error() string {
	return strings.TrimLeft(fmt.Sprintf("%s %s: %s", e.Flag, visible(e.Spec), e.Problem), " ")
}

// visible returns a text that a terminal can be trusted with: what is not printable is escaped.
func visible(s string) string {
	q := strconv.Quote(s)
	if q[1:len(q)-1] == s {
		return s
	}
	return q
}

// ParseLocal reads a local forward:
//
//	[BIND:]PORT:HOST:PORT    8080:localhost:80, [::1]:8080:[2001:db8::1]:80
//	[BIND:]PORT:/path        5432:/run/postgresql/.s.PGSQL.5432
//	/path:HOST:PORT          /run/user/1000/db.sock:db.internal:5432
//	/path:/path
//
// BIND is an IP address, localhost, or * for all interfaces; without it the forward listens on
// 127.0.0.1. The first PORT may be 0. A path that is listened on cannot have a colon in it.
// Errors are [*SpecError]s.
func ParseLocal(spec string) (Local, error) {
	l, problem := parseLocal(spec)
	if problem != "" {
		return Local{}, &SpecError{Flag: "-L", Spec: spec, Problem: problem}
	}
	return l, nil
}

// ParseRemote reads a reverse forward: the grammar is that of [ParseLocal] or [ParseDynamic], and what it
// listens on is at the other end, its loopback unless BIND is written. Errors are [*SpecError]s.
func ParseRemote(spec string) (Remote, error) {
	if l, err := ParseDynamic(spec); err == nil {
		return Remote(l), nil
	}
	l, problem := parseLocal(spec)
	if problem != "" {
		return Remote{}, &SpecError{Flag: "-R", Spec: spec, Problem: problem}
	}
	return Remote(l), nil
}

// ParseDynamic reads a dynamic forward, [BIND:]PORT. BIND is as for [ParseLocal]. Errors are
// [*SpecError]s.
func ParseDynamic(spec string) (Local, error) {
	l := Local{}
	listen, rest, last, problem := parseListen(spec)
	switch {
	case problem != "":
	case rest == "" && strings.HasSuffix(spec, ":"):
		problem = fmt.Sprintf("there is nothing after %q", last+":")
	case listen.Network == "unix":
		problem = "a port is listened on here, not a socket"
	case rest != "":
		problem = fmt.Sprintf("%q is too much; each connection says itself where it goes", ":"+rest)
	default:
		l.Listen = listen
		return l, nil
	}
	return l, &SpecError{Flag: "-D", Spec: spec, Problem: problem}
}

func parseLocal(spec string) (l Local, problem string) {
	var target, last string
	if l.Listen, target, last, problem = parseListen(spec); problem != "" {
		return l, problem
	}
	if target == "" {
		return l, fmt.Sprintf("the target after %q is missing", last+":")
	}
	l.Target, problem = parseTarget(target)
	return l, problem
}

// parseListen reads what is listened on, at the start of a forward, and returns the rest of it and the
// word before that.
func parseListen(spec string) (listen Address, rest, last, problem string) {
	if spec == "" {
		return listen, "", "", "nothing is written there"
	}
	if spec[0] == '/' {
		p, rest, _ := strings.Cut(spec, ":")
		if rest == "" {
			return listen, "", "", fmt.Sprintf("the target after %q is missing", p+":")
		}
		return Address{"unix", p}, rest, p, checkPath(p)
	}
	bind := "127.0.0.1"
	port, rest, more, problem := field(spec)
	if problem != "" {
		return listen, "", "", problem
	}
	if !isDigits(port) { // a bind address is never all digits, so this decides
		if bind, problem = parseBind(port); problem != "" {
			return listen, "", "", problem
		}
		if !more || rest == "" {
			return listen, "", "", fmt.Sprintf("the port after %q is missing", port+":")
		}
		if port, rest, _, problem = field(rest); problem != "" {
			return listen, "", "", problem
		}
	}
	n, problem := parsePort(port, 0)
	if problem != "" {
		return listen, "", "", problem
	}
	return Address{"tcp", net.JoinHostPort(bind, n)}, rest, port, ""
}

// ParseTarget reads what is to be reached at the other end: HOST:PORT, [IPV6]:PORT or the absolute
// path of a unix socket. Errors are [*SpecError]s without a Flag.
func ParseTarget(s string) (Address, error) {
	a, problem := parseTarget(s)
	if problem != "" {
		return Address{}, &SpecError{Spec: s, Problem: problem}
	}
	return a, nil
}

func parseTarget(s string) (a Address, problem string) {
	if s == "" {
		return a, "the target is missing"
	}
	if s[0] == '/' {
		if problem := checkPath(s); problem != "" {
			return a, problem
		}
		return Address{"unix", s}, ""
	}
	host, port, more, problem := field(s)
	switch {
	case problem != "":
		return a, problem
	case host == "":
		return a, fmt.Sprintf("the host before %q is missing", s)
	case !more && isDigits(host):
		return a, fmt.Sprintf("the host before %q is missing", ":"+host)
	case !more || port == "":
		return a, fmt.Sprintf("the port after %q is missing", host+":")
	case strings.Contains(port, ":"):
		return a, "there are too many colons; an IPv6 address stands in brackets, as in [::1]"
	}
	h, problem := checkHost(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if problem != "" {
		return a, problem
	}
	n, problem := parsePort(port, 1)
	if problem != "" {
		return a, problem
	}
	return Address{"tcp", net.JoinHostPort(h, n)}, ""
}

// field cuts off what stands before the next colon. An IPv6 address in brackets is one field and
// keeps them. more says whether there was a colon.
func field(s string) (first, rest string, more bool, problem string) {
	if !strings.HasPrefix(s, "[") {
		first, rest, more = strings.Cut(s, ":")
		return first, rest, more, ""
	}
	end := strings.IndexByte(s, ']')
	if end < 0 {
		return "", "", false, "the bracket after [ is not closed"
	}
	first, rest = s[:end+1], s[end+1:]
	if a, err := netip.ParseAddr(first[1:end]); err != nil || !a.Is6() || a.Zone() != "" {
		return "", "", false, fmt.Sprintf("%q is not an IPv6 address", first)
	}
	if rest == "" {
		return first, "", false, ""
	}
	if rest[0] != ':' {
		return "", "", false, fmt.Sprintf("after %q must come a colon", first)
	}
	return first, rest[1:], true, ""
}

func parseBind(s string) (addr, problem string) {
	switch strings.ToLower(s) {
	case "":
		return "", "the address before the first colon is missing; * listens on all of them"
	case "*":
		return "", "" // net.Listen's way to say all interfaces, both families
	case "localhost":
		return "127.0.0.1", ""
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		return "", fmt.Sprintf("%q is neither a port nor an address of this host", s)
	}
	return a.Unmap().String(), ""
}

func parsePort(s string, least int) (port, problem string) {
	n, err := strconv.Atoi(s)
	if err != nil || !isDigits(s) || n < least || n > 65535 {
		return "", fmt.Sprintf("%q is not a port number (%d to 65535)", s, least)
	}
	return strconv.Itoa(n), ""
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// checkHost returns the host in the form in which it travels: an address as Go prints it, a name
// in lower case without the trailing dot.
//
// What looks like a number but is not an address as it is usually written (0x7f.1, 2130706433,
// 0177.0.0.1) is refused: system resolvers read such names as addresses, so a rule about the name
// would say nothing about what is reached. Zones are refused because they mean an interface of
// the other host.
func checkHost(s string) (host, problem string) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return "", fmt.Sprintf("%q: an address with a zone cannot be forwarded", s)
		}
		return a.Unmap().String(), ""
	}
	host = strings.TrimSuffix(strings.ToLower(s), ".")
	if host == "" || len(host) > 253 {
		return "", fmt.Sprintf("%q is not a host name", s)
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", fmt.Sprintf("%q is not a host name", s)
		}
		last = label
	}
	// As in the URL standard: a name whose last label is a number is meant as an address.
	if isDigits(last) || strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "" {
		return "", fmt.Sprintf("%q is not an address as it is usually written (as 127.0.0.1)", s)
	}
	return host, ""
}

// maxPath is how long the path of a unix socket may be on every system that we know.
const maxPath = 103

func checkPath(p string) (problem string) {
	switch {
	case strings.ContainsRune(p, 0):
		return "a path cannot have a zero byte in it"
	case len(p) > maxPath:
		return fmt.Sprintf("the path of a socket can have %d bytes at most, this one has %d", maxPath, len(p))
	case p == "" || p[0] != '/' || p == "/" || path.Clean(p) != p:
		return fmt.Sprintf("%q is not the plain absolute path of a socket", p)
	}
	return ""
}
