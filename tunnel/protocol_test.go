package tunnel_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	stdcipher "crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/secure"
)

// This file holds PROTOCOL.md to the code in two ways. Its tables are compared with the constants,
// exported or not, which are read from the source. And a second implementation, written from the text
// alone with the standard library, makes the example of §11 and speaks to both ends of the real one.

// --- the text

func protocolText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// protocolTable returns the rows of a table of PROTOCOL.md, without its head.
func protocolTable(t *testing.T, number string) [][]string {
	t.Helper()
	_, text, ok := strings.Cut(protocolText(t), "\nTable "+number+": ")
	if !ok {
		t.Fatalf("PROTOCOL.md has no Table %s", number)
	}
	var rows [][]string
	for line := range strings.Lines(text[strings.Index(text, "\n\n")+2:]) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("Table %s has no rows", number)
	}
	return rows[2:]
}

// numbers reads a table as name → number from two of its columns.
func numbers(t *testing.T, table string, name, number int) map[string]int64 {
	t.Helper()
	m := make(map[string]int64)
	for _, row := range protocolTable(t, table) {
		n, err := strconv.ParseInt(row[number], 0, 64)
		if err != nil {
			t.Fatalf("Table %s, row %q: %v", table, row[name], err)
		}
		if _, ok := m[row[name]]; ok {
			t.Errorf("Table %s names %q twice", table, row[name])
		}
		m[row[name]] = n
	}
	return m
}

// --- the code

// sourceImporter type-checks our own packages from source, as far as constants need it, and stands in
// for all others: of those, only package time has constants that ours are made of.
type sourceImporter struct {
	t    *testing.T
	done map[string]*types.Package
}

func (i *sourceImporter) Import(name string) (*types.Package, error) {
	if p := i.done[name]; p != nil {
		return p, nil
	}
	var p *types.Package
	if dir, ok := strings.CutPrefix(name, module+"/"); ok {
		p = i.check(name, filepath.Join("..", filepath.FromSlash(dir)))
	} else {
		p = types.NewPackage(name, path.Base(name))
		if name == "time" {
			duration := types.NewNamed(types.NewTypeName(token.NoPos, p, "Duration", nil), types.Typ[types.Int64], nil)
			p.Scope().Insert(duration.Obj())
			for unit, d := range map[string]time.Duration{
				"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour,
			} {
				p.Scope().Insert(types.NewConst(token.NoPos, p, unit, duration, constant.MakeInt64(int64(d))))
			}
		}
		p.MarkComplete()
	}
	i.done[name] = p
	return p, nil
}

func (i *sourceImporter) check(name, dir string) *types.Package {
	i.t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		i.t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, e := range list {
		if strings.HasSuffix(e.Name(), "_test.go") || !strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		if ok, err := build.Default.MatchFile(dir, e.Name()); err != nil || !ok {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			i.t.Fatal(err)
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: i, IgnoreFuncBodies: true, Error: func(error) {}} // what is missing is no constant
	p, _ := conf.Check(name, fset, files, nil)
	return p
}

// constants returns the integer constants of the package in a folder under tunnel, exported or not.
func constants(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	i := &sourceImporter{t: t, done: make(map[string]*types.Package)}
	scope := i.check(path.Join(module, "tunnel", dir), filepath.FromSlash(dir)).Scope()
	m := make(map[string]int64)
	for _, name := range scope.Names() {
		if c, ok := scope.Lookup(name).(*types.Const); ok {
			if v, exact := constant.Int64Val(constant.ToInt(c.Val())); exact {
				m[name] = v
			}
		}
	}
	if len(m) == 0 {
		t.Fatalf("no constants in %s", dir)
	}
	return m
}

// withPrefix are the constants of that prefix but for some, by the rest of their names in lower case.
func withPrefix(all map[string]int64, prefix string, but ...string) map[string]int64 {
	m := make(map[string]int64)
	for name, v := range all {
		rest, ok := strings.CutPrefix(name, prefix)
		if ok && rest != "" && rest[0] >= 'A' && rest[0] <= 'Z' && !slices.Contains(but, name) {
			m[strings.ToLower(rest)] = v
		}
	}
	return m
}

// inSource evaluates the expression that follows a piece of text, which must stand just once in a
// file, up to the end of the argument or line.
func inSource(t *testing.T, file, before string) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), before); n != 1 {
		t.Fatalf("%q stands %d times in %s, not once", before, n, file)
	}
	_, expr, _ := strings.Cut(string(b), before)
	expr = expr[:strings.IndexAny(expr, ",)\n")]
	expr = strings.ReplaceAll(expr, "time.Second", "1000000000")
	v, err := types.Eval(token.NewFileSet(), nil, token.NoPos, expr)
	if err != nil || v.Value == nil {
		t.Fatalf("%s: %q is no constant: %v", file, expr, err)
	}
	n, _ := constant.Int64Val(constant.ToInt(v.Value))
	return n
}

func compare(t *testing.T, table string, text, code map[string]int64) {
	t.Helper()
	for name, v := range text {
		if c, ok := code[name]; !ok {
			t.Errorf("Table %s has %q, the code has not", table, name)
		} else if c != v {
			t.Errorf("Table %s: %q is %d, in the code %d", table, name, v, c)
		}
	}
	for name, v := range code {
		if _, ok := text[name]; !ok {
			t.Errorf("the code has %q (%d), Table %s has not", name, v, table)
		}
	}
}

func lower(m map[string]int64) map[string]int64 {
	out := make(map[string]int64)
	for name, v := range m {
		out[strings.ToLower(strings.ReplaceAll(name, " ", ""))] = v
	}
	return out
}

