package bech32_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"waxwire.example/waxwire/keys/internal/bech32"
)

// The valid strings of BIP 173. All of them hold whole bytes.
func TestValidBIP173(t *testing.T) {
	for _, tt := range []struct {
		hrp, text, data string
		upper           bool
	}{
		{hrp: "a", text: "A12UEL5L", upper: true},
		{hrp: "a", text: "a12uel5l"},
		{
			hrp:  "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio",
			text: "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
		},
		{
			hrp: "abcdef", text: "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
			data: "00443214c74254b635cf84653a56d7c675be77df",
		},
		{hrp: "1", text: "11" + strings.Repeat("q", 82) + "c8247j", data: strings.Repeat("00", 51)},
		{
			hrp: "split", text: "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
			data: "c5f38b70305f519bf66d85fb6cf03058f3dde463ecd7918f2dc743918f2d",
		},
		{hrp: "?", text: "?1ezyfcl"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			got, err := bech32.Decode(nil, tt.hrp, []byte(tt.text), tt.upper)
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(got) != tt.data {
				t.Errorf("data %x, want %s", got, tt.data)
			}
			if text := bech32.Append(nil, tt.hrp, got, tt.upper); string(text) != tt.text {
				t.Errorf("text %s, want %s", text, tt.text)
			}
		})
	}
}

// The invalid strings of BIP 173, except the one whose fault is its length.
func TestInvalid(t *testing.T) {
	for _, tt := range []struct {
		name, hrp, text string
		upper           bool
		want            error
	}{
		{name: "space in the human-readable part", hrp: "x", text: "\x201nwldj5", want: bech32.ErrCharacter},
		{name: "DEL in the human-readable part", hrp: "x", text: "\x7f1axkwrx", want: bech32.ErrCharacter},
		{name: "byte above ASCII", hrp: "x", text: "\x801eym55h", want: bech32.ErrCharacter},
		{name: "no separator", hrp: "pzry9x0s0muk", text: "pzry9x0s0muk", want: bech32.ErrHRP},
		{name: "empty human-readable part", hrp: "x", text: "1pzry9x0s0muk", want: bech32.ErrHRP},
		{name: "invalid data character", hrp: "x", text: "x1b4n0q5v", want: bech32.ErrCharacter},
		{name: "checksum too short", hrp: "li", text: "li1dgmt3", want: bech32.ErrChecksum},
		{name: "invalid character in checksum", hrp: "de", text: "de1lg7wt\xff", want: bech32.ErrCharacter},
		{name: "checksum of the upper case", hrp: "a", text: "A1G7SGD8", upper: true, want: bech32.ErrChecksum},
		{name: "empty human-readable part, digits", hrp: "x", text: "10a06t8", want: bech32.ErrHRP},
		{name: "empty human-readable part, letters", hrp: "x", text: "1qzzfhee", want: bech32.ErrHRP},

		{name: "empty", hrp: "x", text: "", want: bech32.ErrHRP},
		{name: "human-readable part alone", hrp: "abcdef", text: "abcdef", want: bech32.ErrHRP},
		{name: "separator alone", hrp: "a", text: "a1", want: bech32.ErrChecksum},
		{name: "mixed case", hrp: "a", text: "a12UEL5L", want: bech32.ErrCase},
		{name: "upper case where lower is wanted", hrp: "a", text: "A12UEL5L", want: bech32.ErrCase},
		{name: "lower case where upper is wanted", hrp: "a", text: "a12uel5l", upper: true, want: bech32.ErrCase},
		// Made with the reference code from the values [31] and [0], [0 1]: 5 bits, 2 bits that are not zero.
		{name: "five bits left", hrp: "x", text: withChecksum("x", 0), want: bech32.ErrPadding},
		{name: "padding not zero", hrp: "x", text: withChecksum("x", 0, 1), want: bech32.ErrPadding},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := bech32.Decode([]byte("kept"), tt.hrp, []byte(tt.text), tt.upper)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if string(got) != "kept" {
				t.Errorf("returned %q, want what was there before", got)
			}
		})
	}
}

// withChecksum is the reference code of BIP 173 as it stands there, for values of five bits.
func withChecksum(hrp string, values ...byte) string {
	polymod := func(values []byte) uint32 {
		generator := []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3}
		chk := uint32(1)
		for _, v := range values {
			b := chk >> 25
			chk = (chk&0x1ffffff)<<5 ^ uint32(v)
			for i := range 5 {
				if b>>i&1 == 1 {
					chk ^= generator[i]
				}
			}
		}
		return chk
	}
	var expanded []byte
	for _, c := range []byte(hrp) {
		expanded = append(expanded, c>>5)
	}
	expanded = append(expanded, 0)
	for _, c := range []byte(hrp) {
		expanded = append(expanded, c&31)
	}
	mod := polymod(append(append(expanded, values...), 0, 0, 0, 0, 0, 0)) ^ 1
	for i := range 6 {
		values = append(values, byte(mod>>(5*(5-i))&31))
	}
	text := hrp + "1"
	for _, v := range values {
		text += string("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[v])
	}
	return text
}

