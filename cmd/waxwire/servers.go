package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"waxwire.example/waxwire/keys"
)

// A savedServer is a file of the servers folder, called NAME.yaml: a server that was joined. The user may
// change it.
type savedServer struct {
	URL string `yaml:"url"` // or several of one server with commas between them
	Key string `yaml:"key"` // the pin
}

const (
	savedSuffix = ".yaml"
	maxSaved    = 64 << 10 // bytes of such a file
)

func (h home) server(name string) string { return filepath.Join(h.servers(), name+savedSuffix) }

// savedNames are the names of the servers that were joined, in order.
func (h home) savedNames() []string {
	files, err := os.ReadDir(h.servers())
	if err != nil {
		return nil
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), savedSuffix); ok && keys.ValidName(name) == nil {
			names = append(names, name)
		}
	}
	return names
}

// findServer reads SERVER: the name of a saved server, or URLs with --server-key.
func (a *app) findServer(text, key string) (server, error) {
	if strings.Contains(text, "://") || keys.ValidName(text) != nil {
		return parseServer(text, key)
	}
	h, err := a.home()
	if err != nil {
		return server{}, err
	}
	s, err := h.readServer(text)
	if errors.Is(err, fs.ErrNotExist) {
		return server{}, h.noSuchServer(text)
	}
	if err == nil && key != "" && key != s.key.String() {
		return server{}, usagef("--server-key: %s has another key, which %s says", text, shorten(h.server(text)))
	}
	return s, err
}

// noSuchServer says that there is no saved server of a name, and what there is.
func (h home) noSuchServer(name string) *failure {
	f := fail(codeNoSuchServer, nil, fmt.Sprintf("there is no server %q here", visible(name)))
	saved := h.savedNames()
	switch best := closest(name, saved); {
	case best != "":
		f.text += fmt.Sprintf(". Did you mean %q?", best)
	case len(saved) > 0:
		f.hints = append(f.hints, "Saved: "+cut(strings.Join(saved, ", "), 200))
	}
	f.hints = append(f.hints, "Join one with an invite:  waxwire join INVITE",
		"Or name its URL, ws://HOST[:PORT]/wax or wss://..., and its --server-key.")
	return f
}

// readServer reads the file of a saved server. If there is none the error is fs.ErrNotExist.
func (h home) readServer(name string) (server, error) {
	path := h.server(name)
	bad := func(err error, format string, args ...any) (server, error) {
		return server{}, fail(codeServerFile, err, fmt.Sprintf("%s: %s", shorten(path), visible(fmt.Sprintf(format, args...))))
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return server{}, err
	} else if err != nil {
		return bad(err, "%s", plain(errors.Unwrap(err)))
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && othersCanWrite(info) {
		_, err := bad(nil, "it can be written by other users (%04o)", info.Mode().Perm())
		err.(*failure).hints = []string{"chmod 600 " + shorten(path)}
		return server{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSaved+1))
	if err != nil || len(data) > maxSaved {
		return bad(err, "it cannot be read, or is too large")
	}
	var saved savedServer
	if err := yaml.Load(data, &saved, yaml.WithKnownFields()); err != nil {
		var all *yaml.LoadErrors
		if errors.As(err, &all) && len(all.Errors) > 0 {
			return bad(err, "line %d: %s", all.Errors[0].Mark.Line, unknownSetting(all.Errors[0].Message))
		}
		var one *yaml.LoadError
		if errors.As(err, &one) {
			return bad(err, "line %d: %s", one.Mark.Line, one.Message)
		}
		return bad(err, "%s", err)
	}
	if saved.URL == "" || saved.Key == "" {
		return bad(nil, "there has to be a url and a key")
	}
	s, err := parseServer(saved.URL, saved.Key)
	if err != nil {
		return bad(err, "%s", strings.TrimPrefix(err.Error(), "--server-"))
	}
	s.saved = name
	return s, nil
}

// unknownSetting says in our words what the library says in those of Go.
func unknownSetting(message string) string {
	if field, _, ok := strings.Cut(message, " not found in type "); ok {
		return strings.TrimPrefix(field, "field ") + ": unknown setting; there are url and key"
	}
	return message
}

// saveServer writes the file of a server, in place of one that is there.
func (h home) saveServer(name string, s server) error {
	data, err := yaml.Dump(savedServer{URL: s.urls(), Key: s.key.String()})
	if err != nil {
		return err
	}
	path := h.server(name)
	if err := os.MkdirAll(h.servers(), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(h.servers(), "."+name+".tmp-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of no effect once it is renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// urls is what parseServer reads again.
func (s server) urls() string {
	return strings.Join(append([]string{s.url.String()}, s.alternates()...), ",")
}

// nameOf makes the name of a server of the host of its URL: relay of relay.example.net.
func nameOf(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	if first, _, ok := strings.Cut(host, "."); ok && strings.Trim(host, "0123456789.") != "" {
		host = first
	}
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, host)
	if name = strings.Trim(name[:min(len(name), 32)], "-"); name == "" {
		return "server"
	}
	return name
}

// completeServers offers the names of the saved servers, for the first word only.
func (a *app) completeServers(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	h, err := a.home()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Clone(h.savedNames()), cobra.ShellCompDirectiveNoFileComp
}
