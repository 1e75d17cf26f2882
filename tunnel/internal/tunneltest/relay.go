package tunneltest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// Direction says which way something travels through a [Relay].
type Direction int

// The two directions.
const (
	ToServer Direction = iota
	ToClient
)

func (d Direction) String() string { return [...]string{"to server", "to client"}[d] }

// Relay is a hostile middlebox between a client and a server on loopback: it splits the stream into the
// head of the upgrade and WebSocket frames, unmasked, and lets a test change each of them.
type Relay struct {
	// Head gets the head of the request and of the answer, with the empty line, and returns what
	// goes on. Nil: unchanged.
	Head func(d Direction, head []byte) []byte
	// Frame gets the number of a binary frame in its direction, from 0, and its payload, and returns
	// the payloads that go on instead, if any, and whether to close both connections after them.
	// Nil: unchanged.
	Frame func(d Direction, number int, payload []byte) (out [][]byte, cut bool)
	// After returns bytes that go on as they are after what became of a binary frame. Nil: none.
	After func(d Direction, number int) []byte

	listener net.Listener
	target   string
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	closed   bool
}

// Start makes the relay listen on a loopback port of its own and returns the address. It ends with
// the test.
func (r *Relay) Start(t testing.TB, target string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.listener, r.target, r.conns = l, target, make(map[net.Conn]struct{})
	r.wg.Go(r.accept)
	t.Cleanup(r.close)
	return l.Addr().String()
}

func (r *Relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.target)
		if err != nil {
			client.Close()
			continue
		}
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			client.Close()
			server.Close()
			return
		}
		r.conns[client], r.conns[server] = struct{}{}, struct{}{}
		r.mu.Unlock()
		r.wg.Go(func() {
			var both sync.WaitGroup
			cut := func() { client.Close(); server.Close() }
			both.Go(func() { r.carry(ToServer, server, client, cut) })
			both.Go(func() { r.carry(ToClient, client, server, cut) })
			both.Wait()
			cut()
			r.mu.Lock()
			delete(r.conns, client)
			delete(r.conns, server)
			r.mu.Unlock()
		})
	}
}

// carry moves one direction until it ends; the end is passed on as a half-close.
func (r *Relay) carry(d Direction, dst, src net.Conn, cut func()) {
	defer dst.(*net.TCPConn).CloseWrite()
	in := bufio.NewReader(src)
	head, err := readHead(in)
	if err != nil {
		cut()
		return
	}
	if r.Head != nil {
		head = r.Head(d, head)
	}
	if _, err := dst.Write(head); err != nil {
		return
	}
	for number := 0; ; {
		f, err := readFrame(in)
		if err != nil {
			return
		}
		out, stop := [][]byte{f.payload}, false
		var after []byte
		if f.opcode == opBinary {
			if r.Frame != nil {
				out, stop = r.Frame(d, number, f.payload)
			}
			if r.After != nil {
				after = r.After(d, number)
			}
			number++
		}
		var b []byte
		for _, p := range out {
			b = append(b, f.with(p)...)
		}
		if b = append(b, after...); len(b) > 0 {
			if _, err := dst.Write(b); err != nil {
				return
			}
		}
		if stop {
			cut()
			return
		}
	}
}

func readHead(in *bufio.Reader) ([]byte, error) {
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		b, err := in.ReadByte()
		if err != nil {
			return nil, err
		}
		head = append(head, b)
	}
	return head, nil
}

const opBinary = 2

// frame is one WebSocket frame (RFC 6455 §5.2), unmasked.
type frame struct {
	opcode  byte
	first   byte // FIN, reserved bits, opcode
	masked  bool
	payload []byte
}

func readFrame(in *bufio.Reader) (frame, error) {
	var head [14]byte
	if _, err := io.ReadFull(in, head[:2]); err != nil {
		return frame{}, err
	}
	f := frame{first: head[0], opcode: head[0] & 15, masked: head[1]&0x80 != 0}
	n := uint64(head[1] & 0x7F)
	extra := map[uint64]int{126: 2, 127: 8}[n]
	if _, err := io.ReadFull(in, head[2:2+extra]); err != nil {
		return frame{}, err
	}
	switch extra {
	case 2:
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 8:
		n = binary.BigEndian.Uint64(head[2:])
	}
	var key [4]byte
	if f.masked {
		if _, err := io.ReadFull(in, key[:]); err != nil {
			return frame{}, err
		}
	}
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(in, f.payload); err != nil {
		return frame{}, err
	}
	for i := range f.payload {
		f.payload[i] ^= key[i%4]
	}
	return f, nil
}

// with returns the frame on the wire with another payload, under a mask of zeros.
func (f frame) with(payload []byte) []byte {
	mask := byte(0)
	if f.masked {
		mask = 0x80
	}
	b := []byte{f.first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if f.masked {
		b = append(b, 0, 0, 0, 0)
	}
	return append(b, payload...)
}

// A Frame is one WebSocket frame, unmasked.
type Frame struct {
	Opcode  byte
	Payload []byte
}

// Frames splits what went one way of a connection, the head of the upgrade first, into its frames. What
// was cut short at the end is left out.
func Frames(wire []byte) ([]Frame, error) {
	in := bufio.NewReader(bytes.NewReader(wire))
	if _, err := readHead(in); err != nil {
		return nil, err
	}
	var all []Frame
	for {
		f, err := readFrame(in)
		if err != nil {
			return all, nil
		}
		all = append(all, Frame{f.opcode, f.payload})
	}
}
