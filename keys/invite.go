package keys

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
	"unicode"
	"unicode/utf8"

	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/keys/internal/bech32"
)

// What an invite holds before Bech32: u8 version ‖ server key 32 ‖ secret 16 ‖ u32 expiry ‖ URL.
const (
	inviteHRP     = "wax-invite-"
	inviteVersion = 1
	inviteHead    = 1 + KeySize + InviteSecretSize + 4

	// InviteSecretSize is the length of the secret of an invite, in bytes.
	InviteSecretSize = 16
	// MaxInviteURL is the longest URL of an invite, in bytes.
	MaxInviteURL = 255
)

// ErrInviteVersion is the cause of an [InviteError] about an invite that is whole, and of a version that
// this program does not know.
var ErrInviteVersion = errors.New("another version")

// An InviteError says why a text is not an invite, or what cannot be one. It never holds the text,
// which is a secret.
type InviteError struct {
	Problem string
	Err     error // the cause, or nil
}

func (e *InviteError) Error() string { return "keys: not an invite: " + e.Problem }
func (e *InviteError) Unwrap() error { return e.Err }

// An Invite is all that somebody needs to join a server: where it is, which key it has, and a secret that
// enrols one key, once. Its text is WAX-INVITE-1…, one word with a checksum. However else it is printed
// it is redacted.
//
// Whoever made or parsed one calls Wipe when it is no longer needed, and not while another method runs.
type Invite struct {
	URL       string // to dial; of another's making unless this program made the invite
	ServerKey PublicKey
	Expires   time.Time // in whole seconds

	secret []byte // nil after Wipe
}

// NewInvite makes an invite with a new secret. An error is an [*InviteError].
func NewInvite(url string, server PublicKey, expires time.Time) (*Invite, error) {
	i := &Invite{URL: url, ServerKey: server, Expires: expires.UTC().Truncate(time.Second)}
	if problem := i.problem(); problem != "" {
		return nil, &InviteError{Problem: problem}
	}
	erase.Do(func() {
		i.secret = make([]byte, InviteSecretSize)
		rand.Read(i.secret)
		erase.Trace("invite", i.secret)
	})
	return i, nil
}

// problem is what is wrong with the parts that are no secret.
func (i *Invite) problem() string {
	switch t := i.Expires.Unix(); {
	case i.ServerKey == PublicKey{}:
		return "the key of the server is missing"
	case t <= 0 || t > 1<<32-1:
		return "the time when it expires is out of range"
	case i.URL == "":
		return "the URL is missing"
	case len(i.URL) > MaxInviteURL:
		return fmt.Sprintf("the URL is longer than %d bytes", MaxInviteURL)
	case !utf8.ValidString(i.URL) || bytes.ContainsFunc([]byte(i.URL), unicode.IsControl):
		return "the URL has characters that do not belong there"
	}
	return ""
}

// ParseInvite reads the text of an invite, with nothing but white space around it. It does not keep text,
// which is the caller's to wipe. An error is an [*InviteError].
func ParseInvite(text []byte) (*Invite, error) {
	var i *Invite
	var err error
	erase.Handshake(func() { i, err = parseInvite(text) })
	return i, err
}

