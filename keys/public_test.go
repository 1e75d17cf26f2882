package keys_test

import (
	"strings"
	"testing"

	"waxwire.example/waxwire/keys"
)

func TestGenerateParsePrint(t *testing.T) {
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), "WAX-SECRET-KEY-1") || len(text) != 74 {
		t.Errorf("secret text has %d characters and begins %.16q, want 74 and WAX-SECRET-KEY-1", len(text), text)
	}
	again, err := keys.ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	if again.Public() != id.Public() {
		t.Errorf("parsed identity is %v, want %v", again.Public(), id.Public())
	}
	public, err := keys.ParsePublicKey(id.Public().String())
	if err != nil {
		t.Fatal(err)
	}
	if public != id.Public() {
		t.Errorf("parsed public key is %v, want %v", public, id.Public())
	}
}
