package cipher_test

import (
	"bytes"
	"strings"
	"testing"

	"waxwire.example/waxwire/cipher"
)

var fuzzPatterns = []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2, "IK", "XXhfs", "XX", "NNhfs+psk0", "NN"}

// FuzzReadMessage feeds any bytes to every state in which a handshake reads. It never panics; only
// the message that was written is accepted, or in clear none that gets any further.
func FuzzReadMessage(f *testing.F) {
	good := map[cipher.Pattern][][]byte{}
	for i, pattern := range fuzzPatterns {
		good[pattern] = newTestPair(f, pattern).shake(-1)
		for n, msg := range good[pattern] {
			f.Add(byte(i), byte(n), msg)
			f.Add(byte(i), byte(n), msg[:len(msg)-1])
			f.Add(byte(i), byte(n), append(bytes.Clone(msg), 0))
			f.Add(byte(i), byte(n), msg[:min(32, len(msg))])
		}
		f.Add(byte(i), byte(0), []byte{})
		f.Add(byte(i), byte(0), make([]byte, 1296+384))
		f.Add(byte(i), byte(1), bytes.Repeat([]byte{0xff}, 1152+128))
	}
	f.Fuzz(func(t *testing.T, which, state byte, msg []byte) {
		pattern := fuzzPatterns[int(which)%len(fuzzPatterns)]
		messages := good[pattern]
		n := int(state) % len(messages)
		if !bytes.Equal(msg, messages[n]) {
			tamper(t, pattern, messages, n, msg)
			return
		}
		p := newTestPair(t, pattern)
		p.shake(n + 1)
	})
}

// FuzzOpen feeds any bytes to an Opener at any place of an epoch: only the record that belongs
// there opens.
func FuzzOpen(f *testing.F) {
	for _, suite := range suites {
		s, _ := newRecords(f, suite)
		for n := range 3 {
			record := seal(f, s, "a record")
			f.Add(byte(suite), byte(n), record)
			f.Add(byte(suite), byte(n), record[:len(record)-1])
		}
		f.Add(byte(suite), byte(0), []byte{})
		f.Add(byte(suite), byte(0), make([]byte, 16))
		f.Add(byte(suite), byte(1), make([]byte, 70000))
	}
	f.Fuzz(func(t *testing.T, which, before byte, record []byte) {
		s, o := newRecords(t, suites[which%2])
		for range before {
			exchange(t, s, o)
		}
		want := seal(t, s, "a record")
		if !bytes.Equal(record, want) {
			wantRefused(t, o, record)
			return
		}
		if got, err := o.Open(nil, record); err != nil || string(got) != "a record" {
			t.Errorf("opened %q, %v", got, err)
		}
	})
}

// FuzzParsePattern: what parses has one name, and messages that send each key once and in turn.
func FuzzParsePattern(f *testing.F) {
	for _, p := range allPatterns() {
		f.Add(string(p))
	}
	f.Add("IKpsk0+psk1+psk2")
	f.Add("NK")
	f.Add("IK+")
	f.Fuzz(func(t *testing.T, name string) {
		p, err := cipher.ParsePattern(name)
		if err != nil {
			return
		}
		messages, err := p.Messages()
		if err != nil || p.String() != name || len(messages) > 3 {
			t.Fatalf("%q parses to %q with %v, %v", name, p, messages, err)
		}
		for n, m := range messages[:2] {
			if strings.Count(strings.Join(m, " ")+" ", "e ") < 1 {
				t.Errorf("message %d of %q sends no ephemeral key", n, name)
			}
		}
		all := strings.Join(messages[0], " ") + " " + strings.Join(messages[1], " ")
		if strings.Contains(name, "hfs") != (strings.Contains(all, "e1") && strings.Contains(all, "ee ekem1")) {
			t.Errorf("%q has the tokens %q", name, all)
		}
	})
}
