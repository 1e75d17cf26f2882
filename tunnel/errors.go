package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

var (
	// ErrTruncated says that the connection was lost: it ended without the other end's sealed word, so
	// what was read may not be all there was. It wraps [io.ErrUnexpectedEOF].
	ErrTruncated = fmt.Errorf("tunnel: the connection was lost: %w", io.ErrUnexpectedEOF)

	// ErrRecord says that something arrived which the other end did not send so, or was not allowed
	// to: forged, damaged, out of order or out of bounds. It is one value for all causes.
	ErrRecord = errors.New("tunnel: a bad record arrived")

	// ErrNotFound is a bare 404: the path is wrong, or the server has another key than the one given,
	// or somebody is in between. It is no verdict: trying again is right for a client that was
	// connected before.
	ErrNotFound = errors.New("tunnel: the server did not answer as the holder of this key")

	// ErrAnswer says that an answer claimed to come from the server but does not open: damaged or
	// forged on the way.
	ErrAnswer = errors.New("tunnel: the server's answer was damaged on the way")

	// ErrServerClosed is what Accept returns once the server shuts down.
	ErrServerClosed = errors.New("tunnel: server closed")

	// ErrTooLarge says that a message is larger than the connection takes. Nothing was sent.
	ErrTooLarge = errors.New("tunnel: message too large")
)

// A Code says why a tunnel or stream ended or was refused. The values are on the wire.
type Code uint16

// The table of codes, which all layers share. PROTOCOL.md §8.
const (
	OK              = Code(message.OK)              // a clean end
	GoingAway       = Code(message.GoingAway)       // the endpoint shuts down or restarts
	ProtocolError   = Code(message.ProtocolError)   // the other end broke a rule
	PeerRemoved     = Code(message.PeerRemoved)     // the other end is no longer authorised
	NotAllowed      = Code(message.NotAllowed)      // a permission is missing
	NoSuchTarget    = Code(message.NoSuchTarget)    // the name does not resolve, or there is no such socket
	RefusedByTarget = Code(message.RefusedByTarget) // the target refused the connection
	Unreachable     = Code(message.Unreachable)     // there is no route to the target
	Timeout         = Code(message.Timeout)         // the target did not answer in time
	TooMany         = Code(message.TooMany)         // a limit is reached
	Cancelled       = Code(message.Cancelled)       // the application gave up
	SessionLost     = Code(message.SessionLost)     // the connection is gone and cannot be resumed
	Internal        = Code(message.Internal)        // a fault of the sender's own
)

func (c Code) String() string { return message.Code(c).String() }

// A CloseError says that a tunnel or connection was closed with a code other than [OK].
type CloseError struct {
	Code   Code
	Reason string // if Remote, the other end's words: clean them before a terminal sees them
	Remote bool   // the other end closed
}

func (e *CloseError) Error() string {
	return "tunnel: " + (&message.CloseError{Code: message.Code(e.Code), Reason: e.Reason, Remote: e.Remote}).Error()
}

// A StreamError says that a stream was refused, given up by one of the ends, or lost with its tunnel.
type StreamError struct {
	Code    Code
	Text    string // if Remote, the other end's words: clean them before a terminal sees them
	Remote  bool   // the other end's doing
	Refused bool   // the stream was never accepted
}

func (e *StreamError) Error() string {
	what := "ended"
	if e.Refused {
		what = "refused"
	}
	if e.Remote {
		what += " by the other end"
	}
	if e.Text == "" {
		return fmt.Sprintf("tunnel: stream %s: %v", what, e.Code)
	}
	return fmt.Sprintf("tunnel: stream %s: %v: %q", what, e.Code, e.Text)
}

// A RefusedReason says why a server that knows who is asking does not let it in.
type RefusedReason uint8

// The reasons. The values are on the wire. PROTOCOL.md §2.
const (
	NotEnrolled     = RefusedReason(secure.NotEnrolled)     // the key is not, or no longer, known
	InviteUsed      = RefusedReason(secure.InviteUsed)      // somebody has used the invite
	InviteExpired   = RefusedReason(secure.InviteExpired)   // the invite is too old, or unknown
	URLUnexpected   = RefusedReason(secure.URLUnexpected)   // dialled under a URL that the server does not go by
	NoCommonSuite   = RefusedReason(secure.NoCommonSuite)   // no cipher that both ends allow
	BadPayload      = RefusedReason(secure.BadPayload)      // the server does not understand, or not offer, what was asked for
	TooManySessions = RefusedReason(secure.TooManySessions) // the key has as many connections as it may
)

