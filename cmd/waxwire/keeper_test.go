package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// most is the bound of each wait, so that a test knows when.
func most(tries int) time.Duration {
	if tries == 0 {
		return 250 * time.Millisecond
	}
	return min(500*time.Millisecond<<(tries-1), 15*time.Second)
}

// fakeTunnel is a tunnel that ends when it is told to.
type fakeTunnel struct {
	done   chan struct{}
	rtt    time.Duration
	closed bool

	mu      sync.Mutex
	away    bool
	changed chan struct{}
}

func (f *fakeTunnel) Done() <-chan struct{} { return f.done }
func (f *fakeTunnel) RTT() time.Duration    { return f.rtt }
func (f *fakeTunnel) Close() error          { f.closed = true; return nil }

func (f *fakeTunnel) Status() (tunnel.Status, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return tunnel.Status{Connected: !f.away}, f.changed
}

// set says whether it has a connection.
func (f *fakeTunnel) set(connected bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = !connected
	close(f.changed)
	f.changed = make(chan struct{})
}

func up() *fakeTunnel {
	return &fakeTunnel{done: make(chan struct{}), rtt: time.Millisecond, changed: make(chan struct{})}
}

// keeping is a keeper whose dials the test decides, with what it told.
type keeping struct {
	*keeper[*fakeTunnel]
	dials  []time.Duration // when, since the start
	waits  []time.Duration
	lost   int
	backs  []time.Duration
	result chan error
}

var errDown = errors.New("down")

// keep runs a keeper in a bubble; answer decides each dial.
func keep(ctx context.Context, first *fakeTunnel, retry <-chan struct{}, answer func(n int) (*fakeTunnel, error)) *keeping {
	k := &keeping{result: make(chan error, 1)}
	start := time.Now()
	k.keeper = &keeper[*fakeTunnel]{
		dial: func(context.Context) (*fakeTunnel, error) {
			k.dials = append(k.dials, time.Since(start))
			return answer(len(k.dials))
		},
		final:   isFinal,
		retry:   retry,
		lost:    func(*fakeTunnel) { k.lost++ },
		failed:  func(_ error, _, next time.Duration) { k.waits = append(k.waits, next) },
		back:    func(_ *fakeTunnel, away time.Duration, _ int) { k.backs = append(k.backs, away) },
		backoff: most,
	}
	go func() { k.result <- k.run(ctx, first) }()
	return k
}