type vector struct{ HRP, Data, Text string }

// The vectors were made by the bech32 package of PyPI: keys/testdata/vectors.py.
func readVectors(tb testing.TB) []vector {
	tb.Helper()
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var list []vector
	if err := json.Unmarshal(file, &list); err != nil {
		tb.Fatal(err)
	}
	if len(list) < 50 {
		tb.Fatalf("%d vectors, want at least 50", len(list))
	}
	return list
}

func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		data, err := hex.DecodeString(v.Data)
		if err != nil {
			t.Fatal(err)
		}
		if v.Text == "" {
			t.Fatalf("no text for %s %s", v.HRP, v.Data)
		}
		for _, upper := range []bool{false, true} {
			want := v.Text
			if upper {
				want = strings.ToUpper(want)
			}
			if got := bech32.Append(nil, v.HRP, data, upper); string(got) != want {
				t.Errorf("text %s, want %s", got, want)
			}
			if n := bech32.EncodedLen(v.HRP, len(data)); n != len(want) {
				t.Errorf("EncodedLen(%q, %d) = %d, want %d", v.HRP, len(data), n, len(want))
			}
			got, err := bech32.Decode(nil, v.HRP, []byte(want), upper)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("data %x, %v, want %x", got, err, data)
			}
		}
	}
}

// Bech32 finds any change of one character, and any two characters exchanged with each other.
func TestEveryChangeIsFound(t *testing.T) {
	const hrp = "wax"
	text := bech32.Append(nil, hrp, bytes.Repeat([]byte{0x5A, 0xC3}, 16), false)
	for i := len(hrp) + 1; i < len(text); i++ {
		for _, c := range []byte("qpzry9x8gf2tvdw0s3jn54khce6mua7l") {
			changed := bytes.Clone(text)
			if changed[i] = c; bytes.Equal(changed, text) {
				continue
			}
			if _, err := bech32.Decode(nil, hrp, changed, false); !errors.Is(err, bech32.ErrChecksum) {
				t.Fatalf("character %d changed to %c: error %v, want %v", i, c, err, bech32.ErrChecksum)
			}
		}
		if i > len(hrp)+1 && text[i] != text[i-1] {
			changed := bytes.Clone(text)
			changed[i], changed[i-1] = changed[i-1], changed[i]
			if _, err := bech32.Decode(nil, hrp, changed, false); !errors.Is(err, bech32.ErrChecksum) {
				t.Fatalf("characters %d and %d exchanged: error %v, want %v", i-1, i, err, bech32.ErrChecksum)
			}
		}
	}
}

// What fails must leave nothing of a secret in the caller's memory.
func TestFailureClearsWhatItDecoded(t *testing.T) {
	text := bech32.Append(nil, "x", bytes.Repeat([]byte{0x5A}, 32), false)
	text[len(text)-1] ^= 'q' ^ 'p'
	buf := make([]byte, 0, 64)
	if _, err := bech32.Decode(buf, "x", text, false); err == nil {
		t.Fatal("decoded a text with a wrong checksum")
	}
	if got := buf[:cap(buf)]; !bytes.Equal(got, make([]byte, cap(buf))) {
		t.Errorf("buffer holds %x, want zeros", got)
	}
}

func TestNoAllocation(t *testing.T) {
	data := bytes.Repeat([]byte{0x5A}, 32)
	text := make([]byte, 0, bech32.EncodedLen("x", len(data)))
	out := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() {
		text = bech32.Append(text[:0], "x", data, true)
		if _, err := bech32.Decode(out, "x", text, true); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestInvalidHRPPanics(t *testing.T) {
	for _, hrp := range []string{"", "A", "a b", "\x7f", strings.Repeat("a", 84)} {
		t.Run(hrp, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Errorf("Append took the human-readable part %q", hrp)
				}
			}()
			bech32.Append(nil, hrp, nil, false)
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add(v.HRP, []byte(v.Text), false)
		f.Add(v.HRP, []byte(strings.ToUpper(v.Text)), true)
	}
	f.Add("x", []byte("x1"), false)
	f.Fuzz(func(t *testing.T, hrp string, text []byte, upper bool) {
		switch hrp { // others panic by design
		case "x", "wax", "wax-invite-", "a1b":
		default:
			hrp = "wax-secret-key-"
		}
		data, err := bech32.Decode(nil, hrp, text, upper)
		if err != nil {
			return
		}
		if again := bech32.Append(nil, hrp, data, upper); !bytes.Equal(again, text) {
			t.Errorf("%q decodes to %x, which encodes to %q", text, data, again)
		}
	})
}
