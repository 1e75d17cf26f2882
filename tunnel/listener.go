package tunnel

import (
	"context"
	"fmt"
	"net"
)

// DialContext opens a stream as [net.Dialer.DialContext] opens a connection, so that it fits an
// [net/http.Transport] or a database driver. The networks "tcp" and "unix" ask the other end to
// connect to address, and "app" asks its [Listener]. It returns when the other end has agreed.
func (t *Tunnel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	r := Request{Target: address}
	switch network {
	case "tcp", "tcp4", "tcp6":
		r.Kind = KindTCP
	case "unix":
		r.Kind = KindUnix
	case "app":
		r.Kind = KindApp
	default:
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
	}
	s, err := t.OpenStream(ctx, r)
	if err == nil {
		if err = s.Opened(ctx); err == nil {
			return s, nil
		}
		s.Reset(Cancelled)
	}
	return nil, &net.OpError{Op: "dial", Net: network, Addr: streamAddr{network, address}, Err: err}
}

// Listener accepts the streams of kind [KindApp] that the other end opens, as [net.Conn]s, so that an
// [net/http.Server] or any other one can serve a tunnel. Streams of other kinds are refused: a tunnel
// has one acceptor. Closing the listener leaves the tunnel and its streams alone.
func Listener(t *Tunnel) net.Listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &listener{tunnel: t, ctx: ctx, cancel: cancel}
}

type listener struct {
	tunnel *Tunnel
	ctx    context.Context // ends with Close; a listener's life, not a call's
	cancel context.CancelFunc
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		in, err := l.tunnel.AcceptStream(l.ctx)
		if l.ctx.Err() != nil {
			if in != nil {
				in.Refuse(GoingAway, "nobody is listening any more")
			}
			return nil, net.ErrClosed
		}
		if err != nil {
			return nil, err
		}
		if kind := in.Request().Kind; kind != KindApp {
			in.Refuse(NotAllowed, fmt.Sprintf("%v streams are not served here", kind))
			continue
		}
		s, err := in.Accept()
		if err != nil { // the other end has given it up meanwhile
			continue
		}
		return s, nil
	}
}

func (l *listener) Close() error {
	l.cancel()
	return nil
}

func (l *listener) Addr() net.Addr { return streamAddr{"waxwire", l.tunnel.RemoteAddr().String()} }
