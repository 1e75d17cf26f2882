package session

import (
	"encoding/binary"
	"errors"
	"time"
)

// An ID names a session: 128 random bits of the server.
type ID [16]byte

// Kinds of a request, and statuses of an answer. PROTOCOL.md §6.
const (
	requestNew    = 0
	requestResume = 1
	statusNew     = 0
	statusResumed = 1
	statusUnknown = 2
)

const (
	resumeSize = 1 + 16 + 4 + 8     // kind ‖ id ‖ u32 owner ‖ u64 received
	answerSize = 1 + 16 + 4 + 8 + 4 // status ‖ id ‖ u32 owner ‖ u64 received ‖ u32 lifetime
)

var errField = errors.New("bad session field")

// A Request is the session field of a client's hello: for a new session, or to resume one.
type Request struct {
	Resume   bool
	ID       ID
	Owner    uint32 // the highest owner number that the client was given
	Received uint64 // counted segments that the client has taken
}

// Append appends the field's value.
func (r *Request) Append(b []byte) []byte {
	if !r.Resume {
		return append(b, requestNew)
	}
	b = append(append(b, requestResume), r.ID[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Owner)
	return binary.BigEndian.AppendUint64(b, r.Received)
}

// ParseRequest reads a client's field.
func ParseRequest(b []byte) (*Request, error) {
	switch {
	case len(b) == 1 && b[0] == requestNew:
		return &Request{}, nil
	case len(b) == resumeSize && b[0] == requestResume:
		return &Request{
			Resume: true, ID: ID(b[1:17]),
			Owner: binary.BigEndian.Uint32(b[17:]), Received: binary.BigEndian.Uint64(b[21:]),
		}, nil
	}
	return nil, errField
}

// An Answer is the session field of a server's answer.
type Answer struct {
	Resumed  bool   // the session that was asked for
	Unknown  bool   // it could not be resumed: this is a new one
	ID       ID     // of the session that it is now
	Owner    uint32 // the number of this connection
	Received uint64 // counted segments that the server has taken
	Lifetime time.Duration
}

// Append appends the field's value.
func (a *Answer) Append(b []byte) []byte {
	status := byte(statusNew)
	switch {
	case a.Resumed:
		status = statusResumed
	case a.Unknown:
		status = statusUnknown
	}
	b = append(append(b, status), a.ID[:]...)
	b = binary.BigEndian.AppendUint32(b, a.Owner)
	b = binary.BigEndian.AppendUint64(b, a.Received)
	return binary.BigEndian.AppendUint32(b, uint32(a.Lifetime/time.Second))
}

// ParseAnswer reads the answer to a request. What does not fit the request is an error.
func ParseAnswer(b []byte, r *Request) (*Answer, error) {
	if len(b) != answerSize {
		return nil, errField
	}
	a := &Answer{
		Resumed: b[0] == statusResumed, Unknown: b[0] == statusUnknown, ID: ID(b[1:17]),
		Owner: binary.BigEndian.Uint32(b[17:]), Received: binary.BigEndian.Uint64(b[21:]),
		Lifetime: time.Duration(binary.BigEndian.Uint32(b[29:])) * time.Second,
	}
	switch b[0] {
	case statusNew:
		if r.Resume || a.Owner != 1 || a.Received != 0 {
			return nil, errField
		}
	case statusUnknown:
		if !r.Resume || a.Owner != 1 || a.Received != 0 {
			return nil, errField
		}
	case statusResumed:
		if !r.Resume || a.ID != r.ID || a.Owner <= r.Owner {
			return nil, errField
		}
	default:
		return nil, errField
	}
	return a, nil
}
