package keys

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPermissionLen bounds the text of a permission; the longest name has 253 characters.
const maxPermissionLen = 512

// A Permission is one thing that a peer may do. Its text is one of
//
//	message                 send and receive messages
//	files                   send and receive files
//	connect=HOST:PORT       have a TCP or UDP target dialled
//	connect=unix:/path      have a Unix socket dialled
//	listen=ADDR:PORT        have a port opened, whose connections come to the peer
//	listen=unix:/path       have a Unix socket made, whose connections come to the peer
//
// HOST is a name, *.domain (every name below it, not the domain itself), an address, a range such
// as 10.0.0.0/8, or *. ADDR is an address, a range or *. PORT is a number, a range such as
// 8000-8100, or *, which for listen does not include the ports below 1024. IPv6 addresses and ranges
// stand in brackets: [::1]:80, [fd00::/8]:443.
//
// Permissions compare with ==. The zero value allows nothing and has no text.
type Permission struct {
	kind   permissionKind
	host   hostKind
	name   string       // hostName: the name; hostBelow: the domain; for Unix sockets the path
	prefix netip.Prefix // hostPrefix
	lo, hi uint16       // ports, both included
}

type permissionKind uint8

const (
	_ permissionKind = iota
	permitMessage
	permitFiles
	permitConnect
	permitConnectUnix
	permitListen
	permitListenUnix
)

type hostKind uint8

const (
	_          hostKind = iota
	hostAny             // *
	hostName            // db.example.net
	hostBelow           // *.example.net
	hostPrefix          // 10.0.0.0/8, or one address as a range of one
)

// A PermissionError says what is wrong with the text of a permission.
type PermissionError struct {
	Text    string
	Problem string
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("keys: permission %s: %s", quoteShort(e.Text), e.Problem)
}

// ParsePermission reads the text of a permission. Letters of names may be of either case, and a
// name may end in a dot; String prints the one canonical form. Errors are [*PermissionError].
func ParsePermission(s string) (Permission, error) {
	p, problem := parsePermission(s)
	if problem != "" {
		return Permission{}, &PermissionError{Text: s, Problem: problem}
	}
	return p, nil
}

func parsePermission(s string) (p Permission, problem string) {
	if len(s) > maxPermissionLen {
		return p, fmt.Sprintf("it is longer than %d bytes", maxPermissionLen)
	}
	word, arg, hasArg := strings.Cut(s, "=")
	switch word {
	case "message", "files":
		if hasArg {
			return p, fmt.Sprintf("%q takes nothing after it", word)
		}
		if word == "files" {
			return Permission{kind: permitFiles}, ""
		}
		return Permission{kind: permitMessage}, ""
	case "connect":
		if file, ok := strings.CutPrefix(arg, "unix:"); ok {
			p.kind = permitConnectUnix
			p.name = file
			return p, socketProblem(file)
		}
		p.kind = permitConnect
	case "listen":
		if file, ok := strings.CutPrefix(arg, "unix:"); ok {
			p.kind = permitListenUnix
			p.name = file
			return p, socketProblem(file)
		}
		p.kind = permitListen
	case "":
		return p, `it is empty; one of message, files, connect=HOST:PORT, connect=unix:/path, listen=ADDR:PORT, listen=unix:/path`
	default:
		return p, "unknown word; one of message, files, connect=HOST:PORT, connect=unix:/path, listen=ADDR:PORT, listen=unix:/path"
	}
	if arg == "" {
		return p, fmt.Sprintf("%s needs HOST:PORT, for example %s", word, permissionExample(p.kind))
	}
	host, port, problem := cutPort(arg)
	if problem != "" {
		return p, problem
	}
	if p.lo, p.hi, problem = parsePorts(port); problem != "" {
		return p, problem
	}
	return p, p.setHost(host)
}

func permissionExample(k permissionKind) string {
	if k == permitListen {
		return "listen=127.0.0.1:9000"
	}
	return "connect=localhost:80"
}

