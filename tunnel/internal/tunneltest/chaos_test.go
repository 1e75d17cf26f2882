package tunneltest_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come; what must not come it does not wait for.
const patience = 10 * time.Second

// A far is a server behind a Chaos that hands out its connections.
type far struct {
	*tunneltest.Chaos
	conns chan net.Conn
}

func newFar(t *testing.T) *far {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &far{conns: make(chan net.Conn)}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.conns <- c
		}
	})
	t.Cleanup(func() { l.Close(); accepting.Wait() })
	f.Chaos = tunneltest.StartChaos(t, l.Addr().String())
	return f
}

// connect returns the two ends of a connection through the Chaos, which is live.
func (f *far) connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	c, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	s := <-f.conns
	t.Cleanup(func() { c.Close(); s.Close() })
	for _, end := range []net.Conn{c, s} {
		end.SetDeadline(time.Now().Add(patience))
	}
	exchange(t, c, s)
	exchange(t, s, c)
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func exchange(t *testing.T, from, to net.Conn) {
	t.Helper()
	const text = "hello"
	if _, err := from.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(to, b); err != nil || string(b) != text {
		t.Fatalf("got %q, %v", b, err)
	}
}

func TestChaosPassesOn(t *testing.T) {
	f := newFar(t)
	client, server := f.connect(t)
	// The end of one direction is passed on alone.
	client.Write([]byte("last words"))
	client.CloseWrite()
	if got, err := io.ReadAll(server); err != nil || string(got) != "last words" {
		t.Errorf("the server got %q, %v", got, err)
	}
	exchange(t, server, client)
	server.Close()
	wantEnd(t, client, io.EOF)
	client.Close()
	for f.Counts().Live > 0 {
		<-time.After(time.Millisecond)
	}
	// Who writes to an end that has gone gets to know.
	client, server = f.connect(t)
	server.Close()
	for err := error(nil); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE); {
		if _, err = client.Write(make([]byte, 1000)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	// A reset is passed on.
	client, server = f.connect(t)
	server.SetLinger(0)
	server.Close()
	wantEnd(t, client, syscall.ECONNRESET)

	if n := f.Counts(); n.Accepted != 3 || n.Total() != 0 || n.Passed[toServer] < 5+10+5+5 || n.Passed[toClient] != 5+5+5+5 {
		t.Errorf("%+v", n)
	}
}

// wantEnd reads to the end and wants this one.
func wantEnd(t *testing.T, c net.Conn, want error) {
	t.Helper()
	b := make([]byte, 1000)
	for {
		if _, err := c.Read(b); err != nil {
			if !errors.Is(err, want) {
				t.Errorf("it ended in %v, want %v", err, want)
			}
			return
		}
	}
}

// wantNothing checks that an end has nothing to read.
func wantNothing(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	defer c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want nothing", n, err)
	}
}

func TestChaosCuts(t *testing.T) {
	const hole = 100 * time.Millisecond
	for _, how := range tunneltest.Cuts {
		t.Run(how.String(), func(t *testing.T) {
			f := newFar(t)
			client, server := f.connect(t)
			other, otherServer := f.connect(t)
			begin := time.Now()
			cut := make(chan struct{})
			go func() {
				defer close(cut)
				if hit := f.Cut(how, hole); hit != 2 {
					t.Errorf("%d live connections were cut, want 2", hit)
				}
			}()
			switch how {
			case tunneltest.RST:
				wantEnd(t, client, syscall.ECONNRESET)
				wantEnd(t, server, syscall.ECONNRESET)
			case tunneltest.FIN:
				wantEnd(t, client, io.EOF)
				wantEnd(t, server, io.EOF)
				// Neither end can know yet that nobody listens any more.
				for _, c := range []net.Conn{client, server} {
					if _, err := c.Write(make([]byte, 8<<20)); err != nil {
						t.Errorf("Write after a FIN: %v", err)
					}
					wantEnd(t, c, io.EOF)
				}
			case tunneltest.Blackhole, tunneltest.Stall:
				for over := false; !over && f.Counts().Live > 0; { // until it has begun
					select {
					case <-time.After(time.Millisecond):
					case <-cut:
						over = true
					}
				}
				client.Write([]byte("client"))
				server.Write([]byte("server"))
				if how == tunneltest.Blackhole {
					for _, c := range []net.Conn{client, server} {
						got, err := io.ReadAll(c)
						if len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
							t.Errorf("got %q, %v", got, err)
						}
					}
				} else {
					b := make([]byte, 6)
					for _, c := range []net.Conn{client, server} {
						if _, err := io.ReadFull(c, b); err != nil {
							t.Error(err)
						}
					}
				}
				if took := time.Since(begin); took < hole {
					t.Errorf("the hole was over after %v", took)
				}
			case tunneltest.HalfOpen:
				wantEnd(t, server, syscall.ECONNRESET)
				<-cut
				client.Write(make([]byte, 8<<20)) // more than any buffer
				wantNothing(t, client)
			case tunneltest.HalfGone:
				wantEnd(t, client, syscall.ECONNRESET)
				<-cut
				server.Write(make([]byte, 8<<20))
				wantNothing(t, server)
			}
			<-cut
			want := 0
			if how == tunneltest.Stall {
				want = 2
				exchange(t, other, otherServer)
			}
			n := f.Counts()
			if n.Cuts[how] != 2 || n.Total() != 2 || n.Live != want {
				t.Errorf("%+v, want 2 cuts of this kind and %d connections live", n, want)
			}
			if how != tunneltest.Stall {
				if hit := f.Cut(how, 0); hit != 0 {
					t.Errorf("a second cut hit %d", hit)
				}
			}
			client, server = f.connect(t) // new ones are as good as ever
			exchange(t, client, server)
		})
	}
}

