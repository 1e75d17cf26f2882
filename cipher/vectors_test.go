package cipher_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

// A hexString is bytes that a vector file has in hex.
type hexString []byte

func (h *hexString) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var err error
	*h, err = hex.DecodeString(s)
	return err
}

// A noiseVector is one vector in the format that cacophony and snow share.
type noiseVector struct {
	Name             string      `json:"protocol_name"`
	InitPrologue     hexString   `json:"init_prologue"`
	InitStatic       hexString   `json:"init_static"`
	InitEphemeral    hexString   `json:"init_ephemeral"`
	InitRemoteStatic hexString   `json:"init_remote_static"`
	InitPSKs         []hexString `json:"init_psks"`
	RespPrologue     hexString   `json:"resp_prologue"`
	RespStatic       hexString   `json:"resp_static"`
	RespEphemeral    hexString   `json:"resp_ephemeral"`
	RespPSKs         []hexString `json:"resp_psks"`
	HandshakeHash    hexString   `json:"handshake_hash"`
	Messages         []struct {
		Payload    hexString `json:"payload"`
		Ciphertext hexString `json:"ciphertext"`
	} `json:"messages"`

	// After the handshake, directions alternate from the initiator (flynn) or go on alternating
	// by the number of the message (cacophony, snow).
	initiatorFirst bool
}

var noiseName = regexp.MustCompile(`^Noise_([A-Za-z0-9+]+)_25519_(AESGCM|ChaChaPoly)_SHA256$`)

// run checks both ends against every byte of the vector.
func (v *noiseVector) run(t *testing.T) {
	match := noiseName.FindStringSubmatch(v.Name)
	if match == nil {
		t.Fatalf("odd protocol name %q", v.Name)
	}
	pattern, err := cipher.ParsePattern(match[1])
	if err != nil {
		t.Fatal(err)
	}
	aes := match[2] == "AESGCM"
	if got := cipher.ProtocolName(pattern, aes); got != v.Name {
		t.Fatalf("protocol name %q, want %q", got, v.Name)
	}
	ci := cipher.HandshakeConfig{Pattern: pattern, Initiator: true, Prologue: v.InitPrologue}
	cr := cipher.HandshakeConfig{Pattern: pattern, Prologue: v.RespPrologue}
	if len(v.InitPSKs) > 0 {
		ci.PSK, cr.PSK = v.InitPSKs[0], v.RespPSKs[0]
	}
	if len(v.InitRemoteStatic) > 0 {
		ci.RemoteStatic = keys.PublicKey(v.InitRemoteStatic)
	}
	initiator, err := cipher.NewFixedHandshake(ci, cipher.Fixed{Static: v.InitStatic, Ephemeral: v.InitEphemeral, AESGCM: aes})
	if err != nil {
		t.Fatal(err)
	}
	responder, err := cipher.NewFixedHandshake(cr, cipher.Fixed{Static: v.RespStatic, Ephemeral: v.RespEphemeral, AESGCM: aes})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; !initiator.Done(); n++ {
		w, r := initiator, responder
		if n%2 == 1 {
			w, r = r, w
		}
		m := v.Messages[n]
		got, err := w.WriteMessage(nil, m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, m.Ciphertext) {
			t.Fatalf("message %d is %x, want %x", n, got, m.Ciphertext)
		}
		payload, err := r.ReadMessage(nil, m.Ciphertext)
		if err != nil || !bytes.Equal(payload, m.Payload) {
			t.Fatalf("message %d reads %x, %v, want %x", n, payload, err, m.Payload)
		}
	}
	for _, h := range []*cipher.Handshake{initiator, responder} {
		if got := h.Binding(); len(v.HandshakeHash) > 0 && !bytes.Equal(got[:], v.HandshakeHash) {
			t.Errorf("handshake hash %x, want %x", got, v.HandshakeHash)
		}
	}
	i1, r1, err := initiator.SplitSecrets()
	if err != nil {
		t.Fatal(err)
	}
	i2, r2, err := responder.SplitSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if i1 != i2 || r1 != r2 {
		t.Fatal("the two ends have different transport keys")
	}
	transport := []*noiseTransport{{key: i1, aes: aes}, {key: r1, aes: aes}}
	if n == len(v.Messages) {
		t.Fatal("the vector has no transport message")
	}
	side := n % 2
	if v.initiatorFirst {
		side = 0
	}
	for ; n < len(v.Messages); n++ {
		m := v.Messages[n]
		if got := transport[side].seal(t, m.Payload); !bytes.Equal(got, m.Ciphertext) {
			t.Errorf("message %d is %x, want %x", n, got, m.Ciphertext)
		}
		side = 1 - side
	}
}