var refusedTexts = map[RefusedReason]string{
	NotEnrolled:     "this key is not enrolled",
	InviteUsed:      "the invite was used",
	InviteExpired:   "the invite has expired or is unknown",
	URLUnexpected:   "the server does not go by this URL",
	NoCommonSuite:   "no cipher in common",
	BadPayload:      "the server does not offer what was asked for",
	TooManySessions: "too many connections of this key",
}

func (r RefusedReason) String() string {
	if s, ok := refusedTexts[r]; ok {
		return s
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// A RefusedError is the server's own word, sealed by its key, that it does not let this client in.
type RefusedError struct {
	Reason RefusedReason
	Time   time.Time // when an invite was used or expired; zero where it does not apply
}

func (e *RefusedError) Error() string { return "tunnel: refused by the server: " + e.Reason.String() }

// An AnswerError is an answer that did not come from a waxwire server: another web server's, a
// proxy's, or a 503 that asks to come back later. Nothing in it is authenticated.
type AnswerError struct {
	Status     int           // of HTTP
	Text       string        // "502 Bad Gateway"
	Server     string        // the Server field, to be cleaned before a terminal sees it
	RetryAfter time.Duration // what a 503 asked for; 0: nothing
}

func (e *AnswerError) Error() string { return fmt.Sprintf("tunnel: the server answered %q", e.Text) }

// A ProxyError says that the proxy of [Config.Proxy] could not be reached, or did not connect to the
// server. It has neither the name nor the password of the proxy's URL. Nothing in it is authenticated.
type ProxyError struct {
	Proxy   string   // the proxy's address, HOST:PORT
	Reached bool     // it was spoken to
	Login   bool     // it wants a name and password, or others than it got
	Schemes []string // how it would take them, if it speaks HTTP; to be cleaned before a terminal sees them
	Text    string   // what it answered, if it did; to be cleaned as well
	Err     error    // what happened, if it did not
}

func (e *ProxyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("tunnel: proxy %s: %v", e.Proxy, e.Err)
	}
	return fmt.Sprintf("tunnel: proxy %s answered %q", e.Proxy, e.Text)
}

func (e *ProxyError) Unwrap() error { return e.Err }

// A DialError says which URL of a server an error is about, if there are [Config.Alternates].
type DialError struct {
	URL string
	Err error
}

func (e *DialError) Error() string {
	return "tunnel: " + e.URL + ": " + strings.TrimPrefix(e.Err.Error(), "tunnel: ")
}
func (e *DialError) Unwrap() error { return e.Err }

// publicError turns an error of a layer below into this package's.
func publicError(err error) error {
	var closed *message.CloseError
	var stream *mux.StreamError
	var refused *secure.RefusedError
	var proxy *wsconn.ProxyError
	switch err.(type) {
	case *CloseError, *StreamError, *RefusedError, *AnswerError, *ProxyError, *DialError: // it is one: from a try to resume, or from Tunnel.Err
		return err
	}
	switch {
	case err == ErrTruncated, err == ErrRecord, err == ErrNotFound, err == ErrAnswer:
		return err
	case err == nil, err == io.EOF, err == context.Canceled, err == context.DeadlineExceeded,
		errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case errors.As(err, &proxy):
		return &ProxyError{
			Proxy: proxy.Proxy, Reached: proxy.Reached, Login: proxy.Login,
			Schemes: proxy.Schemes, Text: proxy.Text, Err: proxy.Err,
		}
	case errors.As(err, &stream):
		return &StreamError{Code: Code(stream.Code), Text: stream.Text, Remote: stream.Remote, Refused: stream.Refused}
	case errors.As(err, &closed):
		return &CloseError{Code: Code(closed.Code), Reason: closed.Reason, Remote: closed.Remote}
	case errors.As(err, &refused):
		return &RefusedError{Reason: RefusedReason(refused.Reason), Time: refused.Time}
	case errors.Is(err, message.ErrRecord):
		return ErrRecord
	case errors.Is(err, message.ErrTooLarge):
		return ErrTooLarge
	case errors.Is(err, message.ErrTruncated):
		return ErrTruncated
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, secure.ErrAnswer):
		return ErrAnswer
	}
	return fmt.Errorf("tunnel: %w", err)
}
