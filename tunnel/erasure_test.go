package tunnel_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys/erase"
)

// TestErasure is the proof that keys die with the connection: it ends connections in every way there
// is, in a process of their own, and searches all memory of that process.
//
//	go test -run TestErasure ./tunnel                          this build, each cell once
//	WAXWIRE_ERASURE=full go test -v -run TestErasure ./tunnel  both builds, each cell twenty times
//
// While a connection is up, its keys must be found and those of the handshake must not; after its end
// no whole key; when its endpoints are closed no eight bytes of any secret, in any form, nor of what
// was sent. A child that leaves out the wiping, or the guards, must be caught at it.
func TestErasure(t *testing.T) {
	switch {
	case runtime.GOOS != "linux":
		t.Skip("the memory of another process is read as Linux has it, in /proc")
	case raceEnabled:
		t.Skip("the race detector makes stack frames larger and keeps a shadow of memory")
	case testing.Short():
		t.Skip("it builds a binary and starts many processes")
	}
	builds := []*erasureBuild{{name: "this build", guard: erase.Guard(), repetitions: 1}}
	full := os.Getenv("WAXWIRE_ERASURE") == "full"
	if full {
		builds = []*erasureBuild{
			{name: "default", env: "GOEXPERIMENT=", guard: "scrub", repetitions: 20},
			{name: "runtimesecret", env: "GOEXPERIMENT=runtimesecret", guard: "runtime/secret", repetitions: 20},
		}
	}
	for _, b := range builds {
		b.build(t)
	}
	var table erasureTable
	t.Run("path", func(t *testing.T) {
		for _, b := range builds {
			for _, suite := range []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305} {
				for _, path := range erasurePaths {
					t.Run(fmt.Sprint(b.name, "/", suite, "/", path.name), func(t *testing.T) {
						t.Parallel()
						c := &cell{path: path, suite: suite, build: b}
						c.report(t, b.repetitions, &table)
					})
				}
			}
		}
	})
	t.Run("key files", func(t *testing.T) {
		for _, b := range builds {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				c := &cell{path: keyFiles, suite: cipher.ChaCha20Poly1305, build: b}
				c.report(t, min(b.repetitions, 5), &table)
			})
		}
	})
	t.Run("continuous GC", func(t *testing.T) {
		if !full {
			t.Skip("only with WAXWIRE_ERASURE=full")
		}
		for _, b := range builds { // one after the other: this is about load of a known kind
			for _, suite := range []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305} {
				t.Run(fmt.Sprint(b.name, "/", suite), func(t *testing.T) {
					c := &cell{path: underCollection, suite: suite, build: b, measure: b.guard == "scrub"}
					y := c.report(t, b.repetitions, &table)
					t.Logf("%d of %d runs left something", y.dirty, y.repetitions)
					for _, kind := range slices.Sorted(maps.Keys(y.kinds)) {
						t.Logf("  %d times %s", y.kinds[kind], kind)
					}
				})
			}
		}
	})
	t.Run("control", func(t *testing.T) {
		for _, b := range builds {
			for _, suite := range []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305} {
				for _, skip := range []string{"wipe", "guard"} {
					t.Run(fmt.Sprint(b.name, "/", suite, "/without ", skip), func(t *testing.T) {
						t.Parallel()
						c := &cell{path: erasurePaths[0], suite: suite, build: b, skip: skip}
						y, err := c.run(t, 1)
						if errors.Is(err, errUnreadable) {
							t.Skip(err)
						}
						if err != nil {
							t.Error(err)
						}
						if len(y.faults) == 0 {
							t.Errorf("a child that leaves out the %s is not caught", skip)
						}
						table.add(c, y)
					})
				}
			}
		}
	})
	if full {
		fmt.Print(table.String())
	} else {
		t.Log("\n" + table.String())
	}
}

// report runs a cell and fails the test for what it left.
func (c *cell) report(t *testing.T, repetitions int, table *erasureTable) *tally {
	t.Helper()
	y, err := c.run(t, repetitions)
	if errors.Is(err, errUnreadable) {
		t.Skip(err)
	}
	for _, f := range y.faults {
		t.Error(f)
	}
	if err != nil {
		t.Error(err)
	}
	if y.tolerated > 0 {
		t.Logf("%d of %d repetitions left pieces of a record's key in saved registers", y.tolerated, y.repetitions)
	}
	table.add(c, y)
	return y
}

// An erasureBuild is a child's binary.
type erasureBuild struct {
	name        string
	env         string // for the go command; empty: as for this test
	guard       string // what erase.Guard says there
	repetitions int
	binary      string
}

func (b *erasureBuild) build(t *testing.T) {
	t.Helper()
	b.binary = filepath.Join(t.TempDir(), "erasure.test")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-tags", "erasetrace", "-o", b.binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if b.env != "" {
		cmd.Env = append(cmd.Env, b.env)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the child: %v\n%s", err, out)
	}
	cmd = exec.Command(b.binary, "-test.run", "^TestErasureGuard$", "-test.v")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("guarded by "+b.guard+"\n")) {
		t.Fatalf("the child has another guard than %s: %v\n%s", b.guard, err, out)
	}
}

// TestErasureGuard says which guard a binary has.
func TestErasureGuard(t *testing.T) { fmt.Println("guarded by " + erase.Guard()) }

// erasureTable is what was looked for and what was found, by cell.
type erasureTable struct {
	mu    sync.Mutex
	lines []string
}

func (e *erasureTable) add(c *cell, y *tally) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := c.path.name
	if c.skip != "" {
		name = "CONTROL without " + c.skip + ": " + name
	}
	e.lines = append(e.lines, fmt.Sprintf("%s\t%v\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n",
		c.build.name, c.suite, name, y.repetitions, y.secrets, y.live, y.wiped, y.gone, y.tolerated))
}

func (e *erasureTable) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "build\tAEAD\tpath\truns\tlooked for\tfound live\tfound after\tfound after GC\ttolerated runs")
	slices.Sort(e.lines)
	for _, l := range e.lines {
		fmt.Fprint(w, l)
	}
	w.Flush()
	return b.String()
}
