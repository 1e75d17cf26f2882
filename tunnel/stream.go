package tunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// Kind says what a stream is for. The values are on the wire. PROTOCOL.md §7.
type Kind uint64

// The kinds of streams.
const (
	KindTCP     Kind = 1 // a TCP connection to Target, a "host:port"
	KindUnix    Kind = 2 // a connection to the unix socket at Target, a path
	KindUDP     Kind = 3 // datagrams
	KindMessage Kind = 4 // messages
	KindFile    Kind = 5 // a file
	KindControl Kind = 6 // between the two endpoints themselves
	KindApp     Kind = 7 // the embedding program's own; Target is its business

	KindListen   Kind = 8 // a client asks to have something listened on: see package forward
	KindAccepted Kind = 9 // a connection that came to it
)

func (k Kind) String() string {
	switch k {
	case KindTCP:
		return "tcp"
	case KindUnix:
		return "unix"
	case KindUDP:
		return "udp"
	case KindMessage:
		return "message"
	case KindFile:
		return "file"
	case KindControl:
		return "control"
	case KindApp:
		return "app"
	case KindListen:
		return "listen"
	case KindAccepted:
		return "accepted"
	}
	return fmt.Sprintf("kind %d", uint64(k))
}

// A Request says what a stream is to reach, at most 1024 bytes of it.
type Request struct {
	Kind   Kind
	Target string
}

// Incoming is a stream that the other end asks for. One of Accept and Refuse must be called, from one
// goroutine.
type Incoming struct{ stream *Stream }

// Request is what the other end asks for. Its Target is the other end's words.
func (i *Incoming) Request() Request { return i.stream.request }

// Tunnel is the tunnel that the stream came through.
func (i *Incoming) Tunnel() *Tunnel { return i.stream.tunnel }

// Accept takes the stream.
func (i *Incoming) Accept() (*Stream, error) {
	if err := i.stream.stream.Accept(); err != nil {
		return nil, publicError(err)
	}
	return i.stream, nil
}

// Refuse turns the stream down, with a code and a short text that the other end gets.
func (i *Incoming) Refuse(code Code, text string) error {
	return publicError(i.stream.stream.Refuse(message.Code(code), text))
}

// Stream is one of many byte streams in a tunnel, with flow control of its own: a [net.Conn] with
// half-close.
//
// [io.EOF] from Read means that the other end has finished writing, and nothing else does: a stream
// that is reset, refused or lost with its tunnel ends in another error.
type Stream struct {
	stream  *mux.Stream
	tunnel  *Tunnel
	request Request
}

var (
	_ net.Conn    = (*Stream)(nil)
	_ io.WriterTo = (*Stream)(nil)
)

// Request is what the stream was opened for.
func (s *Stream) Request() Request { return s.request }

// Tunnel is the tunnel that the stream is in.
func (s *Stream) Tunnel() *Tunnel { return s.tunnel }

// ID is the stream's number in its tunnel.
func (s *Stream) ID() uint64 { return s.stream.ID() }

// Opened waits for the other end's verdict on a stream that this end opened: nil, or a [*StreamError]
// with the reason. ctx bounds the wait, not the stream.
func (s *Stream) Opened(ctx context.Context) error { return publicError(s.stream.Opened(ctx)) }

// Read reads up to len(p) bytes; they are no longer the tunnel's afterwards, so the other end may send more.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.stream.Read(p)
	if err != nil {
		err = publicError(err)
	}
	return n, err
}

// Write returns when p has been handed to the connection; it waits while the other end reads slowly.
func (s *Stream) Write(p []byte) (int, error) {
	n, err := s.stream.Write(p)
	if err != nil {
		err = publicError(err)
	}
	return n, err
}

// WriteTo writes all that arrives to w, without a copy in between. It ends without an error when the
// other end has finished writing.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.stream.WriteTo(w)
	return n, publicError(err)
}

// CloseWrite says that no more will be written; reading goes on.
func (s *Stream) CloseWrite() error { return publicError(s.stream.CloseWrite()) }

// CloseRead says that no more will be read: what arrives is dropped and the writer is told to stop.
func (s *Stream) CloseRead() error { return publicError(s.stream.CloseRead(message.Cancelled)) }

// Reset gives up both ways at once. The other end gets a [*StreamError] with the code.
func (s *Stream) Reset(code Code) error { return publicError(s.stream.Reset(message.Code(code))) }

// Close finishes writing, if that has not been done, and gives up reading, if there is more to come.
func (s *Stream) Close() error { return publicError(s.stream.Close()) }

// SetDeadline, SetReadDeadline and SetWriteDeadline are those of [net.Conn].
func (s *Stream) SetDeadline(t time.Time) error { return s.stream.SetDeadline(t) }

// SetReadDeadline: see [net.Conn].
func (s *Stream) SetReadDeadline(t time.Time) error { return s.stream.SetReadDeadline(t) }

// SetWriteDeadline: see [net.Conn].
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.stream.SetWriteDeadline(t) }

// LocalAddr and RemoteAddr are names of the stream's ends, not network addresses.
func (s *Stream) LocalAddr() net.Addr { return streamAddr{"waxwire", s.request.Target} }

// RemoteAddr: see LocalAddr.
func (s *Stream) RemoteAddr() net.Addr { return streamAddr{"waxwire", s.request.Target} }

type streamAddr struct{ network, name string }

func (a streamAddr) Network() string { return a.network }
func (a streamAddr) String() string  { return a.name }
