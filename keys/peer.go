package keys

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxPeerFile bounds a peer file, in bytes.
const maxPeerFile = 64 << 10

// A Peer is somebody who may connect, and what it may do. Where a Peer is handed out, Allow is
// shared and must not be changed; append to it freely.
type Peer struct {
	Name   string
	Key    PublicKey
	Joined time.Time // when it was enrolled; zero is unknown
	Allow  []Permission
}

// A NameError says why a text is not the name of a peer.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	return fmt.Sprintf("keys: %s is not a name: 1 to 32 of a-z, 0-9 and -", quoteShort(e.Name))
}

// ValidName returns nil if s can be the name of a peer: 1 to 32 characters of a-z, 0-9 and -. The
// error is a [*NameError].
func ValidName(s string) error {
	if len(s) < 1 || len(s) > 32 {
		return &NameError{Name: s}
	}
	for i := range len(s) {
		if b := s[i]; !('a' <= b && b <= 'z' || '0' <= b && b <= '9' || b == '-') {
			return &NameError{Name: s}
		}
	}
	return nil
}

// A PeerFileError says what is wrong with the file of a peer.
type PeerFileError struct {
	Name    string // of the peer, which is that of the file
	Line    int    // counted from 1; 0 if it is about the whole file
	Problem string
	Err     error // the cause, or nil
}

func (e *PeerFileError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("keys: peer %s: line %d: %s", quoteShort(e.Name), e.Line, e.Problem)
	}
	return fmt.Sprintf("keys: peer %s: %s", quoteShort(e.Name), e.Problem)
}

func (e *PeerFileError) Unwrap() error { return e.Err }

// ParsePeer reads the file of the peer called name. Its lines are
//
//	key wax1…                      once
//	joined 2026-02-21T10:00:00Z    at most once
//	allow PERMISSION               any number
//	# a comment
//
// An unknown word refuses the file: a word that a later version knows may be one that restricts.
// A permission that is there twice is kept once.
func ParsePeer(name string, file []byte) (Peer, error) {
	p := Peer{Name: name}
	line := 0
	fail := func(err error, format string, args ...any) (Peer, error) {
		return Peer{}, &PeerFileError{Name: name, Line: line, Problem: fmt.Sprintf(format, args...), Err: err}
	}
	if err := ValidName(name); err != nil {
		return Peer{}, err
	}
	if problem := notLines(file, maxPeerFile); problem != "" {
		return fail(nil, "%s", problem)
	}
	for text := range strings.Lines(string(file)) {
		line++
		word, arg := cutWord(text)
		switch word {
		case "":
		case "key":
			if p.Key != (PublicKey{}) {
				return fail(nil, "there is a second key; a peer has one")
			}
			key, err := ParsePublicKey(arg)
			if err != nil {
				return fail(err, "%s", problemOf(err))
			}
			p.Key = key
		case "joined":
			if !p.Joined.IsZero() {
				return fail(nil, "there is a second joined")
			}
			t, err := time.Parse(time.RFC3339, arg)
			if err != nil || !printableTime(t) {
				return fail(nil, "%s is not a time such as 2026-02-21T10:00:00Z", quoteShort(arg))
			}
			p.Joined = t.UTC()
		case "allow":
			permission, err := ParsePermission(arg)
			if err != nil {
				return fail(err, "%s: %s", quoteShort(arg), problemOf(err))
			}
			if !slices.Contains(p.Allow, permission) {
				p.Allow = append(p.Allow, permission)
			}
		default:
			return fail(nil, "unknown word %s; key, joined, allow or #", quoteShort(word))
		}
	}
	if p.Key == (PublicKey{}) {
		line = 0
		return fail(nil, "there is no key")
	}
	p.Allow = slices.Clip(p.Allow)
	return p, nil
}

// notLines says why a file cannot be one of lines with a word and its value each; "" if it can.
func notLines(file []byte, most int) (problem string) {
	switch {
	case len(file) > most:
		return fmt.Sprintf("it is larger than %d bytes", most)
	case !utf8.Valid(file) || bytes.IndexByte(file, 0) >= 0:
		return "it is not text in UTF-8"
	}
	return ""
}

// cutWord cuts a line of such a file into the word and its value. The word of an empty line and of a
// comment is empty.
func cutWord(line string) (word, value string) {
	line = strings.Trim(line, " \t\r\n")
	if line == "" || line[0] == '#' {
		return "", ""
	}
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		return line[:i], strings.TrimLeft(line[i:], " \t")
	}
	return line, ""
}

