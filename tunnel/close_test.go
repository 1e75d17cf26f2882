package tunnel_test

import (
	"errors"
	"io"
	"testing"

	"waxwire.example/waxwire/tunnel"
)

// The server closes what a lost tunnel leaves behind. That must not pass for the program's own Close.
func TestLostTunnelIsNotClosedHere(t *testing.T) {
	h := newTestHost(t, unlimited)
	for range 200 {
		cut, dial := cuttable()
		cfg := h.config()
		cfg.NetDial = dial
		client, err := tunnel.Dial(t.Context(), h.url, cfg)
		if err != nil {
			t.Fatal(err)
		}
		server, err := h.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a, b := pipe(t, client, server)
		go io.Copy(io.Discard, a)
		go func() { // a writer notices the loss too, beside the reader
			for {
				if _, err := b.Write([]byte("x")); err != nil {
					return
				}
			}
		}()
		cut()
		for _, end := range []*tunnel.Tunnel{server, client} {
			waitDone(t, end)
			if err := end.Err(); !errors.Is(err, tunnel.ErrTruncated) {
				t.Fatalf("a lost tunnel ended with %v, want %v", err, tunnel.ErrTruncated)
			}
		}
		client.Close()
	}
}
