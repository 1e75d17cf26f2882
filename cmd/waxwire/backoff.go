package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"waxwire.example/waxwire/tunnel"
)

// Waits between tries. Full jitter: each is anything from nothing to its bound, so that the clients
// of a server that comes back do not all come at once.
const (
	backoffAtOnce = 250 * time.Millisecond // after a good connection was lost
	backoffFirst  = 500 * time.Millisecond
	backoffMost   = 15 * time.Second
)

// backoff returns how long to wait before try n of a row in which none got through, counted from 0.
func backoff(n int, random func(time.Duration) time.Duration) time.Duration {
	if n == 0 {
		return random(backoffAtOnce)
	}
	bound := backoffMost
	if n < 6 {
		bound = min(bound, backoffFirst<<(n-1))
	}
	return random(bound)
}

// upTo is the randomness that backoff is used with.
func upTo(d time.Duration) time.Duration { return rand.N(d + 1) }

// A link is what a keeper needs of a tunnel.
type link interface {
	comparable
	Done() <-chan struct{}
	RTT() time.Duration
}

// A keeper keeps one tunnel up: when it is lost it dials again, for as long as it takes.
type keeper[T link] struct {
	dial  func(context.Context) (T, error)
	final func(error) bool // a verdict that no further try would change
	retry <-chan struct{}  // asks for the next try now

	lost   func(T)                                                 // the tunnel has ended
	failed func(err error, away time.Duration, next time.Duration) // a try did not get through
	back   func(tunnel T, away time.Duration, tries int)           // one did
	random func(time.Duration) time.Duration

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
	wait := backoff(*tries, k.random)
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
			k.back(tun, time.Since(since), *tries)
			return tun, nil
		}
		if ctx.Err() != nil || k.final(err) {
			return tun, err
		}
		wait = max(backoff(*tries, k.random), retryAfter(err))
		k.failed(err, time.Since(since), wait)
	}
}

// retryAfter is how long a busy server asked to be left alone, within reason.
func retryAfter(err error) time.Duration {
	var answer *tunnel.AnswerError
	if errors.As(err, &answer) {
		return min(answer.RetryAfter, time.Minute)
	}
	return 0
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

// Tunnel returns the tunnel, and waits while there is none.
func (k *keeper[T]) Tunnel(ctx context.Context) (T, error) {
	var none T
	for {
		k.mu.Lock()
		if k.changed == nil {
			k.changed = make(chan struct{})
		}
		tun, changed := k.current, k.changed
		k.mu.Unlock()
		if tun != none {
			select {
			case <-tun.Done(): // run has not come to it yet
				changed = k.next(tun)
			default:
				return tun, nil
			}
		}
		select {
		case <-changed:
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
