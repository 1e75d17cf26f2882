package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// A home is where an installation keeps its files.
type home struct {
	data string   // identity.key, peers/ and invites/
	conf string   // servers/
	run  []string // where control sockets are: made in the first, looked for in all
	flag bool     // --home or WAXWIRE_HOME said so
}

func (h home) identity() string { return filepath.Join(h.data, "identity.key") }
func (h home) peers() string    { return filepath.Join(h.data, "peers") }
func (h home) servers() string  { return filepath.Join(h.conf, "servers") }

// invites lie beside the peers: joining moves a file from one folder to the other, in one step.
func (h home) invites() string { return filepath.Join(h.data, "invites") }

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
		return home{data: abs, conf: abs, run: []string{abs}, flag: true}, nil
	}
	data, err := dataFolder(getenv)
	if err != nil {
		return home{}, err
	}
	return home{data: data, conf: configFolder(data, getenv), run: runFolders(data, getenv)}, nil
}

func configFolder(data string, getenv func(string) string) string {
	if dir := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "waxwire")
	}
	if runtime.GOOS == "windows" {
		if dir := getenv("AppData"); dir != "" {
			return filepath.Join(dir, "waxwire")
		}
	}
	if dir := getenv("HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, ".config", "waxwire")
	}
	return data
}

func dataFolder(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) { // the specification has others ignored
		return filepath.Join(dir, "waxwire"), nil
	}
	if runtime.GOOS == "windows" {
		if dir := getenv("LocalAppData"); dir != "" {
			return filepath.Join(dir, "waxwire"), nil
		}
	}
	if dir := getenv("HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, ".local", "share", "waxwire"), nil
	}
	return "", fail(codeUsage, nil, "there is no home folder to keep files in",
		"Name one with --home DIR or WAXWIRE_HOME.")
}

// runFolders are where the control sockets of a home without a flag are. XDG_RUNTIME_DIR goes with a
// login, and what runs outside of one has the state folder: whoever looks, looks in both.
func runFolders(data string, getenv func(string) string) []string {
	var dirs []string
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "waxwire"))
	}
	switch state, h := getenv("XDG_STATE_HOME"), getenv("HOME"); {
	case filepath.IsAbs(state):
		dirs = append(dirs, filepath.Join(state, "waxwire"))
	case runtime.GOOS != "windows" && filepath.IsAbs(h):
		dirs = append(dirs, filepath.Join(h, ".local", "state", "waxwire"))
	default:
		dirs = append(dirs, data)
	}
	return dirs
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
