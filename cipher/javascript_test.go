package cipher_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

// The folder testdata/interop holds a second implementation, in JavaScript, that shares no code
// with this one. testdata/hfs-vectors.json was made by it alone (npm run vectors): what is wrong
// in the same way on both of our ends is right in neither file.

// hexBytes is a byte string that JSON has in hex. Absent is nil.
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

type jsVector struct {
	Name, Pattern, Protocol string
	Prologue, PSK           hexBytes
	Initiator, Responder    struct {
		Secret, Public                 string
		Ephemeral, KEMSeed, EncapsRand hexBytes
	}
	Messages       []struct{ Payload, Message hexBytes }
	Hash, C2S, S2C hexBytes
	Suites         []struct {
		Suite    cipher.Suite
		C2S, S2C []jsEpoch
	}
}

type jsEpoch struct {
	Key, IV, Next hexBytes
	Records       []struct{ Plaintext, Record hexBytes }
}

// TestJavaScriptVectors holds both our ends to every byte of the JavaScript peers' handshakes and
// records. PROTOCOL.md §1 to §4.
func TestJavaScriptVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/hfs-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []jsVector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, v := range vectors {
		seen[v.Pattern] = true
		for _, suite := range v.Suites {
			t.Run(v.Name+"/"+suite.Suite.String(), func(t *testing.T) {
				initiator, responder := v.handshakes(t)
				v.shake(t, initiator, responder)
				i, r := initiator.Binding(), responder.Binding()
				wantBytes(t, "initiator's handshake hash", i[:], v.Hash)
				wantBytes(t, "responder's handshake hash", r[:], v.Hash)

				clientSends, clientReceives, err := initiator.Split(suite.Suite)
				if err != nil {
					t.Fatal("initiator's Split:", err)
				}
				serverSends, serverReceives, err := responder.Split(suite.Suite)
				if err != nil {
					t.Fatal("responder's Split:", err)
				}
				checkRecords(t, "c2s", clientSends, serverReceives, suite.C2S)
				checkRecords(t, "s2c", serverSends, clientReceives, suite.S2C)
			})
		}
		t.Run(v.Name+"/secrets", func(t *testing.T) {
			initiator, responder := v.handshakes(t)
			v.shake(t, initiator, responder)
			for _, h := range []*cipher.Handshake{initiator, responder} {
				c2s, s2c, err := h.SplitSecrets()
				if err != nil {
					t.Fatal(err)
				}
				wantBytes(t, "secret of initiator to responder", c2s[:], v.C2S)
				wantBytes(t, "secret of responder to initiator", s2c[:], v.S2C)
			}
		})
		if len(v.Suites) != 2 {
			t.Errorf("%s: %d suites, want 2", v.Name, len(v.Suites))
		}
	}
	for _, pattern := range []string{"IKhfs", "IKhfs+psk2", "XXhfs", "NNhfs+psk0", "IK", "XX"} {
		if !seen[pattern] {
			t.Errorf("no vector for %s", pattern)
		}
	}
}

// handshakes are our two ends with the vector's keys and seeds.
func (v *jsVector) handshakes(t *testing.T) (initiator, responder *cipher.Handshake) {
	t.Helper()
	pattern, err := cipher.ParsePattern(v.Pattern)
	if err != nil {
		t.Fatal(err)
	}
	if got := cipher.ProtocolName(pattern, false); got != v.Protocol {
		t.Errorf("protocol name %q, want %q", got, v.Protocol)
	}
	ci := cipher.HandshakeConfig{Pattern: pattern, Initiator: true, Prologue: v.Prologue, PSK: v.PSK}
	cr := cipher.HandshakeConfig{Pattern: pattern, Prologue: v.Prologue, PSK: v.PSK}
	if v.Initiator.Secret != "" {
		ci.Static = identity(t, v.Initiator.Secret, v.Initiator.Public)
		cr.Static = identity(t, v.Responder.Secret, v.Responder.Public)
	}
	if strings.HasPrefix(v.Pattern, "IK") {
		ci.RemoteStatic = cr.Static.Public()
	}
	initiator, err = cipher.NewFixedHandshake(ci, cipher.Fixed{Ephemeral: v.Initiator.Ephemeral, KEMSeed: v.Initiator.KEMSeed})
	if err != nil {
		t.Fatal("initiator:", err)
	}
	responder, err = cipher.NewFixedHandshake(cr, cipher.Fixed{Ephemeral: v.Responder.Ephemeral, EncapsRand: v.Responder.EncapsRand})
	if err != nil {
		t.Fatal("responder:", err)
	}
	return initiator, responder
}

