package mux_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// 32 streams both ways at once, all sizes of writes and reads, over conns of several depths and
// message sizes: each byte arrives once, in order, on its stream.
func TestOracle(t *testing.T) {
	const streams, cells = 32, 4 << 10
	for _, tt := range []struct {
		name       string
		depth, max int
		cfg        mux.Config
	}{
		{"default", 4, largest, mux.Config{}},
		{"rendezvous", 0, largest, mux.Config{}},
		{"small messages", 1, 4096, mux.Config{}},
		{"smallest messages", 0, mux.MinMessage, mux.Config{}},
		{"small windows", 4, largest, mux.Config{Window: 16 << 10, MaxWindow: 64 << 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := message.Pipe(tt.depth, tt.max)
			c, s := newTestPairOver(t, a, b, tt.cfg, tt.cfg)
			var wg sync.WaitGroup
			run := func(st *mux.Stream, send, recv uint32) {
				wg.Go(func() {
					w := tunneltest.Cells{Stream: send}.Writer(st, rand.New(rand.NewPCG(uint64(send), 1)))
					if err := w.Send(cells); err != nil {
						t.Error(err)
						return
					}
					if err := st.CloseWrite(); err != nil {
						t.Error(err)
					}
				})
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(recv), 2))
					check := tunneltest.Cells{Stream: recv}.Checker()
					var err error
					if recv%2 == 0 {
						_, err = st.WriteTo(check)
					} else {
						buf := make([]byte, 40000)
						for err == nil {
							var n int
							n, err = st.Read(buf[:1+rng.IntN(len(buf))])
							if _, bad := check.Write(buf[:n]); bad != nil {
								err = bad
							}
						}
						if err == io.EOF {
							err = nil
						}
					}
					if err == nil {
						err = check.Finish(cells)
					}
					if err != nil {
						t.Error(err)
						st.Reset(message.Internal)
					}
				})
			}
			for i := range uint32(streams) {
				local, remote := openPair(t, c, s)
				run(local, 2*i, 2*i+1)
				run(remote, 2*i+1, 2*i)
			}
			wg.Wait()
			for _, m := range []*mux.Mux{c, s} {
				st := m.Stats()
				if st.BytesSent != streams*cells*tunneltest.CellSize || st.BytesReceived != st.BytesSent {
					t.Errorf("%+v", st)
				}
			}
		})
	}
}

