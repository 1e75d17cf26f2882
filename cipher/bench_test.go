package cipher_test

import (
	"fmt"
	"testing"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

var benchSizes = []struct {
	name string
	n    int
}{{"64B", 64}, {"1KiB", 1 << 10}, {"16KiB", 16 << 10}, {"128KiB", 128<<10 - cipher.Overhead}}

func BenchmarkSeal(b *testing.B) {
	for _, suite := range suites {
		for _, size := range benchSizes {
			b.Run(fmt.Sprint(suite, "/", size.name), func(b *testing.B) {
				s, _ := newRecords(b, suite)
				buf := make([]byte, size.n, size.n+cipher.Overhead)
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					s.SetCount(0, 0) // the epoch's limit is not what is measured
					if _, err := s.Seal(buf[:0], buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, suite := range suites {
		for _, size := range benchSizes {
			b.Run(fmt.Sprint(suite, "/", size.name), func(b *testing.B) {
				s, o := newRecords(b, suite)
				record, err := s.Seal(nil, make([]byte, size.n))
				if err != nil {
					b.Fatal(err)
				}
				buf := make([]byte, 0, size.n)
				b.SetBytes(int64(size.n))
				b.ReportAllocs()
				for b.Loop() {
					o.SetCount(0, 0)
					if _, err := o.Open(buf, record); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkRatchet(b *testing.B) {
	for _, suite := range suites {
		b.Run(suite.String(), func(b *testing.B) {
			s, _ := newRecords(b, suite)
			b.ReportAllocs()
			for b.Loop() {
				ratchet(b, s)
			}
		})
	}
}

// BenchmarkHandshake is both ends of a handshake with the payloads of PROTOCOL.md §2, and Split.
func BenchmarkHandshake(b *testing.B) {
	client, err := keys.Generate()
	if err != nil {
		b.Fatal(err)
	}
	server, err := keys.Generate()
	if err != nil {
		b.Fatal(err)
	}
	for _, pattern := range []cipher.Pattern{cipher.IKhfs, cipher.IKhfsPSK2, "IK"} {
		b.Run(string(pattern), func(b *testing.B) {
			ci := cipher.HandshakeConfig{Pattern: pattern, Initiator: true, Static: client, RemoteStatic: server.Public()}
			cr := cipher.HandshakeConfig{Pattern: pattern, Static: server}
			if has(pattern, "psk") {
				ci.PSK = bytesOf("psk", 32)
				cr.PSK = ci.PSK
			}
			payload1, payload2 := make([]byte, 384), make([]byte, 128)
			b.ReportAllocs()
			for b.Loop() {
				i, err := cipher.NewHandshake(ci)
				if err != nil {
					b.Fatal(err)
				}
				r, err := cipher.NewHandshake(cr)
				if err != nil {
					b.Fatal(err)
				}
				for n, payload := range [][]byte{payload1, payload2} {
					w, rd := i, r
					if n == 1 {
						w, rd = r, i
					}
					msg, err := w.WriteMessage(nil, payload)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := rd.ReadMessage(nil, msg); err != nil {
						b.Fatal(err)
					}
				}
				for _, h := range []*cipher.Handshake{i, r} {
					if _, _, err := h.Split(cipher.AES256GCM); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