// A connection that has not carried anything both ways is cut too, and does not count.
func TestChaosCountsOnlyLive(t *testing.T) {
	f := newFar(t)
	c, err := net.Dial("tcp", f.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := <-f.conns
	defer s.Close()
	exchange(t, c, s)
	if hit := f.Cut(tunneltest.FIN, 0); hit != 0 {
		t.Errorf("%d live connections were cut, want none", hit)
	}
	wantEnd(t, c, io.EOF)
	if n := f.Counts(); n.Total() != 0 || n.Accepted != 1 {
		t.Errorf("%+v", n)
	}
}

// A cut also ends what is stuck because nobody reads.
func TestChaosCutsWhatIsStuck(t *testing.T) {
	for _, how := range []tunneltest.Cut{tunneltest.RST, tunneltest.FIN} {
		t.Run(how.String(), func(t *testing.T) {
			f := newFar(t)
			client, server := f.connect(t)
			client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			if n, err := client.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("all of %d bytes were taken, %v", n, err)
			}
			f.Cut(how, 0)
			want := error(syscall.ECONNRESET)
			if how == tunneltest.FIN {
				want = io.EOF
			}
			wantEnd(t, client, want)
			wantEnd(t, server, want)
		})
	}
}

func TestChaosNobodyThere(t *testing.T) {
	c, err := net.Dial("tcp", tunneltest.StartChaos(t, refusing(t)).Addr())
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) { // which Dial may have got already
		t.Errorf("got %v, want a reset", err)
	}
}

func TestChaosFlow(t *testing.T) {
	f := newFar(t)
	client, server := f.connect(t)
	const size = 1000
	want := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(want)
	send := func() {
		t.Helper()
		if _, err := client.Write(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("what came is not what was sent: %v", err)
		}
	}
	f.SetFlow(tunneltest.Flow{Trickle: 100, Tick: 10 * time.Millisecond})
	begin := time.Now()
	send()
	if took := time.Since(begin); took < 80*time.Millisecond { // the first tick may be a part of one
		t.Errorf("10 ticks' bytes came in %v", took)
	}
	f.SetFlow(tunneltest.Flow{Fragment: 3})
	send()

	f.SetFlow(tunneltest.Flow{Trickle: 1, Tick: time.Hour}) // is no reason to hang at the end
	client.Write(want)
	io.ReadFull(server, want[:1])
}

// The pieces of a flow are what was asked for, and in time.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 100_000
		// run passes size bytes and returns the pieces.
		run := func(f tunneltest.Flow) (pieces []int) {
			var p tunneltest.Pace
			for left := size; left > 0; {
				n := p.Next(f, min(left, 32<<10), nil)
				if n < 1 {
					t.Fatalf("a piece of %d bytes", n)
				}
				left -= n
				pieces = append(pieces, n)
			}
			return pieces
		}
		if got := run(tunneltest.Flow{}); len(got) != 4 {
			t.Errorf("without a flow: %v", got)
		}
		seen := make(map[int]int)
		for _, n := range run(tunneltest.Flow{Fragment: 4}) {
			seen[n]++
		}
		delete(seen, 0)
		for n := 1; n <= 4; n++ {
			if seen[n] < 1000 {
				t.Errorf("fragments up to 4 were, by length: %v", seen)
			}
		}
		begin := time.Now()
		for _, f := range []tunneltest.Flow{{Trickle: 1000, Tick: time.Second}, {Trickle: 1000, Tick: time.Second, Fragment: 7}} {
			for _, n := range run(f) {
				if n > 1000 {
					t.Errorf("%d bytes at once", n)
				}
			}
			if took := time.Since(begin); took != 99*time.Second {
				t.Errorf("%d bytes at 1000 a second took %v, want 99s", size, took)
			}
			time.Sleep(time.Hour) // must not be made up for
			begin = time.Now()
		}
	})
}

// The moments of a schedule are at random, and so far apart as they should be.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, mean = 10_000, 100 * time.Millisecond
		var calls, long int
		begin := time.Now()
		end := begin
		stop := tunneltest.Schedule(rand.New(rand.NewPCG(7, 7)), mean, func() {
			calls++
			if time.Since(end) > mean {
				long++
			}
			time.Sleep(time.Second) // does not count
			end = time.Now()
		})
		time.Sleep(n * (mean + time.Second))
		stop()
		stop() // is harmless
		if calls < n*99/100 || calls > n*101/100 {
			t.Errorf("%d calls, want about %d", calls, n)
		}
		if share := float64(long) / float64(calls); share < 0.35 || share > 0.39 {
			t.Errorf("%.2f of the times between calls are longer than their mean, want 1/e", share)
		}
		before := calls
		time.Sleep(time.Hour)
		if calls != before {
			t.Error("it went on after stop")
		}
	})
}
