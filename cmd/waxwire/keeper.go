package main

import (
	"context"
	"sync"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// A link is what a keeper needs of a tunnel.
type link interface {
	comparable
	Close() error
	Done() <-chan struct{}
	RTT() time.Duration
	Status() (tunnel.Status, <-chan struct{})
}

// A keeper keeps one tunnel up: when it is lost it dials again, for as long as it takes.
type keeper[T link] struct {
	dial  func(context.Context) (T, error)
	final func(error) bool // a verdict that no further try would change
	retry <-chan struct{}  // asks for the next try now

	lost    func(T)                                                 // the tunnel has ended
	failed  func(err error, away time.Duration, next time.Duration) // a try did not get through
	back    func(tunnel T, away time.Duration, tries int)           // one did
	backoff func(tries int) time.Duration

	mu      sync.Mutex
	current T             // the zero value while there is none
	changed chan struct{} // closed when there is one again
}

// run keeps the tunnel that is up now, until ctx ends, which is no error, or a verdict is final.
func (k *keeper[T]) run(ctx context.Context, tun T) error {
	var none T
	tries := 0
	for {
		k.set(tun)
		select {
		case <-ctx.Done():
			return nil
		case <-tun.Done():
		}
		k.set(none)
		if ctx.Err() != nil {
			return nil
		}
		// The answer to a hello may be a replay that somebody recorded; only a record from the other
		// end shows that it got through. Tunnels that fall before that do not count as good.
		if tun.RTT() > 0 {
			tries = 0
		}
		k.lost(tun)
		since := time.Now()
		var err error
		if tun, err = k.redial(ctx, since, &tries); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// redial tries until it gets through or a verdict is final.
func (k *keeper[T]) redial(ctx context.Context, since time.Time, tries *int) (tun T, err error) {
	wait := k.backoff(*tries)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.retry:
		case <-ctx.Done():
			timer.Stop()
			return tun, ctx.Err()
		}
		timer.Stop()
		*tries++
		if tun, err = k.dial(ctx); err == nil {
			if ctx.Err() != nil { // nobody would close it
				tun.Close()
				return tun, ctx.Err()
			}
			k.back(tun, time.Since(since), *tries)
			return tun, nil
		}
		if ctx.Err() != nil || k.final(err) {
			return tun, err
		}
		wait = max(k.backoff(*tries), tunnel.RetryAfter(err))
		k.failed(err, time.Since(since), wait)
	}
}

func (k *keeper[T]) set(tun T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var none T
	if k.changed == nil {
		k.changed = make(chan struct{})
	}
	if tun != none && k.current == none {
		close(k.changed)
	}
	if tun == none && k.current != none {
		k.changed = make(chan struct{})
	}
	k.current = tun
}

// Current returns the tunnel, connected or not; false if there is none.
func (k *keeper[T]) Current() (T, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var none T
	return k.current, k.current != none
}

// Tunnel returns the tunnel when it is connected: what is begun meanwhile must not be lost if the server
// turns out to know nothing of the old one.
func (k *keeper[T]) Tunnel(ctx context.Context) (T, error) {
	var none T
	for {
		k.mu.Lock()
		if k.changed == nil {
			k.changed = make(chan struct{})
		}
		tun, changed := k.current, k.changed
		k.mu.Unlock()
		var over, status <-chan struct{}
		if tun != none {
			var st tunnel.Status
			st, status = tun.Status()
			over = tun.Done()
			select {
			case <-over: // run has not come to it yet
				changed, over, status = k.next(tun), nil, nil
			default:
				if st.Connected {
					return tun, nil
				}
				changed = nil
			}
		}
		select {
		case <-changed:
		case <-over:
		case <-status:
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
}

// next returns what is closed when there is another tunnel than old, which has ended.
func (k *keeper[T]) next(old T) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == old {
		var none T
		k.current = none
		k.changed = make(chan struct{})
	}
	return k.changed
}
