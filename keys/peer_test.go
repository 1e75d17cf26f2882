package keys_test

import (
	"bytes"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

func TestValidName(t *testing.T) {
	for _, tt := range []struct {
		name string
		ok   bool
	}{
		{"laptop", true}, {"a", true}, {"0", true}, {"-", true}, {"my-laptop-2", true}, {strings.Repeat("a", 32), true},
		{"", false}, {strings.Repeat("a", 33), false}, {"Laptop", false}, {"my laptop", false}, {"my_laptop", false},
		{"..", false}, {"a/b", false}, {"a.b", false}, {"büro", false}, {"a\n", false}, {"a\x00", false},
	} {
		err := keys.ValidName(tt.name)
		var nameErr *keys.NameError
		if tt.ok != (err == nil) || !tt.ok && (!errors.As(err, &nameErr) || nameErr.Name != tt.name) {
			t.Errorf("ValidName(%q) = %v, want valid: %v", tt.name, err, tt.ok)
		}
	}
}

func TestParsePeer(t *testing.T) {
	key := "key " + readVectors(t)[0].PublicText + "\n"
	joined := time.Date(2026, 2, 21, 10, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, file string
		joined     time.Time
		allow      string // with spaces between
		line       int
		err        string
	}{
		{name: "key alone", file: key},
		{name: "no newline at the end", file: strings.TrimSpace(key)},
		{
			name:   "all",
			file:   "# the laptop\n" + key + "joined 2026-02-21T10:00:00Z\nallow message\nallow connect=localhost:80\n",
			joined: joined, allow: "message connect=localhost:80",
		},
		{name: "any order", file: "allow files\n\n" + key, allow: "files"},
		{name: "lines of Windows", file: "allow files\r\n" + strings.TrimSpace(key) + "\r\n", allow: "files"},
		{name: "white space", file: " \tallow \t files  \n" + key, allow: "files"},
		{name: "another time zone", file: key + "joined 2026-02-21T11:30:00+01:30\n", joined: joined},
		{name: "permission twice", file: key + "allow files\nallow message\nallow files\n", allow: "files message"},
		{name: "permission twice, in two forms", file: key + "allow connect=A:80\nallow connect=a.:80\n", allow: "connect=a:80"},
		{name: "socket with a space", file: key + "allow connect=unix:/run/x y\n", allow: "connect=unix:/run/x y"},

		{name: "empty", file: "", err: "there is no key"},
		{name: "no key", file: "allow message\n# key wax1\n", err: "there is no key"},
		{name: "two keys", file: key + "\n" + key, line: 3, err: "second key"},
		{name: "two times", file: "joined 2026-02-21T10:00:00Z\njoined 2026-02-21T10:00:00Z\n" + key, line: 2, err: "second joined"},
		{name: "unknown word", file: key + "# x\ndeny message\n", line: 3, err: `unknown word "deny"`},
		{name: "word in upper case", file: "Key " + key[4:], line: 1, err: "unknown word"},
		{name: "word without its line", file: key + "allowmessage\n", line: 2, err: "unknown word"},
		{name: "word without argument", file: "key\n", line: 1, err: "it is empty"},
		{name: "allow nothing", file: key + "allow\n", line: 2, err: "it is empty"},
		{name: "allow an unknown thing", file: key + "allow shell\n", line: 2, err: "unknown word; one of message"},
		{name: "allow two things", file: key + "allow message files\n", line: 2, err: "unknown word; one of message"},
		{name: "comment behind", file: key + "allow message # all\n", line: 2, err: "unknown word; one of message"},
		{name: "damaged key", file: key[:20] + "q" + key[21:], line: 1, err: "a character is wrong or missing"},
		{name: "secret key", file: "key " + readVectors(t)[0].SecretText + "\n", line: 1, err: "secret key"},
		{name: "not a time", file: key + "joined yesterday\n", line: 2, err: `"yesterday" is not a time`},
		{name: "date only", file: key + "joined 2026-02-21\n", line: 2, err: "is not a time"},
		{name: "time before the first year", file: key + "joined 0000-01-01T00:00:00Z\n", line: 2, err: "is not a time"},
		{name: "time after the last year", file: key + "joined 9999-12-31T23:59:59-01:00\n", line: 2, err: "is not a time"},
		{name: "binary", file: "key \xff\xfe\n", err: "not text in UTF-8"},
		{name: "zero byte", file: key + "#\x00\n", err: "not text in UTF-8"},
		{name: "byte order mark", file: "\ufeff" + key, line: 1, err: "unknown word"},
		{name: "too large", file: key + strings.Repeat("# more\n", 10000), err: "larger than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := keys.ParsePeer("laptop", []byte(tt.file))
			if tt.err != "" {
				var fileErr *keys.PeerFileError
				if !errors.As(err, &fileErr) || fileErr.Name != "laptop" || fileErr.Line != tt.line || !strings.Contains(fileErr.Problem, tt.err) {
					t.Errorf("error %v, want a PeerFileError for line %d with %q", err, tt.line, tt.err)
				}
				if !reflect.DeepEqual(p, keys.Peer{}) {
					t.Errorf("peer %v beside an error, want none", p)
				}
				if err != nil && strings.Contains(err.Error(), readVectors(t)[0].SecretText[20:40]) {
					t.Errorf("error %q quotes a secret", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var allow []string
			for _, permission := range p.Allow {
				allow = append(allow, permission.String())
			}
			if p.Name != "laptop" || p.Key != testPublic(t, 0) || !p.Joined.Equal(tt.joined) || strings.Join(allow, " ") != tt.allow {
				t.Errorf("got %v, want laptop, %v, %v, %s", p, testPublic(t, 0), tt.joined, tt.allow)
			}
			text, err := p.MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := keys.ParsePeer("laptop", text); err != nil || !reflect.DeepEqual(again, p) {
				t.Errorf("what it prints parses to %v, %v, want %v", again, err, p)
			}
		})
	}
	if _, err := keys.ParsePeer("../laptop", []byte(key)); err == nil {
		t.Error("a peer called ../laptop was read")
	}
}

func TestPeerText(t *testing.T) {
	p := peerWith(t, "message", "connect=A:80", "message")
	p.Joined = time.Date(2026, 2, 21, 12, 0, 0, 5e8, time.FixedZone("", 2*60*60))
	text, err := p.MarshalText()
	want := "key " + readVectors(t)[0].PublicText + "\njoined 2026-02-21T10:00:00.5Z\nallow message\nallow connect=a:80\n"
	if err != nil || string(text) != want {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
	for name, bad := range map[string]keys.Peer{
		"no name":          {Key: p.Key},
		"bad name":         {Name: "a/b", Key: p.Key},
		"no key":           {Name: "a"},
		"empty permission": {Name: "a", Key: p.Key, Allow: []keys.Permission{{}}},
		"year 10000":       {Name: "a", Key: p.Key, Joined: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if text, err := bad.MarshalText(); err == nil {
			t.Errorf("%s: written as %q, want an error", name, text)
		}
		var set keys.PeerSet
		if err := set.Add(bad); err == nil {
			t.Errorf("%s: added to a set, want an error", name)
		}
	}
}

func TestPeerSet(t *testing.T) {
	var set keys.PeerSet
	if p, ok := set.Lookup(testPublic(t, 0)); ok {
		t.Errorf("the empty set has %v", p)
	}
	p := peerWith(t, "message")
	if err := set.Add(p); err != nil {
		t.Fatal(err)
	}
	p.Allow[0] = keys.Permission{} // the set has its own list
	got, ok := set.Lookup(p.Key)
	if !ok || got.Name != "laptop" || !got.AllowsMessage() {
		t.Errorf("Lookup = %v, %v, want laptop", got, ok)
	}
	again, _ := set.Lookup(p.Key)
	files, unix := peerWith(t, "files").Allow[0], peerWith(t, "connect=unix:/run/x").Allow[0]
	one, two := append(got.Allow, files), append(again.Allow, unix)
	if one[1] != files || two[1] != unix {
		t.Errorf("two callers that append to Allow share it: %v, %v", one, two)
	}
	if err := set.Add(keys.Peer{Name: "laptop", Key: testPublic(t, 1)}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second laptop: %v, want fs.ErrExist", err)
	}
	if err := set.Add(keys.Peer{Name: "desk", Key: p.Key}); !errors.Is(err, keys.ErrDuplicateKey) {
		t.Errorf("same key: %v, want ErrDuplicateKey", err)
	}
	if err := set.Remove("desk"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removing nobody: %v, want fs.ErrNotExist", err)
	}
	if err := set.Remove("laptop"); err != nil {
		t.Error(err)
	}
	if p, ok := set.Lookup(p.Key); ok {
		t.Errorf("after Remove the set has %v", p)
	}
	if err := set.Add(keys.Peer{Name: "desk", Key: p.Key}); err != nil {
		t.Errorf("the key is not free after Remove: %v", err)
	}
}

func FuzzPeer(f *testing.F) {
	key := "key " + readVectors(f)[0].PublicText + "\n"
	for _, s := range []string{
		key, "# x\n" + key + "joined 2026-02-21T10:00:00.123456789+01:00\nallow message\nallow connect=*.A:1-65535\n",
		key + key, "joined 9999-12-31T23:59:59-01:00\n" + key, key + "allow connect=unix:/a b\r\n", "", "key", "\r\n \t#",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := keys.ParsePeer("laptop", file)
		if err != nil {
			return
		}
		text, err := p.MarshalText()
		if err != nil {
			if len(file) > 32<<10 {
				return // the canonical form of many short lines can be longer than a file may be
			}
			t.Fatalf("%q parses, but cannot be written: %v", file, err)
		}
		again, err := keys.ParsePeer("laptop", text)
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%q prints as %q, which parses to %v, %v, want %v", file, text, again, err, p)
		}
		if twice, err := again.MarshalText(); err != nil || !bytes.Equal(twice, text) {
			t.Errorf("prints as %q and then as %q, %v", text, twice, err)
		}
	})
}
