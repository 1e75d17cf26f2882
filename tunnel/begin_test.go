package tunnel_test

import (
	"crypto/ecdh"
	crand "crypto/rand"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// A client that goes as soon as it has proved itself, before its tunnel is all there, does no harm.
func TestGoneAtOnce(t *testing.T) {
	static := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(crand.Reader))
	h := newTestHost(t, func(s *tunnel.Server) {
		unlimited(s)
		s.Path, s.ResumeFor = "", time.Minute
	})
	h.peers.Add(keys.Peer{Name: "static", Key: keys.PublicKey(static.PublicKey().Bytes())})
	for range 100 {
		s := knock(t, h, static)
		record := append([]byte{0x82, 0xfe, 0, 25, 0, 0, 0, 0}, s.out.seal([]byte("\x0412345678"))...)
		s.Write(append(record, 0x88, 0x82, 0, 0, 0, 0, 3, 0xe8)) // and a WebSocket close
		s.Close()
	}
	h.dialSoon(t)
}