func TestProtocolTables(t *testing.T) {
	sec := constants(t, "internal/secure")
	ses := constants(t, "internal/session")
	mux := constants(t, "internal/mux")

	compare(t, "2.1", numbers(t, "2.1", 0, 1), map[string]int64{
		"payload1": sec["payload1Size"], "payload2": sec["payload2Size"],
		"pattern ‖ noise1": secure.HelloSize, "noise2": secure.AnswerSize,
		"Waxwire-Hello of a request, in characters": int64(base64.RawURLEncoding.EncodedLen(secure.HelloSize)),
		"Waxwire-Hello of an answer, in characters": int64(base64.RawURLEncoding.EncodedLen(secure.AnswerSize)),
	})
	compare(t, "2.2", numbers(t, "2.2", 1, 0), withPrefix(sec, "field"))

	reasons := make(map[string]int64)
	for _, name := range []string{
		"NotEnrolled", "InviteUsed", "InviteExpired", "URLUnexpected", "NoCommonSuite", "BadPayload", "TooManySessions",
	} {
		reasons[strings.ToLower(name)] = sec[name]
	}
	compare(t, "2.3", lower(numbers(t, "2.3", 1, 0)), reasons)
	if last := tunnel.RefusedReason(len(reasons) + 1); last.String() != fmt.Sprintf("reason %d", last) {
		t.Errorf("the code has reason %d, %v; Table 2.3 has not", last, last)
	}

	suites := make(map[string]int64)
	for s := range cipher.Suite(255) {
		if s.Valid() {
			suites[s.String()] = int64(s)
		}
	}
	compare(t, "2.4", numbers(t, "2.4", 1, 0), suites)

	records := withPrefix(sec, "record", "recordOverhead")
	compare(t, "4.1", lower(numbers(t, "4.1", 1, 0)), records)
	pad := make(map[string]int64)
	for _, row := range protocolTable(t, "4.3") {
		pad[row[0]] = 0
	}
	for _, v := range withPrefix(sec, "Pad") {
		if _, ok := pad[fmt.Sprint(v)]; !ok {
			t.Errorf("the code has padding policy %d, Table 4.3 has not", v)
		}
	}
	if got := len(withPrefix(sec, "Pad")); got != len(pad) {
		t.Errorf("the code has %d padding policies, Table 4.3 %d", got, len(pad))
	}

	segments := withPrefix(ses, "segment", "segmentOverhead", "segmentCost", "segmentStart", "segmentTail")
	for word, short := range map[string]string{"frames": "seg", "datagram": "dgram"} {
		segments[short] = segments[word]
		delete(segments, word)
	}
	compare(t, "6.1", lower(numbers(t, "6.1", 1, 0)), segments)
	compare(t, "7.1", lower(numbers(t, "7.1", 1, 0)), withPrefix(mux, "type"))

	// What is reserved is in no constant. That it is refused is TestStrangerBreaksRules's.
	compare(t, "4.2", numbers(t, "4.2", 1, 0), map[string]int64{"RENEW1": 6, "RENEW2": 7})

	kinds := make(map[string]int64)
	for k := range tunnel.Kind(64) {
		if k.String() != fmt.Sprintf("kind %d", k) {
			kinds[k.String()] = int64(k)
		}
	}
	compare(t, "7.2", numbers(t, "7.2", 1, 0), kinds)
	codes := make(map[string]int64)
	for c := range tunnel.Code(256) {
		if c.String() != fmt.Sprintf("code %d", c) {
			codes[c.String()] = int64(c)
		}
	}
	compare(t, "8.1", numbers(t, "8.1", 1, 0), codes)
}

