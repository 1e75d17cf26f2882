package tunnel_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"waxwire.example/waxwire/cipher"
)

// A secret is one that the child has made. The names are those of the calls of erase.Trace.
type secret struct {
	name  string
	bytes []byte
	text  bool // no key: it is searched as it is only
}

// A cell is one line of the matrix: a way to end, a cipher, a build.
type cell struct {
	path  erasurePath
	suite cipher.Suite
	build *erasureBuild
	skip  string // the control: what the child leaves out

	measure bool // what is left is counted, and no fault
}

// A tally is what the searches of a cell have found.
type tally struct {
	repetitions int
	secrets     int // looked for in the last repetition
	live        int // of these, how many were found while it was up
	wiped       int // found when the connection was over, in all repetitions
	gone        int // found at the very end, in all repetitions
	tolerated   int // repetitions that left what the default build may leave
	dirty       int // repetitions that left anything
	kinds       map[string]int
	searched    int // bytes
	faults      []string
}

func (y *tally) fault(format string, args ...any) {
	if len(y.faults) < 20 {
		y.faults = append(y.faults, fmt.Sprintf(format, args...))
	}
}

// errUnreadable says that this system does not let a process look into its children.
var errUnreadable = errors.New("the memory of a child cannot be read")

// run starts the child of a cell and searches it at each of its marks, in so many repetitions and as
// many more as it takes to judge what may be tolerated.
func (c *cell) run(t *testing.T, repetitions int) (*tally, error) {
	t.Helper()
	traced, writes, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer traced.Close()
	var stderr bytes.Buffer
	cmd := exec.Command(c.build.binary)
	cmd.Env = append(os.Environ(),
		fmt.Sprintf("%s=%d/%s", erasureChildEnv, c.suite, c.path.name),
		fmt.Sprintf("WAXWIRE_ERASETRACE_FD=%d", traceFile), "WAXWIRE_ERASETRACE_SKIP="+c.skip)
	cmd.ExtraFiles = []*os.File{writes} // number 3
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	err = cmd.Start()
	writes.Close()
	if err != nil {
		return nil, err
	}
	y := &tally{kinds: make(map[string]int)}
	err = c.follow(y, cmd.Process.Pid, bufio.NewReader(traced), stdin, repetitions)
	stdin.Close()
	if err != nil {
		cmd.Process.Kill()
	}
	if waitErr := cmd.Wait(); err == nil {
		err = waitErr
	}
	if err != nil && !errors.Is(err, errUnreadable) {
		err = fmt.Errorf("%w; the child said: %s", err, stderr.String())
	}
	return y, err
}

// follow reads what the child traces.
func (c *cell) follow(y *tally, pid int, traced *bufio.Reader, stdin io.Writer, repetitions int) error {
	p, err := openProcess(pid)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %v", errUnreadable, err)
	} else if err != nil {
		return err
	}
	defer p.close()
	defer func() { y.searched = p.read }()
	var secrets []secret
	for {
		line, err := traced.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the child has gone: %w", err)
		}
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "KEY": // of no length
		case len(words) == 3 && words[0] == "KEY":
			b, err := hex.DecodeString(words[2])
			if err != nil {
				return err
			}
			for i := range b {
				b[i] ^= 0xA5
			}
			if !slices.ContainsFunc(secrets, func(s secret) bool { return bytes.Equal(s.bytes, b) }) {
				secrets = append(secrets, secret{words[1], b, words[1] == "canary"})
			}
		case len(words) == 2 && words[0] == "MARK":
			s := newSearch()
			for i, sec := range secrets {
				s.addSecret(i, sec, c.suite == cipher.AES256GCM)
			}
			found, err := p.find(s)
			if err != nil {
				return err
			}
			answer := "go on"
			switch words[1] {
			case "live":
				c.judgeLive(y, secrets, found)
			case "wiped":
				c.judgeWiped(y, secrets, found)
			case "gc":
				y.secrets = len(secrets)
				c.judgeGone(y, secrets, found, &repetitions)
				y.repetitions++
				secrets = nil
				if y.repetitions >= repetitions || len(y.faults) > 0 {
					answer = "end"
				}
			}
			if _, err := fmt.Fprintln(stdin, answer); err != nil {
				return err
			}
			if answer == "end" {
				return nil
			}
		default:
			return fmt.Errorf("the child wrote %q", line)
		}
	}
}

// present says whether a secret is in use at the mark "live".
func (c *cell) present(secrets []secret, i int) bool {
	s := secrets[i]
	lastOfName := func() bool {
		return !slices.ContainsFunc(secrets[i+1:], func(other secret) bool { return other.name == s.name })
	}
	switch s.name {
	case "static":
		return c.path.stage != resting || !slices.ContainsFunc(secrets[:i], func(other secret) bool { return other.name == "passphrase" }) || lastOfName()
	case "canary", "passphrase":
		return true
	case "ts", "key", "iv":
		return c.path.stage != hello && !c.superseded(secrets, s) && (c.path.stage != resumed || c.latest(secrets, s))
	case "ephemeral", "mlkem-seed", "invite":
		return c.path.stage == hello
	case "ck", "handshake-key":
		return c.path.stage == hello && lastOfName()
	}
	return false
}

