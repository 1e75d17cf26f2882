package keys_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"waxwire.example/waxwire/keys"
)

// identityVector was made by implementations other than ours: testdata/vectors.py.
type identityVector struct {
	Secret      string `json:"secret"`
	SecretText  string `json:"secret_text"`
	Public      string `json:"public"`
	PublicText  string `json:"public_text"`
	Fingerprint string `json:"fingerprint"`
}

func readVectors(tb testing.TB) []identityVector {
	tb.Helper()
	file, err := os.ReadFile("testdata/identities.json")
	if err != nil {
		tb.Fatal(err)
	}
	var list []identityVector
	if err := json.Unmarshal(file, &list); err != nil {
		tb.Fatal(err)
	}
	if len(list) < 6 {
		tb.Fatalf("%d vectors, want at least 6", len(list))
	}
	return list
}

func testIdentity(tb testing.TB, n int) *keys.Identity {
	tb.Helper()
	id, err := keys.ParseIdentity([]byte(readVectors(tb)[n].SecretText))
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func testPublic(tb testing.TB, n int) keys.PublicKey {
	tb.Helper()
	k, err := keys.ParsePublicKey(readVectors(tb)[n].PublicText)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func TestVectors(t *testing.T) {
	for i, v := range readVectors(t) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			id, err := keys.ParseIdentity([]byte(v.SecretText))
			if err != nil {
				t.Fatal(err)
			}
			public := id.Public()
			for _, tt := range []struct{ name, got, want string }{
				{"public key", hex.EncodeToString(public[:]), v.Public},
				{"public text", public.String(), v.PublicText},
				{"fingerprint", public.Fingerprint(), v.Fingerprint},
				{"short fingerprint", public.Short(), v.Fingerprint[:9]},
			} {
				if tt.got != tt.want {
					t.Errorf("%s is %s, want %s", tt.name, tt.got, tt.want)
				}
			}
			text, err := id.MarshalText()
			if err != nil || string(text) != v.SecretText {
				t.Errorf("secret text is not that of the vector, error %v", err)
			}
			parsed, err := keys.ParsePublicKey(v.PublicText)
			if err != nil || parsed != public {
				t.Errorf("parsed %v, %v, want %v", parsed, err, public)
			}
		})
	}
}

func TestParsePublicKeyErrors(t *testing.T) {
	v := readVectors(t)[0]
	good := v.PublicText
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "it is empty"},
		{"secret key", v.SecretText, "it is a secret key"},
		{"secret key in lower case", strings.ToLower(v.SecretText), "it is a secret key"},
		{"something else", "ssh-ed25519 AAAA", "begins with wax1"},
		{"upper case", strings.ToUpper(good), "lower case"},
		{"mixed case", good[:10] + strings.ToUpper(good[10:]), "lower case"},
		{"one character short", good[:len(good)-1], "61 characters instead of 62"},
		{"one character more", good + "q", "63 characters instead of 62"},
		{"character changed", good[:20] + "q" + good[21:], "a character is wrong or missing"},
		{"character outside of the alphabet", good[:20] + "b" + good[21:], "does not belong there"},
		{"space before", " " + good, "begins with wax1"},
		{"newline after", good + "\n", "63 characters instead of 62"},
		{"all zero", keys.PublicKey{}.String(), "all zero"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := keys.ParsePublicKey(tt.text)
			var keyErr *keys.KeyError
			if !errors.As(err, &keyErr) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want a KeyError with %q", err, tt.want)
			}
			if got != (keys.PublicKey{}) {
				t.Errorf("key %v beside an error, want none", got)
			}
		})
	}
}

func TestUnmarshalKeepsKeyOnError(t *testing.T) {
	k := testPublic(t, 0)
	if err := k.UnmarshalText([]byte("wax1broken")); err == nil {
		t.Fatal("no error")
	}
	if k != testPublic(t, 0) {
		t.Errorf("key is %v after an error, want it as it was", k)
	}
}

func TestPublicKeyInJSON(t *testing.T) {
	want := map[string]keys.PublicKey{"key": testPublic(t, 1)}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]keys.PublicKey
	if err := json.Unmarshal(text, &got); err != nil || got["key"] != want["key"] {
		t.Errorf("%s read back as %v, %v", text, got, err)
	}
}

func FuzzPublicKey(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add(v.PublicText)
		f.Add(v.SecretText)
	}
	f.Add("")
	f.Add("wax1")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := keys.ParsePublicKey(text)
		if err != nil {
			if k != (keys.PublicKey{}) {
				t.Errorf("%q: key %v beside error %v", text, k, err)
			}
			return
		}
		if k.String() != text {
			t.Errorf("%q parses to a key that prints as %q", text, k)
		}
	})
}
