// Package session lets what two ends say to each other survive the connection that it is said over.
// PROTOCOL.md §6.
//
// Its promise: segments arrive once each and in order, over as many connections, one after another, as
// it takes. Each is kept, as plaintext, until the other end has acknowledged it, and is sealed anew by
// the next connection if this one is lost. The end is clean only if both ends have said so with an END
// and everything before it has arrived: a connection that merely closes is a lost connection, and a
// session that cannot be resumed is lost as a whole.
//
// What it needs from below is a [Conn] of sealed messages after the confirm rule, and, from whoever
// makes those, that a request and an answer (resume.go) travel sealed in the handshake. Which
// connection owns the session is decided by a number that the server hands out: a higher one takes it
// over at once, without waiting for the old connection, and what that one still delivers is dropped.
//
//	segment.go  segments on the wire, and their memory
//	replay.go   what was sent and is not acknowledged
//	budget.go   how much of that a server keeps in all
//	resume.go   the fields of the handshake
//	session.go  Session: reading, writing, one connection after another
//	write.go    how segments get onto a connection
//	close.go    how a session ends
//	fault_*.go  builds for tests, which lose or double segments
//
// # Goroutines
//
// A Session has none of its own while nothing happens. These live for a moment each; [Session.Close]
// waits for them:
//
//   - whoever calls WriteMessage writes the segment himself. A goroutine (pump) does where nobody else
//     is at it: after a resume, and for an END.
//   - an ACK is written by a goroutine, since the reading one must not wait for a write.
//   - a connection that was taken over is closed by a goroutine.
//   - after the other end's END, one waits for its CLOSE.
//
// A finished session that is resumed answers from the goroutine that calls Attach.
//
// Two timers run functions of their own: one for late ACKs, one that has the connection probed when
// acknowledgements stay away.
package session