func TestProtocolLimits(t *testing.T) {
	sec := constants(t, "internal/secure")
	ses := constants(t, "internal/session")
	mux := constants(t, "internal/mux")
	ws := constants(t, "internal/wsconn")
	msg := constants(t, "internal/message")
	tun := constants(t, ".")
	cip := constants(t, "../cipher")
	fwd := constants(t, "forward")

	limits := map[string]int64{
		"service":                    sec["MaxService"],
		"url":                        sec["maxURL"],
		"secret of an invite":        constants(t, "../keys")["InviteSecretSize"],
		"head of the answer":         ws["maxAnswerHead"],
		"max, least":                 sec["MinMax"],
		"max, most":                  sec["MaxMax"],
		"first record, as a message": sec["firstMax"],
		"WebSocket control frames before the first record has opened": ws["maxControlFrames"],
		"tag of a record":                               cip["Overhead"],
		"text of CLOSE and END":                         msg["MaxReason"],
		"epoch of a sender, plaintext":                  cip["RekeyBytes"],
		"epoch of a sender, records":                    cip["RekeyRecords"],
		"epoch of a sender, from its first record":      cip["RekeyAfter"],
		"epoch that a receiver takes, plaintext":        cip["MaxEpochBytes"],
		"epoch that a receiver takes, records":          cip["MaxEpochRecords"],
		"one message, from its first frame":             ws["messageTimeout"],
		"request of OPEN":                               mux["MaxRequest"],
		"text of REFUSED":                               mux["MaxText"],
		"data before OPENED":                            mux["earlyData"],
		"least window of OPENED":                        mux["minWindow"],
		"largest integer":                               mux["maxVarint"],
		"connections in a row that end in a bad record": ses["maxBadRecords"],
		"resets of unused streams":                      mux["maxResets"],
		"resets are counted over":                       mux["resetPeriod"],
		"name of a listener":                            fwd["maxName"],
		"line that says what is listened on":            fwd["maxBound"],
	}
	defaults := map[string]int64{
		"max": sec["DefaultMax"],
		"hellos remembered, of enrolled keys and good invites": sec["replayEnrolled"],
		"hellos remembered, of others":                         sec["replayRefused"],
		"sealed refusals a second":                             tun["refusalsPerSec"],
		"from the request to the first record":                 inSource(t, "server.go", "s.Limits.ConfirmTimeout <= 0 {\n\t\treturn "),
		"a whole dial":                                         tun["defaultHandshakeTimeout"],
		"writing one record":                                   inSource(t, "internal/secure/conn.go", "t.Write = "),
		"writing CLOSE":                                        sec["closeWriteTimeout"],
		"waiting for the other end to close":                   sec["closeWait"],
		"waiting for END":                                      ses["endWait"],
		"session without a connection":                         tun["defaultResumeFor"],
		"segments kept, at first":                              ses["keepFirst"],
		"segments kept, most":                                  ses["keepMost"],
		"charged for a segment beside its length":              ses["segmentCost"],
		"bytes that come before an ACK":                        ses["ackBytes"],
		"time before an ACK":                                   ses["ackDelay"],
		"without an ACK before a PING":                         ses["stallAfter"],
		"silence before a PING":                                inSource(t, "internal/secure/conn.go", "t.Ping = "),
		"from a PING to a sign of life":                        inSource(t, "internal/secure/conn.go", "t.Pong = "),
		"records that move nothing, a second":                  inSource(t, "internal/secure/conn.go", "idleRecords: rate.NewLimiter("),
		"records that move nothing, at once":                   inSource(t, "internal/secure/conn.go", "idleRecords: rate.NewLimiter(20,"),
		"streams, of both ends":                                inSource(t, "internal/mux/mux.go", "or(cfg.MaxStreams,"),
		"undecided streams":                                    inSource(t, "internal/mux/mux.go", "or(cfg.MaxPending,"),
		"opens a second":                                       inSource(t, "internal/mux/mux.go", "or(cfg.OpenRate,"),
		"opens at once":                                        inSource(t, "internal/mux/mux.go", "or(cfg.OpenBurst,"),
		"first window of a stream, at most":                    inSource(t, "internal/mux/mux.go", "or(cfg.Window,"),
		"largest window of a stream":                           inSource(t, "internal/mux/mux.go", "or(cfg.MaxWindow,"),
		"windows of a session together":                        inSource(t, "internal/mux/mux.go", "or(cfg.SessionWindow,"),
		"writing what is left at a close":                      inSource(t, "internal/mux/mux.go", "m.closeTimeout == 0 {\n\t\tm.closeTimeout = "),
		"control frames of streams that wait":                  mux["maxControl"],
		"listeners of a key":                                   fwd["maxListeners"],
		"connections of a listener that wait for its client":   fwd["maxArrivals"],
		"such a connection waits":                              fwd["arrivalWait"],
	}
	for table, code := range map[string]map[string]int64{"9.1": limits, "9.2": defaults} {
		text := numbers(t, table, 0, 1)
		for _, row := range protocolTable(t, table) {
			switch row[2] {
			case "s":
				text[row[0]] *= int64(time.Second)
			case "ms":
				text[row[0]] *= int64(time.Millisecond)
			case "", "bytes", "digits":
			default:
				t.Errorf("Table %s: %q has the unit %q", table, row[0], row[2])
			}
		}
		compare(t, table, text, code)
	}
}

// --- a second implementation, from the text alone

func mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

func expand1(key []byte, label string, suite ...byte) []byte {
	return mac(key, []byte(label), suite, []byte{1})
}

// noise is §1: the state of one end's handshake.
type noise struct {
	ck, h []byte
	aead  stdcipher.AEAD
	n     uint64
	note  func(name string, value []byte) // of the example; may be nil
}

func startNoise(service string, server []byte, note func(string, []byte)) *noise {
	name := sha256.Sum256([]byte("Noise_IKhfs_25519+MLKEM768_ChaChaPoly_SHA256")) // 44 bytes, more than a hash
	if note == nil {
		note = func(string, []byte) {}
	}
	s := &noise{ck: name[:], h: name[:], note: note}
	prologue := append([]byte("waxwire/1\x00\x01"), byte(len(service)>>8), byte(len(service)))
	prologue = append(prologue, service...)
	note("prologue", prologue)
	s.mixHash(prologue)
	s.mixHash(server)
	note("h, prologue and server key", s.h)
	return s
}

func (s *noise) mixHash(b []byte) {
	sum := sha256.Sum256(append(slices.Clone(s.h), b...))
	s.h = sum[:]
}

func (s *noise) mixKey(secret []byte) {
	temp := mac(s.ck, secret)
	s.ck = mac(temp, []byte{1})
	s.aead, _ = chacha20poly1305.New(mac(temp, s.ck, []byte{2}))
	s.n = 0
}

func (s *noise) nonce() []byte {
	n := binary.LittleEndian.AppendUint64(make([]byte, 4), s.n)
	s.n++
	return n
}

func (s *noise) seal(p []byte) []byte {
	c := s.aead.Seal(nil, s.nonce(), p, s.h)
	s.mixHash(c)
	return c
}

func (s *noise) open(c []byte) ([]byte, error) {
	p, err := s.aead.Open(nil, s.nonce(), c, s.h)
	s.mixHash(c)
	return p, err
}

func (s *noise) dh(a *ecdh.PrivateKey, b []byte) error {
	pub, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		return err
	}
	secret, err := a.ECDH(pub)
	if err != nil {
		return err
	}
	s.mixKey(secret)
	return nil
}

// writeNoise1 and readNoise2 are the client's, readNoise1 and writeNoise2 the server's: §1.2, §2.5, §2.6.
func (s *noise) writeNoise1(static, e *ecdh.PrivateKey, kem *mlkem.DecapsulationKey768, server, payload []byte) ([]byte, error) {
	m := e.PublicKey().Bytes()
	s.mixHash(m)
	if err := s.dh(e, server); err != nil {
		return nil, err
	}
	m = append(m, s.seal(kem.EncapsulationKey().Bytes())...)
	s.note("h, e1", s.h)
	sealed := s.seal(static.PublicKey().Bytes())
	s.note("client key, sealed", sealed)
	m = append(m, sealed...)
	if err := s.dh(static, server); err != nil {
		return nil, err
	}
	m = append(m, s.seal(payload)...)
	s.note("h, noise1", s.h)
	return m, nil
}

