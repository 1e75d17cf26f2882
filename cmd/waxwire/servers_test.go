package main

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rsc.io/qr"

	"waxwire.example/waxwire/keys"
)

func TestNameOf(t *testing.T) {
	for text, want := range map[string]string{
		"wss://relay.example.net/wax":               "relay",
		"ws://Desk:8443/wax":                        "desk",
		"ws://127.0.0.1:8443/wax":                   "127-0-0-1",
		"ws://[2001:db8::5]:1/wax":                  "2001-db8--5",
		"ws://[::1]/wax":                            "1",
		"ws://my_host.local/":                       "my-host",
		"ws://é.example/":                           "server",
		"ws://" + strings.Repeat("a", 60) + ".net/": strings.Repeat("a", 32),
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := nameOf(u); got != want || keys.ValidName(got) != nil {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 11, 23, 14, 0, 0, 0, time.Local)
	for at, want := range map[time.Time]string{
		now.Add(time.Hour):       "15:00",
		now.Add(-15 * time.Hour): "2026-11-22 23:00",
		now.AddDate(1, 0, 0):     "2027-11-23 14:00",
	} {
		if got := clock(at.UTC(), now); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// What is saved is read again, several URLs and odd characters too, and only by its user.
func TestSaveServer(t *testing.T) {
	h := home{conf: t.TempDir()}
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	for n, text := range []string{
		"wss://relay.example.net/wax", "ws://a:1/wax,wss://b/x%20y?z=%23", "ws://[fe80::1%25eth0]:8443/wax", "ws://h/'\"{}[]&*!|>%25@`",
	} {
		s, err := parseServer(text, id.Public().String())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time in place of the first
			if err := h.saveServer("relay", s); err != nil {
				t.Fatal(err)
			}
		}
		got, err := h.readServer("relay")
		if err != nil || got.urls() != s.urls() || got.key != s.key || got.name() != "relay" {
			t.Errorf("%d: saved %v, read %v, %v", n, s.urls(), got.urls(), err)
		}
	}
	files, err := os.ReadDir(filepath.Join(h.conf, "servers"))
	if err != nil || len(files) != 1 {
		t.Errorf("files %v, %v", files, err)
	}
}

// FuzzSavedServer: no file makes a server without a key, and what is read can be saved.
func FuzzSavedServer(f *testing.F) {
	const key = "wax1zwvd0kkhs8hum5suun860kmf84ttag4pza6eznn5lzz5e0euld7qrtq2x9"
	f.Add([]byte("url: ws://h/wax\nkey: " + key + "\n"))
	f.Add([]byte("{url: 'ws://a,ws://b', key: " + key + "}"))
	f.Add([]byte("url: &a ws://h\nkey: *a\n"))
	f.Add([]byte("url: ws://h\nurl: ws://i\nkey: x\n"))
	f.Add([]byte("- a\n- [b\n"))
	h := home{conf: f.TempDir()}
	if err := os.MkdirAll(h.servers(), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if err := os.WriteFile(h.server("x"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := h.readServer("x")
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("the error is %q", err)
			}
			return
		}
		if s.key == (keys.PublicKey{}) || s.url.Hostname() == "" {
			t.Errorf("%q was read as %+v", file, s)
		}
		if err := h.saveServer("y", s); err != nil {
			t.Fatal(err)
		}
		if again, err := h.readServer("y"); err != nil || again.urls() != s.urls() || again.key != s.key {
			t.Errorf("%q was read as %v, and when saved as %v, %v", file, s.urls(), again.urls(), err)
		}
	})
}

// What is drawn are the modules of the code, with light ones around, on an 80-column screen.
func TestDrawQR(t *testing.T) {
	invite, err := keys.NewInvite("wss://relay.example.net:8443/wax", keys.PublicKey{1}, time.Unix(1<<31, 0))
	if err != nil {
		t.Fatal(err)
	}
	text, err := invite.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(string(text), qr.L)
	if err != nil {
		t.Fatal(err)
	}
	for _, unicode := range []bool{true, false} {
		picture, err := drawQR(string(text), unicode, false)
		if err != nil {
			t.Fatal(err)
		}
		var rows [][]bool // light
		for line := range strings.Lines(picture) {
			upper, lower := []bool{}, []bool{}
			cells := []rune(strings.TrimSuffix(line, "\n"))
			if unicode && len(cells) > 80 {
				t.Errorf("a line of %d columns", len(cells))
			}
			for i := 0; i < len(cells); i++ {
				switch c := cells[i]; {
				case !unicode:
					upper = append(upper, c == '#')
					i++ // two a module
				default:
					upper = append(upper, c == '█' || c == '▀')
					lower = append(lower, c == '█' || c == '▄')
				}
			}
			rows = append(rows, upper)
			if unicode {
				rows = append(rows, lower)
			}
		}
		size := code.Size + 2*qrQuiet
		if len(rows) < size || len(rows) > size+1 || len(rows[0]) != size {
			t.Fatalf("%d rows of %d modules, want %d", len(rows), len(rows[0]), size)
		}
		for y := range size {
			for x := range size {
				if want := !code.Black(x-qrQuiet, y-qrQuiet); rows[y][x] != want {
					t.Fatalf("unicode %v: module %d, %d is light: %v, want %v", unicode, x, y, rows[y][x], want)
				}
			}
		}
		if coloured, _ := drawQR(string(text), unicode, true); strings.Count(coloured, "\x1b[97;40m") != strings.Count(picture, "\n") {
			t.Error("not every line has its colours")
		}
	}
}
