package keys

import (
	"bytes"
	"encoding/pem"
	"os"
	"reflect"
	"strings"
	"testing"
)

// FuzzKeyFile stays before the KDF: what it could be made to cost is bounded there.
func FuzzKeyFile(f *testing.F) {
	sealed, err := os.ReadFile("testdata/encrypted.key")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(bytes.ReplaceAll(sealed, []byte("\n"), []byte("\r\n")))
	f.Add(bytes.Replace(sealed, []byte("m=64"), []byte("m=4294967295"), 1))
	f.Add(sealed[:200])
	f.Add([]byte("# created: 2026-02-21T10:00:00Z\nWAX-SECRET-KEY-1QQQQ\n"))
	f.Add([]byte("-----BEGIN "))
	f.Add([]byte("# created: \n#\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		file, problem := parseKeyFile(data)
		if !bytes.Equal(data, before) {
			t.Error("parsing changed the file")
		}
		if problem != "" {
			if !reflect.DeepEqual(file, keyFile{}) {
				t.Errorf("%+v beside the problem %q", file, problem)
			}
			return
		}
		if strings.ContainsAny(file.created, "\r\n") {
			t.Errorf("created is %q, which is no line", file.created)
		}
		if file.sealed == nil {
			if len(file.secret) == 0 {
				t.Error("neither a secret nor an encrypted one")
			}
			return
		}
		k := file.sealed
		if k.kdf.memory > maxKDF.memory || k.kdf.time > maxKDF.time || k.kdf.threads > maxKDF.threads || k.kdf.time == 0 || k.kdf.threads == 0 {
			t.Errorf("%v is out of bounds", k.kdf)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: pemType, Headers: k.headers(), Bytes: k.body})
		again, problem := parseKeyFile(text)
		if problem != "" || !reflect.DeepEqual(again.sealed, k) {
			t.Errorf("%q parses to %+v, which prints as %q: %s", data, k, text, problem)
		}
	})
}