func (s *noise) readNoise1(static *ecdh.PrivateKey, m []byte) (e, ek, client, payload []byte, err error) {
	e = m[:32]
	s.mixHash(e)
	if err = s.dh(static, e); err != nil {
		return
	}
	if ek, err = s.open(m[32:1232]); err != nil {
		return
	}
	if client, err = s.open(m[1232:1280]); err != nil {
		return
	}
	if err = s.dh(static, client); err != nil {
		return
	}
	payload, err = s.open(m[1280:])
	return
}

func (s *noise) writeNoise2(e *ecdh.PrivateKey, re, client, secret, ciphertext, payload []byte) ([]byte, error) {
	m := e.PublicKey().Bytes()
	s.mixHash(m)
	if err := s.dh(e, re); err != nil {
		return nil, err
	}
	m = append(m, s.seal(ciphertext)...)
	s.mixKey(secret)
	s.note("h, ekem1", s.h)
	if err := s.dh(e, client); err != nil {
		return nil, err
	}
	m = append(m, s.seal(payload)...)
	s.note("h, noise2: channel binding", s.h)
	return m, nil
}

func (s *noise) readNoise2(static, e *ecdh.PrivateKey, kem *mlkem.DecapsulationKey768, m []byte) ([]byte, error) {
	re := m[:32]
	s.mixHash(re)
	if err := s.dh(e, re); err != nil {
		return nil, err
	}
	ciphertext, err := s.open(m[32:1136])
	if err != nil {
		return nil, err
	}
	secret, err := kem.Decapsulate(ciphertext)
	if err != nil {
		return nil, err
	}
	s.mixKey(secret)
	if err := s.dh(static, re); err != nil {
		return nil, err
	}
	return s.open(m[1136:])
}

// split is §3.1.
func (s *noise) split(suite byte) (c2s, s2c *half) {
	temp := mac(s.ck)
	first := mac(temp, []byte{1})
	return newHalf(first, suite), newHalf(mac(temp, first, []byte{2}), suite)
}

// half is one direction: §3.2 to §4.2.
type half struct {
	ts, key, iv []byte
	suite       byte
	seq         uint64
	aead        stdcipher.AEAD
}

func newHalf(ts []byte, suite byte) *half {
	h := &half{ts: ts, suite: suite}
	h.key = expand1(ts, "waxwire/1 key", suite)
	h.iv = expand1(ts, "waxwire/1 iv", suite)[:12]
	if suite == 1 {
		block, _ := aes.NewCipher(h.key)
		h.aead, _ = stdcipher.NewGCM(block)
	} else {
		h.aead, _ = chacha20poly1305.New(h.key)
	}
	return h
}

func (h *half) ratchet() { *h = *newHalf(expand1(h.ts, "waxwire/1 next"), h.suite) }

func (h *half) nonce() []byte {
	n := slices.Clone(h.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, h.seq) {
		n[4+i] ^= b
	}
	h.seq++
	return n
}

func (h *half) seal(plaintext []byte) []byte { return h.aead.Seal(nil, h.nonce(), plaintext, nil) }

func (h *half) open(record []byte) ([]byte, error) { return h.aead.Open(nil, h.nonce(), record, nil) }

type field struct {
	typ   byte
	value []byte
}

// fillPayload is §2.13.
func fillPayload(size int, fields ...field) []byte {
	var b []byte
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint16(append(b, f.typ), uint16(len(f.value))), f.value...)
	}
	left := size - len(b) - 3
	b = binary.BigEndian.AppendUint16(append(b, 0x7f), uint16(left))
	return append(b, make([]byte, left)...)
}

func readPayload(t *testing.T, b []byte) map[byte][]byte {
	t.Helper()
	fields := make(map[byte][]byte)
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint16(b[1:]))
		fields[b[0]] = b[3 : 3+n]
		b = b[3+n:]
	}
	if _, ok := fields[0x7f]; !ok {
		t.Error("a payload without fill")
	}
	return fields
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// --- the example of §11

