package message

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A Code says why something ended or was refused. CLOSE records, END segments and REFUSED, RESET
// and STOP frames share this table. PROTOCOL.md §8.
type Code uint16

// The table of codes. The values are on the wire: they never change, new ones go at the end.
const (
	OK              Code = 0  // a clean end
	GoingAway       Code = 1  // the endpoint shuts down or restarts: come back later
	ProtocolError   Code = 2  // the other end broke a rule
	PeerRemoved     Code = 3  // the other end is no longer authorised
	NotAllowed      Code = 4  // a permission is missing
	NoSuchTarget    Code = 5  // the name does not resolve, or there is no such socket
	RefusedByTarget Code = 6  // the target refused the connection
	Unreachable     Code = 7  // there is no route to the target
	Timeout         Code = 8  // the target did not answer in time
	TooMany         Code = 9  // a limit is reached
	Cancelled       Code = 10 // the application gave up
	SessionLost     Code = 11 // the connection is gone and cannot be resumed
	Internal        Code = 12 // a fault of the sender's own
)

var codeNames = [...]string{
	OK:              "ok",
	GoingAway:       "going away",
	ProtocolError:   "protocol error",
	PeerRemoved:     "peer removed",
	NotAllowed:      "not allowed",
	NoSuchTarget:    "no such target",
	RefusedByTarget: "connection refused",
	Unreachable:     "unreachable",
	Timeout:         "timed out",
	TooMany:         "too many",
	Cancelled:       "cancelled",
	SessionLost:     "session lost",
	Internal:        "internal error",
}

// String is the code in words, "code 77" for one that this version does not know.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// MaxReason is the longest text that travels beside a code, in bytes of UTF-8. PROTOCOL.md §4.
const MaxReason = 120

// CutReason makes a text fit beside a code: valid UTF-8 of at most [MaxReason] bytes.
func CutReason(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= MaxReason {
		return s
	}
	end := MaxReason
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

var (
	// ErrTruncated says that the connection ended without a sealed CLOSE: nothing vouches for
	// what was read being all there was. It wraps [io.ErrUnexpectedEOF]. PROTOCOL.md §5.
	ErrTruncated = fmt.Errorf("connection lost: %w", io.ErrUnexpectedEOF)

	// ErrRecord says that something arrived which is not a record of the other end: forged,
	// damaged, out of order, too large, or not a binary message. It is one value for all causes,
	// so that it tells an attacker nothing. PROTOCOL.md §5.
	ErrRecord = errors.New("bad record")

	// ErrFraming is an ErrRecord that is not even a WebSocket message as it should be. A proxy on the way
	// may do that without meaning any harm.
	ErrFraming = fmt.Errorf("%w: bad framing", ErrRecord)

	// ErrRule is an ErrRecord that the other end did send: it authenticated, but breaks a rule. An
	// ErrRecord alone may be somebody on the way, who must not be able to end more than a connection.
	ErrRule = fmt.Errorf("%w: a rule was broken", ErrRecord)

	// ErrTooLarge says that a message is larger than MaxMessage. Nothing was sent.
	ErrTooLarge = errors.New("message too large")
)

// A CloseError says with which code and text a connection was closed, and by whom.
type CloseError struct {
	Code   Code
	Reason string // at most [MaxReason] bytes; if Remote, not to be trusted with a terminal as it is
	Remote bool   // the other end closed it
}

func (e *CloseError) Error() string {
	who := "closed"
	if e.Remote {
		who = "closed by the other end"
	}
	if e.Reason == "" {
		return fmt.Sprintf("%s: %v", who, e.Code)
	}
	return fmt.Sprintf("%s: %v: %q", who, e.Code, e.Reason)
}
