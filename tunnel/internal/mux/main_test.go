package mux_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// TestMain fails if a goroutine is left, and if the fuzz targets have lost their seeds.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const largest = 128 << 10

// newTestPair returns the two ends of a connection that is closed with the test.
func newTestPair(t testing.TB, client, server mux.Config) (c, s *mux.Mux) {
	t.Helper()
	a, b := message.Pipe(4, largest)
	return newTestPairOver(t, a, b, client, server)
}

func newTestPairOver(t testing.TB, a, b message.Conn, client, server mux.Config) (c, s *mux.Mux) {
	t.Helper()
	client.Client = true
	c, s = mux.New(a, client), mux.New(b, server)
	t.Cleanup(func() {
		c.Close(message.OK, "")
		s.Close(message.OK, "")
	})
	return c, s
}

// openPair opens a stream at c and accepts it at s.
func openPair(t testing.TB, c, s *mux.Mux) (local, remote *mux.Stream) {
	t.Helper()
	local, err := c.Open(context.Background(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	remote, err = s.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := local.Opened(context.Background()); err != nil {
		t.Fatal(err)
	}
	return local, remote
}

// A handPeer is the other end of a Mux, played by hand.
type handPeer struct {
	t    testing.TB
	conn message.Conn
	rest []byte
}

// newHandPeer returns a Mux in the server's role and the client that it talks to.
func newHandPeer(t testing.TB, cfg mux.Config) (*mux.Mux, *handPeer) {
	t.Helper()
	a, b := message.Pipe(16, largest)
	m := mux.New(a, cfg)
	t.Cleanup(func() {
		b.Close(message.OK, "")
		m.Close(message.OK, "")
	})
	return m, &handPeer{t: t, conn: b}
}

// write sends frames as one message.
func (p *handPeer) write(frames ...[]byte) {
	p.t.Helper()
	if err := p.send(frames...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *handPeer) send(frames ...[]byte) error {
	var msg []byte
	for _, f := range frames {
		msg = append(msg, f...)
	}
	return p.conn.WriteMessage(context.Background(), msg, 0)
}

// next is the next frame that the Mux sent.
func (p *handPeer) next() mux.Frame {
	p.t.Helper()
	f, err := p.read()
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

func (p *handPeer) read() (mux.Frame, error) {
	for len(p.rest) == 0 {
		msg, err := p.conn.ReadMessage(context.Background())
		if err != nil {
			return mux.Frame{}, err
		}
		p.rest = msg
	}
	f, rest, err := mux.ParseFrame(p.rest)
	p.rest = rest
	return f, err
}

// expect checks the next frame's type and id.
func (p *handPeer) expect(typ, id uint64) mux.Frame {
	p.t.Helper()
	f := p.next()
	if f.Type != typ || f.ID != id {
		p.t.Fatalf("got frame %+v, want type %d of stream %d", f, typ, id)
	}
	return f
}

// accept waits for a stream at m and accepts it; the peer sees its OPENED.
func (p *handPeer) accept(m *mux.Mux) *mux.Stream {
	p.t.Helper()
	s, err := m.Accept(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := s.Accept(); err != nil {
		p.t.Fatal(err)
	}
	p.expect(mux.TypeOpened, s.ID())
	return s
}

// check fails the test if err is not nil.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, w io.Writer, p string) {
	t.Helper()
	if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(p), n, err)
	}
}

// send is write and then CloseWrite, for goroutines of a test.
func send(t testing.TB, s *mux.Stream, p string) {
	if n, err := s.Write([]byte(p)); n != len(p) || err != nil {
		t.Errorf("Write of %d bytes: %d, %v", len(p), n, err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Errorf("CloseWrite: %v", err)
	}
}

// readFull reads len(want) bytes and compares them.
func readFull(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("read %d of %d bytes: %v", n, len(want), err)
	}
	if string(got) != want {
		t.Fatalf("got %.100q, want %.100q", got, want)
	}
}

func wantEOF(t testing.TB, r io.Reader) {
	t.Helper()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("Read: %d, %v, want io.EOF", n, err)
	}
}

// wantStreamError checks that err is a StreamError with this code.
func wantStreamError(t testing.TB, err error, code message.Code, remote bool) *mux.StreamError {
	t.Helper()
	var se *mux.StreamError
	if !errors.As(err, &se) || se.Code != code || se.Remote != remote {
		t.Fatalf("got %T %v, want a StreamError with %v, remote %v", err, err, code, remote)
	}
	return se
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

var (
	errClosed   = net.ErrClosed
	errDeadline = os.ErrDeadlineExceeded
)

func text(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }
