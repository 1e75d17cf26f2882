package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// A cutWire is two Conns with a network between them: messages that were written arrive a while later,
// unless it has been cut.
type cutWire struct{ a, b *cutEnd }

type cutEnd struct {
	other *cutEnd
	mu    sync.Mutex
	queue [][]byte
	more  chan struct{}
	slow  bool // writes wait for their reader
	took  chan struct{}
	once  sync.Once
	ended chan struct{}
	err   error
	eof   error // what the reader gets when the other end has ended and all was read
}

func newCutWire(slow bool) *cutWire {
	mk := func() *cutEnd {
		return &cutEnd{more: make(chan struct{}, 1), took: make(chan struct{}, 1), ended: make(chan struct{}), slow: slow}
	}
	w := &cutWire{mk(), mk()}
	w.a.other, w.b.other = w.b, w.a
	return w
}

func (c *cutEnd) end(err error) { c.once.Do(func() { c.err = err; close(c.ended) }) }

func (c *cutEnd) ReadMessage(ctx context.Context) ([]byte, error) {
	for {
		c.mu.Lock()
		var m []byte
		if len(c.queue) > 0 {
			m, c.queue = c.queue[0], c.queue[1:]
		}
		eof := c.eof
		c.mu.Unlock()
		select {
		case <-c.ended:
			return nil, c.err
		default:
		}
		if m != nil {
			select {
			case c.took <- struct{}{}:
			default:
			}
			return m, nil
		}
		if eof != nil {
			c.end(eof)
			return nil, c.err
		}
		select {
		case <-c.more:
		case <-c.ended:
			return nil, c.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *cutEnd) WriteMessage(_ context.Context, buf []byte, off int) error {
	select {
	case <-c.ended:
		return message.ErrTruncated
	default:
	}
	first := slices.Clone(buf[off:])
	if rand.N(8) == 0 {
		time.Sleep(time.Duration(rand.N(300)) * time.Microsecond)
	}
	if !slices.Equal(first, buf[off:]) {
		panic("a segment changed while it was written")
	}
	o := c.other
	o.mu.Lock()
	o.queue = append(o.queue, first)
	n := len(o.queue)
	o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	if c.slow && n > 4 {
		select {
		case <-o.took:
		case <-c.ended:
			return message.ErrTruncated
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func (c *cutEnd) tell(err error) {
	c.mu.Lock()
	if c.eof == nil {
		c.eof = err
	}
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *cutEnd) Close(code message.Code, reason string) error {
	if code == message.OK {
		c.other.tell(io.EOF)
	} else {
		c.other.tell(&message.CloseError{Code: code, Reason: reason, Remote: true})
	}
	c.end(net.ErrClosed)
	return nil
}
func (c *cutEnd) MaxMessage() int     { return 4096 }
func (c *cutEnd) RTT() time.Duration  { return time.Millisecond }
func (c *cutEnd) Probe(time.Duration) {}
func (c *cutEnd) Kill(err error)      { c.other.tell(message.ErrTruncated); c.end(err) }
func (c *cutEnd) CutShort()           { c.Kill(net.ErrClosed) }

func (w *cutWire) cut(now bool) {
	if now {
		w.a.end(message.ErrTruncated)
		w.b.end(message.ErrTruncated)
		return
	}
	w.a.tell(message.ErrTruncated)
	w.b.tell(message.ErrTruncated)
}

// Whatever is cut and resumed, each segment arrives once and in order, and the end is clean on both sides.
func TestCuts(t *testing.T) {
	for round := range 30 {
		t.Run(fmt.Sprint(round), func(t *testing.T) { t.Parallel(); testCuts(t) })
	}
}

func testCuts(t *testing.T) {
	const count = 3000
	lost := make(chan struct{}, 16)
	w := newCutWire(rand.N(2) == 0)
	client := New(w.a, Config{Client: true, Lifetime: time.Minute, Detached: func(error, bool) { lost <- struct{}{} }})
	server := New(w.b, Config{Lifetime: time.Minute, Budget: NewBudget(4 << 20), Detached: func(error, bool) {}})
	var all, net sync.WaitGroup
	stop := make(chan struct{})
	var wmu sync.Mutex
	net.Go(func() { // cuts
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.N(4000)) * time.Microsecond):
				wmu.Lock()
				w.cut(rand.N(2) == 0)
				wmu.Unlock()
			}
		}
	})
	net.Go(func() { // resumes
		for {
			select {
			case <-client.Done():
				return
			case <-lost:
			}
			for {
				r := client.Request()
				a, ok := server.Answer(r)
				if !ok {
					t.Errorf("not resumed: %+v", r)
					client.Lose(errors.New("unknown"))
					return
				}
				if rand.N(3) == 0 { // the answer or the proof is lost
					if rand.N(2) == 0 {
						if _, err := client.Resume(a); err != nil {
							t.Error(err)
						}
					}
					if client.Err() != nil {
						return
					}
					continue
				}
				first, err := client.Resume(a)
				if err != nil {
					t.Error(err)
				}
				n := newCutWire(rand.N(2) == 0)
				n.b.queue = append(n.b.queue, first)
				attached := make(chan bool, 1)
				late := rand.N(2) == 0
				go func() {
					if late {
						time.Sleep(time.Duration(rand.N(2000)) * time.Microsecond)
					}
					ok := server.Attach(n.b, a.Owner, a.Received, r.Received)
					if !ok {
						n.b.Kill(message.ErrTruncated)
					}
					attached <- ok
				}()
				wmu.Lock()
				w = n
				wmu.Unlock()
				if !client.Attach(n.a, a.Owner, r.Received, a.Received) {
					n.a.Kill(message.ErrTruncated)
					if client.Err() != nil {
						return
					}
					t.Error("the client did not attach")
					return
				}
				break
			}
		}
	})
	run := func(s *Session, name string) {
		all.Go(func() {
			for i := range count {
				b := make([]byte, message.Headroom+8+rand.N(600))
				binary.BigEndian.PutUint64(b[message.Headroom:], uint64(i))
				if err := s.WriteMessage(context.Background(), b, message.Headroom); err != nil {
					t.Errorf("%s: write %d: %v", name, i, err)
					return
				}
			}
		})
	}
	read := func(s *Session, name string, done chan<- struct{}) {
		next := uint64(0)
		for {
			m, err := s.ReadMessage(context.Background())
			if err != nil {
				if next != count {
					t.Errorf("%s: %d came, then %v", name, next, err)
				}
				return
			}
			if n := binary.BigEndian.Uint64(m); n != next {
				t.Errorf("%s: got %d, want %d", name, n, next)
				return
			}
			if next++; next == count {
				close(done)
			}
		}
	}
	c, s := make(chan struct{}), make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() { read(client, "client", c) })
	reading.Go(func() { read(server, "server", s) })
	run(client, "client")
	run(server, "server")
	all.Wait()
	for _, done := range []chan struct{}{c, s} {
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("stuck: client %+v server %+v", client.Stats(), server.Stats())
		}
	}
	close(stop)
	client.Close(message.OK, "")
	select {
	case <-server.Done():
	case <-time.After(5 * time.Second):
		t.Errorf("the server's end does not end")
	}
	net.Wait()
	reading.Wait()
	if !client.Clean() || !server.Clean() {
		t.Errorf("client %v (clean %v), server %v (clean %v)", client.Err(), client.Clean(), server.Err(), server.Clean())
	}
	server.Close(message.OK, "")
	if u := server.cfg.Budget.Used(); u != 0 {
		t.Errorf("%d bytes are still charged", u)
	}
	if st := client.Stats(); st.Resumes < 3 {
		t.Logf("only %d resumes", st.Resumes)
	}
}
