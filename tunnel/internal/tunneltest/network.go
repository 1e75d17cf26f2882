// Package tunneltest has what tests of several packages share, for tests only:
//
//   - a [Network] in memory, for fake time, and its [Wire]s, which can be cut after each byte;
//   - a [Relay] that understands WebSocket frames and does harm to them;
//   - a [Chaos], a TCP proxy that cuts connections in all ways, holds them up and re-fragments them;
//   - [Cells], contents that tell whether they are all there.
package tunneltest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// Network is a network in memory with one server on it. Its connections are [net.Pipe]s, so that a
// testing/synctest bubble knows when all of them are idle.
type Network struct {
	// Wire, if not nil, makes the connections [Wire]s. It gets each of them, numbered from 0, before
	// the ends do.
	Wire func(number int, w *Wire)

	conns chan net.Conn
	dials atomic.Int64
	done  chan struct{}
	once  sync.Once
}

// NewNetwork returns a Network that listens.
func NewNetwork() *Network {
	return &Network{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Dial connects to the server, whatever the address.
func (n *Network) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := n.pipe()
	select {
	case n.conns <- there:
		return here, nil
	case <-n.done:
	case <-ctx.Done():
	}
	here.Close()
	there.Close()
	return nil, &net.OpError{Op: "dial", Net: "memory", Err: net.ErrClosed}
}

func (n *Network) pipe() (here, there net.Conn) {
	number := int(n.dials.Add(1)) - 1
	if n.Wire == nil {
		return net.Pipe()
	}
	w, here, there := NewWire()
	n.Wire(number, w)
	return here, there
}

// Accept is the server's side: Network is a [net.Listener].
func (n *Network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

// Close stops listening; connections go on.
func (n *Network) Close() error {
	n.once.Do(func() { close(n.done) })
	return nil
}

// Addr is the network's only address.
func (n *Network) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "memory" }
func (addr) String() string  { return "192.0.2.1:80" }
