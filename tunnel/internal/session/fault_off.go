//go:build !sessionfault

package session

// faulty is true in builds that go wrong on purpose, to see that tests notice.
const faulty = false

type faults struct{}

func (*faults) again() []byte                        { return nil }
func (*faults) spoil(_ uint64, frames []byte) []byte { return frames }