// A noiseTransport is Noise's own transport, which waxwire's records replace: the secret of Split is
// the key, the counter the nonce.
type noiseTransport struct {
	key [32]byte
	aes bool
	n   uint64
}

func (c *noiseTransport) next() (cipher.Suite, []byte) {
	nonce := make([]byte, 12)
	defer func() { c.n++ }()
	if c.aes {
		binary.BigEndian.PutUint64(nonce[4:], c.n)
		return cipher.AES256GCM, nonce
	}
	binary.LittleEndian.PutUint64(nonce[4:], c.n)
	return cipher.ChaCha20Poly1305, nonce
}

func (c *noiseTransport) seal(t testing.TB, plaintext []byte) []byte {
	t.Helper()
	suite, nonce := c.next()
	out, err := cipher.SealAEAD(suite, c.key[:], nonce, plaintext, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c *noiseTransport) open(t testing.TB, ciphertext []byte) []byte {
	t.Helper()
	suite, nonce := c.next()
	out, err := cipher.OpenAEAD(suite, c.key[:], nonce, ciphertext, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestNoiseVectors runs published vectors of three other implementations.
func TestNoiseVectors(t *testing.T) {
	for _, file := range []struct {
		name  string
		count int
	}{{"cacophony.json", 16}, {"snow.json", 6}, {"flynn.txt", 104}} {
		t.Run(file.name, func(t *testing.T) {
			data, err := os.ReadFile("testdata/noise/" + file.name)
			if err != nil {
				t.Fatal(err)
			}
			var vectors []noiseVector
			if strings.HasSuffix(file.name, ".txt") {
				vectors = parseFlynn(t, data)
			} else if err := json.Unmarshal(data, &vectors); err != nil {
				t.Fatal(err)
			}
			if len(vectors) != file.count {
				t.Fatalf("%d vectors, want %d", len(vectors), file.count)
			}
			for _, v := range vectors {
				t.Run(v.Name, v.run)
			}
		})
	}
}

// parseFlynn reads the format of flynn/noise: lines of key=value, a blank line between vectors.
func parseFlynn(t *testing.T, data []byte) []noiseVector {
	var vectors []noiseVector
	var v *noiseVector
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if lines.Text() == "" {
			v = nil
			continue
		}
		key, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			t.Fatalf("odd line %q", lines.Text())
		}
		if key == "handshake" {
			vectors = append(vectors, noiseVector{Name: value, initiatorFirst: true})
			v = &vectors[len(vectors)-1]
			continue
		}
		b, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case key == "init_static":
			v.InitStatic = b
		case key == "resp_static":
			v.RespStatic = b
			if strings.HasPrefix(v.Name, "Noise_IK") {
				pub, err := cipher.X25519Public(b)
				if err != nil {
					t.Fatal(err)
				}
				v.InitRemoteStatic = pub[:]
			}
		case key == "gen_init_ephemeral":
			v.InitEphemeral = b
		case key == "gen_resp_ephemeral":
			v.RespEphemeral = b
		case key == "prologue":
			v.InitPrologue, v.RespPrologue = b, b
		case key == "preshared_key":
			v.InitPSKs, v.RespPSKs = []hexString{b}, []hexString{b}
		case strings.HasSuffix(key, "_payload"):
			v.Messages = append(v.Messages, struct {
				Payload    hexString `json:"payload"`
				Ciphertext hexString `json:"ciphertext"`
			}{Payload: b})
		case strings.HasSuffix(key, "_ciphertext"):
			v.Messages[len(v.Messages)-1].Ciphertext = b
		default:
			t.Fatalf("odd key %q", key)
		}
	}
	return vectors
}
