// Package wsconn makes one WebSocket a [message.Conn]: each message is one BinaryMessage. It is the
// only package that knows the WebSocket library.
//
// Its promise: whole messages of a bounded size, one frame and one system call each where they fit
// the write buffer, and nothing else. A text message, an oversized one or broken framing ends the
// connection with [message.ErrFraming]; a connection that merely ends (a WebSocket close frame, EOF,
// a reset, a deadline) ends with [message.ErrTruncated], since nothing here vouches for the end.
// WebSocket pings are answered and prove nothing. PROTOCOL.md §2 (hello and answer), §4, §5.
//
// The handshake of the layer above travels in the Waxwire-Hello header of the upgrade, both ways:
// [Dial] sends one and returns the answer, [ParseRequest] and [Accept] are the server's side. This
// package looks at its form only (one header, canonical base64url, exact length).
//
// Goroutines: one for a WebSocket pong that waits to be written, at most one at a time, ended by its
// write deadline or by Close, and waited for by Close.
package wsconn
