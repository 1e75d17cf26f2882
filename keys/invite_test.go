package keys_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/keys/internal/bech32"
)

const inviteURL = "ws://relay.example.net:8443/wax"

func newTestInvite(tb testing.TB) *keys.Invite {
	tb.Helper()
	i, err := keys.NewInvite(inviteURL, testPublic(tb, 0), time.Date(2026, 11, 23, 14, 32, 0, 999, time.UTC))
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

func inviteText(tb testing.TB, i *keys.Invite) []byte {
	tb.Helper()
	text, err := i.MarshalText()
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// rawInvite is the text of an invite of these bytes.
func rawInvite(data []byte) []byte { return bech32.Append(nil, "wax-invite-", data, true) }

func inviteData(version byte, key keys.PublicKey, expires uint32, url string) []byte {
	b := append([]byte{version}, key[:]...)
	b = append(b, "0123456789abcdef"...)
	b = append(b, byte(expires>>24), byte(expires>>16), byte(expires>>8), byte(expires))
	return append(b, url...)
}

func TestInviteRoundTrip(t *testing.T) {
	made := newTestInvite(t)
	text := inviteText(t, made)
	if s := string(text); !strings.HasPrefix(s, "WAX-INVITE-1") || s != strings.ToUpper(s) || strings.ContainsAny(s, " #?=&") {
		t.Errorf("the text is %s", s)
	}
	read, err := keys.ParseInvite([]byte("  " + string(text) + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if read.URL != inviteURL || read.ServerKey != testPublic(t, 0) || !read.Expires.Equal(time.Date(2026, 11, 23, 14, 32, 0, 0, time.UTC)) ||
		!bytes.Equal(read.Secret(), made.Secret()) || len(read.Secret()) != keys.InviteSecretSize || read.Hash() != made.Hash() {
		t.Errorf("read %+v %x, made %+v %x", read.URL, read.Secret(), made.URL, made.Secret())
	}
	if other := newTestInvite(t); bytes.Equal(other.Secret(), made.Secret()) || other.Hash() == made.Hash() {
		t.Error("two invites have one secret")
	}
	secret := read.Secret()
	read.Wipe()
	if !bytes.Equal(secret, make([]byte, len(secret))) || read.Secret() != nil {
		t.Error("Wipe leaves the secret")
	}
	if _, err := read.MarshalText(); !errors.Is(err, keys.ErrWiped) {
		t.Errorf("a wiped invite has a text: %v", err)
	}
	read.Wipe()
}

// The layout: u8 version ‖ server key 32 ‖ secret 16 ‖ u32 expiry ‖ URL. tunnel/PROTOCOL.md §1.9.
func TestInviteLayout(t *testing.T) {
	key := testPublic(t, 1)
	i, err := keys.ParseInvite(rawInvite(inviteData(1, key, 0x6f010203, inviteURL)))
	if err != nil {
		t.Fatal(err)
	}
	if i.ServerKey != key || string(i.Secret()) != "0123456789abcdef" || i.Expires.Unix() != 0x6f010203 || i.URL != inviteURL {
		t.Errorf("read %v %q %v %q", i.ServerKey, i.Secret(), i.Expires, i.URL)
	}
	// printf 0123456789abcdef | sha256sum
	if got := i.Hash().String(); got != "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f" || i.Hash().ID() != got[:16] {
		t.Errorf("hash %s", got)
	}
}

func TestInviteErrors(t *testing.T) {
	key := testPublic(t, 0)
	good := string(inviteText(t, newTestInvite(t)))
	long := strings.Repeat("x", 256)
	tests := []struct {
		name, text, want string
		cause            error
	}{
		{"empty", " \n", "it is empty", nil},
		{"a public key", key.String(), "an invite begins with WAX-INVITE-1", nil},
		{"lower case", strings.ToLower(good), "an invite is written in upper case", nil},
		{"a character less", good[:40] + good[41:], "a character is wrong or missing", nil},
		{"cut", good[:len(good)-9], "a character is wrong or missing", nil},
		{"two swapped", good[:30] + good[31:32] + good[30:31] + good[32:], "a character is wrong or missing", nil},
		{"a space inside", good[:40] + " " + good[40:], "it has a character that does not belong there", nil},
		{"nothing in it", string(rawInvite(nil)), "it is cut short", nil},
		{"short", string(rawInvite(inviteData(1, key, 1, "")[:52])), "it is cut short", nil},
		{"too long", string(rawInvite(inviteData(1, key, 1, long+long))), "it is too long", nil},
		{"of a later version", string(rawInvite([]byte{2, 9})), "it is of version 2, and this program is too old for that", keys.ErrInviteVersion},
		{"of no version", string(rawInvite(inviteData(0, key, 1, inviteURL))), "it is of version 0, which is too old", keys.ErrInviteVersion},
		{"without a key", string(rawInvite(inviteData(1, keys.PublicKey{}, 1, inviteURL))), "the key of the server is missing", nil},
		{"without an end", string(rawInvite(inviteData(1, key, 0, inviteURL))), "the time when it expires is out of range", nil},
		{"without a URL", string(rawInvite(inviteData(1, key, 1, ""))), "the URL is missing", nil},
		{"URL of 256 bytes", string(rawInvite(inviteData(1, key, 1, long))), "it is too long", nil},
		{"URL with a line feed", string(rawInvite(inviteData(1, key, 1, "ws://a\n/"))), "the URL has characters that do not belong there", nil},
		{"URL that is no UTF-8", string(rawInvite(inviteData(1, key, 1, "ws://\xff/"))), "the URL has characters that do not belong there", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i, err := keys.ParseInvite([]byte(tt.text))
			var bad *keys.InviteError
			if i != nil || !errors.As(err, &bad) || bad.Problem != tt.want {
				t.Fatalf("got %v, %v, want %q", i, err, tt.want)
			}
			if tt.cause != nil != errors.Is(err, keys.ErrInviteVersion) {
				t.Errorf("the cause is %v, want %v", bad.Err, tt.cause)
			}
		})
	}
	if _, err := keys.ParseInvite(rawInvite(inviteData(1, key, 1, long[:255]))); err != nil {
		t.Errorf("a URL of 255 bytes: %v", err)
	}
}

// Whichever one character is wrong, it is noticed.
func TestInviteEachCharacter(t *testing.T) {
	good := inviteText(t, newTestInvite(t))
	for at := range good {
		for _, c := range []byte("QP1Z9") {
			bad := bytes.Clone(good)
			if bad[at] == c {
				continue
			}
			bad[at] = c
			if _, err := keys.ParseInvite(bad); err == nil {
				t.Fatalf("character %d may be %c as well as %c", at, c, good[at])
			}
		}
	}
}

func TestNewInviteErrors(t *testing.T) {
	key, at := testPublic(t, 0), time.Now()
	for name, f := range map[string]func() (*keys.Invite, error){
		"no URL":     func() (*keys.Invite, error) { return keys.NewInvite("", key, at) },
		"a long URL": func() (*keys.Invite, error) { return keys.NewInvite(strings.Repeat("x", 256), key, at) },
		"no key":     func() (*keys.Invite, error) { return keys.NewInvite(inviteURL, keys.PublicKey{}, at) },
		"no time":    func() (*keys.Invite, error) { return keys.NewInvite(inviteURL, key, time.Time{}) },
		"the year 2107": func() (*keys.Invite, error) {
			return keys.NewInvite(inviteURL, key, time.Date(2107, 1, 1, 0, 0, 0, 0, time.UTC))
		},
	} {
		if i, err := f(); i != nil || !errors.As(err, new(*keys.InviteError)) {
			t.Errorf("%s: got %v, %v", name, i, err)
		}
	}
}

// No way of printing shows the secret.
func TestInviteIsRedacted(t *testing.T) {
	i := newTestInvite(t)
	text := string(inviteText(t, i))
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "invite", i)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "invite", i)
	out, err := json.Marshal(i)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%s %v %+v %#v %q %x %d %c %t", i, i, i, i, i, i, i, i, i) + i.String() + log.String() + string(out)
	if strings.Contains(all, text[12:40]) || strings.Contains(all, hex.EncodeToString(i.Secret())[:8]) ||
		strings.Contains(all, fmt.Sprint(i.Secret())[1:12]) || strings.Count(all, "redacted") != 13 {
		t.Errorf("printed as %s", all)
	}
}

// FuzzInvite: what is read is written the same again, and what is written holds nothing else.
func FuzzInvite(f *testing.F) {
	key := testPublic(f, 0)
	for _, data := range [][]byte{
		inviteData(1, key, 1<<31, inviteURL), inviteData(1, key, 1, "wss://h/"+strings.Repeat("é", 120)),
		inviteData(2, key, 1, inviteURL), inviteData(1, key, 1, "")[:50], nil,
	} {
		f.Add(rawInvite(data))
	}
	f.Add([]byte(" WAX-INVITE-1QQQQQQ\n"))
	f.Add([]byte("wax-invite-1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		i, err := keys.ParseInvite(text)
		if !bytes.Equal(text, before) {
			t.Error("parsing changed the text")
		}
		if err != nil {
			if i != nil || !errors.As(err, new(*keys.InviteError)) {
				t.Errorf("%v beside the error %v", i, err)
			}
			return
		}
		again, err := i.MarshalText()
		if err != nil || !bytes.Equal(again, bytes.TrimSpace(text)) {
			t.Errorf("%q came back as %q, %v", text, again, err)
		}
		if len(i.URL) > keys.MaxInviteURL || strings.ContainsAny(i.URL, "\x00\n\r\x1b") {
			t.Errorf("the URL is %q", i.URL)
		}
	})
}

// FuzzInviteData reaches what a checksum keeps FuzzInvite from.
func FuzzInviteData(f *testing.F) {
	key := testPublic(f, 0)
	f.Add(inviteData(1, key, 1<<31, inviteURL))
	f.Add(inviteData(1, key, 1, "\x00"))
	f.Add(inviteData(3, key, 1, inviteURL))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := keys.ParseInvite(rawInvite(data))
		if err != nil {
			return
		}
		if again, err := i.MarshalText(); err != nil || !bytes.Equal(again, rawInvite(data)) {
			t.Errorf("%x came back as %q, %v", data, again, err)
		}
	})
}
