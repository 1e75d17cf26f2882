package forward

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// Programs say to a dynamic forward what they want to be connected to, in SOCKS5 or as to an HTTP proxy.
// The first byte tells which: 5 is SOCKS's version, C the first letter of CONNECT. Whatever begins
// otherwise gets no answer at all, so that a web page that is made to talk to the port learns nothing.

const (
	// proxyTimeout is how long a program may take to say what it wants.
	proxyTimeout = 10 * time.Second
	// maxProxyHead is how long the request may be, head and all.
	maxProxyHead = 8 << 10
	// proxyLinger is how long a program that was refused has to read why.
	proxyLinger = time.Second
)

// errProxy says what is wrong with a request; its text is our own.
type errProxy string

func (e errProxy) Error() string { return string(e) }

// errNotProxy says that what came is neither of the two.
const errNotProxy = errProxy("this is neither SOCKS5 nor HTTP CONNECT")

// A proxyRequest is what a program wants, and how it is answered.
type proxyRequest struct {
	target Address
	in     *bufio.Reader // has what came after the request
	answer proxyAnswer
}

// A proxyAnswer is what a dialect says at the end.
type proxyAnswer interface {
	accepted() []byte
	refused(code tunnel.Code, text string) []byte // text is the other end's
}

// An authorizer is [Forwarder.Authorize].
type authorizer func(user, password string) bool

// readProxyRequest reads a request, and answers what comes before it. It reads maxProxyHead bytes at
// most. What has to be answered for an error has been.
func readProxyRequest(rw io.ReadWriter, auth authorizer) (*proxyRequest, error) {
	in := bufio.NewReaderSize(io.LimitReader(rw, maxProxyHead), maxProxyHead)
	first, err := in.Peek(1)
	if err != nil {
		return nil, err
	}
	r := &proxyRequest{in: in}
	switch first[0] {
	case socksVersion:
		r.answer = socksAnswer{}
		r.target, err = readSOCKS(in, rw, auth)
	case 'C':
		r.answer = httpAnswer{}
		r.target, err = readConnect(in, rw, auth)
	default:
		err = errNotProxy
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// rest is what came together with the request and is the connection's first data.
func (r *proxyRequest) rest() []byte {
	b, _ := r.in.Peek(r.in.Buffered())
	return b
}

// carryDynamic carries a connection that says itself where it wants to go. If it comes to nothing the
// program may have been told, and the connection is still open so that it can read it.
func (l *Listener) carryDynamic(ctx context.Context, c net.Conn) (e Event, refused bool) {
	start, local := time.Now(), l.local
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	c.SetDeadline(start.Add(cmp.Or(l.f.proxyTimeout, proxyTimeout)))
	r, err := readProxyRequest(c, l.f.Authorize)
	if err != nil {
		stop()
		return Event{Kind: Unclear, Local: local, Err: err}, true
	}
	if stop() { // else there is no time left, and that stays so
		c.SetDeadline(time.Time{})
	}
	local.Target = r.target
	st, err := l.openDynamic(ctx, r.target)
	if err != nil {
		code, text, kind := tunnel.Timeout, "", Failed
		var se *tunnel.StreamError
		if errors.As(err, &se) {
			code, text = se.Code, se.Text
			if se.Refused {
				kind = Refused
			}
		}
		c.Write(r.answer.refused(code, text))
		return Event{Kind: kind, Local: local, Err: err}, true
	}
	if _, err = c.Write(r.answer.accepted()); err == nil && len(r.rest()) > 0 {
		_, err = st.Write(r.rest())
	}
	if err != nil {
		st.Reset(tunnel.Cancelled)
		reset(c)
		return Event{Kind: Closed, Local: local, Err: err, Duration: time.Since(start)}, false
	}
	early := int64(len(r.rest()))
	r = nil // and its buffer
	l.f.event(Event{Kind: Opened, Local: local})
	out, in, err := splice(c, st)
	return Event{Kind: Closed, Local: local, Err: err, In: in, Out: out + early, Duration: time.Since(start)}, false
}

// openDynamic opens a stream and waits for the other end's verdict, which the program is to be told. If
// it does not come in time, because the connection is lost, the program had better try again.
func (l *Listener) openDynamic(ctx context.Context, target Address) (*tunnel.Stream, error) {
	st, err := l.openStream(ctx, target)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.f.wait())
	defer cancel()
	if err := st.Opened(ctx); err != nil {
		st.Reset(tunnel.Cancelled)
		return nil, err
	}
	return st, nil
}

// linger closes a connection in a way that lets its other end read what was said last: what is unread
// when a socket is closed makes the kernel send a reset, which overtakes data.
func linger(c net.Conn) {
	closeWrite(c)
	c.SetReadDeadline(time.Now().Add(proxyLinger))
	io.Copy(io.Discard, io.LimitReader(c, 64<<10))
	c.Close()
}