// latest says whether a secret is of the connection that was made last: its directions have the last two
// traffic secrets. PROTOCOL.md §3.
func (c *cell) latest(secrets []secret, s secret) bool {
	directions := 0
	for _, ts := range slices.Backward(secrets) {
		if ts.name != "ts" || directions == 2 {
			continue
		}
		directions++
		for _, of := range [][]byte{
			ts.bytes, expand1(ts.bytes, "waxwire/1 key", byte(c.suite)), expand1(ts.bytes, "waxwire/1 iv", byte(c.suite))[:12],
		} {
			if bytes.Equal(s.bytes, of) {
				return true
			}
		}
	}
	return false
}

// superseded says whether a later epoch has taken the place of a secret's. PROTOCOL.md §3.
func (c *cell) superseded(secrets []secret, s secret) bool {
	has := func(b []byte) bool {
		return slices.ContainsFunc(secrets, func(other secret) bool { return bytes.Equal(other.bytes, b) })
	}
	for _, ts := range secrets {
		if ts.name != "ts" || !has(expand1(ts.bytes, "waxwire/1 next")) {
			continue
		}
		for _, old := range [][]byte{
			ts.bytes, expand1(ts.bytes, "waxwire/1 key", byte(c.suite)), expand1(ts.bytes, "waxwire/1 iv", byte(c.suite))[:12],
		} {
			if bytes.Equal(s.bytes, old) {
				return true
			}
		}
	}
	return false
}

// judgeLive: what is in use is found whole, or the search would prove nothing; what is not in use any
// more is not found at all.
func (c *cell) judgeLive(y *tally, secrets []secret, found []remains) {
	whole, some := make(map[int]bool), make(map[int]remains)
	for _, r := range found {
		some[r.secret] = r
		whole[r.secret] = whole[r.secret] || r.full() && r.name == "itself"
	}
	y.live = len(some)
	inUse := 0
	for i, s := range secrets {
		present := c.present(secrets, i)
		if present {
			inUse++
		}
		switch {
		case present && !whole[i]:
			y.fault("live: %s is not found although it is in use: the search proves nothing", s.name)
		case !present && some[i].n > 0 && c.path.stage != handshaking && !c.known(secrets, some[i], false):
			c.leftAlready(y, "live", secrets, some[i])
		}
	}
	if inUse < 4 {
		y.fault("live: only %d secrets are in use", inUse)
	}
}

// spilled says whether remains are plaintext out of registers. Whoever copies plaintext, the application
// first of all, has it in vector registers, four of 32 bytes at a time, and a signal in this moment
// writes these to memory. What buffers hold are whole messages.
func spilled(secrets []secret, r remains) bool {
	return secrets[r.secret].name == "canary" && (r.signal || r.n <= 128)
}

// known says whether remains are of the kind that a build is known to leave. In the default build that
// is what Do computes a record with, in the registers that a signal or a preemption in this very moment
// saved. With runtime/secret it is what signals saved since the last garbage collection, which clears it.
func (c *cell) known(secrets []secret, r remains, collected bool) bool {
	name := secrets[r.secret].name
	if c.build.guard != "scrub" { // what lies on the heap, as a piece of the text that was read, goes with a collection
		return !collected && (r.signal || name == "key-text")
	}
	return (name == "key" || name == "iv") && (r.signal || r.n <= 16)
}

// judgeWiped: when everybody knows that the connection has ended there is no whole key left. The
// endpoints' own are there until they are closed.
func (c *cell) judgeWiped(y *tally, secrets []secret, found []remains) {
	for _, r := range found {
		name := secrets[r.secret].name
		if name == "static" || spilled(secrets, r) {
			continue
		}
		y.wiped++
		if (r.full() || name == "canary") && !c.known(secrets, r, false) {
			c.leftAlready(y, "wiped", secrets, r)
		}
	}
}

// tolerance is how many repetitions there are at least if one of them leaves what the build is known to.
const tolerance = 8

// judgeGone: at last there is nothing at all. Only the default build may leave what it is known to, and
// not in most repetitions: it is an accident of time.
func (c *cell) judgeGone(y *tally, secrets []secret, found []remains, repetitions *int) {
	found = slices.DeleteFunc(found, func(r remains) bool { return spilled(secrets, r) })
	if len(found) == 0 {
		return
	}
	y.gone += len(found)
	y.dirty++
	for _, r := range found {
		where := "elsewhere"
		if r.signal {
			where = "on a signal stack"
		}
		y.kinds[fmt.Sprintf("%d bytes of %s (%s) %s", r.n, secrets[r.secret].name, r.form.name, where)]++
	}
	if c.measure {
		return
	}
	unknown := func(r remains) bool { return !c.known(secrets, r, true) }
	if c.build.guard == "scrub" && !slices.ContainsFunc(found, unknown) {
		y.tolerated++
		*repetitions = max(*repetitions, tolerance)
		if 2*y.tolerated <= *repetitions {
			return
		}
	}
	for _, r := range found {
		y.fault("gc: %s", c.describe(secrets, r))
	}
}

func (c *cell) leftAlready(y *tally, mark string, secrets []secret, r remains) {
	if !c.measure {
		y.fault("%s: %s", mark, c.describe(secrets, r))
	}
}

func (c *cell) describe(secrets []secret, r remains) string {
	return fmt.Sprintf("bytes %d to %d of %d of %s %d (%s) at %#x, signal frame: %v", r.from, r.from+r.n, r.size, secrets[r.secret].name, r.secret, r.form.name, r.at, r.signal)
}