// cutPort splits HOST:PORT at its last colon; an IPv6 host keeps its brackets.
func cutPort(s string) (host, port, problem string) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		switch {
		case end < 0:
			return "", "", `the "]" after the IPv6 address is missing`
		case strings.HasPrefix(s[end+1:], "/"):
			return "", "", "the length of an IPv6 range stands inside the brackets: [fd00::/8]:443"
		case !strings.HasPrefix(s[end+1:], ":"):
			return "", "", `the port after "]" is missing; * means any port`
		}
		return s[:end+1], s[end+2:], ""
	}
	switch strings.Count(s, ":") {
	case 0:
		return "", "", "the port is missing; * means any port"
	case 1:
		host, port, _ = strings.Cut(s, ":")
		if host == "" {
			return "", "", "the host is missing; * means any host"
		}
		return host, port, ""
	}
	return "", "", "an IPv6 address stands in brackets: [::1]:80"
}

func parsePorts(s string) (lo, hi uint16, problem string) {
	if s == "*" {
		return 1, 65535, ""
	}
	first, last, isRange := strings.Cut(s, "-")
	lo, problem = parsePort(first)
	if problem != "" || !isRange {
		return lo, lo, problem
	}
	hi, problem = parsePort(last)
	if problem == "" && lo > hi {
		problem = fmt.Sprintf("the range of ports %s runs backwards", s)
	}
	return lo, hi, problem
}

func parsePort(s string) (uint16, string) {
	if s == "" {
		return 0, "the port is missing; * means any port"
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Sprintf("%s is not a port: a number from 1 to 65535, a range such as 8000-8100, or *", quoteShort(s))
	}
	return uint16(n), ""
}

// setHost sets the host part. Whatever could be taken for an address in some program and for a
// name in another is refused: rules must mean what they seem to mean.
func (p *Permission) setHost(s string) (problem string) {
	if s == "*" {
		p.host = hostAny
		return ""
	}
	inner, bracketed := s, false
	if strings.HasPrefix(s, "[") {
		inner, bracketed = strings.TrimSuffix(s[1:], "]"), true
	}
	if strings.Contains(inner, "%") {
		return "an address with a zone (%) cannot be in a permission"
	}
	if strings.Contains(inner, "/") {
		return p.setRange(inner, bracketed)
	}
	if addr, err := netip.ParseAddr(inner); err == nil {
		switch {
		case addr.Is4() && bracketed:
			return "brackets are for IPv6 addresses; write " + inner + " without them"
		case addr.Is6() && !bracketed:
			return "an IPv6 address stands in brackets: [::1]:80"
		}
		addr = addr.Unmap()
		p.host, p.prefix = hostPrefix, netip.PrefixFrom(addr, addr.BitLen())
		return ""
	}
	switch {
	case bracketed:
		return quoteShort(inner) + " is not an IPv6 address"
	case p.kind == permitListen:
		return quoteShort(s) + " is not an address; listen takes one, such as 127.0.0.1 or [::1], a range, or *"
	}
	p.host = hostName
	if domain, ok := strings.CutPrefix(inner, "*."); ok {
		p.host, inner = hostBelow, domain
	}
	inner = canonicalName(inner)
	p.name = inner
	return nameProblem(inner)
}

func (p *Permission) setRange(s string, bracketed bool) (problem string) {
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return quoteShort(s) + " is not an address range; for example 10.0.0.0/8 or [fd00::/8]"
	case prefix.Addr().Is4In6():
		return "write the range of IPv4 addresses as IPv4, such as 10.0.0.0/8"
	case prefix.Addr().Is4() && bracketed:
		return "brackets are for IPv6 addresses; write " + s + " without them"
	case prefix.Addr().Is6() && !bracketed:
		return "an IPv6 range stands in brackets: [" + s + "]:443"
	case prefix != prefix.Masked():
		return fmt.Sprintf("%s has bits after its length; write %s or a single address", s, prefix.Masked())
	}
	p.host, p.prefix = hostPrefix, prefix
	return ""
}