func parseInvite(text []byte) (*Invite, error) {
	fail := func(problem string, err error) (*Invite, error) {
		return nil, &InviteError{Problem: problem, Err: err}
	}
	text = bytes.TrimSpace(text)
	switch {
	case len(text) == 0:
		return fail("it is empty", nil)
	case !hasPrefixFold(text, inviteHRP+"1"):
		return fail("an invite begins with WAX-INVITE-1", bech32.ErrHRP)
	case len(text) > bech32.EncodedLen(inviteHRP, inviteHead+MaxInviteURL):
		return fail("it is too long", nil)
	}
	erase.Trace("invite-text", text)
	buf := make([]byte, 0, inviteHead+MaxInviteURL+8)
	defer func() { clear(buf[:cap(buf)]) }()
	data, err := bech32.Decode(buf, inviteHRP, text, true)
	switch {
	case errors.Is(err, bech32.ErrCase):
		return fail("an invite is written in upper case", err)
	case err != nil:
		return fail(err.Error(), err)
	case len(data) == 0:
		return fail("it is cut short", nil)
	case data[0] > inviteVersion:
		return fail(fmt.Sprintf("it is of version %d, and this program is too old for that", data[0]), ErrInviteVersion)
	case data[0] < inviteVersion:
		return fail(fmt.Sprintf("it is of version %d, which is too old", data[0]), ErrInviteVersion)
	case len(data) < inviteHead:
		return fail("it is cut short", nil)
	}
	data = data[1:]
	i := &Invite{ServerKey: PublicKey(data)}
	data = data[KeySize:]
	secret := data[:InviteSecretSize]
	data = data[InviteSecretSize:]
	i.Expires, i.URL = time.Unix(int64(binary.BigEndian.Uint32(data)), 0).UTC(), string(data[4:])
	if problem := i.problem(); problem != "" {
		return fail(problem, nil)
	}
	i.secret = bytes.Clone(secret)
	erase.Trace("invite", i.secret)
	return i, nil
}

// MarshalText returns the text of the invite: WAX-INVITE-1…. The caller wipes it.
func (i *Invite) MarshalText() ([]byte, error) {
	switch problem := i.problem(); {
	case i.secret == nil:
		return nil, &InviteError{Problem: "it has been wiped", Err: ErrWiped}
	case problem != "":
		return nil, &InviteError{Problem: problem}
	}
	var text []byte
	erase.Handshake(func() {
		data := make([]byte, 0, inviteHead+MaxInviteURL)
		defer func() { clear(data[:cap(data)]) }()
		data = append(append(append(data, inviteVersion), i.ServerKey[:]...), i.secret...)
		data = append(binary.BigEndian.AppendUint32(data, uint32(i.Expires.Unix())), i.URL...)
		text = make([]byte, 0, bech32.EncodedLen(inviteHRP, len(data)))
		text = bech32.Append(text, inviteHRP, data, true)
		erase.Trace("invite-text", text)
	})
	return text, nil
}

// Secret returns the secret, which stays the invite's own: nil after Wipe.
func (i *Invite) Secret() []byte { return i.secret }

// Hash is what the server keeps of the secret.
func (i *Invite) Hash() InviteHash { return HashInvite(i.secret) }

// Wipe zeroes the secret. It may be called more than once.
func (i *Invite) Wipe() {
	erase.Bytes(i.secret)
	i.secret = nil
}

const redactedInvite = "WAX-INVITE-1(redacted)"

// String does not return the text, which is a secret; [Invite.MarshalText] does.
func (i *Invite) String() string { return redactedInvite }

// Format prints the same for every verb: see [Identity.Format].
func (i *Invite) Format(s fmt.State, _ rune) { io.WriteString(s, redactedInvite) }

// LogValue returns the same.
func (i *Invite) LogValue() slog.Value { return slog.StringValue(redactedInvite) }

// MarshalJSON returns the same as a JSON string. Without it encoding/json would call MarshalText.
func (i *Invite) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedInvite + `"`), nil }

// InviteHash names an invite, and is all that a server keeps of its secret: the SHA-256 of it. It is no
// secret: nobody can get from it to what has 128 random bits.
type InviteHash [sha256.Size]byte

// HashInvite returns the hash of a secret, and leaves nothing of the secret behind.
func HashInvite(secret []byte) (sum InviteHash) {
	erase.Do(func() {
		h := sha256.New()
		h.Write(secret)
		h.Sum(sum[:0])
		erase.Object(h)
	})
	return sum
}

// ID is the first 8 bytes in hexadecimal: the name of the file, and for logs.
func (h InviteHash) ID() string { return hex.EncodeToString(h[:8]) }

// String is the whole of it in hexadecimal.
func (h InviteHash) String() string { return hex.EncodeToString(h[:]) }
