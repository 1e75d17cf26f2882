package session

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
)

// An ID names a session: 128 random bits of the server.
type ID [16]byte

// Kinds of a request, and statuses of an answer. PROTOCOL.md §6.
const (
	requestNew    = 0
	requestResume = 1
	statusNew     = 0
	statusUnknown = 2
)

const (
	resumeSize = 1 + 16 + 4 + 8     // kind ‖ id ‖ u32 owner ‖ u64 received
	answerSize = 1 + 16 + 4 + 8 + 4 // status ‖ id ‖ u32 owner ‖ u64 received ‖ u32 lifetime
)

var errField = errors.New("bad session field")

// Request is the session field of a client's hello: it asks for a new session.
func Request() []byte { return []byte{requestNew} }

// Answer reads a client's session field and returns the server's: a new session, with the status
// `unknown` if the client asked to resume one, since none is kept.
func Answer(request []byte) ([]byte, error) {
	var status byte
	switch {
	case len(request) == 1 && request[0] == requestNew:
		status = statusNew
	case len(request) == resumeSize && request[0] == requestResume:
		status = statusUnknown
	default:
		return nil, errField
	}
	var id ID
	rand.Read(id[:])
	b := append([]byte{status}, id[:]...)
	b = binary.BigEndian.AppendUint32(b, 1)         // owner
	b = binary.BigEndian.AppendUint64(b, 0)         // received
	return binary.BigEndian.AppendUint32(b, 0), nil // lifetime in seconds: not kept
}

// ParseAnswer reads the server's session field. A lifetime other than zero would make the server keep
// what nobody here acknowledges, until it stalls: it is refused.
func ParseAnswer(b []byte) (ID, error) {
	if len(b) != answerSize || b[0] != statusNew && b[0] != statusUnknown ||
		binary.BigEndian.Uint32(b[17:]) != 1 || binary.BigEndian.Uint64(b[21:]) != 0 ||
		binary.BigEndian.Uint32(b[29:]) != 0 {
		return ID{}, errField
	}
	return ID(b[1:17]), nil
}
