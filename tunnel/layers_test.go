package tunnel_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "waxwire.example/waxwire"

// layers is the order of the packages: each may import the ones it names and no others of ours.
// Imports point down only, so that who reads a package needs to know nothing of those above it.
var layers = map[string][]string{
	"keys/internal/bech32":                  {},
	"keys/erase/internal/regs":              {},
	"keys/erase":                            {"keys/erase/internal/regs"},
	"keys":                                  {"keys/erase", "keys/internal/bech32"},
	"cipher":                                {"keys", "keys/erase"},
	"tunnel/internal/message":               {},
	"tunnel/internal/wsconn":                {"tunnel/internal/message"},
	"tunnel/internal/session":               {"tunnel/internal/message"},
	"tunnel/internal/mux":                   {"tunnel/internal/message"},
	"tunnel/internal/secure":                {"tunnel/internal/message", "cipher", "keys", "keys/erase"},
	"tunnel/internal/tunneltest":            {},
	"tunnel/internal/tunneltest/chaosproxy": {"tunnel/internal/tunneltest"},
	"tunnel": {
		"tunnel/internal/message", "tunnel/internal/wsconn", "tunnel/internal/secure",
		"tunnel/internal/session", "tunnel/internal/mux", "cipher", "keys", "keys/erase",
	},
	"tunnel/forward":      {"tunnel", "keys"},
	"cmd/waxwire":         {"tunnel/forward", "tunnel", "cipher", "keys", "keys/erase"},
	"examples/echo":       {"tunnel", "keys"},
	"examples/httpserver": {"tunnel", "keys"},
}

// only names packages that may be imported in one place: the WebSocket library and the primitives.
var only = map[string][]string{
	"github.com/gorilla/websocket":         {"tunnel/internal/wsconn"},
	"crypto/aes":                           {"cipher", "keys/erase"},
	"crypto/mlkem":                         {"cipher", "keys/erase"},
	"crypto/ecdh":                          {"cipher", "keys", "keys/erase"},
	"golang.org/x/crypto/chacha20poly1305": {"cipher", "keys", "keys/erase"},
	"crypto/hkdf":                          {},
	"crypto/hmac":                          {},
	"unsafe":                               {},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func goList(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Standard"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestImportsPointDown(t *testing.T) {
	seen := 0
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		allowed, ok := layers[name]
		if !ok {
			t.Errorf("package %s has no place in the table of layers", name)
			continue
		}
		seen++
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, module+"/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which is not below it", name, ours)
			}
			if places, ok := only[imported]; ok && !slices.Contains(places, name) && !strings.HasPrefix(name, "cmd/") {
				t.Errorf("%s imports %s, which belongs to %v", name, imported, places)
			}
		}
	}
	if seen != len(layers) {
		t.Errorf("the table of layers has %d packages, the tree %d of them", len(layers), seen)
	}
}

// Who embeds the library pulls in the WebSocket library and golang.org/x, and nothing else.
func TestLibraryDependencies(t *testing.T) {
	packages := goList(t, "-deps", "./keys/...", "./cipher/...", "./tunnel/...")
	outside := 0
	for _, p := range packages {
		switch {
		case p.Standard, p.ImportPath == module, strings.HasPrefix(p.ImportPath, module+"/"):
		case strings.HasPrefix(p.ImportPath, "golang.org/x/"), p.ImportPath == "github.com/gorilla/websocket":
			outside++
		default:
			t.Errorf("the library depends on %s", p.ImportPath)
		}
	}
	if outside == 0 {
		t.Error("no dependency was listed at all: go list did not do what this test thinks")
	}
}
