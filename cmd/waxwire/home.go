package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// A home is where an installation keeps its files.
type home struct {
	data string // identity.key and peers/
	flag bool   // --home or WAXWIRE_HOME said so
}

func (h home) identity() string { return filepath.Join(h.data, "identity.key") }
func (h home) peers() string    { return filepath.Join(h.data, "peers") }

// findHome applies --home, then WAXWIRE_HOME, then the usual places of the system. The working
// directory is none of them: whoever owns it would own the tunnel.
func findHome(flag string, getenv func(string) string) (home, error) {
	if flag == "" {
		flag = getenv("WAXWIRE_HOME")
	}
	if flag != "" {
		abs, err := filepath.Abs(flag)
		if err != nil {
			return home{}, fail(codeUsage, err, "cannot find the folder that --home names")
		}
		return home{data: abs, flag: true}, nil
	}
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) { // the specification has others ignored
		return home{data: filepath.Join(dir, "waxwire")}, nil
	}
	if runtime.GOOS == "windows" {
		if dir := getenv("LocalAppData"); dir != "" {
			return home{data: filepath.Join(dir, "waxwire")}, nil
		}
	}
	if dir := getenv("HOME"); filepath.IsAbs(dir) {
		return home{data: filepath.Join(dir, ".local", "share", "waxwire")}, nil
	}
	return home{}, fail(codeUsage, nil, "there is no home folder to keep files in",
		"Name one with --home DIR or WAXWIRE_HOME.")
}

// shorten writes a path as the user would: ~ for the home folder.
func shorten(path string) string {
	if h, err := os.UserHomeDir(); err == nil && h != "/" && h != "" {
		if rest, ok := strings.CutPrefix(path, h+string(filepath.Separator)); ok {
			return "~" + string(filepath.Separator) + rest
		}
	}
	return path
}
