// Package mux carries many streams over one [message.Conn].
//
//	m := mux.New(conn, mux.Config{Client: true})
//	s, err := m.Open(ctx, kind, request)     // does not wait; s is written to at once
//	s, err := peer.Accept(ctx)               // then s.Accept() or s.Refuse(code, text)
//
// What it promises: each stream's bytes arrive once and in order, and the end of each direction
// is told: io.EOF after the other end's CloseWrite or Close, an error after anything else. A
// stream that nobody reads holds up itself alone. What the other end can make us hold has a bound:
// streams, undecided opens, bytes unread (window.go), control frames that wait. The other end's
// opens past a limit are refused and never block. Whoever breaks a rule ends the session.
//
// What it needs from below: messages that arrive once, in order, and from the right peer. A
// message is whole frames, one after another. A conn that has a method RTT() time.Duration is asked
// for the round-trip time, which decides how far windows grow; it should be the recent minimum,
// 0 while it is not known, and must not block. One with a method Room() bool says by it whether
// WriteMessage would return soon; while it would not, only the writer goroutine calls it, so that a
// Write can be given up. The wire is PROTOCOL.md §7.
//
// # Goroutines
//
// Two for each Mux, which [Mux.Close] waits for:
//
//   - the reading loop (Mux.read) parses messages and puts bytes where Reads find them. It never
//     writes and never waits for anything but the conn. It ends with the conn, or when the other
//     end breaks a rule.
//   - the writer (writer.loop) writes what no Write wrote itself. It sleeps while nothing waits. It
//     ends with the Mux.
//
// A timer runs a function of its own for each deadline that passes. Streams have no goroutine, and
// hold no buffer while nothing is unread.
//
// # Sending
//
// A Write that finds nobody writing becomes the owner of the conn's writing side, assembles
// messages and writes them itself, which saves two switches of goroutines. A Write that finds
// somebody writing leaves its slice in line and waits. The owner takes from all that stand in line
// into one message, so the more there is to do, the less each costs. When the owner's own bytes
// are out it hands the ownership to the writer goroutine if something is left. Credit, OPENED and
// the like go through a queue of their own ahead of data, so that they never wait for it.
package mux
