package tunneltest

import (
	"math/rand/v2"
	"sync"
	"time"
)

// A Flow is how connections through a [Chaos] carry what passes.
type Flow struct {
	Fragment int           // if not 0, in writes of at most so many bytes, at random
	Trickle  int           // if not 0, at most so many bytes per tick, each way of each connection
	Tick     time.Duration //
}

// A pace keeps to a Flow.
type pace struct {
	left int       // bytes of this tick
	end  time.Time // of this tick
}

// next waits until something may pass, and says how much of n that is.
func (p *pace) next(f Flow, n int, done <-chan struct{}) int {
	if f.Fragment > 0 {
		n = min(n, 1+rand.IntN(f.Fragment))
	}
	if f.Trickle == 0 {
		return n
	}
	if now := time.Now(); p.left <= 0 || !now.Before(p.end) {
		select {
		case <-time.After(p.end.Sub(now)):
		case <-done:
		}
		p.left = f.Trickle
		if p.end = p.end.Add(f.Tick); p.end.Before(now) { // nothing came for a while
			p.end = now.Add(f.Tick)
		}
	}
	n = min(n, p.left)
	p.left -= n
	return n
}

// Schedule calls f at random moments until stop is called, which waits for the last call. The mean time
// from the end of a call to the next one is mean.
func Schedule(rng *rand.Rand, mean time.Duration, f func()) (stop func()) {
	enough := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-time.After(time.Duration(rng.ExpFloat64() * float64(mean))):
				f()
			case <-enough:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(enough); running.Wait() })
}
