package mux_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/synctest"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/mux"
)

// FuzzPeer feeds whatever a peer may say into a live Mux whose application does a bit of everything. The
// input is messages, each after its length in two bytes. The Mux ends with a protocol error or
// goes on; it never panics, hangs, or holds more than its bounds.
func FuzzPeer(f *testing.F) {
	seed := func(messages ...[]byte) {
		var all []byte
		for _, m := range messages {
			all = append(append(all, byte(len(m)>>8), byte(len(m))), m...)
		}
		f.Add(all)
	}
	join := func(frames ...[]byte) (m []byte) {
		for _, f := range frames {
			m = append(m, f...)
		}
		return m
	}
	open := mux.Open(1, 1, 1<<20, "localhost:80")
	seed(open)
	seed(join(open, mux.Data(1, 100), mux.Fin(1)))
	seed(join(open, mux.Data(1, mux.EarlyData)), mux.Credit(1, 100), mux.Reset(1, 3))
	seed(open, mux.Stop(1, 3), mux.Fin(1), mux.Data(1, 3))
	seed(mux.Opened(2, 1<<20), mux.Data(2, 1000), mux.Fin(2))
	seed(mux.Refused(2, message.NoSuchTarget, "no"), mux.Data(2, 1))
	seed(join(mux.Opened(2, 0), mux.Stop(2, 1), mux.Credit(4, 1)))
	seed(join(open, mux.Open(3, 2, 0, ""), mux.Open(5, 3, mux.MaxVarint, ""), mux.Open(7, 4, 1, "")), mux.Fin(7), mux.Fin(5))
	seed(nil, []byte{0x40, mux.TypeFin, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) {
			m, p := newHandPeer(t, mux.Config{MaxStreams: 16, MaxPending: 4, SessionWindow: 1 << 20})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for range 2 {
				s, err := m.Open(ctx, 1, []byte("ours"))
				check(t, err)
				go func() { s.Write(make([]byte, 50_000)); s.CloseWrite() }()
				go func() { io.Copy(io.Discard, s); s.Close() }()
			}
			go func() {
				for {
					s, err := m.Accept(ctx)
					if err != nil {
						return
					}
					switch s.Kind() % 5 {
					case 0: // left undecided
					case 1:
						s.Accept()
						go func() { io.Copy(s, s); s.Close() }()
					case 2:
						s.Refuse(message.NotAllowed, "no")
					case 3:
						s.Accept()
						s.CloseRead(message.Timeout)
						go s.Write(make([]byte, 1000))
					case 4:
						s.Accept()
						s.Reset(message.Cancelled)
					}
				}
			}()
			read := make(chan error)
			go func() {
				for {
					if _, err := p.read(); err != nil {
						read <- err
						return
					}
				}
			}()
			for len(in) >= 2 {
				n := min(int(in[0])<<8|int(in[1]), len(in)-2)
				if p.send(in[2:2+n]) != nil {
					break
				}
				in = in[2+n:]
			}
			synctest.Wait()
			st := m.Stats()
			if st.WindowHeld > 1<<20 || st.Streams > 16 || st.Pending > 4 || runtime.NumGoroutine() > 200 {
				t.Errorf("%+v, %d goroutines", st, runtime.NumGoroutine())
			}
			if err := m.Err(); err != nil {
				var ce *message.CloseError
				if !errors.As(err, &ce) || ce.Code != message.ProtocolError {
					t.Errorf("ended with %v", err)
				}
			}
			check(t, m.Close(message.OK, ""))
			if err := <-read; !errors.Is(err, io.EOF) {
				var ce *message.CloseError
				if !errors.As(err, &ce) || ce.Code != message.ProtocolError {
					t.Errorf("the peer read %v", err) // also if a frame of ours does not parse
				}
			}
			if n := m.Streams(); n != 0 {
				t.Errorf("%d streams left", n)
			}
		})
	})
}
