package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/session"
)

// Two sessions are driven by random commands, against a model of two arrays: what each end has sent, and what
// has come at the other. What is on its way arrives when a command says so, and a cut takes the rest with it.

// Commands of the model. Those that end a session are rare.
const (
	cmdWrite      = iota // an end writes a segment, if there is room
	cmdDeliver           // some of what is on its way arrives
	cmdDeliverAll        //
	cmdCut               // the connection is lost for both ends, and all on its way with it
	cmdCutClient         // only the client notices
	cmdCutServer         // only the server does
	cmdResume            // the client comes back
	cmdLoseAnswer        // it asks, and the answer is lost
	cmdLoseProof         // the answer arrives, and the client's first record does not
	cmdLateProof         // the first record arrives after another resume
	cmdSleep             // some time passes
	cmdClose
	cmdReset
	cmdExpire
)

var commandNames = [...]string{"write", "deliver", "deliver all", "cut", "cut at the client", "cut at the server",
	"resume", "lose an answer", "lose a proof", "a late proof", "sleep", "close", "reset", "expire"}

type command struct{ What, Arg int }

func (c command) String() string { return fmt.Sprint(commandNames[c.What], " ", c.Arg) }

func commands() *rapid.Generator[[]command] {
	one := rapid.Custom(func(t *rapid.T) command {
		what := rapid.IntRange(0, cmdSleep)
		switch rare := rapid.IntRange(0, 299).Draw(t, "rare"); {
		case rare == 200: // rapid draws it seldom
			what = rapid.IntRange(cmdClose, cmdExpire)
		case rare%2 == 0:
			what = rapid.IntRange(cmdWrite, cmdDeliver)
		}
		return command{what.Draw(t, "what"), rapid.IntRange(0, 7).Draw(t, "arg")}
	})
	return rapid.SliceOfN(one, 60, 200)
}

func TestModel(t *testing.T) {
	runs := 2_000
	switch {
	case os.Getenv("WAXWIRE_FULL") != "":
		runs = 20_000
	case raceEnabled:
		runs = 200
	}
	var all tally
	for range runs / 100 { // rapid's own number of checks is a flag
		rapid.Check(t, func(rt *rapid.T) {
			played := commands().Draw(rt, "commands")
			var diverged error
			synctest.Test(t, func(t *testing.T) {
				m := newModel()
				diverged = m.play(played)
				all.add(m)
			})
			if diverged != nil {
				rt.Fatalf("%v", diverged)
			}
		})
	}
	t.Logf("%+v", all)
	if all.Resumes < runs || all.Resent < runs || all.Clean < runs/4 || all.Takeovers < runs/10 {
		t.Errorf("fault not exercised: %+v", all)
	}
}

// A tally is what happened in all runs.
type tally struct{ Runs, Segments, Resumes, Takeovers, Resent, Clean, Lost int }

func (c *tally) add(m *model) {
	c.Runs++
	c.Segments += len(m.sent[0]) + len(m.sent[1])
	for _, e := range m.ends {
		st := e.Stats()
		c.Resumes += int(st.Resumes)
		c.Resent += int(st.Retransmitted)
	}
	c.Takeovers += m.takeovers
	if m.ends[0].Clean() && m.ends[1].Clean() {
		c.Clean++
	} else {
		c.Lost++
	}
}

// A pipeline is one connection whose messages arrive when the model says so.
type pipeline struct {
	ends [2]*conn // the sessions'
	far  [2]*conn // what the model holds of each
}

func newPipeline() *pipeline {
	p := new(pipeline)
	for i := range p.ends {
		p.ends[i], p.far[i] = newConns(1 << 10)
	}
	return p
}

var errModel = errors.New("the model's end")

// deliver moves up to n messages of one end to the other, and the end of the connection behind them.
func (p *pipeline) deliver(who, n int) {
	for range n {
		select {
		case m := <-p.far[who].in:
			select {
			case p.far[1-who].out <- m:
			default: // nobody reads any more
			}
			continue
		default:
		}
		select {
		case <-p.ends[who].ended:
			p.far[1-who].finish(errModel, p.ends[who].there)
		default:
		}
		return
	}
}

func (p *pipeline) lose(who int) { p.far[who].finish(errModel, message.ErrTruncated) }

type model struct {
	budget *session.Budget
	ends   [2]*session.Session // client, server
	wire   *pipeline           // the client's; nil while it has none
	old    []*pipeline         // that the server may still read from
	sent   [2][]string         // by each end
	owner  uint32              // that the client was given last
	late   func()              // the server gets a first record

	takeovers int
	over      bool // a command has ended the session otherwise than in order
	closed    [2]chan struct{}

	mu      sync.Mutex
	came    [2][]string // at each end
	readers sync.WaitGroup
}

