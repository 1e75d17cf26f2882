// Package secure proves both ends' keys and from then on seals every message: it makes the hello,
// finishes with the answer, and runs package cipher over a WebSocket. PROTOCOL.md §2 to §5.
//
// Its promise: what ReadMessage returns was sent by the other end on this connection, whole, once and
// in order; an end that the other end did not seal is never a clean one; and on every path by which
// the connection ends, its keys are wiped before anybody learns that it ended.
//
// What it needs from below is a [Carrier]: a conn of messages that can be interrupted for good.
//
//	handshake.go  Hello (client) and Opened (server): the two handshake messages
//	payload.go    what they carry, sealed
//	replay.go     hellos that were seen before
//	conn.go       Conn: records out and in, their types
//	rekey.go      when a key is replaced, and the sealed ping that decides who is alive
//	close.go      the one way by which a Conn ends
//
// Goroutines: a Conn has none of its own while nothing happens. A timer looks at it every few
// seconds; records that nobody is writing for (PING, PONG, REKEY) are sent by a goroutine that lives
// until its write is done, bounded by the write's deadline. [Conn.Close] waits for both.
package secure