// shake runs the vector's messages from one to the other.
func (v *jsVector) shake(t *testing.T, initiator, responder *cipher.Handshake) {
	t.Helper()
	writer, reader := initiator, responder
	for i, m := range v.Messages {
		// What stands in dst already must stay.
		got, err := writer.WriteMessage([]byte("ahead"), m.Payload)
		if err != nil {
			t.Fatalf("writing message %d: %v", i, err)
		}
		wantBytes(t, fmt.Sprintf("message %d", i), got, append([]byte("ahead"), m.Message...))
		payload, err := reader.ReadMessage([]byte("ahead"), m.Message)
		if err != nil {
			t.Fatalf("reading message %d: %v", i, err)
		}
		wantBytes(t, fmt.Sprintf("payload %d", i), payload, append([]byte("ahead"), m.Payload...))
		writer, reader = reader, writer
	}
	if !initiator.Done() || !responder.Done() {
		t.Fatalf("done: initiator %v, responder %v, want both", initiator.Done(), responder.Done())
	}
	if v.Initiator.Public != "" {
		wantRemote(t, initiator, v.Responder.Public)
		wantRemote(t, responder, v.Initiator.Public)
	}
}

func checkRecords(t *testing.T, direction string, seal *cipher.Sealer, open *cipher.Opener, epochs []jsEpoch) {
	t.Helper()
	if len(epochs) < 2 {
		t.Fatalf("%s: %d epochs, want at least 2", direction, len(epochs))
	}
	for e, epoch := range epochs {
		if e > 0 {
			if err := seal.Ratchet(); err != nil {
				t.Fatal(direction, err)
			}
			if err := open.Ratchet(); err != nil {
				t.Fatal(direction, err)
			}
		}
		if len(epoch.Records) == 0 {
			t.Fatalf("%s: no records in epoch %d", direction, e)
		}
		for i, r := range epoch.Records {
			what := fmt.Sprintf("%s, epoch %d, record %d", direction, e, i)
			got, err := seal.Seal(nil, r.Plaintext)
			if err != nil {
				t.Fatal(what, err)
			}
			wantBytes(t, what, got, r.Record)
			plain, err := open.Open(nil, bytes.Clone(r.Record))
			if err != nil {
				t.Fatal(what, err)
			}
			wantBytes(t, what+", opened", plain, r.Plaintext)
		}
	}
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s:\n got %x\nwant %x", what, got, want)
	}
}

func wantRemote(t *testing.T, h *cipher.Handshake, want string) {
	t.Helper()
	if got, ok := h.RemoteStatic(); !ok || got.String() != want {
		t.Errorf("remote static key %v, %v, want %s", got, ok, want)
	}
}

