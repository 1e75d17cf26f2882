package cipher_test

import (
	"bytes"
	"crypto/aes"
	stdcipher "crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"waxwire.example/waxwire/cipher"
)

var suites = []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305}

func newRecords(t testing.TB, suite cipher.Suite) (*cipher.Sealer, *cipher.Opener) {
	t.Helper()
	s, o, err := cipher.NewTestPair(suite, bytesOf("ts", 32))
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

func seal(t testing.TB, s *cipher.Sealer, plaintext string) []byte {
	t.Helper()
	record, err := s.Seal(nil, []byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func ratchet(t testing.TB, ends ...interface{ Ratchet() error }) {
	t.Helper()
	for _, e := range ends {
		if err := e.Ratchet(); err != nil {
			t.Fatal(err)
		}
	}
}

// wantRefused checks that a record does not open, that no plaintext comes out, and that this ends it.
func wantRefused(t *testing.T, o *cipher.Opener, record []byte) {
	t.Helper()
	secrets := o.Secrets()
	if isZero(secrets["ts"]) {
		t.Error("the opener was dead before")
	}
	dst := make([]byte, 4, 4+len(record)+16)
	if got, err := o.Open(dst, record); err != cipher.ErrOpen || got != nil {
		t.Errorf("opened %q, %v, want %v", got, err, cipher.ErrOpen)
	}
	if !bytes.Equal(dst[:cap(dst)], make([]byte, cap(dst))) {
		t.Errorf("a refused record left %x in the buffer", dst[:cap(dst)])
	}
	wantZero(t, secrets)
	if _, err := o.Open(nil, record); err != cipher.ErrOpen {
		t.Errorf("second call gives %v, want %v", err, cipher.ErrOpen)
	}
	if err := o.Ratchet(); err != cipher.ErrOpen {
		t.Errorf("Ratchet after a failure gives %v, want %v", err, cipher.ErrOpen)
	}
	o.Wipe()
	if _, err := o.Open(nil, nil); err != cipher.ErrOpen {
		t.Errorf("after Wipe too, the error is %v, want the first one", err)
	}
}

// A refEpoch is PROTOCOL.md §3 and §4 again, with the standard library.
type refEpoch struct {
	suite  cipher.Suite
	ts, iv []byte
	aead   stdcipher.AEAD
	seq    uint64
}

// expand1 is "Expand1(k, l) = HMAC(k, l ‖ 0x01)".
func expand1(k []byte, l string) []byte {
	m := hmac.New(sha256.New, k)
	m.Write([]byte(l + "\x01"))
	return m.Sum(nil)
}

func newRefEpoch(t testing.TB, suite cipher.Suite, ts []byte) *refEpoch {
	t.Helper()
	// "key = Expand1(ts, "waxwire/1 key" ‖ u8 suite)", "iv = Expand1(ts, "waxwire/1 iv" ‖ u8 suite)[:12]"
	key := expand1(ts, "waxwire/1 key"+string([]byte{byte(suite)}))
	e := &refEpoch{suite: suite, ts: ts, iv: expand1(ts, "waxwire/1 iv"+string([]byte{byte(suite)}))[:12]}
	var err error
	if suite == 1 {
		var block stdcipher.Block
		if block, err = aes.NewCipher(key); err == nil {
			e.aead, err = stdcipher.NewGCM(block)
		}
	} else {
		e.aead, err = chacha20poly1305.New(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// next is "ts' = Expand1(ts, "waxwire/1 next")".
func (e *refEpoch) next(t testing.TB) *refEpoch {
	return newRefEpoch(t, e.suite, expand1(e.ts, "waxwire/1 next"))
}

// seal is "nonce = iv xor (0x00000000 ‖ u64 seq)" and "aad = empty".
func (e *refEpoch) seal(plaintext []byte) []byte {
	nonce := binary.BigEndian.AppendUint64(make([]byte, 4), e.seq)
	for i := range nonce {
		nonce[i] ^= e.iv[i]
	}
	e.seq++
	return e.aead.Seal(nil, nonce, plaintext, nil)
}

// TestKeySchedule compares records of several epochs with those that the text of PROTOCOL.md gives.
func TestKeySchedule(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite.String(), func(t *testing.T) {
			s, o := newRecords(t, suite)
			ref := newRefEpoch(t, suite, bytesOf("ts", 32))
			for epoch := range 4 {
				for n := range 300 {
					plaintext := bytesOf("plain", n)
					want := ref.seal(plaintext)
					got, err := s.Seal(nil, plaintext)
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("epoch %d, record %d is %x, %v, want %x", epoch, n, got, err, want)
					}
					opened, err := o.Open(nil, want)
					if err != nil || !bytes.Equal(opened, plaintext) {
						t.Fatalf("epoch %d, record %d opens to %x, %v", epoch, n, opened, err)
					}
				}
				ref = ref.next(t)
				ratchet(t, s, o)
			}
			// The counter's upper bytes are in the nonce too.
			s.SetCount(0x00ab_cdef, 0)
			ref.seq = 0x00ab_cdef
			if got, want := seal(t, s, "x"), ref.seal([]byte("x")); !bytes.Equal(got, want) {
				t.Errorf("record %#x is %x, want %x", 0x00ab_cdef, got, want)
			}
		})
	}
}

// TestSplitDirections: the first secret of Noise's Split is the client's direction. PROTOCOL.md §3.
func TestSplitDirections(t *testing.T) {
	for _, suite := range suites {
		p := newTestPair(t, cipher.IKhfs)
		p.shake(-1)
		c2s, s2c, err := p.initiator.SplitSecrets()
		if err != nil {
			t.Fatal(err)
		}
		p.reset()
		p.shake(-1)
		client, _, err := p.initiator.Split(suite)
		if err != nil {
			t.Fatal(err)
		}
		server, _, err := p.responder.Split(suite)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := seal(t, client, "hello"), newRefEpoch(t, suite, c2s[:]).seal([]byte("hello")); !bytes.Equal(got, want) {
			t.Errorf("%v: the client's first record is %x, want %x", suite, got, want)
		}
		if got, want := seal(t, server, "hello"), newRefEpoch(t, suite, s2c[:]).seal([]byte("hello")); !bytes.Equal(got, want) {
			t.Errorf("%v: the server's first record is %x, want %x", suite, got, want)
		}
	}
}

// TestRecordsRefused: what is not the next record of this direction, epoch and suite does not open.
func TestRecordsRefused(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite.String(), func(t *testing.T) {
			s, _ := newRecords(t, suite)
			first, second, third := seal(t, s, "one"), seal(t, s, "two"), seal(t, s, "three")
			ratchet(t, s)
			next := seal(t, s, "one")
			_, control := newRecords(t, suite)
			for _, r := range [][]byte{first, second, third} {
				if _, err := control.Open(nil, r); err != nil {
					t.Fatal(err)
				}
			}
			ratchet(t, control)
			if _, err := control.Open(nil, next); err != nil {
				t.Fatal(err)
			}
			for _, tt := range []struct {
				name    string
				before  [][]byte // opened first
				ratchet int
				record  []byte
			}{
				{"replay", [][]byte{first}, 0, first},
				{"replay later", [][]byte{first, second}, 0, first},
				{"reorder", nil, 0, second},
				{"gap", [][]byte{first}, 0, third},
				{"early epoch", [][]byte{first}, 1, second},
				{"late epoch", [][]byte{first}, 0, next},
				{"epoch skipped", nil, 2, next},
				{"same number, other epoch", nil, 1, first},
				{"empty", nil, 0, nil},
				{"tag alone", nil, 0, first[len(first)-16:]},
				{"short", nil, 0, first[:15]},
				{"zeros", nil, 0, make([]byte, len(first))},
			} {
				t.Run(tt.name, func(t *testing.T) {
					_, o := newRecords(t, suite)
					for _, r := range tt.before {
						if _, err := o.Open(nil, r); err != nil {
							t.Fatal(err)
						}
					}
					for range tt.ratchet {
						ratchet(t, o)
					}
					wantRefused(t, o, tt.record)
				})
			}
			t.Run("flipped", func(t *testing.T) {
				for i := range first {
					for bit := range 8 {
						bad := bytes.Clone(first)
						bad[i] ^= 1 << bit
						_, o := newRecords(t, suite)
						wantRefused(t, o, bad)
					}
				}
			})
			t.Run("cut and extended", func(t *testing.T) {
				for n := range first {
					_, o := newRecords(t, suite)
					wantRefused(t, o, first[:n])
				}
				_, o := newRecords(t, suite)
				wantRefused(t, o, append(bytes.Clone(first), 0))
				_, o = newRecords(t, suite)
				wantRefused(t, o, append(bytes.Clone(first), second...))
			})
			t.Run("other suite", func(t *testing.T) {
				_, o := newRecords(t, 3-suite)
				wantRefused(t, o, first)
			})
		})
	}
}

// TestReflectAndSplice: a record opens in its own direction and its own connection only.
func TestReflectAndSplice(t *testing.T) {
	type end struct {
		s *cipher.Sealer
		o *cipher.Opener
	}
	connect := func() (client, server end) {
		p := newTestPair(t, cipher.IKhfs)
		for i := range p.fixed {
			p.fixed[i].Ephemeral, p.fixed[i].KEMSeed, p.fixed[i].EncapsRand = nil, nil, nil
		}
		p.reset()
		p.shake(-1)
		for i, h := range []*cipher.Handshake{p.initiator, p.responder} {
			s, o, err := h.Split(cipher.AES256GCM)
			if err != nil {
				t.Fatal(err)
			}
			*[]*end{&client, &server}[i] = end{s, o}
		}
		return client, server
	}
	client, server := connect()
	other, fresh := connect()
	exchange(t, client.s, server.o) // all four counters at 1, so that the numbers are right
	exchange(t, server.s, client.o)
	exchange(t, other.s, fresh.o)
	record := seal(t, client.s, "from the client")
	wantRefused(t, client.o, record) // reflected
	wantRefused(t, fresh.o, record)  // spliced into another connection
	if got, err := server.o.Open(nil, record); err != nil || string(got) != "from the client" {
		t.Errorf("where it belongs it opens to %q, %v", got, err)
	}
}

// TestEpochLimits: the hard limits stop both ends, before anything is sealed. PROTOCOL.md §4.
func TestEpochLimits(t *testing.T) {
	for _, tt := range []struct {
		name           string
		records, bytes uint64
		size           int
		ok             bool
	}{
		{"last record", 1<<24 - 1, 0, 10, true},
		{"record too many", 1 << 24, 0, 10, false},
		{"empty record too many", 1 << 24, 0, 0, false},
		{"last bytes", 5, 64<<30 - 10, 10, true},
		{"byte too many", 5, 64<<30 - 10, 11, false},
		{"no bytes at the limit", 5, 64 << 30, 0, true},
		{"counter near its end", 1<<64 - 1, 0, 1, false},
		{"bytes near their end", 5, 1<<64 - 1, 1, false},
	} {
		for _, suite := range suites {
			t.Run(fmt.Sprint(tt.name, "/", suite), func(t *testing.T) {
				plaintext := make([]byte, tt.size)
				s, o := newRecords(t, suite)
				ref := newRefEpoch(t, suite, bytesOf("ts", 32))
				ref.seq = tt.records
				record := ref.seal(plaintext)
				s.SetCount(tt.records, tt.bytes)
				o.SetCount(tt.records, tt.bytes)
				if tt.ok {
					if got, err := s.Seal(nil, plaintext); err != nil || !bytes.Equal(got, record) {
						t.Errorf("sealed %x, %v, want %x", got, err, record)
					}
					if _, err := o.Open(nil, record); err != nil {
						t.Errorf("opening: %v", err)
					}
					return
				}
				dst := make([]byte, 0, 64)
				if got, err := s.Seal(dst, plaintext); err != cipher.ErrExhausted || got != nil {
					t.Errorf("sealed %x, %v, want %v", got, err, cipher.ErrExhausted)
				}
				if !bytes.Equal(dst[:64], make([]byte, 64)) {
					t.Error("something was sealed all the same")
				}
				if s.Records() != tt.records || s.Bytes() != tt.bytes {
					t.Errorf("counted to %d, %d", s.Records(), s.Bytes())
				}
				wantRefused(t, o, record)
				ratchet(t, s) // the next epoch has room
				if got, want := seal(t, s, "x"), ref.next(t).seal([]byte("x")); !bytes.Equal(got, want) {
					t.Errorf("after Ratchet the first record is %x, want %x", got, want)
				}
			})
		}
	}
}

func TestDue(t *testing.T) {
	for _, tt := range []struct {
		name           string
		records, bytes uint64
		age            time.Duration
		due            bool
	}{
		{"fresh", 0, 0, 0, false},
		{"old but without a record", 0, 0, time.Hour, false},
		{"one record", 1, 100, 0, false},
		{"just before 120 s", 1, 100, 120*time.Second - 1, false},
		{"120 s", 1, 100, 120 * time.Second, true},
		{"just before 2^20 records", 1<<20 - 1, 100, 0, false},
		{"2^20 records", 1 << 20, 100, 0, true},
		{"just before 1 GiB", 10, 1<<30 - 1, 0, false},
		{"1 GiB", 10, 1 << 30, 0, true},
	} {
		s, _ := newRecords(t, cipher.AES256GCM)
		s.SetCount(tt.records, tt.bytes)
		if got := s.Due(tt.age); got != tt.due {
			t.Errorf("%s: due %v, want %v", tt.name, got, tt.due)
		}
		ratchet(t, s)
		if s.Due(tt.age) {
			t.Errorf("%s: due after Ratchet", tt.name)
		}
	}
}

func TestCounts(t *testing.T) {
	s, o := newRecords(t, cipher.ChaCha20Poly1305)
	for epoch := range uint64(3) {
		for n := range uint64(5) {
			if s.Records() != n || o.Records() != n || s.Bytes() != 7*n || o.Bytes() != 7*n || s.Epoch() != epoch || o.Epoch() != epoch {
				t.Fatalf("counts %d %d, %d %d, %d %d, want %d, %d, %d", s.Records(), o.Records(), s.Bytes(), o.Bytes(), s.Epoch(), o.Epoch(), n, 7*n, epoch)
			}
			if _, err := o.Open(nil, seal(t, s, "7 bytes")); err != nil {
				t.Fatal(err)
			}
		}
		ratchet(t, s, o)
	}
}

// TestRatchetWipes: after Ratchet nothing of the old epoch is left, and the new keys are others.
func TestRatchetWipes(t *testing.T) {
	for _, suite := range suites {
		s, o := newRecords(t, suite)
		for _, end := range []interface {
			Secrets() map[string]any
			Ratchet() error
		}{s, o} {
			old := end.Secrets()
			ts, iv := *old["ts"].(*[32]byte), *old["iv"].(*[12]byte)
			if ts == [32]byte{} || iv == [12]byte{} || isZero(old["aead"]) {
				t.Fatal("there was nothing to wipe")
			}
			ratchet(t, end)
			for _, name := range []string{"aead", "block", "temp", "nonce", "inner", "outer", "pad"} {
				if object, ok := old[name]; ok && !isZero(object) {
					t.Errorf("%v: %s of the old epoch is not wiped", suite, name)
				}
			}
			now := end.Secrets()
			if *now["ts"].(*[32]byte) == ts || *now["iv"].(*[12]byte) == iv || now["aead"] == old["aead"] || isZero(now["aead"]) {
				t.Errorf("%v: the new epoch has old secrets", suite)
			}
		}
		exchange(t, s, o)
	}
}

func TestWipeRecords(t *testing.T) {
	for _, suite := range suites {
		s, o := newRecords(t, suite)
		exchange(t, s, o)
		for _, end := range []interface {
			Secrets() map[string]any
			Ratchet() error
			Wipe()
		}{s, o} {
			secrets := end.Secrets()
			want := []string{"ts", "iv", "aead", "block"}[:5-suite] // block: AES only
			for _, name := range want {
				if object, ok := secrets[name]; !ok || isZero(object) {
					t.Errorf("%v: there is no %s to wipe", suite, name)
				}
			}
			end.Wipe()
			end.Wipe()
			wantZero(t, secrets)
			wantZero(t, end.Secrets())
			if err := end.Ratchet(); err != cipher.ErrWiped {
				t.Errorf("Ratchet after Wipe: %v", err)
			}
			if now := end.Secrets(); now["aead"] != nil || now["block"] != nil || !reflect.ValueOf(now["ts"]).Elem().IsZero() {
				t.Error("a call after Wipe brought keys back")
			}
		}
		if got, err := s.Seal(nil, []byte("x")); err != cipher.ErrWiped || got != nil {
			t.Errorf("Seal after Wipe: %x, %v", got, err)
		}
		if got, err := o.Open(nil, make([]byte, 17)); err != cipher.ErrWiped || got != nil {
			t.Errorf("Open after Wipe: %x, %v", got, err)
		}
	}
}

// TestBuffers: what stands in dst stays, plaintext and record may share their buffer with dst.
func TestBuffers(t *testing.T) {
	for _, suite := range suites {
		for _, size := range []int{0, 1, 15, 16, 17, 1000, 131072} {
			s, o := newRecords(t, suite)
			want := bytesOf("plain", size)
			inPlace := append(make([]byte, 0, size+cipher.Overhead), want...)
			record, err := s.Seal(inPlace[:0], inPlace)
			if err != nil || len(record) != size+cipher.Overhead || &record[0] != &inPlace[:1][0] {
				t.Fatalf("%v: sealing %d bytes in place gives %d, %v", suite, size, len(record), err)
			}
			got, err := o.Open(record[:0], record)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v: opening %d bytes in place: %v", suite, size, err)
			}
			record, err = s.Seal([]byte("head"), want)
			if err != nil || string(record[:4]) != "head" || len(record) != 4+size+cipher.Overhead {
				t.Fatalf("%v: sealing %d bytes behind a head gives %d, %v", suite, size, len(record), err)
			}
			got, err = o.Open([]byte("head"), record[4:])
			if err != nil || !slices.Equal(got, append([]byte("head"), want...)) {
				t.Fatalf("%v: opening %d bytes behind a head gives %q, %v", suite, size, got, err)
			}
		}
	}
}

