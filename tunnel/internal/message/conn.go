// Package message holds the one interface that waxwire's layers share: a [Conn] carries whole
// messages, reliably and in order, both ways. Each layer of the stack takes one, adds one promise
// and is one again: wsconn, secure, session; mux stands on top of the last.
//
// It also holds what all layers must agree on: the table of codes (PROTOCOL.md §8), the
// errors by which a connection can end, and [Pipe], a pair of connected Conns in memory for tests.
package message

import "context"

// Headroom is how many bytes in front of a message the layers below may overwrite with their own
// headers, so that a message travels down the stack without being copied: one byte for the record
// type (PROTOCOL.md §4), one for the segment type (§6), the rest spare.
const Headroom = 8

// A Conn carries whole messages, reliably and in order, both ways.
type Conn interface {
	// ReadMessage returns the next message. It is valid until the next call. There is one reader.
	// The first error is final.
	ReadMessage(ctx context.Context) ([]byte, error)

	// WriteMessage sends buf[off:] as one message. It may overwrite buf[:off] and the message
	// itself; buf is not kept. off is at least [Headroom] where a layer below adds headers. Any
	// number of writers may call it at once.
	WriteMessage(ctx context.Context, buf []byte, off int) error

	// MaxMessage is the largest message that WriteMessage takes, in bytes.
	MaxMessage() int

	// Close ends the connection with a code that the other end learns if it can be told. It is
	// idempotent and may be called from anywhere; it unblocks both other calls.
	Close(code Code, reason string) error
}
