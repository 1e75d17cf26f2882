// Package cipher is waxwire's cryptography as pure state: bytes in, bytes out, no I/O and no clock.
//
// It has two parts. A [Handshake] is one end of a Noise handshake, hybrid of X25519 and ML-KEM-768:
// [NewHandshake], then WriteMessage and ReadMessage in turn, then Split. Split gives a [Sealer] for
// what this end sends and an [Opener] for what it receives: [Sealer.Seal] makes a record,
// [Opener.Open] opens the next one, and both ratchet to new keys when a record layer above says so.
//
// What it needs from below is a [keys.Identity] for its static key, and package erase: every
// function here that touches a secret runs under it, so that none stays on a stack or in a register.
// What the objects hold is wiped by Wipe, by Split, and by the first failure. Callers wipe the
// copies that they have themselves, such as a PSK.
//
// It fails closed. A handshake's first error is final; so is a record's that does not open. There is
// one error for all faults of what arrives, and it has no detail. A nonce is a counter that ends in
// an error long before it could wrap.
//
// Nothing here is safe for concurrent use: a direction has one owner. It starts no goroutine of its
// own that outlives a call. The wire format and the key schedule are PROTOCOL.md §1, §3 and §4; the
// handshake is Noise revision 34 (https://noiseprotocol.org/noise.html) with the hfs modifier,
// revision 1, whose KEM is ML-KEM-768 (FIPS 203).
package cipher