// TestNoAllocations holds what Seal and Open promise.
func TestNoAllocations(t *testing.T) {
	for _, suite := range suites {
		s, o := newRecords(t, suite)
		plaintext, record := make([]byte, 1000), make([]byte, 0, 1016)
		got := testing.AllocsPerRun(100, func() {
			var err error
			if record, err = s.Seal(record[:0], plaintext); err != nil {
				t.Fatal(err)
			}
			if _, err = o.Open(record[:0], record); err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("%v: %v allocations a record, want 0", suite, got)
		}
	}
}

func TestSuites(t *testing.T) {
	for _, tt := range []struct {
		suite cipher.Suite
		name  string
		valid bool
	}{{0, "suite 0", false}, {1, "AES-256-GCM", true}, {2, "ChaCha20-Poly1305", true}, {3, "suite 3", false}} {
		if got := tt.suite.String(); got != tt.name {
			t.Errorf("suite %d is called %q, want %q", uint8(tt.suite), got, tt.name)
		}
		if got := tt.suite.Valid(); got != tt.valid {
			t.Errorf("suite %d is valid: %v, want %v", uint8(tt.suite), got, tt.valid)
		}
		if _, _, err := cipher.NewTestPair(tt.suite, nil); (err == nil) != tt.valid {
			t.Errorf("records under suite %d: %v", uint8(tt.suite), err)
		}
	}
}

// TestHasFastAES asks the kernel.
func TestHasFastAES(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip("no /proc/cpuinfo to compare with")
	}
	var flags []string
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "flags" || strings.TrimSpace(key) == "Features" {
			flags = strings.Fields(value)
			break
		}
	}
	need := map[string][]string{"amd64": {"aes", "pclmulqdq"}, "arm64": {"aes", "pmull"}}[runtime.GOARCH]
	if need == nil || len(flags) == 0 || runtime.GOARCH == "arm64" && slices.Contains(flags, "fpu") {
		t.Skip("/proc/cpuinfo does not describe the processor that this runs on, as under emulation")
	}
	want := slices.Contains(flags, need[0]) && slices.Contains(flags, need[1])
	if got := cipher.HasFastAES(); got != want {
		t.Errorf("HasFastAES %v, the kernel says %v", got, want)
	}
}
