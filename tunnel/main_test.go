package tunnel_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if any test leaves a goroutine behind.
func TestMain(m *testing.M) {
	if what := os.Getenv(erasureChildEnv); what != "" {
		erasureChild(what)
		return
	}
	goleak.VerifyTestMain(m)
}

// thorough runs the whole set of faults where a test samples it otherwise.
func thorough() bool { return os.Getenv("WAXWIRE_FULL") != "" }

// sample is how many cases a test takes: in short, or as few as that under the race detector, or all.
func sample(short, race, all int) int {
	switch {
	case thorough():
		return all
	case raceEnabled:
		return race
	}
	return short
}

var seedFlag = flag.Uint64("seed", 0, "seed of the faults to choose; 0: a new one")

// newTestRand returns a source of choices whose seed a failing test prints.
func newTestRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to make the same choices again: -seed=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}