func TestProtocolExample(t *testing.T) {
	scalar := must[*ecdh.PrivateKey](t)
	key := func(b byte) *ecdh.PrivateKey {
		return scalar(ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{b}, 32)))
	}
	client, server, clientE, serverE := key(0x11), key(0x22), key(0x33), key(0x55)
	kem := must[*mlkem.DecapsulationKey768](t)(mlkem.NewDecapsulationKey768(bytes.Repeat([]byte{0x44}, 64)))

	var example strings.Builder
	note := func(name string, value []byte) { fmt.Fprintf(&example, "    %-28s %x\n", name, value) }
	sum := func(name string, value []byte) {
		s := sha256.Sum256(value)
		note("H("+name+")", s[:])
	}
	note("client secret", client.Bytes())
	note("client key", client.PublicKey().Bytes())
	note("server secret", server.Bytes())
	note("server key", server.PublicKey().Bytes())
	note("client e, secret", clientE.Bytes())
	note("client e", clientE.PublicKey().Bytes())
	note("d ‖ z", bytes.Repeat([]byte{0x44}, 64))
	sum("encapsulation key", kem.EncapsulationKey().Bytes())

	s := startNoise("example", server.PublicKey().Bytes(), note)
	url := "wss://relay.example.net/wax"
	payload1 := fillPayload(384, field{1, []byte{0x83}}, field{3, []byte{0, 2, 0, 0}}, field{5, []byte(url)}, field{6, []byte{0}})
	note("payload1", bytes.TrimRight(payload1, "\x00"))
	noise1 := must[[]byte](t)(s.writeNoise1(client, clientE, kem, server.PublicKey().Bytes(), payload1))
	hello := append([]byte{1}, noise1...)
	sum("pattern ‖ noise1", hello)
	note("its first 24 bytes", hello[:24])
	fmt.Fprintf(&example, "    %-28s %s…\n", "Waxwire-Hello", base64.RawURLEncoding.EncodeToString(hello)[:32])

	m := bytes.Repeat([]byte{0x66}, 32)
	note("server e, secret", serverE.Bytes())
	note("server e", serverE.PublicKey().Bytes())
	note("m", m)
	secret, ciphertext, err := mlkemtest.Encapsulate768(kem.EncapsulationKey(), m)
	if err != nil {
		t.Fatal(err)
	}
	note("K", secret)
	sum("ciphertext", ciphertext)
	session := append([]byte{0}, bytes.Repeat([]byte{0x77}, 16)...)
	session = append(session, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	payload2 := fillPayload(128, field{2, []byte{1}}, field{3, []byte{0, 2, 0, 0}}, field{6, session})
	note("payload2", bytes.TrimRight(payload2, "\x00"))
	noise2 := must[[]byte](t)(s.writeNoise2(serverE, clientE.PublicKey().Bytes(), client.PublicKey().Bytes(), secret, ciphertext, payload2))
	sum("noise2", noise2)

	c2s, s2c := s.split(1)
	for name, h := range map[string]*half{"c2s": c2s, "s2c": s2c} {
		if len(h.ts) != 32 || len(h.key) != 32 || len(h.iv) != 12 {
			t.Fatalf("%s: secrets of %d, %d, %d bytes", name, len(h.ts), len(h.key), len(h.iv))
		}
	}
	note("ts, client to server", c2s.ts)
	note("key", c2s.key)
	note("iv", c2s.iv)
	note("ts, server to client", s2c.ts)
	note("key", s2c.key)
	note("iv", s2c.iv)
	record := func(name string, h *half, plaintext []byte) {
		note(name, plaintext)
		note("  nonce", (&half{iv: h.iv, seq: h.seq}).nonce())
		note("  record", h.seal(plaintext))
	}
	record("client PING", c2s, []byte{4, 0, 0, 0, 0, 0, 0, 0, 1})
	record("client DATA", c2s, exampleData)
	record("client REKEY", c2s, []byte{3})
	c2s.ratchet()
	note("ts after REKEY", c2s.ts)
	note("key", c2s.key)
	note("iv", c2s.iv)
	record("client CLOSE 0", c2s, []byte{2, 0, 0})
	record("server PONG", s2c, []byte{5, 0, 0, 0, 0, 0, 0, 0, 1})

	_, text, _ := strings.Cut(protocolText(t), "Long values are shown as their SHA-256.\n\n")
	text, _, _ = strings.Cut(text, "\n§11.2")
	if text != example.String() {
		t.Errorf("the example of PROTOCOL.md §11 should read:\n%s", example.String())
	}

	// The code opens the very hello of the example.
	id := must[*keys.Identity](t)(keys.ParseIdentity([]byte(exampleServer)))
	defer id.Wipe()
	if got := id.Public(); !bytes.Equal(got[:], server.PublicKey().Bytes()) {
		t.Fatalf("the server's key is %x", got)
	}
	opened, err := secure.OpenHello(&secure.Config{Identity: id, Service: "example", Max: 131072}, hello)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Wipe()
	if !bytes.Equal(opened.Peer[:], client.PublicKey().Bytes()) || opened.URL != url || !bytes.Equal(opened.Session, []byte{0}) || opened.Problem != 0 {
		t.Errorf("the code reads the example as peer %x, URL %q, session %x, problem %d", opened.Peer, opened.URL, opened.Session, opened.Problem)
	}
}

// exampleServer is 32 bytes of 0x22 as §1.7 writes them.
const exampleServer = "WAX-SECRET-KEY-1YG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3QPV8S27"

// exampleData is the record of §11.3.
var exampleData = []byte("\x01\x01" + "\x01\x01\x07\x80\x04\x00\x00\x04echo" + "\x04\x01\x02hi")

// --- the second implementation against the code, live

// socket is a WebSocket by hand: RFC 6455 §5.2, one frame a message.
type socket struct {
	net.Conn
	r       *bufio.Reader
	client  bool
	out, in *half
	frames  []byte // of segments that came and are not yet looked at
	counted uint64 // segments that came
}

func (s *socket) send(plaintext []byte) error { return s.frame(2, s.out.seal(plaintext)) }

func (s *socket) frame(opcode byte, payload []byte) error {
	b := []byte{0x80 | opcode, 126}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	if s.client {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0) // a mask that changes nothing
	}
	_, err := s.Write(append(b, payload...))
	return err
}

// receive returns the next record's plaintext.
func (s *socket) receive() ([]byte, error) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(s.r, head[:]); err != nil {
			return nil, err
		}
		n := int(head[1] & 0x7f)
		if n >= 126 {
			long := make([]byte, 2<<(2*(n-126)))
			if _, err := io.ReadFull(s.r, long); err != nil {
				return nil, err
			}
			n = 0
			for _, b := range long {
				n = n<<8 | int(b)
			}
		}
		var mask [4]byte
		if head[1]&0x80 != 0 {
			if _, err := io.ReadFull(s.r, mask[:]); err != nil {
				return nil, err
			}
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(s.r, payload); err != nil {
			return nil, err
		}
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
		switch head[0] {
		case 0x82:
			return s.in.open(payload)
		case 0x88:
			return nil, io.EOF
		default:
			return nil, fmt.Errorf("a WebSocket frame that begins with %x", head)
		}
	}
}