func newModel() *model {
	m := &model{budget: session.NewBudget(1 << 20), wire: newPipeline(), owner: 1}
	for who := range m.ends {
		cfg := session.Config{Client: who == 0, ID: testID, Lifetime: time.Hour, Detached: func(error, bool) {}}
		if who == 1 {
			cfg.Budget, cfg.Key = m.budget, session.Key{7}
		}
		m.ends[who] = session.New(m.wire.ends[who], cfg)
		m.readers.Go(func() {
			for {
				b, err := m.ends[who].ReadMessage(context.Background())
				if err != nil {
					return
				}
				m.mu.Lock()
				m.came[who] = append(m.came[who], string(b))
				m.mu.Unlock()
			}
		})
	}
	return m
}

// play does all commands, heals the network, ends the session in order unless a command has ended it
// already, and says what was not as it should be.
func (m *model) play(all []command) error {
	defer func() {
		for _, e := range m.ends {
			e.Close(message.GoingAway, "")
		}
		for _, c := range m.closed {
			if c != nil {
				<-c
			}
		}
		m.readers.Wait()
	}()
	for i, c := range all {
		if err := m.do(c); err != nil {
			return fmt.Errorf("command %d, %v: %w", i, c, err)
		}
		synctest.Wait()
		if err := m.check(); err != nil {
			return fmt.Errorf("after command %d, %v: %w", i, c, err)
		}
	}
	return m.finish()
}

// check compares with the model: what has come is the beginning of what was sent.
func (m *model) check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for who, came := range m.came {
		if sent := m.sent[1-who]; len(came) > len(sent) || !slices.Equal(came, sent[:len(came)]) {
			return fmt.Errorf("at %d came %q, and %q was sent", who, came, sent)
		}
	}
	return nil
}

func (m *model) do(c command) error {
	who := c.Arg % 2
	switch c.What {
	case cmdWrite:
		if !m.ends[who].Room() || m.ends[who].Err() != nil || m.ending() {
			return nil
		}
		text := fmt.Sprint(who, ":", len(m.sent[who]))
		buf := append(make([]byte, message.Headroom), text...)
		if err := m.ends[who].WriteMessage(context.Background(), buf, message.Headroom); err != nil {
			return err
		}
		m.sent[who] = append(m.sent[who], text)
	case cmdDeliver:
		m.deliver(who, 1+c.Arg/2)
	case cmdDeliverAll:
		m.deliverAll()
	case cmdCut:
		if m.wire != nil {
			m.wire.lose(0)
			m.wire.lose(1)
		}
	case cmdCutClient:
		if m.wire != nil {
			m.wire.lose(0)
		}
	case cmdCutServer:
		for _, p := range m.old {
			p.lose(1)
		}
		if m.wire != nil {
			m.wire.lose(1)
		}
	case cmdResume, cmdLoseAnswer, cmdLoseProof, cmdLateProof:
		return m.resume(c.What)
	case cmdSleep:
		time.Sleep(time.Duration(1+c.Arg) * 10 * time.Millisecond)
	case cmdClose:
		m.close(who, message.OK)
	case cmdReset:
		m.over = true
		m.close(who, message.Cancelled)
	case cmdExpire:
		m.over = true
		m.ends[1].Lose(&message.CloseError{Code: message.SessionLost})
	}
	return nil
}

func (m *model) ending() bool { return m.closed[0] != nil || m.closed[1] != nil }

// close begins to close one end, unless one of them is at it.
func (m *model) close(who int, code message.Code) {
	if m.ending() {
		return
	}
	done := make(chan struct{})
	m.closed[who] = done
	go func() {
		defer close(done)
		m.ends[who].Close(code, "")
	}()
}

// deliver has some arrive, also of connections that the client has given up.
func (m *model) deliver(who, n int) {
	for _, p := range m.old {
		p.deliver(who, n)
	}
	if m.wire != nil {
		m.wire.deliver(who, n)
	}
}

func (m *model) deliverAll() {
	for range 6 { // an answer to an answer
		for who := range m.ends {
			m.deliver(who, 1<<10)
		}
		synctest.Wait()
	}
}

