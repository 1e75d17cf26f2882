package tunneltest

// Pace is pace, for its test.
type Pace struct{ pace }

// Next is next.
func (p *Pace) Next(f Flow, n int, done <-chan struct{}) int { return p.next(f, n, done) }
