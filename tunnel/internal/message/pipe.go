package message

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
)

// Pipe returns two connected Conns in memory, for tests. A message that was written is held by the
// pipe until it is read; at most depth of them are (0 makes each write wait for its read). Messages
// of up to max bytes fit. What one end closes with reaches the other after the messages before it:
// [io.EOF] for [OK], a [*CloseError] for any other code.
func Pipe(depth, max int) (a, b Conn) {
	ab, ba := make(chan []byte, depth), make(chan []byte, depth)
	left := &pipeEnd{send: ab, recv: ba, max: max, closed: make(chan struct{})}
	right := &pipeEnd{send: ba, recv: ab, max: max, closed: make(chan struct{})}
	left.other, right.other = right, left
	return left, right
}

type pipeEnd struct {
	send chan<- []byte
	recv <-chan []byte
	max  int

	other  *pipeEnd
	once   sync.Once
	closed chan struct{} // closed by Close
	reason CloseError    // set before closed is closed
}

func (p *pipeEnd) ReadMessage(ctx context.Context) ([]byte, error) {
	select {
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	case m := <-p.recv:
		return m, nil
	case <-p.other.closed:
	}
	select { // what was written before the close comes first
	case m := <-p.recv:
		return m, nil
	default:
	}
	if p.other.reason.Code == OK {
		return nil, io.EOF
	}
	return nil, &CloseError{Code: p.other.reason.Code, Reason: p.other.reason.Reason, Remote: true}
}

func (p *pipeEnd) WriteMessage(ctx context.Context, buf []byte, off int) error {
	if len(buf)-off > p.max {
		return ErrTooLarge
	}
	select {
	case <-p.closed:
		return net.ErrClosed
	case <-p.other.closed:
		return ErrTruncated
	default:
	}
	select {
	case <-p.closed:
		return net.ErrClosed
	case <-p.other.closed:
		return ErrTruncated
	case <-ctx.Done():
		return ctx.Err()
	case p.send <- slices.Clone(buf[off:]):
		return nil
	}
}

func (p *pipeEnd) MaxMessage() int { return p.max }

func (p *pipeEnd) Close(code Code, reason string) error {
	p.once.Do(func() {
		p.reason = CloseError{Code: code, Reason: reason}
		close(p.closed)
	})
	return nil
}
