package keys_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

const testHash = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f"

func inviteFile(lines ...string) []byte {
	head := []string{"hash " + testHash, "name laptop", "expires 2026-11-23T14:32:00Z"}
	return []byte(strings.Join(append(head, lines...), "\n") + "\n")
}

func TestIssuedInviteRoundTrip(t *testing.T) {
	key := testPublic(t, 1)
	file := inviteFile("# for the new one", "", "allow connect=localhost:80", "allow\tmessage", "allow message",
		"used 2026-11-23T15:20:00+01:00", "by "+key.String())
	i, err := keys.ParseIssuedInvite("x", file)
	if err != nil {
		t.Fatal(err)
	}
	if i.Hash.String() != testHash || i.Name != "laptop" || i.By != key || len(i.Allow) != 2 ||
		!i.Expires.Equal(time.Date(2026, 11, 23, 14, 32, 0, 0, time.UTC)) || !i.Used.Equal(time.Date(2026, 11, 23, 14, 20, 0, 0, time.UTC)) {
		t.Errorf("read %+v", i)
	}
	text, err := i.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	again, err := keys.ParseIssuedInvite("x", text)
	if err != nil || !reflect.DeepEqual(again, i) {
		t.Errorf("%s\nread as %+v, %v", text, again, err)
	}
}

func TestIssuedInviteErrors(t *testing.T) {
	key := testPublic(t, 1).String()
	tests := []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "there is no hash"},
		{"no name", []byte("hash " + testHash + "\n"), "there is no name"},
		{"no expires", []byte("hash " + testHash + "\nname x\n"), "there is no expires"},
		{"unknown word", inviteFile("key " + key), "line 4: unknown word"},
		{"second hash", inviteFile("hash " + testHash), "line 4: there is a second"},
		{"second expires", inviteFile("expires 2027-11-23T14:32:00Z"), "line 4: there is a second"},
		{"short hash", []byte("hash 00\n"), "line 1: a hash has 64"},
		{"hash in upper case", []byte("hash " + strings.ToUpper(testHash) + "\n"), "line 1: a hash has 64"},
		{"no hash at all", []byte("hash " + strings.Repeat("x", 64) + "\n"), "line 1: a hash has 64"},
		{"bad name", []byte("name Laptop\n"), "line 1: \"Laptop\" is not a name"},
		{"bad time", []byte("expires tomorrow\n"), "is not a time"},
		{"bad permission", inviteFile("allow everything"), "line 4: "},
		{"bad key", inviteFile("used 2026-11-23T14:20:07Z", "by wax1"), "line 5: not a public key"},
		{"used by nobody", inviteFile("used 2026-11-23T14:20:07Z"), "used and by go together"},
		{"by somebody, never used", inviteFile("by " + key), "used and by go together"},
		{"no text", []byte("hash \xff"), "not text in UTF-8"},
		{"large", []byte(strings.Repeat("#", 70000)), "larger than 65536"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i, err := keys.ParseIssuedInvite("0123456789abcdef", tt.file)
			if !errors.As(err, new(*keys.InviteFileError)) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if !reflect.DeepEqual(i, keys.IssuedInvite{}) {
				t.Errorf("%+v beside the error", i)
			}
		})
	}
}

func TestIssuedInviteCheck(t *testing.T) {
	expires, used := time.Unix(2000, 0), time.Unix(1500, 0)
	for name, tt := range map[string]struct {
		invite keys.IssuedInvite
		now    int64
		want   error
		at     time.Time
	}{
		"good":             {keys.IssuedInvite{Expires: expires}, 1999, nil, time.Time{}},
		"at its end":       {keys.IssuedInvite{Expires: expires}, 2000, keys.ErrInviteExpired, expires},
		"used":             {keys.IssuedInvite{Expires: expires, Used: used}, 1600, keys.ErrInviteUsed, used},
		"used, then ended": {keys.IssuedInvite{Expires: expires, Used: used}, 3000, keys.ErrInviteUsed, used},
	} {
		err := tt.invite.Check(time.Unix(tt.now, 0))
		var state *keys.InviteStateError
		if !errors.Is(err, tt.want) || errors.As(err, &state) && !state.Time.Equal(tt.at) {
			t.Errorf("%s: got %v, want %v at %v", name, err, tt.want, tt.at)
		}
	}
}

// FuzzIssuedInvite: what is read is written and read the same again.
func FuzzIssuedInvite(f *testing.F) {
	f.Add(inviteFile())
	f.Add(inviteFile("allow connect=*.internal:1-9", "# x", "used 2026-11-23T14:20:07Z", "by "+testPublic(f, 0).String()))
	f.Add(inviteFile("used 0001-01-01T00:00:00Z"))
	f.Add([]byte("hash\nname\nexpires\nallow\nused\nby\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		i, err := keys.ParseIssuedInvite("x", file)
		if err != nil {
			return
		}
		text, err := i.MarshalText()
		if err != nil {
			if len(file) < 60000 { // may grow a little
				t.Errorf("%q is read and not written: %v", file, err)
			}
			return
		}
		if again, err := keys.ParseIssuedInvite("x", text); err != nil || !reflect.DeepEqual(again, i) {
			t.Errorf("%q is read as %+v, and when written as %+v, %v", file, i, again, err)
		}
	})
}
