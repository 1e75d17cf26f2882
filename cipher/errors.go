package cipher

import "errors"

var (
	// ErrHandshake says that a handshake failed: what arrived is not a message of the peer we
	// expect, or the peer's key is one that nobody may use. It is one value for all causes, so
	// that it tells an attacker nothing. It is final, and the state is wiped.
	ErrHandshake = errors.New("bad handshake message")

	// ErrTurn says that a handshake was called out of turn: a write where a read is next, a
	// message after the last one, or a split before it. It is a fault of the caller, final all the
	// same, and the state is wiped: no key comes out of a confused handshake.
	ErrTurn = errors.New("handshake called out of turn")

	// ErrOpen says that something is not the next record of the other end: forged, damaged,
	// replayed, out of order, or past the limits of its epoch. It is one value for all causes, it
	// is final, and the keys are wiped.
	ErrOpen = errors.New("bad record")

	// ErrExhausted says that the epoch is full: nothing was sealed, and nothing will be until
	// [Sealer.Ratchet].
	ErrExhausted = errors.New("key epoch is exhausted")

	// ErrWiped says that the keys are gone: Wipe was called, or Split, which hands them on.
	ErrWiped = errors.New("keys are wiped")
)
