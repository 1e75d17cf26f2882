package cipher_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/flynn/noise"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

// TestFlynn shakes hands with github.com/flynn/noise, live, in both roles, with identities of ours
// and fresh keys, and passes transport messages both ways.
func TestFlynn(t *testing.T) {
	for _, base := range []struct {
		name    string
		pattern noise.HandshakePattern
		psks    []int
	}{
		{"NN", noise.HandshakeNN, []int{-1, 0, 2}},
		{"XX", noise.HandshakeXX, []int{-1, 0, 2, 3}},
		{"IK", noise.HandshakeIK, []int{-1, 0, 2}},
	} {
		for _, psk := range base.psks {
			for _, aes := range []bool{false, true} {
				for _, initiator := range []bool{false, true} {
					name := base.name
					if psk >= 0 {
						name += fmt.Sprint("psk", psk)
					}
					t.Run(fmt.Sprintf("%s/aes=%v/initiator=%v", name, aes, initiator), func(t *testing.T) {
						testFlynn(t, cipher.Pattern(name), base.pattern, psk, aes, initiator)
					})
				}
			}
		}
	}
}

func testFlynn(t *testing.T, name cipher.Pattern, pattern noise.HandshakePattern, psk int, aes, initiator bool) {
	suite := noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)
	if aes {
		suite = noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256)
	}
	ours := cipher.HandshakeConfig{Pattern: name, Initiator: initiator, Prologue: testPrologue}
	theirs := noise.Config{CipherSuite: suite, Random: rand.Reader, Pattern: pattern, Initiator: !initiator, Prologue: testPrologue}
	if !has(name, "NN") {
		id, err := keys.Generate()
		if err != nil {
			t.Fatal(err)
		}
		ours.Static = id
		if theirs.StaticKeypair, err = suite.GenerateKeypair(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	if has(name, "IK") {
		if initiator {
			ours.RemoteStatic = keys.PublicKey(theirs.StaticKeypair.Public)
		} else {
			public := ours.Static.Public()
			theirs.PeerStatic = public[:]
		}
	}
	if psk >= 0 {
		ours.PSK = randomBytes(32)
		theirs.PresharedKey, theirs.PresharedKeyPlacement = ours.PSK, psk
	}
	h, err := cipher.NewFixedHandshake(ours, cipher.Fixed{AESGCM: aes})
	if err != nil {
		t.Fatal(err)
	}
	f, err := noise.NewHandshakeState(theirs)
	if err != nil {
		t.Fatal(err)
	}

	var c1, c2 *noise.CipherState // flynn's, initiator's direction first
	for n := 0; !h.Done(); n++ {
		want := testPayload(n)
		var got []byte
		if (n%2 == 0) == initiator {
			var msg []byte
			if msg, err = h.WriteMessage(nil, want); err == nil {
				got, c1, c2, err = f.ReadMessage(nil, msg)
			}
		} else {
			var msg []byte
			if msg, c1, c2, err = f.WriteMessage(nil, want); err == nil {
				got, err = h.ReadMessage(nil, msg)
			}
		}
		if err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("payload %d is %q, want %q", n, got, want)
		}
	}
	if c1 == nil {
		t.Fatal("flynn is not done")
	}
	if b := h.Binding(); !bytes.Equal(b[:], f.ChannelBinding()) {
		t.Errorf("binding %x, want %x", b, f.ChannelBinding())
	}
	if ours.Static != nil {
		if got, ok := h.RemoteStatic(); !ok || !bytes.Equal(got[:], theirs.StaticKeypair.Public) {
			t.Errorf("remote static key %v, %v, want %x", got, ok, theirs.StaticKeypair.Public)
		}
		if public := ours.Static.Public(); !bytes.Equal(f.PeerStatic(), public[:]) {
			t.Errorf("flynn knows us as %x, want %x", f.PeerStatic(), public)
		}
	}
	i, r, err := h.SplitSecrets()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ours   *noiseTransport
		theirs *noise.CipherState
	}{{&noiseTransport{key: i, aes: aes}, c1}, {&noiseTransport{key: r, aes: aes}, c2}} {
		for n := range 4 { // one CipherState counts for both, so take turns
			if n%2 == 0 {
				got, err := c.theirs.Decrypt(nil, nil, c.ours.seal(t, testPayload(n)))
				if err != nil || !bytes.Equal(got, testPayload(n)) {
					t.Fatalf("flynn opens %q, %v", got, err)
				}
			} else {
				msg, err := c.theirs.Encrypt(nil, nil, testPayload(n))
				if err != nil {
					t.Fatal(err)
				}
				if got := c.ours.open(t, msg); !bytes.Equal(got, testPayload(n)) {
					t.Fatalf("we open %q", got)
				}
			}
		}
	}
}