// resume is a dial of the client, as far as how says.
func (m *model) resume(how int) error {
	client, server := m.ends[0], m.ends[1]
	if m.wire != nil {
		m.wire.lose(0) // it has given the connection up
		m.old = append(m.old, m.wire)
		m.wire = nil
		synctest.Wait()
	}
	if client.Err() != nil {
		return nil
	}
	r := client.Request()
	a, ok := server.Answer(r)
	switch {
	case !ok && server.Err() == nil:
		return errors.New("the session is unknown")
	case how == cmdLoseAnswer:
		return nil
	case !ok:
		client.Lose(&message.CloseError{Code: message.SessionLost})
		return nil
	}
	if a.Owner <= m.owner {
		return fmt.Errorf("owner %d after %d", a.Owner, m.owner)
	}
	first, err := client.Resume(a)
	if err != nil {
		return err
	}
	m.owner = a.Owner
	p := newPipeline()
	p.far[1].out <- first
	proof := func() {
		lives, attached := server.Err() == nil, server.Stats().Attached
		switch {
		case !server.Attach(p.ends[1], a.Owner, a.Received, r.Received):
			p.ends[1].Kill(message.ErrTruncated)
		case lives && attached:
			m.takeovers++
		}
	}
	if !client.Attach(p.ends[0], a.Owner, r.Received, a.Received) {
		p.ends[0].Kill(message.ErrTruncated)
		return nil
	}
	m.wire = p
	late := m.late
	m.late = nil
	switch how {
	case cmdLoseProof:
		p.lose(0)
	case cmdLateProof:
		m.late = proof
	default:
		proof()
	}
	if late != nil {
		late()
	}
	return nil
}

// finish heals the network and ends the session in order, or finds that it was ended.
func (m *model) finish() error {
	closer := 0
	if m.closed[1] != nil {
		closer = 1
	}
	if !m.over && !m.ending() {
		if err := m.heal(); err != nil {
			return err
		}
		for who := range m.ends {
			if n := m.ends[who].Stats().Waiting; n != 0 {
				return fmt.Errorf("%d bytes of end %d are still kept", n, who)
			}
			if len(m.came[1-who]) != len(m.sent[who]) {
				return fmt.Errorf("of %d segments of end %d came %d", len(m.sent[who]), who, len(m.came[1-who]))
			}
		}
		m.close(closer, message.OK)
	}
	if m.over {
		for _, e := range m.ends {
			e.Lose(message.ErrTruncated)
		}
	} else {
		if err := m.heal(); err != nil {
			return err
		}
		time.Sleep(3 * time.Second)
		m.deliverAll()
		if err := m.heal(); err != nil { // the client learns how it has ended
			return err
		}
		time.Sleep(3 * time.Second)
	}
	synctest.Wait()
	if err := m.check(); err != nil {
		return err
	}
	return m.verdict(closer)
}

// heal lets everything arrive, over a new connection if need be.
func (m *model) heal() error {
	for range 3 {
		m.deliverAll()
		if m.ends[0].Err() != nil {
			return nil
		}
		if m.wire == nil || !m.ends[0].Stats().Attached || !m.ends[1].Stats().Attached {
			if err := m.resume(cmdResume); err != nil {
				return err
			}
		}
		m.deliverAll()
		time.Sleep(50 * time.Millisecond) // late ACKs
	}
	m.deliverAll()
	return nil
}

// verdict checks what both ends say of the end.
func (m *model) verdict(closer int) error {
	here, there := m.ends[closer], m.ends[1-closer]
	for who, e := range m.ends {
		switch {
		case e.Err() == nil:
			return fmt.Errorf("end %d has not ended", who)
		case e.Err() == io.EOF && !e.Clean():
			return fmt.Errorf("end %d took a lost session for a clean end", who)
		case e.Stats().Waiting != 0:
			return fmt.Errorf("end %d keeps bytes after the end", who)
		case e.Clean() && (len(m.came[0]) != len(m.sent[1]) || len(m.came[1]) != len(m.sent[0])):
			return fmt.Errorf("end %d is clean, and of %d and %d segments came %d and %d", who,
				len(m.sent[0]), len(m.sent[1]), len(m.came[1]), len(m.came[0]))
		}
	}
	if n := m.budget.Used(); n != 0 {
		return fmt.Errorf("%d bytes are charged after the end", n)
	}
	switch {
	case m.over:
	case here.Clean() && !there.Clean():
		return fmt.Errorf("the end that closed is clean, and the other one ended with %v", there.Err())
	case there.Clean() && there.Err() != io.EOF:
		return fmt.Errorf("the end that did not close ended with %v", there.Err())
	}
	return nil
}
