package tunneltest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

const (
	toServer = tunneltest.ToServer
	toClient = tunneltest.ToClient
	buffered = 64 << 10
)

// onWire runs a test in fake time, on a wire of its own.
func onWire(t *testing.T, name string, f func(t *testing.T, w *tunneltest.Wire, client, server net.Conn)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, client, server := tunneltest.NewWire()
			defer client.Close()
			defer server.Close()
			f(t, w, client, server)
		})
	})
}

func write(t *testing.T, c net.Conn, n int) {
	t.Helper()
	if got, err := c.Write(make([]byte, n)); got != n || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", n, got, err)
	}
}

// wantRead reads n bytes and then this error.
func wantRead(t *testing.T, c net.Conn, n int, want error) {
	t.Helper()
	got, err := 0, error(nil)
	for b := make([]byte, 1000); err == nil; {
		var k int
		k, err = c.Read(b)
		got += k
	}
	if got != n || !errors.Is(err, want) {
		t.Errorf("read %d bytes, then %v; want %d, then %v", got, err, n, want)
	}
}

func wantWriteError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, want) {
		t.Errorf("Write: %d, %v, want %v", n, err, want)
	}
}

// now reads what is there now.
func now(t *testing.T, c net.Conn) int {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Nanosecond))
	defer c.SetReadDeadline(time.Time{})
	n, b := 0, make([]byte, buffered)
	for {
		k, err := c.Read(b)
		n += k
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			return n
		}
	}
}