// A model: each direction of each stream is an array of what was written and a cursor of what was
// read, with the state that its end is in. Random operations on both ends, one at a time, must
// do what the arrays say.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := message.Pipe(rapid.IntRange(0, 4).Draw(t, "depth"), rapid.SampledFrom([]int{mux.MinMessage, 4096, largest}).Draw(t, "max"))
		ends := [2]*mux.Mux{mux.New(a, mux.Config{Client: true}), mux.New(b, mux.Config{})}
		defer ends[0].Close(message.OK, "")
		defer ends[1].Close(message.OK, "")

		type direction struct {
			bytes  []byte // written and not yet read
			count  byte   // of bytes ever written: their values
			fin    bool   // CloseWrite, or Close
			closed bool   // Close or Reset
			either bool   // Reset may have caught the FIN, or not
			broken bool   // reset or stopped: nothing more is promised
			unread bool   // the reader has closed
		}
		type stream struct {
			s [2]*mux.Stream
			d [2]direction // d[i] is what end i writes
		}
		var all []*stream
		pick := func(t *rapid.T) (*stream, int) {
			if len(all) == 0 {
				t.Skip("no stream")
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(t, "stream")], rapid.IntRange(0, 1).Draw(t, "end")
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				if len(all) == 16 {
					t.Skip("enough")
				}
				by := rapid.IntRange(0, 1).Draw(t, "by")
				st := &stream{}
				var err error
				if st.s[by], err = ends[by].Open(t.Context(), 5, []byte("model")); err != nil {
					t.Fatal(err)
				}
				if st.s[1-by], err = ends[1-by].Accept(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := st.s[1-by].Accept(); err != nil {
					t.Fatal(err)
				}
				if err := st.s[by].Opened(t.Context()); err != nil {
					t.Fatal(err)
				}
				all = append(all, st)
			},
			"write": func(t *rapid.T) {
				st, i := pick(t)
				d := &st.d[i]
				n := rapid.IntRange(0, 20000).Draw(t, "n")
				if len(d.bytes)+n > 200<<10 {
					return // it would wait for a read
				}
				p := make([]byte, n)
				for k := range p {
					p[k] = d.count + byte(k)
				}
				got, err := st.s[i].Write(p)
				switch {
				case d.fin:
					if err == nil {
						t.Fatal("Write after CloseWrite")
					}
				case d.broken:
				case got != n || err != nil:
					t.Fatalf("Write of %d: %d, %v", n, got, err)
				default:
					d.bytes = append(d.bytes, p...)
					d.count += byte(n)
				}
			},
			"read": func(t *rapid.T) {
				st, i := pick(t)
				d := &st.d[1-i]
				if len(d.bytes) == 0 && !d.fin && !d.unread && !d.broken {
					return // it would wait for a write
				}
				buf := make([]byte, rapid.IntRange(1, 30000).Draw(t, "n"))
				n, err := st.s[i].Read(buf)
				var se *mux.StreamError
				switch {
				case d.either && errors.As(err, &se):
					d.broken = true
				case d.unread:
					if n != 0 || err == nil || err == io.EOF {
						t.Fatalf("Read of a closed stream: %d, %v", n, err)
					}
				case d.broken: // until the RESET is here, what came before it can be read
					if err == io.EOF || n > len(d.bytes) || string(buf[:n]) != string(d.bytes[:n]) {
						t.Fatalf("Read of a broken stream: %d, %v", n, err)
					}
					d.bytes = d.bytes[n:]
				case len(d.bytes) == 0:
					if n != 0 || err != io.EOF {
						t.Fatalf("Read at the end: %d, %v", n, err)
					}
				case err != nil || n == 0 || n > len(d.bytes) || string(buf[:n]) != string(d.bytes[:n]):
					t.Fatalf("Read: %d bytes, %v, %d are there", n, err, len(d.bytes))
				default:
					d.bytes = d.bytes[n:]
				}
			},
			"close write": func(t *rapid.T) {
				st, i := pick(t)
				d := &st.d[i]
				err := st.s[i].CloseWrite()
				if !d.broken && !d.fin && err != nil {
					t.Fatal(err)
				}
				d.fin = true
			},
			"close": func(t *rapid.T) {
				st, i := pick(t)
				if err := st.s[i].Close(); err != nil {
					t.Fatal(err)
				}
				if st.d[i].closed {
					return
				}
				st.d[i].fin, st.d[i].closed = true, true
				in := &st.d[1-i]
				in.unread, in.bytes = true, nil
				if !in.fin {
					in.broken = true
				}
			},
			"reset": func(t *rapid.T) {
				st, i := pick(t)
				code := message.Code(rapid.IntRange(0, 12).Draw(t, "code"))
				if err := st.s[i].Reset(code); err != nil {
					t.Fatal(err)
				}
				if st.d[i].closed {
					return
				}
				st.d[i].closed = true
				if st.d[i].fin {
					st.d[i].either = true
				} else {
					st.d[i].broken = true
				}
				in := &st.d[1-i]
				in.unread, in.bytes = true, nil
				if !in.fin {
					in.broken = true
				}
			},
			"forget": func(t *rapid.T) {
				st, _ := pick(t)
				st.s[0].Close()
				st.s[1].Close()
				all = slices.DeleteFunc(all, func(x *stream) bool { return x == st })
			},
			"": func(t *rapid.T) {
				for _, m := range ends {
					if err := m.Err(); err != nil {
						t.Fatal(err)
					}
					if held := m.Stats().WindowHeld; held > 32<<20 {
						t.Fatalf("%d held", held)
					}
				}
			},
		})
	})
}
