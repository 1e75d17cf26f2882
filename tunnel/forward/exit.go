package forward

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// An Exit is the far end of forwards: it takes the streams that a peer opens, checks its
// permissions, dials or listens, and copies. The zero value is ready for use: a peer may reach what its
// permissions name and nothing else. One Exit may serve any number of tunnels at once. Its fields
// are not to be changed in use.
type Exit struct {
	// Peer returns whose permissions count for a tunnel; it is asked at every open. Nil means
	// (*tunnel.Tunnel).Peer.
	Peer func(*tunnel.Tunnel) keys.Peer

	// Resolver looks names up, nil means [net.DefaultResolver].
	Resolver Resolver

	// Dial connects to an address that the permissions allow: an IP address and port, or a path.
	// Nil means a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// OwnAddrs lists the addresses of this host, nil means those of its interfaces.
	OwnAddrs func() ([]netip.Addr, error)

	// Timeout is how long looking up and dialling may take together. Zero means 10 s.
	Timeout time.Duration

	// Logger takes what happens, nil discards it. Targets are named at the level Debug only.
	Logger *slog.Logger

	notAllowed notAllowed
	arrivals   arrivals
}

// notAllowed keeps a peer that asks again and again from filling the log.
type notAllowed struct {
	once  sync.Once
	limit *rate.Limiter
}

func (n *notAllowed) Do(f func()) {
	n.once.Do(func() { n.limit = rate.NewLimiter(rate.Every(10*time.Second), 3) })
	if n.limit.Allow() {
		f()
	}
}

func (e *Exit) resolver() Resolver {
	if e.Resolver != nil {
		return e.Resolver
	}
	return net.DefaultResolver
}

func (e *Exit) ownAddrs() ([]netip.Addr, error) {
	if e.OwnAddrs != nil {
		return e.OwnAddrs()
	}
	return interfaceAddrs()
}

func (e *Exit) timeout() time.Duration {
	if e.Timeout > 0 {
		return e.Timeout
	}
	return 10 * time.Second
}

func (e *Exit) logger() *slog.Logger {
	if e.Logger != nil {
		return e.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// Serve takes streams of tun until the tunnel ends or ctx does, and returns why when all of them
// have ended. When ctx ends, streams that are open go on, and what is listened on for the peer is closed.
func (e *Exit) Serve(ctx context.Context, tun *tunnel.Tunnel) error {
	var wg sync.WaitGroup
	dialing, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		in, err := tun.AcceptStream(ctx)
		if err != nil {
			if tun.Err() != nil {
				cancel() // a tunnel that has gone waits for no dial
			}
			wg.Wait()
			return err
		}
		wg.Go(func() { e.serve(dialing, ctx.Done(), tun, in) })
	}
}

func (e *Exit) peer(tun *tunnel.Tunnel) keys.Peer {
	if e.Peer != nil {
		return e.Peer(tun)
	}
	return tun.Peer()
}

// serve does one stream from its request to its end. It runs beside the tunnel's reading, so a
// target that does not answer holds up nobody else.
func (e *Exit) serve(ctx context.Context, stop <-chan struct{}, tun *tunnel.Tunnel, in *tunnel.Incoming) {
	req := in.Request()
	peer := e.peer(tun)
	log := e.logger().With("peer", peer.Name, "target", req.Target)

	if req.Kind == tunnel.KindListen {
		l, code, text := e.open(tun, peer, req.Target)
		if l == nil {
			log.Debug("not listening", "code", code.String(), "reason", text)
			in.Refuse(code, clip(text))
			return
		}
		l.serve(in, stop)
		return
	}
	conn, code, text := e.connect(ctx, peer, req)
	if conn == nil {
		log.Debug("stream refused", "code", code.String(), "reason", text)
		if code == tunnel.NotAllowed {
			e.notAllowed.Do(func() {
				e.logger().Warn("a peer asked for what it may not have; its target is logged at the level debug", "peer", peer.Name)
			})
		}
		in.Refuse(code, clip(text))
		return
	}
	st, err := in.Accept()
	if err != nil { // it was given up in the meantime, or the tunnel has gone
		reset(conn)
		return
	}
	log.Debug("stream opened")
	received, sent, err := splice(conn, st) // as the target sees it: what it sent, what it got
	log.Debug("stream closed", "in", sent, "out", received, "err", err)
}

// connect judges and dials. Without a conn, code and text say why.
func (e *Exit) connect(ctx context.Context, peer keys.Peer, req tunnel.Request) (net.Conn, tunnel.Code, string) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout())
	defer cancel()
	v := e.judge(ctx, peer, req)
	if v.addrs == nil {
		return nil, v.code, v.text
	}
	conn, err := e.dial(ctx, v)
	if err != nil {
		code, text := dialFailure(req.Target, err)
		return nil, code, text
	}
	return conn, tunnel.OK, ""
}

// dial tries the addresses in their order. Each gets its share of the time that is left, so that
// one that does not answer leaves some for the next.
func (e *Exit) dial(ctx context.Context, v verdict) (conn net.Conn, err error) {
	dial := e.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	var first error
	for i, addr := range v.addrs {
		conn, err := dialOne(ctx, dial, v.network, addr, len(v.addrs)-i)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func dialOne(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), network, addr string, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	return dial(ctx, network, addr)
}

// dialFailure maps what went wrong onto the codes of PROTOCOL.md §8, with a text that names the
// target as the peer named it.
func dialFailure(target string, err error) (tunnel.Code, string) {
	var ne net.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return tunnel.NoSuchTarget, target + ": no such host"
	case errors.Is(err, syscall.ECONNREFUSED):
		return tunnel.RefusedByTarget, target + ": connection refused"
	case errors.Is(err, fs.ErrNotExist):
		return tunnel.NoSuchTarget, target + ": no such socket"
	case errors.Is(err, fs.ErrPermission):
		return tunnel.Unreachable, target + ": permission denied"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return tunnel.TooMany, target + ": too many open files there"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return tunnel.Timeout, target + ": no answer in time"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return tunnel.Unreachable, target + ": no route to host"
	}
	return tunnel.Unreachable, fmt.Sprintf("%s: cannot be reached", target)
}
