// Package forward carries ordinary connections through a tunnel: what connects to a TCP port or a
// unix socket here is connected to a TCP port or a unix socket at the other end, ssh's -L.
//
//	l, err := forward.ParseLocal("8080:localhost:80")      // what the user asks for
//	f := &forward.Forwarder{Dialer: d}                     // near end: listens
//	listener, err := f.Listen(l); go listener.Serve(ctx)
//	exit := &forward.Exit{}; err = exit.Serve(ctx, tun)    // far end: checks permissions and dials
//
// With [ParseDynamic] in the place of [ParseLocal] each connection says itself where it goes, in SOCKS5 or
// as to an HTTP proxy, ssh's -D.
//
// The other way round, ssh's -R, the far end listens and this one dials:
//
//	m, err := forward.ParseRemote("9000:localhost:3000")
//	r := &forward.Reverser{}; go r.Serve(ctx, tun)         // takes the connections that come
//	err = r.Forward(m).Hold(ctx, tun, ready)               // asks for them
//
// Both ends close as TCP does. A half-close on one side arrives as one on the other, and everything
// that was sent before it arrives first. Whatever is not a clean end, a lost tunnel, a reset
// stream, a target that resets, resets the other side's socket too: a program never takes data
// that was cut short for all there was. (Unix sockets know no reset: they are closed.)
//
// The Exit decides what a peer may reach. Names are resolved once, by the Exit, and the addresses
// that its permissions allow are the ones that are dialled. It decides as well what a peer may have it
// listen on. What it listens on belongs to the peer's key: another request of the same key takes it over.
// The near end of a reverse forward connects what comes to the one target of that forward.
//
// Goroutines: a [Listener] has the one that calls Serve and two for each connection; an [Exit] the
// one that calls Serve, two for each stream and three for each of its listeners; a [Reverser] the one that
// calls Serve and two for each stream. Serve returns when all of its own have ended. A
// connection that is idle holds no buffer where the system can say when there is something to read.
package forward
