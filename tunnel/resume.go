package tunnel

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

// Waits between tries. Full jitter: each is anything from nothing to its bound, so that the clients
// of a server that comes back do not all come at once.
const (
	backoffAtOnce = 250 * time.Millisecond // after a good connection was lost
	backoffFirst  = 500 * time.Millisecond
	backoffMost   = 15 * time.Second

	maxRetryAfter = time.Minute // what a busy server may ask for
)

// Backoff returns how long to wait before try n of a row in which none got through, counted from 0: a
// random time below a bound that grows from a quarter of a second to 15 seconds.
func Backoff(n int) time.Duration { return rand.N(backoffBound(n) + 1) }

func backoffBound(n int) time.Duration {
	switch {
	case n == 0:
		return backoffAtOnce
	case n < 6:
		return min(backoffMost, backoffFirst<<(n-1))
	}
	return backoffMost
}

// RetryAfter is how long a server that was busy asked to be left alone, within reason. It is 0 for
// every other error.
func RetryAfter(err error) time.Duration {
	var answer *AnswerError
	if errors.As(err, &answer) {
		return min(answer.RetryAfter, maxRetryAfter)
	}
	return 0
}

// detachment says that a tunnel has lost its connection.
type detachment struct {
	why   error
	heard bool // the other end had been heard on it
}

// keepConnected gives a client's tunnel one connection after another until its session is over.
func (t *Tunnel) keepConnected(d *dialer, lost <-chan detachment) {
	defer d.invite.wipe()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t.tasks.Go(func() {
		<-t.session.Done()
		cancel()
	})
	host := newHostWatch(d.cfg)
	tick := time.NewTicker(hostCheck)
	defer tick.Stop()
	tries := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if host.changed(addressCheck) {
				t.session.Probe(wakeProbe)
			}
		case <-t.wake:
			t.session.Probe(wakeProbe)
		case l := <-lost:
			if l.heard {
				tries = 0
			}
			err := t.reconnect(ctx, d, host, l.why, &tries)
			if err == nil || ctx.Err() != nil {
				continue
			}
			t.session.Lose(err)
			return
		}
	}
}

// reconnect tries until the session has a connection again. An error is final.
func (t *Tunnel) reconnect(ctx context.Context, d *dialer, host *hostWatch, why error, tries *int) error {
	since := time.Now()
	why = publicError(why)
	for {
		wait := max(Backoff(*tries), RetryAfter(why))
		t.status.set(Status{Since: since, Err: why, Tries: *tries, Next: time.Now().Add(wait)})
		if !t.pause(ctx, host, wait) {
			return ctx.Err()
		}
		*tries++
		final, err := t.resume(ctx, d)
		if err == nil {
			t.status.set(Status{Connected: true, Since: time.Now(), Away: time.Since(since)})
			return nil
		}
		if final {
			return err
		}
		why = err
	}
}

// pause waits before a try, but not after this host has woken up or has other addresses. It is false
// if the session is over.
func (t *Tunnel) pause(ctx context.Context, host *hostWatch, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	tick := time.NewTicker(hostCheckAway)
	defer tick.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-t.wake:
			return true
		case <-tick.C:
			if host.changed(0) {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// resume makes one try to go on with the session over a new connection. final says that an error is the
// server's own word, which no further try would change. PROTOCOL.md §6.
func (t *Tunnel) resume(ctx context.Context, d *dialer) (final bool, err error) {
	request := t.session.Request()
	conn, e, err := d.dial(ctx, request.Append(nil))
	if err != nil {
		var refused *RefusedError
		return errors.As(err, &refused) && refused.Reason != TooManySessions, err
	}
	a, err := session.ParseAnswer(e.Session, request)
	if err != nil {
		conn.Kill(err)
		return false, ErrAnswer
	}
	if !a.Resumed {
		err = &message.CloseError{Code: message.SessionLost, Reason: "the server does not know the session any more"}
		conn.Kill(err)
		return true, err
	}
	first, err := t.session.Resume(a)
	if err != nil {
		conn.Kill(err)
		return true, err
	}
	if err := d.start(ctx, conn, first); err != nil {
		return false, err
	}
	if !t.session.Attach(conn, a.Owner, request.Received, a.Received) {
		conn.Kill(message.ErrTruncated)
		return false, ErrTruncated
	}
	t.adopt(conn, a.Owner)
	return false, nil
}
