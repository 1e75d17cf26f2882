package tunnel_test

import (
	"errors"
	"strings"
	"testing"

	"waxwire.example/waxwire/tunnel"
)

// Each URL has its turn, and an error says which one it is about, if there are several.
func TestAlternates(t *testing.T) {
	h := newTestHost(t, nil)
	stranger := newTestIdentity(t)
	wrong := func(path string) string { return strings.TrimSuffix(h.url, "/wax") + path }
	tests := []struct {
		name   string
		urls   []string
		change func(*tunnel.Config)
		want   error  // nil: it gets through
		url    string // that the error names
	}{
		{"one that fails", []string{wrong("/a")}, nil, tunnel.ErrNotFound, ""},
		{"the second", []string{wrong("/a"), h.url}, nil, nil, ""},
		{"the third", []string{wrong("/a"), wrong("/b"), h.url}, nil, nil, ""},
		{"none", []string{wrong("/a"), wrong("/b")}, nil, tunnel.ErrNotFound, wrong("/b")},
		{"the server's own word is final", []string{h.url, wrong("/b")},
			func(c *tunnel.Config) { c.Identity = stranger }, &tunnel.RefusedError{Reason: tunnel.NotEnrolled}, h.url},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := h.config()
			cfg.Alternates = tt.urls[1:]
			if tt.change != nil {
				tt.change(cfg)
			}
			tun, err := tunnel.Dial(t.Context(), tt.urls[0], cfg)
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				tun.Close()
				return
			}
			var refused *tunnel.RefusedError
			if !errors.Is(err, tt.want) && !(errors.As(err, &refused) && *refused == *tt.want.(*tunnel.RefusedError)) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			var which *tunnel.DialError
			if got := errors.As(err, &which); got != (tt.url != "") || got && which.URL != tt.url {
				t.Errorf("got %#v, want an error about %q", err, tt.url)
			}
			if n := strings.Count(err.Error(), "tunnel: "); n != 1 || !strings.Contains(err.Error(), tt.url) {
				t.Errorf("it reads %q", err)
			}
		})
	}
}