// next returns the next record but PING, which it answers, REKEY, which it obeys, and ACK.
func (s *socket) next() ([]byte, error) {
	for {
		p, err := s.receive()
		if err != nil || len(p) == 0 {
			return nil, errors.Join(err, io.ErrUnexpectedEOF)
		}
		switch p[0] {
		case 3:
			s.in.ratchet()
		case 4:
			if err := s.send(append([]byte{5}, p[1:]...)); err != nil {
				return nil, err
			}
		default:
			if len(p) > 1 && p[0] == 1 && (p[1] == 1 || p[1] == 4) {
				s.counted++
			}
			if len(p) == 10 && p[0] == 1 && p[1] == 2 {
				continue
			}
			return p, nil
		}
	}
}

// ack says how many counted segments have come.
func (s *socket) ack() error {
	return s.send(binary.BigEndian.AppendUint64([]byte{1, 2}, s.counted))
}

// streams reads segments until the frames that came are as wanted, CREDIT apart. It returns what is wrong.
func (s *socket) streams(want string) error {
	for len(s.frames) < len(want) {
		p, err := s.next()
		if err != nil {
			return err
		}
		if p[0] != 1 || p[1] != 1 {
			return fmt.Errorf("got record %x, want a SEG", p)
		}
		s.frames = append(s.frames, p[2:]...)
	}
	if string(s.frames) != want {
		return fmt.Errorf("got the frames %x, want %x", s.frames, want)
	}
	s.frames = nil
	return nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// dialStranger begins a session with a server by the text alone.
func dialStranger(t *testing.T, address string, service string, server keys.PublicKey, static *ecdh.PrivateKey, mask byte) (*socket, [32]byte) {
	t.Helper()
	s, binding, answer := helloStranger(t, address, service, server, static, mask, []byte{0}, 4096).accepted(t)
	if len(answer) != 33 || answer[0] != 0 || !bytes.Equal(answer[17:29], []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Fatalf("session answer %x", answer)
	}
	return s, binding
}

// A strangerHello is one that was sent, with its answer.
type strangerHello struct {
	conn    net.Conn
	r       *bufio.Reader
	resp    *http.Response
	request string // as it was sent
	noise   *noise
	static  *ecdh.PrivateKey
	e       *ecdh.PrivateKey
	kem     *mlkem.DecapsulationKey768
	mask    byte
}

// helloStranger asks a server for a connection by the text alone, with the given session field. An invite
// of zeros, which is none, is to be ignored.
func helloStranger(t *testing.T, address string, service string, server keys.PublicKey, static *ecdh.PrivateKey, mask byte, session []byte, max uint32) *strangerHello {
	t.Helper()
	return helloInvited(t, address, service, server, static, mask, session, max, make([]byte, 16))
}

// helloInvited is helloStranger with an invite.
func helloInvited(t *testing.T, address string, service string, server keys.PublicKey, static *ecdh.PrivateKey, mask byte, session []byte, max uint32, invite []byte) *strangerHello {
	t.Helper()
	h := &strangerHello{static: static, mask: mask}
	h.e = must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))
	h.kem = must[*mlkem.DecapsulationKey768](t)(mlkem.GenerateKey768())
	h.noise = startNoise(service, server[:], nil)
	noise1 := must[[]byte](t)(h.noise.writeNoise1(static, h.e, h.kem, server[:], fillPayload(384,
		field{1, []byte{mask}}, field{3, binary.BigEndian.AppendUint32(nil, max)}, field{4, invite},
		field{5, []byte("ws://" + address + "/")}, field{6, session}, field{0x42, []byte("later")})))
	h.request = fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: waxwire.1\r\nCache-Control: no-cache\r\nWaxwire-Hello: %s\r\n\r\n",
		address, b64(append([]byte{1}, noise1...)))
	h.conn, h.r, h.resp = sendRequest(t, address, h.request)
	return h
}

// sendRequest sends one over a connection of its own, and returns the answer.
func sendRequest(t *testing.T, address, request string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn := must[net.Conn](t)(net.Dial("tcp", address))
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, request)
	r := bufio.NewReader(conn)
	return conn, r, must[*http.Response](t)(http.ReadResponse(r, nil))
}

// accepted finishes the handshake after a 101, and returns the session field of the answer.
func (h *strangerHello) accepted(t *testing.T) (s *socket, binding [32]byte, answer []byte) {
	t.Helper()
	noise2 := must[[]byte](t)(base64.RawURLEncoding.DecodeString(h.resp.Header.Get("Waxwire-Hello")))
	if h.resp.StatusCode != 101 || len(noise2) != 1280 || h.resp.Header.Get("Sec-WebSocket-Protocol") != "waxwire.1" {
		t.Fatalf("answer %s, %v", h.resp.Status, h.resp.Header)
	}
	fields := readPayload(t, must[[]byte](t)(h.noise.readNoise2(h.static, h.e, h.kem, noise2)))
	suite := fields[2][0]
	if h.mask&suite == 0 {
		t.Fatalf("suite %d of the mask %x", suite, h.mask)
	}
	c2s, s2c := h.noise.split(suite)
	return &socket{Conn: h.conn, r: h.r, client: true, out: c2s, in: s2c}, [32]byte(h.noise.h), fields[6]
}

// refused opens a sealed refusal, and returns its reason and, if that is about an invite, the time.
func (h *strangerHello) refused(t *testing.T) (reason byte, at int64) {
	t.Helper()
	noise2 := must[[]byte](t)(base64.RawURLEncoding.DecodeString(h.resp.Header.Get("Waxwire-Hello")))
	if h.resp.StatusCode != 404 || len(noise2) != 1280 {
		t.Fatalf("answer %s, %v", h.resp.Status, h.resp.Header)
	}
	field := readPayload(t, must[[]byte](t)(h.noise.readNoise2(h.static, h.e, h.kem, noise2)))[8]
	return field[0], int64(binary.BigEndian.Uint64(field[1:]))
}