func identity(t *testing.T, secret, public string) *keys.Identity {
	t.Helper()
	id, err := keys.ParseIdentity([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	if got := id.Public().String(); got != public {
		t.Fatalf("public key of %s is %s, want %s", secret, got, public)
	}
	return id
}

// TestJavaScriptLive talks to a running JavaScript peer, with fresh keys on both ends. It is skipped
// without node or the peer's packages. WAXWIRE_INTEROP names another node_modules than the peer's
// own, or says "require" where both must be there.
func TestJavaScriptLive(t *testing.T) {
	modules := os.Getenv("WAXWIRE_INTEROP")
	missing := t.Skipf
	if modules == "require" {
		missing = t.Fatalf
	}
	if modules == "" || modules == "require" {
		modules = filepath.Join("testdata", "interop", "node_modules")
	}
	modules, err := filepath.Abs(modules)
	if err != nil {
		t.Fatal(err)
	}
	// The JavaScript packages are no part of this module; whoever has not fetched them has the
	// vectors above.
	node, err := exec.LookPath("node")
	if err != nil {
		missing("node is not installed")
	}
	if _, err := os.Stat(filepath.Join(modules, "@noble", "post-quantum")); err != nil {
		missing("no JavaScript packages in %s: run \"npm ci\" in cipher/testdata/interop", modules)
	}

	t.Run("vectors", func(t *testing.T) {
		want, err := os.ReadFile("testdata/hfs-vectors.json")
		if err != nil {
			t.Fatal(err)
		}
		cmd := nodeCommand(t, node, modules, "vectors.mjs")
		cmd.Stderr = nil
		got, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Error("testdata/hfs-vectors.json is not what vectors.mjs prints")
		}
	})
	for _, pattern := range []string{"XX", "IK", "XXhfs", "IKhfs", "IKhfs+psk2", "NNhfs+psk0"} {
		for _, initiator := range []bool{true, false} {
			role := map[bool]string{true: "initiator", false: "responder"}
			t.Run(pattern+"/we are "+role[initiator], func(t *testing.T) {
				js := startJSPeer(t, node, modules)
				testJSPeer(t, js, pattern, initiator, role[!initiator])
			})
		}
	}
}

func testJSPeer(t *testing.T, js *jsPeer, pattern string, initiator bool, jsRole string) {
	p, err := cipher.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	prologue := []byte("waxwire/1\x00\x01\x00\x04live")
	cfg := cipher.HandshakeConfig{Pattern: p, Initiator: initiator, Prologue: prologue}
	ask := map[string]any{"pattern": pattern, "role": jsRole, "prologue": hexBytes(prologue)}
	var theirs *keys.Identity
	if !strings.HasPrefix(pattern, "NN") {
		cfg.Static, theirs = newIdentity(t), newIdentity(t)
		secret, err := theirs.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		ask["s"] = string(secret)
	}
	if strings.HasPrefix(pattern, "IK") {
		if initiator {
			cfg.RemoteStatic = theirs.Public()
		} else {
			ask["rs"] = cfg.Static.Public().String()
		}
	}
	if strings.Contains(pattern, "psk") {
		cfg.PSK = bytes.Repeat([]byte{0x5a}, 32)
		ask["psk"] = hexBytes(cfg.PSK)
	}
	h, err := cipher.NewHandshake(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Wipe()
	answer := js.ask(t, ask)
	if theirs != nil && answer.Public != theirs.Public().String() {
		t.Fatalf("JavaScript reads our secret text as the key %s, want %s", answer.Public, theirs.Public())
	}

	ourTurn := initiator
	for i := 0; !h.Done(); i++ {
		payload := fmt.Appendf(nil, "payload %d of %s", i, pattern)
		if ourTurn {
			message, err := h.WriteMessage(nil, payload)
			if err != nil {
				t.Fatalf("writing message %d: %v", i, err)
			}
			answer = js.ask(t, map[string]any{"read": hexBytes(message)})
			wantBytes(t, fmt.Sprintf("payload %d", i), answer.Payload, payload)
		} else {
			answer = js.ask(t, map[string]any{"write": hexBytes(payload)})
			got, err := h.ReadMessage(nil, answer.Message)
			if err != nil {
				t.Fatalf("reading message %d: %v", i, err)
			}
			wantBytes(t, fmt.Sprintf("payload %d", i), got, payload)
		}
		ourTurn = !ourTurn
		if answer.Done != h.Done() {
			t.Fatalf("after message %d: JavaScript done %v, ours %v", i, answer.Done, h.Done())
		}
	}

	answer = js.ask(t, map[string]any{"split": true})
	binding := h.Binding()
	wantBytes(t, "handshake hash", binding[:], answer.Hash)
	if theirs != nil {
		wantRemote(t, h, theirs.Public().String())
		if want := cfg.Static.Public().String(); answer.Remote != want {
			t.Errorf("JavaScript saw the static key %s, want %s", answer.Remote, want)
		}
	}

	// A handshake splits once, so each run has one suite; both come up over the patterns and roles.
	suite := cipher.AES256GCM
	if initiator == strings.Contains(pattern, "hfs") {
		suite = cipher.ChaCha20Poly1305
	}
	seal, open, err := h.Split(suite)
	if err != nil {
		t.Fatal(err)
	}
	defer seal.Wipe()
	defer open.Wipe()
	for epoch := range 3 {
		if epoch > 0 {
			if err := seal.Ratchet(); err != nil {
				t.Fatal(err)
			}
			if err := open.Ratchet(); err != nil {
				t.Fatal(err)
			}
			js.ask(t, map[string]any{"suite": suite, "ratchet": true})
		}
		for i := range 3 {
			plain := fmt.Appendf(nil, "record %d of epoch %d, %v", i, epoch, suite)
			record, err := seal.Seal(nil, plain)
			if err != nil {
				t.Fatal(err)
			}
			answer = js.ask(t, map[string]any{"suite": suite, "open": hexBytes(record)})
			wantBytes(t, "our record, opened by JavaScript", answer.Plaintext, plain)

			answer = js.ask(t, map[string]any{"suite": suite, "seal": hexBytes(plain)})
			got, err := open.Open(nil, answer.Record)
			if err != nil {
				t.Fatalf("opening JavaScript's record %d of epoch %d: %v", i, epoch, err)
			}
			wantBytes(t, "JavaScript's record, opened", got, plain)
		}
	}
}

func newIdentity(t *testing.T) *keys.Identity {
	t.Helper()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A jsPeer is a running peer.mjs.
type jsPeer struct {
	in  io.Writer
	out *bufio.Reader
}

type jsAnswer struct {
	Error, Public, Remote                     string
	Message, Payload, Hash, Record, Plaintext hexBytes
	Done                                      bool
}

func startJSPeer(t *testing.T, node, modules string) *jsPeer {
	t.Helper()
	cmd := nodeCommand(t, node, modules, "peer.mjs")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("%v: %v", cmd, err)
		}
	})
	return &jsPeer{in, bufio.NewReader(out)}
}

// nodeCommand ends with the test at the latest: a peer that hangs fails it.
func nodeCommand(t *testing.T, node, modules, script string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, node, filepath.Join("testdata", "interop", script))
	cmd.Env = append(os.Environ(), "WAXWIRE_INTEROP="+modules)
	cmd.Stderr = os.Stderr
	return cmd
}

func (p *jsPeer) ask(t *testing.T, question map[string]any) (answer jsAnswer) {
	t.Helper()
	line, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	reply, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("no answer from the JavaScript peer: %v", err)
	}
	if err := json.Unmarshal(reply, &answer); err != nil {
		t.Fatalf("%v: %s", err, reply)
	}
	if answer.Error != "" {
		t.Fatalf("the JavaScript peer: %s", answer.Error)
	}
	return answer
}
