package cipher_test

import (
	"strings"
	"testing"

	"waxwire.example/waxwire/cipher"
)

// TestPatterns compares every pattern's messages with the specifications' text.
func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		messages      string
	}{
		{"NN", "Noise_NN_25519_ChaChaPoly_SHA256", "e | e ee"},
		{"XX", "Noise_XX_25519_ChaChaPoly_SHA256", "e | e ee s es | s se"},
		{"IK", "Noise_IK_25519_ChaChaPoly_SHA256", "e es s ss | e ee se"},
		{"NNpsk0", "Noise_NNpsk0_25519_ChaChaPoly_SHA256", "psk e | e ee"},
		{"NNpsk2", "Noise_NNpsk2_25519_ChaChaPoly_SHA256", "e | e ee psk"},
		{"XXpsk3", "Noise_XXpsk3_25519_ChaChaPoly_SHA256", "e | e ee s es | s se psk"},
		{"IKpsk1", "Noise_IKpsk1_25519_ChaChaPoly_SHA256", "e es s ss psk | e ee se"},
		{"IKpsk2", "Noise_IKpsk2_25519_ChaChaPoly_SHA256", "e es s ss | e ee se psk"},
		{"IKpsk1+psk2", "Noise_IKpsk1+psk2_25519_ChaChaPoly_SHA256", "e es s ss psk | e ee se psk"},
		{"IKhfs", "Noise_IKhfs_25519+MLKEM768_ChaChaPoly_SHA256", "e es e1 s ss | e ee ekem1 se"},
		{"IKhfs+psk2", "Noise_IKhfs+psk2_25519+MLKEM768_ChaChaPoly_SHA256", "e es e1 s ss | e ee ekem1 se psk"},
		{"XXhfs", "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256", "e e1 | e ee ekem1 s es | s se"},
		{"NNhfs+psk0", "Noise_NNhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256", "psk e e1 | e ee ekem1"},
	} {
		t.Run(tt.pattern, func(t *testing.T) {
			p, err := cipher.ParsePattern(tt.pattern)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := p.Messages()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, l := range lines {
				got = append(got, strings.Join(l, " "))
			}
			if got := strings.Join(got, " | "); got != tt.messages {
				t.Errorf("messages %q, want %q", got, tt.messages)
			}
			if got := cipher.ProtocolName(p, false); got != tt.name {
				t.Errorf("name %q, want %q", got, tt.name)
			}
			if p.String() != tt.pattern {
				t.Errorf("String %q, want %q", p, tt.pattern)
			}
		})
	}
	if n := len(allPatterns()); n != 2*(4+5+4) {
		t.Errorf("%d patterns with at most one psk, want 26", n)
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, name := range []string{
		"", "I", "IK ", "ik", "NK", "KK", "IK+psk2", "IKhfs+", "IKhfspsk2", "IKpsk2+hfs", "IKpsk3", "NNpsk3", "XXpsk4",
		"IKpsk", "IKpsk02", "IKpsk2+psk2", "IKpsk2+psk1", "IKhfs+hfs", "IKfallback", "IK+", "IKhfs++psk2", "IKhfs+psk2\x00",
	} {
		if p, err := cipher.ParsePattern(name); err == nil || p != "" {
			t.Errorf("ParsePattern(%q) = %q, %v, want an error", name, p, err)
		}
		if _, err := cipher.NewHandshake(cipher.HandshakeConfig{Pattern: cipher.Pattern(name)}); err == nil {
			t.Errorf("NewHandshake takes the pattern %q", name)
		}
	}
}
