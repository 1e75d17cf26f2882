package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxInviteFile bounds the file of an invite, in bytes: the permissions have to fit a peer's.
const maxInviteFile = maxPeerFile

// Why an invite enrols nobody, as causes of an [InviteStateError].
var (
	ErrInviteUnknown = errors.New("the invite is not known")
	ErrInviteUsed    = errors.New("the invite was used")
	ErrInviteExpired = errors.New("the invite has expired")
)

// An InviteStateError says why an invite enrols nobody, or nobody any more.
type InviteStateError struct {
	Err  error     // ErrInviteUnknown, ErrInviteUsed or ErrInviteExpired
	Time time.Time // of its use or expiry; zero if it is not known
}

func (e *InviteStateError) Error() string {
	if e.Time.IsZero() {
		return "keys: " + e.Err.Error()
	}
	return "keys: " + e.Err.Error() + " at " + e.Time.UTC().Format(time.RFC3339)
}

func (e *InviteStateError) Unwrap() error { return e.Err }

// An IssuedInvite is what a server keeps of an [Invite].
type IssuedInvite struct {
	Hash    InviteHash
	Name    string // that the peer will have
	Expires time.Time
	Allow   []Permission
	Used    time.Time // when; zero: it was not
	By      PublicKey // whom it enrolled, if it was used
}

// Check returns nil if the invite would enrol somebody at that time, else an [*InviteStateError].
func (i IssuedInvite) Check(now time.Time) error {
	switch {
	case !i.Used.IsZero():
		return &InviteStateError{Err: ErrInviteUsed, Time: i.Used}
	case !now.Before(i.Expires):
		return &InviteStateError{Err: ErrInviteExpired, Time: i.Expires}
	}
	return nil
}

// peer is whom the invite makes of a key.
func (i IssuedInvite) peer(key PublicKey, joined time.Time) Peer {
	return Peer{Name: i.Name, Key: key, Joined: joined, Allow: i.Allow}
}

// An InviteFileError says what is wrong with the file of an invite.
type InviteFileError struct {
	Name    string // of the file, or what the peer would be called
	Line    int    // counted from 1; 0 if it is about the whole file
	Problem string
	Err     error // the cause, or nil
}

func (e *InviteFileError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("keys: invite %s: line %d: %s", quoteShort(e.Name), e.Line, e.Problem)
	}
	return fmt.Sprintf("keys: invite %s: %s", quoteShort(e.Name), e.Problem)
}

func (e *InviteFileError) Unwrap() error { return e.Err }

// ParseIssuedInvite reads the file of an invite. Its lines are
//
//	hash HEX                       the SHA-256 of the secret; once
//	name NAME                      of the peer; once
//	expires 2026-02-21T10:15:00Z   once
//	allow PERMISSION               any number
//	used 2026-02-21T10:03:07Z      when it was used, and
//	by wax1…                       by whom: both or neither, at most once
//	# a comment
//
// An unknown word refuses the file, as in [ParsePeer]. file is what errors call it.
func ParseIssuedInvite(file string, data []byte) (IssuedInvite, error) {
	var i IssuedInvite
	line := 0
	fail := func(err error, format string, args ...any) (IssuedInvite, error) {
		return IssuedInvite{}, &InviteFileError{Name: file, Line: line, Problem: fmt.Sprintf(format, args...), Err: err}
	}
	if problem := notLines(data, maxInviteFile); problem != "" {
		return fail(nil, "%s", problem)
	}
	seen := make(map[string]bool)
	for text := range strings.Lines(string(data)) {
		line++
		word, arg := cutWord(text)
		if word == "" {
			continue
		}
		if seen[word] && word != "allow" {
			return fail(nil, "there is a second %s", quoteShort(word))
		}
		seen[word] = true
		var err error
		switch word {
		case "hash":
			if len(arg) != hex.EncodedLen(len(i.Hash)) || strings.ToLower(arg) != arg {
				return fail(nil, "a hash has %d hexadecimal digits in lower case", hex.EncodedLen(len(i.Hash)))
			}
			if _, err = hex.Decode(i.Hash[:], []byte(arg)); err != nil {
				return fail(nil, "a hash has %d hexadecimal digits in lower case", hex.EncodedLen(len(i.Hash)))
			}
		case "name":
			if err := ValidName(arg); err != nil {
				return fail(err, "%s", problemOf(err))
			}
			i.Name = arg
		case "expires", "used":
			t, err := time.Parse(time.RFC3339, arg)
			if err != nil || !printableTime(t) {
				return fail(nil, "%s is not a time such as 2026-02-21T10:00:00Z", quoteShort(arg))
			}
			if word == "used" {
				i.Used = t.UTC()
			} else {
				i.Expires = t.UTC()
			}
		case "allow":
			permission, err := ParsePermission(arg)
			if err != nil {
				return fail(err, "%s: %s", quoteShort(arg), problemOf(err))
			}
			if !slices.Contains(i.Allow, permission) {
				i.Allow = append(i.Allow, permission)
			}
		case "by":
			if i.By, err = ParsePublicKey(arg); err != nil {
				return fail(err, "%s", problemOf(err))
			}
		default:
			return fail(nil, "unknown word %s; hash, name, expires, allow, used, by or #", quoteShort(word))
		}
	}
	line = 0
	i.Allow = slices.Clip(i.Allow)
	if err := i.check(file); err != nil {
		return IssuedInvite{}, err
	}
	return i, nil
}

func (i IssuedInvite) check(file string) error {
	fail := func(problem string) error { return &InviteFileError{Name: file, Problem: problem} }
	switch {
	case i.Hash == InviteHash{}:
		return fail("there is no hash")
	case i.Name == "":
		return fail("there is no name")
	case i.Expires.IsZero():
		return fail("there is no expires")
	case i.Used.IsZero() != (i.By == PublicKey{}):
		return fail("used and by go together")
	case !printableTime(i.Expires) || !i.Used.IsZero() && !printableTime(i.Used):
		return fail("a time has no text")
	case slices.Contains(i.Allow, Permission{}):
		return fail("a permission is empty")
	}
	return ValidName(i.Name)
}

// MarshalText returns the file of i, as [ParseIssuedInvite] reads it.
func (i IssuedInvite) MarshalText() ([]byte, error) {
	if err := i.check(i.Name); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "hash %s\nname %s\nexpires %s\n", i.Hash, i.Name, i.Expires.UTC().Format(time.RFC3339Nano))
	if !i.Used.IsZero() {
		fmt.Fprintf(&b, "used %s\nby %s\n", i.Used.UTC().Format(time.RFC3339Nano), i.By)
	}
	for n, permission := range i.Allow {
		if !slices.Contains(i.Allow[:n], permission) {
			fmt.Fprintf(&b, "allow %s\n", permission)
		}
	}
	if b.Len() > maxInviteFile {
		return nil, &InviteFileError{Name: i.Name, Problem: fmt.Sprintf("it is larger than %d bytes", maxInviteFile)}
	}
	return b.Bytes(), nil
}
