// Package tunnel carries streams and messages between two ends that know each other's keys, sealed
// inside a WebSocket: through proxies and firewalls that only let the web pass, and past a middlebox
// that breaks TLS open.
//
// A client calls [Dial] and then [Tunnel.OpenStream]; a server is a [Server], which is an
// [net/http.Handler], and calls [Server.Accept] and [Tunnel.AcceptStream]. A [Stream] is a [net.Conn].
// [Listener] and [Tunnel.DialContext] put programs that know nothing of tunnels into one. Package
// forward, below this one, carries TCP and unix sockets.
//
// # What is promised
//
// Each WebSocket message is one record under AES-256-GCM or ChaCha20-Poly1305. The keys come from a
// Noise IK handshake with X25519 and ML-KEM-768, in which each end proves its own key: the server's is
// given in [Config], the client's is looked up in [Server.Peers]. There is no mode without.
//
// A tunnel that loses its network connection makes another one, with keys of its own, and goes on where
// it was: nothing that was written is lost or arrives twice. What has not been acknowledged is kept in
// memory until then. If the server keeps it no longer, all streams fail with [SessionLost].
//
// On every path by which a connection ends, its keys are erased before anybody learns that it ended. The
// end of a tunnel is [io.EOF] only if both ends have sealed it.
//
// The buffers of this package that held plaintext are cleared when they are given back, the last one
// of a [Conn] by the ReadMessage that returns its end. The WebSocket library sees ciphertext only. What
// the program itself holds, and what the kernel has of local sockets, stays there as long as they like.
// [Server.Close] wipes the server's key; a client's is for its owner to wipe, after the last tunnel.
//
// TestErasure holds all of this to the memory of a process. Package keys/erase says what the default
// build may leave and the one with GOEXPERIMENT=runtimesecret does not.
//
// # Limits
//
// A message is at most [Config.MaxMessage] bytes on the wire. A stream may have 256 KiB under way, and
// more as the path needs it, up to 16 MiB; a tunnel has at most 1024 streams each way. [Limits] bounds
// what clients cost a server.
//
// The wire is described in PROTOCOL.md, beside this file.
package tunnel
