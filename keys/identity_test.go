package keys_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/keys/internal/bech32"
)

func TestGenerate(t *testing.T) {
	a, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	b, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if a.Public() == b.Public() {
		t.Error("two identities have one key")
	}
	text, err := a.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	again, err := keys.ParseIdentity(text)
	if err != nil || again.Public() != a.Public() {
		t.Errorf("written and parsed: %v, %v, want %v", again, err, a)
	}
}

func TestParseIdentityErrors(t *testing.T) {
	v := readVectors(t)[0]
	good := v.SecretText
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "it is empty"},
		{"white space", " \n", "it is empty"},
		{"public key", v.PublicText, "it is a public key"},
		{"key of age", "AGE-SECRET-KEY-1QQPQ", "begins with WAX-SECRET-KEY-1"},
		{"lower case", strings.ToLower(good), "upper case"},
		{"one character short", good[:len(good)-1], "73 characters instead of 74"},
		{"character changed", good[:30] + "Q" + good[31:], "a character is wrong or missing"},
		{"character outside of the alphabet", good[:30] + "B" + good[31:], "does not belong there"},
		{"two keys", good + "\n" + good, "149 characters instead of 74"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := keys.ParseIdentity([]byte(tt.text))
			var keyErr *keys.KeyError
			if !errors.As(err, &keyErr) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want a KeyError with %q", err, tt.want)
			}
			if got != nil {
				t.Errorf("identity %v beside an error, want none", got)
			}
			if len(tt.text) > 40 && strings.Contains(err.Error(), tt.text[20:40]) {
				t.Errorf("error %q quotes the secret", err)
			}
		})
	}
}

func TestParseIdentityKeepsNothingOfText(t *testing.T) {
	v := readVectors(t)[0]
	text := []byte(" " + v.SecretText + "\r\n")
	id, err := keys.ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	clear(text)
	if got, err := id.MarshalText(); err != nil || string(got) != v.SecretText {
		t.Errorf("the identity changed with the text it was parsed from, error %v", err)
	}
}

// RFC 7748 §6.1: the secret of Alice, the public key of Bob, what they share.
const (
	rfcAlice     = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
	rfcBobPublic = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
	rfcShared    = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
)

func identityOf(tb testing.TB, secret []byte) *keys.Identity {
	tb.Helper()
	id, err := keys.ParseIdentity(bech32.Append(nil, "wax-secret-key-", secret, true))
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func TestDH(t *testing.T) {
	parse := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	alice := identityOf(t, parse(rfcAlice))
	bob := keys.PublicKey(parse(rfcBobPublic))
	var got []byte
	erase.Do(func() {
		var err error
		if got, err = alice.DH(bob); err != nil {
			t.Error(err)
		}
	})
	if want := parse(rfcShared); !bytes.Equal(got, want) {
		t.Errorf("shared secret %x, want %x", got, want)
	}
}

func TestDHOfLowOrderKey(t *testing.T) {
	id := testIdentity(t, 0)
	for _, low := range []keys.PublicKey{{}, {1}} {
		got, err := id.DH(low)
		if err == nil || got != nil {
			t.Errorf("DH(%x) = %x, %v, want an error", low, got, err)
		}
	}
}

func TestWipe(t *testing.T) {
	id, other := testIdentity(t, 0), testPublic(t, 1)
	public := id.Public()
	id.Wipe()
	id.Wipe()
	if got, err := id.DH(other); !errors.Is(err, keys.ErrWiped) || got != nil {
		t.Errorf("DH after Wipe: %x, %v, want ErrWiped", got, err)
	}
	if got, err := id.MarshalText(); !errors.Is(err, keys.ErrWiped) || got != nil {
		t.Errorf("MarshalText after Wipe: %d bytes, %v, want ErrWiped", len(got), err)
	}
	if id.Public() != public {
		t.Errorf("public key after Wipe is %v, want %v", id.Public(), public)
	}
	var zero keys.Identity
	zero.Wipe()
	if _, err := zero.DH(other); !errors.Is(err, keys.ErrWiped) {
		t.Errorf("DH of the zero identity: %v, want ErrWiped", err)
	}
}

// A DH gives the right result or ErrWiped, never that of a key that is half wiped.
func TestWipeWhileInUse(t *testing.T) {
	for range 20 {
		id, other := testIdentity(t, 0), testPublic(t, 1)
		want, err := id.DH(other)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					got, err := id.DH(other)
					if errors.Is(err, keys.ErrWiped) {
						return
					}
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("DH = %x, %v, want %x or ErrWiped", got, err, want)
						return
					}
				}
			})
		}
		id.Wipe()
		wg.Wait()
	}
}

// However an identity is printed, the secret is not in it.
func TestIdentityIsRedacted(t *testing.T) {
	v := readVectors(t)[0]
	id := testIdentity(t, 0)
	var out strings.Builder
	for _, verb := range "vsqxXdobctTpeEfFgGUw" {
		for _, flags := range []string{"", "+", "#", " ", "0"} {
			fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", id)
			fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", struct{ ID *keys.Identity }{id})
		}
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("started", "identity", id)
	}
	inJSON, err := json.Marshal(map[string]any{"identity": id})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(inJSON)

	secret, err := hex.DecodeString(v.Secret)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(out.String())
	for _, s := range []string{
		strings.ToLower(v.SecretText), "wax-secret", v.Secret[:16], fmt.Sprintf("% x", secret[:4]),
		strings.Trim(fmt.Sprint(secret[:4]), "[]"), hex.EncodeToString([]byte(v.SecretText[:20])),
	} {
		if strings.Contains(text, strings.ToLower(s)) {
			t.Errorf("the secret is printed, as %q", s)
		}
	}
	for _, want := range []string{
		v.PublicText + "\n", "keys.identity(" + v.PublicText + ")\n", "identity=" + v.PublicText,
		`{"identity":"` + v.PublicText + `"}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not printed anywhere", want)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add([]byte(v.SecretText))
		f.Add([]byte(v.PublicText))
	}
	f.Add([]byte(" \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		id, err := keys.ParseIdentity(text)
		if err != nil {
			return
		}
		if again, err := id.MarshalText(); err != nil || !bytes.Equal(again, bytes.TrimSpace(text)) {
			t.Errorf("%q parses to an identity that prints as %q, %v", text, again, err)
		}
	})
}