func strangerServer(t *testing.T, peer *ecdh.PrivateKey) (server *tunnel.Server, address string, id keys.PublicKey) {
	t.Helper()
	identity := must[*keys.Identity](t)(keys.Generate())
	peers := new(keys.PeerSet)
	if err := peers.Add(keys.Peer{Name: "stranger", Key: keys.PublicKey(peer.PublicKey().Bytes())}); err != nil {
		t.Fatal(err)
	}
	server = &tunnel.Server{Identity: identity, Peers: peers, Service: "s"}
	web := httptest.NewServer(server)
	t.Cleanup(func() {
		server.Close()
		web.Close()
	})
	return server, web.Listener.Addr().String(), identity.Public()
}

func TestStrangerClient(t *testing.T) {
	static := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))
	server, address, id := strangerServer(t, static)
	for _, suite := range []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305} {
		t.Run(suite.String(), func(t *testing.T) {
			s, binding := dialStranger(t, address, "s", id, static, byte(suite))
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			check(s.send([]byte("\x0401234567")))
			if p, err := s.receive(); err != nil || string(p) != "\x0501234567" {
				t.Fatalf("got %q, %v; want the PONG", p, err)
			}
			tun := must[*tunnel.Tunnel](t)(server.Accept(t.Context()))
			if tun.Binding() != binding || tun.Suite() != suite || tun.Peer().Name != "stranger" {
				t.Errorf("the server sees binding %x, suite %v, peer %v", tun.Binding(), tun.Suite(), tun.Peer())
			}
			check(s.send(exampleData))
			check(s.send([]byte{3}))
			s.out.ratchet()
			in := must[*tunnel.Incoming](t)(tun.AcceptStream(t.Context()))
			if r := in.Request(); r.Kind != tunnel.KindApp || r.Target != "echo" {
				t.Errorf("request %v", r)
			}
			stream := must[*tunnel.Stream](t)(in.Accept())
			check(s.streams("\x02\x01\x80\x04\x00\x00"))
			check(s.send([]byte("\x81\x01\x05\x01\x00\x00\x00\x00\x03"))) // FIN, padded
			got, err := io.ReadAll(stream)
			if err != nil || string(got) != "hi" {
				t.Errorf("the server read %q, %v", got, err)
			}
			must[int](t)(stream.Write([]byte("ho")))
			check(stream.CloseWrite())
			check(s.streams("\x04\x01\x02ho" + "\x05\x01"))

			check(s.ack())
			check(s.send([]byte{1, 3, 9, 9})) // DGRAM
			check(s.send([]byte{1, 4, 0, 0})) // END
			if p, err := s.next(); err != nil || string(p) != "\x01\x04\x00\x00" {
				t.Errorf("got %x, %v; want END", p, err)
			}
			if p, err := s.next(); err != nil || string(p) != "\x02\x00\x00" {
				t.Errorf("got %x, %v; want CLOSE 0", p, err)
			}
			s.Close()
			<-tun.Done()
			if err := tun.Err(); err != io.EOF {
				t.Errorf("the server's tunnel ended with %v, want EOF", err)
			}
		})
	}
}

// What the tables call a protocol error is answered by a sealed CLOSE 2.
func TestStrangerBreaksRules(t *testing.T) {
	static := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))
	_, address, id := strangerServer(t, static)
	tests := map[string]string{
		"type 00, §4.3":                       "\x00",
		"padding beyond the body, §4.3":       "\x81\x00\x01",
		"padding not zero, §4.3":              "\x81\x07\x00\x01",
		"RENEW1, Table 4.2":                   "\x06" + strings.Repeat("\x00", 1216),
		"RENEW2, Table 4.2":                   "\x07" + strings.Repeat("\x00", 1120),
		"REKEY with a body, Table 4.1":        "\x03\x01",
		"PING of 7 bytes, Table 4.1":          "\x041234567",
		"CLOSE with text that is not UTF-8":   "\x02\x00\x00\xff",
		"SEG without a frame, Table 6.1":      "\x01\x01",
		"ACK of what was not sent, Table 6.1": "\x01\x02\x00\x00\x00\x00\x00\x00\x00\x01",
		"FROM on a first connection, §6.8":    "\x01\x05\x00\x00\x00\x00\x00\x00\x00\x01",
		"frame type 0, §7.1":                  "\x01\x01\x00",
		"frame type 9, §7.1":                  "\x01\x01\x09\x01",
		"frame cut short, §7.1":               "\x01\x01\x04\x01\x05hi",
		"even id of a client, §7.2":           "\x01\x01\x01\x02\x07\x00\x00",
		"id above the highest, §7.3":          "\x01\x01\x05\x03",
		"id used twice, §7.2":                 "\x01\x01\x01\x01\x07\x00\x00\x01\x01\x07\x00\x00",
		"id 0, §7.3":                          "\x01\x01\x05\x00",
		"OPENED by the opener, §7.2":          "\x01\x01\x01\x01\x07\x00\x00\x02\x01\x00",
		"data past the credit, §7.7":          "\x01\x01\x01\x01\x07\x00\x00" + "\x04\x01\x4f\xa0" + strings.Repeat("x", 0xfa0) + "",
		"DATA after FIN, §7.9":                "\x01\x01\x01\x01\x07\x00\x00\x05\x01\x04\x01\x01x",
		"two STOPs, §7.10":                    "\x01\x01\x01\x01\x07\x00\x00\x07\x01\x00\x07\x01\x00",
		"total above 2^62-1, §7.7":            "\x01\x01\x01\x01\x07\x01\x00\x08\x01\xff\xff\xff\xff\xff\xff\xff\xff",
		"code above 65535, §7.1":              "\x01\x01\x01\x01\x07\x00\x00\x06\x01\x80\x01\x00\x00",
	}
	for name, plaintext := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := dialStranger(t, address, "s", id, static, 3)
			records := []string{"\x0401234567", plaintext}
			if strings.HasPrefix(name, "data past") { // 5 × 4000 bytes are more than 16384
				for range 4 {
					records = append(records, "\x01\x01"+plaintext[9:])
				}
			}
			for _, r := range records {
				if err := s.send([]byte(r)); err != nil {
					break // cut off before the last one
				}
			}
			for {
				p, err := s.next()
				if err != nil {
					t.Fatalf("no CLOSE: %v", err)
				}
				if p[0] == 2 {
					if len(p) < 3 || binary.BigEndian.Uint16(p[1:]) != uint16(tunnel.ProtocolError) {
						t.Errorf("got CLOSE %x, want the code 2", p)
					}
					return
				}
			}
		})
	}
}