func TestWire(t *testing.T) {
	onWire(t, "buffers", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		write(t, client, buffered)
		client.SetWriteDeadline(time.Now().Add(time.Hour))
		begin := time.Now()
		if n, err := client.Write(make([]byte, 9)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != time.Hour {
			t.Errorf("Write to a full wire: %d, %v after %v", n, err, time.Since(begin))
		}
		client.SetWriteDeadline(time.Time{})
		done := make(chan error)
		go func() {
			_, err := client.Write(make([]byte, 9))
			done <- err
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("Write returned %v while there was no room", err)
		default:
		}
		if n := now(t, server); n != buffered+9 {
			t.Errorf("%d bytes arrived", n)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if to, from := w.Passed(toServer), w.Passed(toClient); to != buffered+9 || from != 0 {
			t.Errorf("%d and %d bytes passed", to, from)
		}
	})
	onWire(t, "deadlines", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		begin := time.Now()
		client.SetDeadline(begin.Add(time.Minute))
		go func() { // moved while Read waits
			time.Sleep(time.Second)
			client.SetReadDeadline(begin.Add(time.Hour))
		}()
		wantRead(t, client, 0, os.ErrDeadlineExceeded)
		if took := time.Since(begin); took != time.Hour {
			t.Errorf("the deadline came after %v, want 1h", took)
		}
		wantWriteError(t, client, os.ErrDeadlineExceeded)
		client.SetDeadline(time.Time{})
		write(t, server, 1)
		if n := now(t, client); n != 1 {
			t.Errorf("%d bytes after the deadline was lifted", n)
		}
		go func() {
			time.Sleep(time.Second)
			client.SetReadDeadline(time.Unix(1, 0)) // in the past: now
		}()
		wantRead(t, client, 0, os.ErrDeadlineExceeded)
	})
	onWire(t, "close", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		write(t, client, 500)
		blocked := make(chan error)
		go func() {
			_, err := client.Read(make([]byte, 1))
			blocked <- err
		}()
		synctest.Wait()
		client.Close()
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read of the end that closes: %v", err)
		}
		wantWriteError(t, client, net.ErrClosed)
		write(t, server, 2*buffered) // to nobody; the answer comes later
		wantWriteError(t, server, syscall.EPIPE)
		wantRead(t, server, 500, io.EOF)
	})
	onWire(t, "close frees a writer", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		time.AfterFunc(time.Second, func() { server.Close() })
		write(t, client, 2*buffered)
	})
	onWire(t, "cut, EOF", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		write(t, client, 10)
		write(t, server, 20)
		w.Cut(tunneltest.LossEOF)
		wantWriteError(t, client, syscall.EPIPE)
		wantWriteError(t, server, syscall.EPIPE)
		wantRead(t, client, 20, io.EOF)
		wantRead(t, server, 10, io.EOF)
	})
	onWire(t, "cut, reset", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		write(t, client, 10)
		write(t, server, 20)
		if w.WasCut() {
			t.Error("cut before Cut")
		}
		w.Cut(tunneltest.LossReset)
		if !w.WasCut() {
			t.Error("not cut after Cut")
		}
		for _, c := range []net.Conn{client, server} {
			wantWriteError(t, c, syscall.ECONNRESET)
			wantRead(t, c, 0, syscall.ECONNRESET)
		}
	})
	onWire(t, "cut frees both", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		time.AfterFunc(time.Second, func() { w.Cut(tunneltest.LossReset) })
		if _, err := client.Write(make([]byte, 2*buffered)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write: %v", err)
		}
		wantRead(t, client, 0, syscall.ECONNRESET)
	})
	onWire(t, "delay", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		begin := time.Now()
		w.Delay(toServer, 3*time.Second)
		write(t, client, 10)
		time.Sleep(time.Second)
		write(t, client, 10)
		time.Sleep(time.Second)
		client.Close()
		b := make([]byte, 100)
		for i, want := range []time.Duration{3 * time.Second, 4 * time.Second, 5 * time.Second} {
			n, err := server.Read(b)
			if took := time.Since(begin); took != want || (err == io.EOF) != (i == 2) {
				t.Errorf("read %d: %d bytes, %v after %v, want it after %v", i, n, err, took, want)
			}
		}
	})
	onWire(t, "stall", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		w.Stall(toServer)
		write(t, client, buffered)
		client.SetWriteDeadline(time.Now().Add(time.Hour))
		wantWriteError(t, client, os.ErrDeadlineExceeded)
		write(t, server, 5) // the other way is open
		if n := now(t, client); n != 5 {
			t.Errorf("%d of 5 bytes came the way that is open", n)
		}
		client.Close()
		if n := now(t, server); n != 0 {
			t.Errorf("%d bytes came through a stall", n)
		}
		time.AfterFunc(time.Hour, func() { w.Release(toServer) })
		begin := time.Now()
		wantRead(t, server, buffered, io.EOF)
		if took := time.Since(begin); took != time.Hour {
			t.Errorf("it was over after %v, want 1h", took)
		}
	})
	onWire(t, "stalled end", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		w.Stall(toServer)
		client.Close()
		if n := now(t, server); n != 0 { // fails at an EOF
			t.Errorf("%d bytes came from nowhere", n)
		}
		w.Release(toServer)
		wantRead(t, server, 0, io.EOF)
	})
	onWire(t, "cut ends a stall", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		w.Stall(toServer)
		write(t, client, 7)
		w.Cut(tunneltest.LossEOF)
		w.Cut(tunneltest.LossReset) // too late, both of them
		w.Stall(toServer)
		wantRead(t, server, 7, io.EOF)
	})
	onWire(t, "flip", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		w.Flip(toServer, 4, 0x81)
		w.Flip(toServer, 6, 0x01)
		for _, p := range []string{"", "aaa", "aaaaa", "a"} {
			if _, err := client.Write([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
		client.Close()
		if got, err := io.ReadAll(server); err != nil || string(got) != "aaaa\xe0a`aa" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A cut after each byte of each direction: so much arrives and no more, and both ends see it.
func TestWireCutAfterEachByte(t *testing.T) {
	const total, piece = 40, 7
	for _, loss := range []tunneltest.Loss{tunneltest.LossEOF, tunneltest.LossReset} {
		for _, d := range []tunneltest.Direction{toServer, toClient} {
			for k := range int64(total + 1) {
				onWire(t, fmt.Sprintf("%v, %v, %d", loss, d, k), func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
					from, to := client, server
					if d == toClient {
						from, to = server, client
					}
					sent := tunneltest.Cells{}.Append(nil, 0, 2)[:total]
					write(t, to, 3) // on its way in the other direction
					w.CutAfter(d, k, loss)
					broken := error(syscall.EPIPE)
					if loss == tunneltest.LossReset {
						broken = syscall.ECONNRESET
					}
					for i := 0; i < total; i += piece {
						p := sent[i:min(i+piece, total)]
						// A write that has a byte on this side of the cut does not hear of it.
						n, err := from.Write(p)
						if fine := int64(i) < k; fine != (err == nil) || fine != (n == len(p)) || (!fine && !errors.Is(err, broken)) {
							t.Errorf("Write at %d: %d, %v", i, n, err)
						}
					}
					if !w.WasCut() || w.Passed(d) != k || w.Passed(1-d) != 3 {
						t.Errorf("cut %v, %d and %d bytes passed", w.WasCut(), w.Passed(d), w.Passed(1-d))
					}
					wantWriteError(t, to, broken)
					end := io.EOF
					if loss == tunneltest.LossReset {
						end = syscall.ECONNRESET
						wantRead(t, from, 0, end)
					} else {
						wantRead(t, from, 3, end)
					}
					got := make([]byte, total)
					n, err := io.ReadFull(to, got)
					if int64(n) != k || !bytes.Equal(got[:n], sent[:n]) {
						t.Errorf("%d bytes arrived: %x, %v", n, got[:n], err)
					}
					wantRead(t, to, 0, end)
				})
			}
		}
	}
}

// Both ways at once, in pieces of all sizes, with and without fake time.
func TestWireOracle(t *testing.T) {
	f := func(t *testing.T) {
		const cells = 20_000
		_, client, server := tunneltest.NewWire()
		var all sync.WaitGroup
		for i, way := range [][2]net.Conn{{client, server}, {server, client}} {
			stream := tunneltest.Cells{Stream: uint32(i)}
			all.Go(func() {
				if err := stream.Writer(way[0], rand.New(rand.NewPCG(1, uint64(i)))).Send(cells); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() {
				check := stream.Checker()
				if _, err := io.CopyN(check, way[1], cells*tunneltest.CellSize); err != nil {
					t.Error(err)
				} else if err := check.Finish(cells); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		client.Close()
		wantRead(t, server, 0, io.EOF)
		server.Close()
	}
	t.Run("real time", f)
	t.Run("fake time", func(t *testing.T) { synctest.Test(t, f) })
}

// Two Writes at once do not mix, even where each has to wait for room.
func TestWireWritesAreWhole(t *testing.T) {
	onWire(t, "", func(t *testing.T, w *tunneltest.Wire, client, server net.Conn) {
		var writers sync.WaitGroup
		for i := range 4 {
			writers.Go(func() {
				if _, err := client.Write(bytes.Repeat([]byte{byte(i)}, 3*buffered)); err != nil {
					t.Error(err)
				}
			})
		}
		go func() { writers.Wait(); client.Close() }()
		got, err := io.ReadAll(server)
		if err != nil || len(got) != 12*buffered {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		for p := got; len(p) > 0; p = p[3*buffered:] {
			if bytes.Count(p[:3*buffered], p[:1]) != 3*buffered {
				t.Fatal("the writes are mixed")
			}
		}
	})
}

// HTTP over wires, cut after each byte each way: a request succeeds or fails, and nothing hangs.
func TestNetworkOfWires(t *testing.T) {
	// get makes one request, and returns how much went each way.
	get := func(t *testing.T, arm func(*tunneltest.Wire)) (passed [2]int64, err error) {
		synctest.Test(t, func(t *testing.T) {
			var wires []*tunneltest.Wire
			network := tunneltest.NewNetwork()
			network.Wire = func(number int, w *tunneltest.Wire) {
				if number != len(wires) {
					t.Errorf("number %d of the wire after %d", number, len(wires))
				}
				wires = append(wires, w)
				arm(w)
			}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Date"] = nil
				io.WriteString(w, "hello")
			})}
			var serving sync.WaitGroup
			serving.Go(func() { server.Serve(network) })
			transport := &http.Transport{DialContext: network.Dial}
			var body []byte
			var resp *http.Response
			req, _ := http.NewRequestWithContext(context.Background(), "POST", "http://server/", nil)
			if resp, err = transport.RoundTrip(req); err == nil {
				body, err = io.ReadAll(resp.Body)
			}
			if err == nil && string(body) != "hello" {
				t.Errorf("got %q without an error", body)
			}
			passed = [2]int64{wires[0].Passed(toServer), wires[0].Passed(toClient)}
			transport.CloseIdleConnections()
			server.Close()
			serving.Wait()
		})
		return passed, err
	}
	whole, err := get(t, func(*tunneltest.Wire) {})
	if err != nil || whole[toServer] == 0 || whole[toClient] == 0 {
		t.Fatalf("a request without a cut: %v, %v bytes", err, whole)
	}
	for d, n := range whole {
		for k := range n + 1 {
			_, err := get(t, func(w *tunneltest.Wire) {
				w.CutAfter(tunneltest.Direction(d), k, tunneltest.LossEOF)
			})
			// Only the last byte of the answer makes it whole.
			if fine := d == int(toClient) && k == n; fine != (err == nil) {
				t.Errorf("%v cut after %d of %d bytes: %v", tunneltest.Direction(d), k, n, err)
			}
		}
	}
}
