package forward

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"waxwire.example/waxwire/tunnel"
)

// bufferSize is what is read from a local socket at a time, at most: what fits into one message.
const bufferSize = 127 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// A stream is what splice needs of a [tunnel.Stream].
type stream interface {
	io.ReadWriteCloser
	io.WriterTo
	CloseWrite() error
	CloseRead() error
	Reset(tunnel.Code) error
}

// splice copies between a local socket and a stream until both directions have ended, and closes
// both. It returns how many bytes went into the stream and came out of it, and what ended it early:
// nil if both directions ended cleanly.
//
// An end of file on one side becomes a half-close on the other. Anything else is passed on as a
// reset: a socket that is reset resets the stream, a stream that fails resets the socket.
func splice(local net.Conn, st stream) (sent, received int64, err error) {
	s := &splicer{local: local, stream: st}
	var wg sync.WaitGroup
	wg.Go(func() { sent = s.send() })
	received = s.receive()
	wg.Wait()
	st.Close()
	if s.broken.Load() {
		reset(local)
	} else {
		local.Close()
	}
	return sent, received, s.err
}

type splicer struct {
	local  net.Conn
	stream stream

	broken      atomic.Bool // the socket is to be reset, not closed
	writeFailed atomic.Bool // the socket no longer takes data
	finished    atomic.Bool // everything was written to the socket, its half-close is next

	once sync.Once
	err  error // the first failure, set under once; read when both goroutines have ended
}

func (s *splicer) fail(err error) { s.once.Do(func() { s.err = err }) }

// send copies from the socket to the stream.
func (s *splicer) send() (n int64) {
	source := newReader(s.local)
	for {
		b, err := source.read()
		if len(b) > 0 {
			m, werr := s.stream.Write(b)
			n += int64(m)
			if werr != nil {
				source.done()
				// The other end wants no more, or the stream is gone: then receive knows as well,
				// and does what is to be done. What we leave unread makes the kernel answer the
				// program with a reset when the socket is closed.
				s.fail(werr)
				return n
			}
		}
		source.done()
		switch {
		case err == nil:
		case err == io.EOF && !s.wasReset():
			if err := s.stream.CloseWrite(); err != nil {
				s.fail(err) // receive knows as well: the stream is gone
			}
			return n
		default:
			if err == io.EOF {
				err = errReset
			}
			s.fail(err)
			s.broken.Store(true)
			s.stream.Reset(tunnel.Cancelled)
			return n
		}
	}
}

var errReset = errors.New("connection reset")

// wasReset says whether an end of file that was read from the socket is really the second report
// of a reset: the kernel tells an error once, and a write that ran at the same time may have been
// the one that was told. The order matters: when both ends have closed properly the kernel has
// torn the connection down as well, and finished says so.
func (s *splicer) wasReset() bool {
	tcp, ok := s.local.(*net.TCPConn)
	if !ok {
		return false // a unix socket whose other end is gone: what it sent before is complete
	}
	return s.writeFailed.Load() || isReset(tcp) && !s.finished.Load()
}

// receive copies from the stream to the socket.
func (s *splicer) receive() (n int64) {
	w := &localWriter{conn: s.local}
	n, err := s.stream.WriteTo(w)
	switch {
	case w.err != nil: // the program has gone; send learns by itself whether cleanly
		s.writeFailed.Store(true)
		s.fail(w.err)
		s.stream.CloseRead()
	case err != nil: // the stream did not end, it broke: the program must not see an end
		s.fail(err)
		s.broken.Store(true)
		reset(s.local) // at once: send may be waiting for the program
	default:
		s.finished.Store(true)
		closeWrite(s.local)
	}
	return n
}

// A localWriter remembers that it was the socket that failed, not the stream.
type localWriter struct {
	conn net.Conn
	err  error
}

func (w *localWriter) Write(p []byte) (int, error) {
	n, err := w.conn.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

func closeWrite(c net.Conn) {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

// reset closes a socket in the way that its other end takes for a failure: TCP sends RST.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// giveBack clears the n bytes of a buffer that were used and gives it back: whoever takes it next may
// carry somebody else's data.
func giveBack(b *[]byte, n int) {
	clear((*b)[:max(n, 0)])
	buffers.Put(b)
}

// A plainReader reads with a buffer that it holds while it waits.
type plainReader struct {
	conn net.Conn
	buf  *[]byte
	n    int
}

// read returns what the socket has; the slice is valid until done.
func (r *plainReader) read() ([]byte, error) {
	r.buf = buffers.Get().(*[]byte)
	var err error
	r.n, err = r.conn.Read(*r.buf)
	return (*r.buf)[:r.n], err
}

func (r *plainReader) done() {
	if r.buf != nil {
		giveBack(r.buf, r.n)
		r.buf = nil
	}
}