// A client of the code's, and a server by the text.
func TestStrangerServer(t *testing.T) {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	static := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))
	id := must[*keys.Identity](t)(keys.Generate())
	defer id.Wipe()
	url := "ws://" + l.Addr().String() + "/wax"

	served := make(chan error, 1)
	go func() { served <- serveStranger(t, l, static, id.Public(), url) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tun, err := tunnel.Dial(ctx, url, &tunnel.Config{Identity: id, ServerKey: keys.PublicKey(static.PublicKey().Bytes())})
	if err != nil {
		t.Fatal(err, <-served)
	}
	stream := must[*tunnel.Stream](t)(tun.OpenStream(ctx, tunnel.Request{Kind: tunnel.KindTCP, Target: "h:80"}))
	must[int](t)(stream.Write([]byte("hi")))
	if err := stream.Opened(ctx); err != nil {
		t.Error(err)
	}
	if err := stream.CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(stream); err != nil || string(got) != "ho" {
		t.Errorf("the client read %q, %v", got, err)
	}
	refused := must[*tunnel.Stream](t)(tun.OpenStream(ctx, tunnel.Request{Kind: tunnel.KindUDP, Target: "h:53"}))
	var refusal *tunnel.StreamError
	if err := refused.Opened(ctx); !errors.As(err, &refusal) || refusal.Code != tunnel.NotAllowed || refusal.Text != "no" {
		t.Errorf("the second stream: %v", err)
	}
	if err := tun.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func serveStranger(t *testing.T, l net.Listener, static *ecdh.PrivateKey, client keys.PublicKey, url string) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	hello, err := base64.RawURLEncoding.DecodeString(req.Header.Get("Waxwire-Hello"))
	if err != nil || len(hello) != 1681 || hello[0] != 1 || req.Header.Get("Sec-WebSocket-Protocol") != "waxwire.1" ||
		req.Header.Get("Sec-WebSocket-Extensions") != "" {
		return fmt.Errorf("request %v: %v", req.Header, err)
	}
	s := startNoise("", static.PublicKey().Bytes(), nil)
	re, ekBytes, who, payload, err := s.readNoise1(static, hello[1:])
	if err != nil {
		return err
	}
	fields := readPayload(t, payload)
	if !bytes.Equal(who, client[:]) || string(fields[5]) != url || fields[1][0]&3 != 3 || !bytes.Equal(fields[3], []byte{0, 2, 0, 0}) || !bytes.Equal(fields[6], []byte{0}) {
		return fmt.Errorf("hello of %x: %x", who, fields)
	}
	ek, err := mlkem.NewEncapsulationKey768(ekBytes)
	if err != nil {
		return err
	}
	secret, ciphertext := ek.Encapsulate()
	e, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	session := append(make([]byte, 20), 1) // status 0, an id of zeros, owner 1
	session = append(session, make([]byte, 12)...)
	noise2, err := s.writeNoise2(e, re, who, secret, ciphertext, fillPayload(128,
		field{2, []byte{2}}, field{3, []byte{0, 0, 0x10, 0}}, field{6, session}, field{0x09, []byte("later")}))
	if err != nil {
		return err
	}
	accept := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"+
		"Sec-WebSocket-Protocol: waxwire.1\r\nWaxwire-Hello: %s\r\n\r\n", base64.StdEncoding.EncodeToString(accept[:]), b64(noise2))
	c2s, s2c := s.split(2)
	sock := &socket{Conn: conn, r: r, out: s2c, in: c2s}
	first, err := sock.receive()
	if err != nil || len(first) != 9 || first[0] != 4 {
		return fmt.Errorf("the first record is %x, %v; want a PING", first, err)
	}
	if err := sock.send(append([]byte{5}, first[1:]...)); err != nil {
		return err
	}
	if err := sock.streams("\x01\x01\x01\x80\x04\x00\x00\x04h:80" + "\x04\x01\x02hi"); err != nil {
		return err
	}
	if err := sock.send([]byte("\x01\x01\x02\x01\x80\x01\x00\x00")); err != nil {
		return err
	}
	if err := sock.streams("\x05\x01"); err != nil {
		return err
	}
	if err := sock.send([]byte("\x01\x01\x04\x01\x02ho\x05\x01")); err != nil {
		return err
	}
	if err := sock.streams("\x01\x03\x03\x80\x04\x00\x00\x04h:53"); err != nil {
		return err
	}
	if err := sock.send([]byte("\x01\x01\x03\x03\x04\x02no")); err != nil {
		return err
	}
	if p, err := sock.next(); err != nil || string(p) != "\x01\x04\x00\x00" {
		return fmt.Errorf("got %x, %v; want END", p, err)
	}
	if err := errors.Join(sock.send([]byte{1, 4, 0, 0}), sock.ack()); err != nil {
		return err
	}
	if p, err := sock.next(); err != nil || string(p) != "\x02\x00\x00" {
		return fmt.Errorf("got %x, %v; want CLOSE 0", p, err)
	}
	return nil
}