// canonicalName is s in lower case without one dot at its end.
func canonicalName(s string) string {
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// nameProblem says why s, in canonical form, is not a DNS name, or nothing if it is one.
func nameProblem(s string) string {
	if s == "" {
		return "the host is missing; * means any host"
	}
	if len(s) > 253 {
		return "the name is longer than 253 characters"
	}
	for i := range len(s) {
		switch b := s[i]; {
		case b == '*':
			return "a * is the whole host or its first label: *.example.net"
		case b >= utf8.RuneSelf:
			return "write the name in its ASCII form (xn--…)"
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9', b == '-', b == '_', b == '.':
		default:
			return fmt.Sprintf("the name has a %q, which no host name has", b)
		}
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		switch {
		case label == "":
			return "the name has an empty label (two dots, or a dot at the start)"
		case len(label) > 63:
			return "a label of the name is longer than 63 characters"
		case label[0] == '-' || label[len(label)-1] == '-':
			return "a label of the name begins or ends with a hyphen"
		}
	}
	// 127.1, 0x7f.1, 2130706433 and 0177.0.0.1 are addresses to some resolvers.
	if last := labels[len(labels)-1]; strings.HasPrefix(last, "0x") || strings.Trim(last, "0123456789") == "" {
		return quoteShort(s) + " is neither a name nor an address; write IPv4 addresses as 127.0.0.1"
	}
	return ""
}

// maxSocketLen is less than what fits into a socket address on any system.
const maxSocketLen = 103

func socketProblem(file string) string {
	switch {
	case file == "":
		return "the path after unix: is missing"
	case file[0] != '/':
		return "the path after unix: is not absolute"
	case !utf8.ValidString(file) || strings.ContainsFunc(file, unicode.IsControl):
		return "the path has a character that cannot be printed"
	case strings.TrimSpace(file) != file:
		return "the path has white space at its end"
	case len(file) > maxSocketLen:
		return fmt.Sprintf("the path is longer than %d bytes, too long for a socket", maxSocketLen)
	case path.Clean(file) != file:
		return fmt.Sprintf("write the path as %s", path.Clean(file))
	case file == "/":
		return "the path is a directory"
	}
	return ""
}

// String returns the canonical text: names in lower case, addresses in their shortest form.
func (p Permission) String() string {
	switch p.kind {
	case permitMessage:
		return "message"
	case permitFiles:
		return "files"
	case permitConnectUnix:
		return "connect=unix:" + p.name
	case permitConnect:
		return "connect=" + p.hostString() + ":" + p.portString()
	case permitListen:
		return "listen=" + p.hostString() + ":" + p.portString()
	case permitListenUnix:
		return "listen=unix:" + p.name
	}
	return ""
}

func (p Permission) hostString() string {
	switch p.host {
	case hostName:
		return p.name
	case hostBelow:
		return "*." + p.name
	case hostPrefix:
		text := p.prefix.String()
		if p.prefix.IsSingleIP() {
			text = p.prefix.Addr().String()
		}
		if p.prefix.Addr().Is6() {
			return "[" + text + "]"
		}
		return text
	}
	return "*"
}

func (p Permission) portString() string {
	switch {
	case p.lo == 1 && p.hi == 65535:
		return "*"
	case p.lo == p.hi:
		return strconv.Itoa(int(p.lo))
	}
	return fmt.Sprintf("%d-%d", p.lo, p.hi)
}

// MarshalText returns the canonical text; the zero Permission has none.
func (p Permission) MarshalText() ([]byte, error) {
	if p.kind == 0 {
		return nil, &PermissionError{Problem: "it is empty"}
	}
	return []byte(p.String()), nil
}

// UnmarshalText is [ParsePermission].
func (p *Permission) UnmarshalText(text []byte) error {
	q, err := ParsePermission(string(text))
	if err == nil {
		*p = q
	}
	return err
}

// allowsConnect: see [Peer.AllowsConnect], which has put its arguments in order.
func (p Permission) allowsConnect(host string, addr netip.AddrPort, guarded bool) bool {
	if p.kind != permitConnect || addr.Port() < p.lo || addr.Port() > p.hi {
		return false
	}
	switch p.host {
	case hostAny:
		return !guarded
	case hostName:
		return host == p.name
	case hostBelow:
		// host has been checked to be a name, so that nothing odd can stand before the domain.
		return !guarded && strings.HasSuffix(host, "."+p.name)
	case hostPrefix:
		return p.prefix.Contains(addr.Addr())
	}
	return false
}

func (p Permission) allowsListen(addr netip.AddrPort) bool {
	if p.kind != permitListen {
		return false
	}
	all := p.lo == 1 && p.hi == 65535
	switch port := addr.Port(); {
	case port == 0: // any port that is free
		if !all {
			return false
		}
	case port < 1024 && all: // the well-known services are not for whoever comes first
		return false
	case port < p.lo || port > p.hi:
		return false
	}
	return p.host == hostAny || p.host == hostPrefix && p.prefix.Contains(addr.Addr())
}

// quoteShort quotes what somebody wrote, cut to what fits a line.
func quoteShort(s string) string {
	const most = 80
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strconv.Quote(s)
}