func TestKeeper(t *testing.T) {
	t.Run("at once, then more and more slowly", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			first, second := up(), up()
			k := keep(ctx, first, nil, func(n int) (*fakeTunnel, error) {
				if n < 7 {
					return nil, errDown
				}
				return second, nil
			})
			synctest.Wait()
			close(first.done)
			time.Sleep(time.Minute)
			synctest.Wait()
			want := []time.Duration{250 * time.Millisecond, 750 * time.Millisecond, 1750 * time.Millisecond,
				3750 * time.Millisecond, 7750 * time.Millisecond, 15750 * time.Millisecond, 30750 * time.Millisecond}
			if len(k.dials) != len(want) {
				t.Fatalf("dialled at %v, want %v", k.dials, want)
			}
			for i := range want {
				if k.dials[i] != want[i] {
					t.Errorf("dial %d at %v, want %v", i, k.dials[i], want[i])
				}
			}
			if tun, err := k.Tunnel(ctx); tun != second || err != nil {
				t.Errorf("Tunnel: %v, %v", tun, err)
			}
			if k.lost != 1 || len(k.backs) != 1 || k.backs[0] != 30750*time.Millisecond {
				t.Errorf("lost %d times, back after %v", k.lost, k.backs)
			}
			// The next loss of a good connection starts again at once.
			close(second.done)
			time.Sleep(300 * time.Millisecond)
			synctest.Wait()
			if got := len(k.dials); got != 8 {
				t.Errorf("%d dials, want one more at once", got)
			}
			cancel()
			if err := <-k.result; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	})
	t.Run("what never got through is no good connection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			first := up()
			k := keep(ctx, first, nil, func(int) (*fakeTunnel, error) { // accepted, then dropped at once
				f := up()
				f.rtt = 0
				close(f.done)
				return f, nil
			})
			synctest.Wait()
			close(first.done)
			time.Sleep(31 * time.Second)
			synctest.Wait()
			if got := len(k.dials); got != 7 {
				t.Errorf("%d dials in 31 s, want 7: %v", got, k.dials)
			}
			cancel()
			<-k.result
		})
	})
	t.Run("a verdict ends it, nothing else does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			first := up()
			answers := []error{
				errDown, tunnel.ErrNotFound, tunnel.ErrAnswer, tunnel.ErrRecord, tunnel.ErrTruncated,
				&tunnel.AnswerError{Status: 404}, &tunnel.CloseError{Code: tunnel.ProtocolError, Remote: true},
				&tunnel.RefusedError{Reason: tunnel.TooManySessions},
				&tunnel.RefusedError{Reason: tunnel.NotEnrolled},
			}
			k := keep(t.Context(), first, nil, func(n int) (*fakeTunnel, error) { return nil, answers[n-1] })
			synctest.Wait()
			close(first.done)
			var refused *tunnel.RefusedError
			if err := <-k.result; !errors.As(err, &refused) || len(k.dials) != len(answers) {
				t.Errorf("ended with %v after %d dials, want the refusal after %d", err, len(k.dials), len(answers))
			}
		})
	})
	t.Run("a busy server is left alone as long as it asks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			first := up()
			k := keep(ctx, first, nil, func(int) (*fakeTunnel, error) {
				return nil, &tunnel.AnswerError{Status: 503, RetryAfter: 20 * time.Second}
			})
			synctest.Wait()
			close(first.done)
			time.Sleep(15 * time.Second)
			synctest.Wait()
			if len(k.dials) != 1 || k.waits[0] != 20*time.Second {
				t.Errorf("dialled at %v, waits %v", k.dials, k.waits)
			}
			cancel()
			<-k.result
		})
	})
	t.Run("a hangup tries now", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			first, retry := up(), make(chan struct{})
			k := keep(ctx, first, retry, func(int) (*fakeTunnel, error) { return nil, errDown })
			synctest.Wait()
			close(first.done)
			time.Sleep(16 * time.Second) // the next try is due at 30.75 s
			synctest.Wait()
			n := len(k.dials)
			retry <- struct{}{}
			synctest.Wait()
			if len(k.dials) != n+1 {
				t.Errorf("%d dials, want one more than %d", len(k.dials), n)
			}
			cancel()
			<-k.result
		})
	})
	t.Run("who asks for the tunnel waits for it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			first, second := up(), up()
			k := keep(ctx, first, nil, func(n int) (*fakeTunnel, error) {
				if n < 3 {
					return nil, errDown
				}
				return second, nil
			})
			synctest.Wait()
			if tun, err := k.Tunnel(ctx); tun != first || err != nil {
				t.Errorf("while it is up: %v, %v", tun, err)
			}
			first.set(false)
			time.AfterFunc(time.Second, func() { first.set(true) })
			begin := time.Now()
			if tun, err := k.Tunnel(ctx); tun != first || err != nil || time.Since(begin) != time.Second {
				t.Errorf("while it has no connection: %v, %v after %v", tun, err, time.Since(begin))
			}
			first.set(false)
			if tun, ok := k.Current(); tun != first || !ok {
				t.Errorf("the current one: %v, %v", tun, ok)
			}
			close(first.done) // and ask before the keeper has noticed
			start := time.Now()
			if tun, err := k.Tunnel(ctx); tun != second || err != nil || time.Since(start) != 1750*time.Millisecond {
				t.Errorf("while it is away: %v, %v after %v", tun, err, time.Since(start))
			}
			close(second.done)
			short, done := context.WithTimeout(ctx, 10*time.Millisecond)
			defer done()
			if tun, err := k.Tunnel(short); tun != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("not in time: %v, %v", tun, err)
			}
			cancel()
			<-k.result
		})
	})
	t.Run("an end while it dials", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			first, second := up(), up()
			k := keep(ctx, first, nil, func(int) (*fakeTunnel, error) {
				cancel()
				return second, nil
			})
			close(first.done)
			if err := <-k.result; err != nil || !second.closed {
				t.Errorf("run: %v, and the tunnel that came too late is closed: %v", err, second.closed)
			}
		})
	})
	t.Run("an end while it is away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			first := up()
			k := keep(ctx, first, nil, func(int) (*fakeTunnel, error) { return nil, errDown })
			synctest.Wait()
			close(first.done)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			cancel()
			if err := <-k.result; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	})
}