// problemOf is the message of our own errors without what they stand in front of it.
func problemOf(err error) string {
	switch e := err.(type) {
	case *KeyError:
		return "not a " + e.Kind + ": " + e.Problem
	case *PermissionError:
		return e.Problem
	case *NameError:
		return strings.TrimPrefix(e.Error(), "keys: ")
	}
	return err.Error()
}

// printableTime is whether t in UTC has a text in RFC 3339, and is not the zero time.
func printableTime(t time.Time) bool {
	year := t.UTC().Year()
	return year >= 1 && year <= 9999 && !t.IsZero()
}

// MarshalText returns the file of p, as [ParsePeer] reads it.
func (p Peer) MarshalText() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "key %s\n", p.Key)
	if !p.Joined.IsZero() {
		fmt.Fprintf(&b, "joined %s\n", p.Joined.UTC().Format(time.RFC3339Nano))
	}
	for i, permission := range p.Allow {
		if !slices.Contains(p.Allow[:i], permission) {
			fmt.Fprintf(&b, "allow %s\n", permission)
		}
	}
	if b.Len() > maxPeerFile {
		return nil, &PeerFileError{Name: p.Name, Problem: fmt.Sprintf("it is larger than %d bytes", maxPeerFile)}
	}
	return b.Bytes(), nil
}

func (p Peer) check() error {
	if err := ValidName(p.Name); err != nil {
		return err
	}
	fail := func(problem string) error { return &PeerFileError{Name: p.Name, Problem: problem} }
	switch {
	case p.Key == PublicKey{}:
		return fail("there is no key")
	case !p.Joined.IsZero() && !printableTime(p.Joined):
		return fail("the time it joined has no text")
	case slices.Contains(p.Allow, Permission{}):
		return fail("a permission is empty")
	}
	return nil
}

// AllowsConnect reports whether p may have addr dialled, having asked for host.
//
// host is the name as asked for, or empty or the literal if it was an address. addr is what would
// be dialled: the caller resolves a name once, asks here, and dials that address. A rule with a
// name looks at host and lets it be whatever it resolves to; a rule with an address or a range looks
// at addr. guarded says that addr is one of the server's own: for such addresses, and for loopback,
// link-local and unspecified ones, which are seen here too, rules with * do not count.
func (p Peer) AllowsConnect(host string, addr netip.AddrPort, guarded bool) bool {
	if !addr.IsValid() || addr.Port() == 0 {
		return false
	}
	host = canonicalName(host)
	if nameProblem(host) != "" { // an address literal, or nothing that a rule could name
		host = ""
	}
	ip := addr.Addr().Unmap()
	addr = netip.AddrPortFrom(ip, addr.Port())
	guarded = guarded || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() ||
		ip.IsInterfaceLocalMulticast() || ip.IsUnspecified()
	return slices.ContainsFunc(p.Allow, func(rule Permission) bool {
		return rule.allowsConnect(host, addr, guarded)
	})
}

// AllowsUnix reports whether p may have the Unix socket at path dialled. The path must be the very
// one that a permission names.
func (p Peer) AllowsUnix(path string) bool {
	return slices.Contains(p.Allow, Permission{kind: permitConnectUnix, name: path})
}

// AllowsListen reports whether p may have addr opened. Port 0, any free one, needs a rule for all
// ports; a port below 1024 one that names it, or a range that it is in.
func (p Peer) AllowsListen(addr netip.AddrPort) bool {
	if !addr.IsValid() {
		return false
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	return slices.ContainsFunc(p.Allow, func(rule Permission) bool { return rule.allowsListen(addr) })
}

// AllowsListenUnix reports whether p may have a Unix socket made at path. The path must be the very
// one that a permission names.
func (p Peer) AllowsListenUnix(path string) bool {
	return slices.Contains(p.Allow, Permission{kind: permitListenUnix, name: path})
}

// AllowsMessage reports whether p may send and receive messages.
func (p Peer) AllowsMessage() bool { return slices.Contains(p.Allow, Permission{kind: permitMessage}) }

// AllowsFiles reports whether p may send and receive files.
func (p Peer) AllowsFiles() bool { return slices.Contains(p.Allow, Permission{kind: permitFiles}) }
