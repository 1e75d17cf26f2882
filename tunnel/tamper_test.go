package tunnel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/secure"
	"waxwire.example/waxwire/tunnel/internal/session"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// Who sits in between can spoil what passes, and nothing else: what is spoilt is not accepted, what
// was read before is what was sent, the end is not a clean one, and both ends notice.

// noticeWithin is how long both ends may take to end after the harm. The machine may be busy, and is under
// the race detector.
var noticeWithin = map[bool]time.Duration{false: 2 * time.Second, true: 5 * time.Second}[raceEnabled]

// unlimited lifts the bounds that many connections of one client would meet.
func unlimited(s *tunnel.Server) {
	s.Limits = tunnel.Limits{
		Handshakes: 64, SourceRate: -1, Unconfirmed: -1, UnconfirmedPerSource: -1, Connections: -1, PerPeer: -1, PeerRate: -1,
	}
	s.Logger = nil
}

// Each bit of a hello counts: with any of them flipped it is a stranger's, and untouched it is taken.
// PROTOCOL.md §2.4, §2.9.
func TestTamperHello(t *testing.T) {
	h := newTestHost(t, unlimited)
	hello, text, err := secure.NewHello(&secure.Config{Identity: h.client, Max: secure.DefaultMax}, h.serverKey(), h.url, (&session.Request{}).Append(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer hello.Wipe()
	good := wsconn.EncodeHello(text)
	request := func(hello string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/wax", nil)
		r.Header = http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Sec-Websocket-Protocol": {"waxwire.1"}, "Waxwire-Hello": {hello},
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	bare := request("")
	var spoilt []string
	for i := range text {
		for bit := range 8 {
			b := slices.Clone(text)
			b[i] ^= 1 << bit
			spoilt = append(spoilt, wsconn.EncodeHello(b))
		}
	}
	for i := range good { // and each character as such, which need not decode
		b := []byte(good)
		b[i] ^= 0x80 >> (i % 8)
		spoilt = append(spoilt, string(b))
	}
	if !thorough() {
		choice := newTestRand(t)
		choice.Shuffle(len(spoilt), func(i, j int) { spoilt[i], spoilt[j] = spoilt[j], spoilt[i] })
		spoilt = spoilt[:len(spoilt)/8]
	}
	inParallel(len(spoilt), func(i int) {
		w := request(spoilt[i])
		if w.Code != bare.Code || w.Body.String() != bare.Body.String() || fmt.Sprint(w.Header()) != fmt.Sprint(bare.Header()) {
			t.Errorf("hello %q was answered %d %v", spoilt[i], w.Code, w.Header())
		}
	})
	c := rawDial(t, h.addr)
	fmt.Fprint(c, upgrade(h.addr, good))
	if status, _, _ := readAnswer(t, c); status != 101 {
		t.Errorf("the untouched hello was answered %d, want 101", status)
	}
}

// Each character of an answer counts.
func TestTamperAnswer(t *testing.T) {
	h := newTestHost(t, unlimited)
	choice := newTestRand(t)
	const characters = 1707
	var positions []int
	for i := range characters {
		if thorough() || i < 3 || i > characters-4 || choice.IntN(8) == 0 {
			positions = append(positions, i)
		}
	}
	bits := make([]byte, len(positions))
	for i := range bits {
		bits[i] = 1 << choice.IntN(7)
	}
	inParallel(len(positions), func(i int) {
		harmed := false
		relay := &tunneltest.Relay{Head: func(d tunneltest.Direction, head []byte) []byte {
			if at := bytes.Index(head, []byte("\r\nWaxwire-Hello: ")); d == tunneltest.ToClient && at >= 0 {
				harmed = true
				head[at+len("\r\nWaxwire-Hello: ")+positions[i]] ^= bits[i]
			}
			return head
		}}
		stop, addr := startRelay(t, relay, h.addr)
		defer stop()
		conn, err := tunnel.Dial(t.Context(), "ws://"+addr+"/wax", h.config())
		if err == nil {
			conn.Close()
		}
		// A character that no header may hold is HTTP's to complain about.
		if !errors.Is(err, tunnel.ErrAnswer) && (err == nil || !strings.Contains(err.Error(), "malformed")) || !harmed {
			t.Errorf("character %d flipped by %#x (harm done: %v): %v, want %v", positions[i], bits[i], harmed, err, tunnel.ErrAnswer)
		}
	})
	h.checkNobody(t)
}

// A flipped byte elsewhere in the heads is refused or makes no difference.
func TestTamperHeads(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) { unlimited(s); s.PlainConns = true })
	echoConns(t, h)
	choice := newTestRand(t)
	type flip struct {
		way tunneltest.Direction
		at  int
		bit byte
	}
	var flips []flip
	for at := range 220 { // all before the hello, or what is left of it
		for _, way := range []tunneltest.Direction{tunneltest.ToServer, tunneltest.ToClient} {
			if thorough() || choice.IntN(4) == 0 {
				flips = append(flips, flip{way, at, 1 << choice.IntN(8)})
			}
		}
	}
	var mu sync.Mutex
	var refused, fine int
	inParallel(len(flips), func(i int) {
		f := flips[i]
		relay := &tunneltest.Relay{Head: func(d tunneltest.Direction, head []byte) []byte {
			begin := bytes.Index(head, []byte("Waxwire-Hello: "))
			end := begin + bytes.IndexByte(head[max(begin, 0):], '\r')
			if d != f.way || begin < 0 {
				return head
			}
			if at := f.at; at < begin+len("Waxwire-Hello: ") {
				head[at] ^= f.bit
			} else if at += end - begin; at < len(head) {
				head[at] ^= f.bit
			}
			return head
		}}
		stop, addr := startRelay(t, relay, h.addr)
		defer stop()
		cfg := h.config()
		cfg.HandshakeTimeout = time.Second
		conn, err := tunnel.DialConn(t.Context(), "ws://"+addr+"/wax", cfg)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			refused++
			return
		}
		fine++
		defer conn.Close()
		if err := conn.WriteMessage(t.Context(), []byte("echo")); err != nil {
			t.Errorf("%+v: the conn stands, but %v", f, err)
		}
		if m, err := conn.ReadMessage(t.Context()); err != nil || string(m) != "echo" {
			t.Errorf("%+v: the conn stands, but reads %q, %v", f, m, err)
		}
	})
	if refused == 0 || fine == 0 {
		t.Errorf("%d flips were refused and %d made no difference: both should occur", refused, fine)
	}
}

// The script: after the client's first record each end sends messages and a PING, and reads what the
// other end sent; then the client closes.
const scriptMessages = 63

func scriptMessage(from string, i int) []byte {
	return fmt.Appendf(nil, "%s %d %s", from, i, strings.Repeat("x", i%24))
}

// outcome is how the script went for one end.
type outcome struct {
	got   int   // messages, each of them the right one
	wrong error // something was read that was not sent so
	err   error // why it ended
	done  time.Time
}

// runScript plays one end of the script until the conn has ended.
func runScript(c *tunnel.Conn, here, there string) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var o outcome
	var writer sync.WaitGroup
	written := make(chan struct{})
	writer.Go(func() {
		defer close(written)
		for i := range scriptMessages {
			if c.WriteMessage(ctx, scriptMessage(here, i)) != nil {
				return
			}
		}
		ping(ctx, c)
	})
	for {
		m, err := c.ReadMessage(ctx)
		if err != nil {
			o.err = err
			break
		}
		if o.got == scriptMessages || !bytes.Equal(m, scriptMessage(there, o.got)) {
			o.wrong = fmt.Errorf("message %d was read as %q", o.got, m)
			break
		}
		if o.got++; o.got == scriptMessages && here == "client" {
			writer.Go(func() { // somebody has to read until the PONG is there
				<-written
				if ping(ctx, c) == nil {
					c.Close()
				}
			})
		}
	}
	if o.wrong == nil {
		<-c.Done()
		if err := c.Err(); !errors.Is(o.err, err) {
			o.wrong = fmt.Errorf("read ended with %v, but Err is %v", o.err, err)
		}
	}
	o.done = time.Now()
	c.Close()
	writer.Wait()
	return o
}

// ping goes on asking: a PING that was lost on the way shows only by what comes after it.
func ping(ctx context.Context, c interface {
	Ping(context.Context) (time.Duration, error)
}) error {
	for {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		_, err := c.Ping(short)
		cancel()
		if err != context.DeadlineExceeded || ctx.Err() != nil {
			return err
		}
	}
}

// scriptHost serves the script and keeps the outcomes by the conn's binding.
type scriptHost struct {
	*host
	mu       sync.Mutex
	outcomes map[[32]byte]chan outcome
}

func newScriptHost(t *testing.T, suite cipher.Suite) *scriptHost {
	t.Helper()
	s := &scriptHost{outcomes: make(map[[32]byte]chan outcome)}
	s.host = newTestHost(t, func(srv *tunnel.Server) { unlimited(srv); srv.PlainConns = true; srv.Suite = suite })
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := s.AcceptConn(context.Background())
			if err != nil {
				return
			}
			serving.Go(func() { s.of(c.Binding()) <- runScript(c, "server", "client") })
		}
	})
	t.Cleanup(func() { s.Close(); serving.Wait() })
	return s
}

func (s *scriptHost) of(binding [32]byte) chan outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outcomes[binding] == nil {
		s.outcomes[binding] = make(chan outcome, 1)
	}
	return s.outcomes[binding]
}

// attempt is one script with harm done to one record.
type attempt struct {
	way  tunneltest.Direction
	n    int
	harm harm

	mu      sync.Mutex
	seen    [2][][]byte // records, by direction
	came    chan struct{}
	held    []byte
	harmed  time.Time
	foreign [2][][]byte // the records of another session
	choice  byte
}

// harm says what goes on instead of record n.
type harm struct {
	name string
	do   func(a *attempt, record []byte) (out [][]byte, cut bool)
}

func flipAt(name string, at func(a *attempt, size int) int) harm {
	return harm{name, func(a *attempt, r []byte) ([][]byte, bool) {
		i := at(a, len(r))
		r[i] ^= 1 << (a.choice % 8)
		return [][]byte{r}, false
	}}
}

var harms = []harm{
	flipAt("flip the first byte", func(a *attempt, size int) int { return 0 }),
	flipAt("flip the last byte", func(a *attempt, size int) int { return size - 1 }),
	flipAt("flip a middle byte", func(a *attempt, size int) int { return size / 2 }),
	flipAt("flip a random byte", func(a *attempt, size int) int { return int(a.choice) % size }),
	{"drop", func(a *attempt, r []byte) ([][]byte, bool) { return nil, false }},
	{"double", func(a *attempt, r []byte) ([][]byte, bool) { return [][]byte{r, r}, false }},
	{"swap", nil},    // in frame: it takes two
	{"reflect", nil}, // in frame: it may have to wait for one
	{"replay", func(a *attempt, r []byte) ([][]byte, bool) {
		return [][]byte{a.seen[a.way][int(a.choice)%a.n], r}, false
	}},
	{"splice", func(a *attempt, r []byte) ([][]byte, bool) { return [][]byte{a.foreign[a.way][a.n]}, false }},
	{"shorten", func(a *attempt, r []byte) ([][]byte, bool) { return [][]byte{r[:len(r)-1]}, false }},
	{"cut to a tag", func(a *attempt, r []byte) ([][]byte, bool) { return [][]byte{r[:16]}, false }},
	{"empty", func(a *attempt, r []byte) ([][]byte, bool) { return [][]byte{{}}, false }},
	{"lengthen", func(a *attempt, r []byte) ([][]byte, bool) { return [][]byte{append(r, 0)}, false }},
	{"insert", func(a *attempt, r []byte) ([][]byte, bool) {
		junk := make([]byte, 40)
		rand.Read(junk)
		return [][]byte{r, junk}, false
	}},
	{"cut the connection", func(a *attempt, r []byte) ([][]byte, bool) { return [][]byte{r}, true }},
}

// possible says whether there is what the harm needs.
func (a *attempt) possible() bool {
	switch a.harm.name {
	case "replay":
		return a.n > 0
	case "reflect": // before its first record the other end has nothing to send back
		return a.n > 0 || a.way == tunneltest.ToClient
	}
	return true
}

func (a *attempt) String() string { return fmt.Sprintf("%s: record %d %v", a.harm.name, a.n, a.way) }

func (a *attempt) frame(d tunneltest.Direction, number int, record []byte) (out [][]byte, cut bool) {
	if d == a.way && number == a.n && a.harm.name == "reflect" {
		<-a.came
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen[d] = append(a.seen[d], slices.Clone(record)); d != a.way && len(a.seen[d]) == 1 {
		close(a.came)
	}
	switch {
	case d != a.way || number != a.n && a.held == nil || a.harm.name == "":
		return [][]byte{record}, false
	case a.held != nil:
		out = [][]byte{record, a.held}
		a.held = nil
	case a.harm.name == "swap":
		a.held = slices.Clone(record)
		return nil, false
	case a.harm.name == "reflect":
		other := a.seen[1-d]
		out = [][]byte{other[len(other)-1]}
	default:
		out, cut = a.harm.do(a, slices.Clone(record))
	}
	a.harmed = time.Now()
	return out, cut
}

// run plays the script through the relay and returns how it went for the client, and for the server if
// it was confirmed.
func (a *attempt) run(t *testing.T, h *scriptHost) (client outcome, server *outcome) {
	a.came = make(chan struct{})
	stop, addr := startRelay(t, &tunneltest.Relay{Frame: a.frame}, h.addr)
	defer stop()
	c, err := tunnel.DialConn(t.Context(), "ws://"+addr+"/wax", h.config())
	if err != nil {
		t.Errorf("%v: %v", a, err)
		return outcome{}, nil
	}
	binding := c.Binding()
	client = runScript(c, "client", "server")
	if a.harm.name != "" && a.way == tunneltest.ToServer && a.n == 0 {
		return client, nil // may not have been confirmed; the test looks at the server when all is over
	}
	o := <-h.of(binding)
	h.of(binding) <- o
	return client, &o
}

func TestTamperRecords(t *testing.T) {
	for _, suite := range []cipher.Suite{cipher.AES256GCM, cipher.ChaCha20Poly1305} {
		t.Run(suite.String(), func(t *testing.T) { testTamperRecords(t, suite) })
	}
}

func testTamperRecords(t *testing.T, suite cipher.Suite) {
	h := newScriptHost(t, suite)

	// The control: a relay that does no harm changes nothing. Its records are spliced in later.
	control := &attempt{}
	client, server := control.run(t, h)
	if server == nil || client.wrong != nil || server.wrong != nil || client.got != scriptMessages || server.got != scriptMessages ||
		!errors.Is(client.err, net.ErrClosed) || server.err != io.EOF {
		t.Fatalf("without harm the client got %+v, the server %+v", client, server)
	}
	h.mu.Lock()
	clear(h.outcomes)
	h.mu.Unlock()

	choice := newTestRand(t)
	var attempts []*attempt
	for n := range 64 {
		for _, way := range []tunneltest.Direction{tunneltest.ToServer, tunneltest.ToClient} {
			for _, harm := range harms {
				a := &attempt{way: way, n: n, harm: harm, foreign: control.seen, choice: byte(choice.Uint32())}
				// Each record is flipped, and the first ones get all that can be done.
				if a.possible() && (thorough() || n < 2 || choice.IntN(6) == 0 || harm.name == "flip a random byte" && suite == cipher.AES256GCM) {
					attempts = append(attempts, a)
				}
			}
			if thorough() {
				for at := range 64 {
					flip := flipAt(fmt.Sprintf("flip byte %d", at), func(a *attempt, size int) int { return at % size })
					attempts = append(attempts, &attempt{way: way, n: n, harm: flip, choice: byte(choice.Uint32())})
				}
			}
		}
	}
	inParallel(len(attempts), func(i int) {
		a := attempts[i]
		client, server := a.run(t, h)
		if a.harmed.IsZero() {
			t.Errorf("%v: the relay did no harm", a)
			return
		}
		a.check(t, "the client", client, a.way == tunneltest.ToClient)
		if server != nil {
			a.check(t, "the server", *server, a.way == tunneltest.ToServer)
		}
	})
	h.checkNobody(t)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.outcomes {
		if o := <-c; o.err == io.EOF || o.err == nil || o.wrong != nil {
			t.Errorf("the server took a harmed session for a good one: %+v", o)
		}
	}
}

// check is the oracle. victim says whether this end was to get the harmed record.
func (a *attempt) check(t *testing.T, who string, o outcome, victim bool) {
	t.Helper()
	if o.wrong != nil {
		t.Errorf("%v: %s: %v", a, who, o.wrong)
	}
	want := tunnel.ErrTruncated
	if victim && a.harm.name != "cut the connection" {
		want = tunnel.ErrRecord
	}
	if !errors.Is(o.err, want) {
		t.Errorf("%v: %s ended with %v, want %v", a, who, o.err, want)
	}
	if victim {
		before := a.n
		switch a.harm.name {
		case "double", "insert", "cut the connection":
			before++
		}
		// Two of the records may have been PINGs or PONGs. A cut may also lose what was on its way.
		if o.got > before || o.got < before-3 && a.harm.name != "cut the connection" {
			t.Errorf("%v: %s was given %d messages", a, who, o.got)
		}
	}
	if took := o.done.Sub(a.harmed); took > noticeWithin {
		t.Errorf("%v: %s ended only after %v", a, who, took)
	}
}

// Streams under harm: what a stream gives is the beginning of what was written, and no end of one is
// clean. REKEYs are among the records.
func TestTamperStreams(t *testing.T) {
	h := newTestHost(t, unlimited)
	servers := make(map[[32]byte]chan *tunnel.Tunnel)
	var mu sync.Mutex
	of := func(binding [32]byte) chan *tunnel.Tunnel {
		mu.Lock()
		defer mu.Unlock()
		if servers[binding] == nil {
			servers[binding] = make(chan *tunnel.Tunnel, 1)
		}
		return servers[binding]
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			tun, err := h.Accept(context.Background())
			if err != nil {
				return
			}
			of(tun.Binding()) <- tun
		}
	})
	defer func() { h.Close(); accepting.Wait() }()

	choice := newTestRand(t)
	attempts := []*attempt{{}}
	for _, harm := range harms {
		for _, way := range []tunneltest.Direction{tunneltest.ToServer, tunneltest.ToClient} {
			if harm.name == "splice" {
				continue
			}
			ns := []int{1 + choice.IntN(24), 1 + choice.IntN(24)}
			if thorough() {
				ns = ns[:0]
				for n := 1; n < 25; n++ {
					ns = append(ns, n)
				}
			}
			for _, n := range ns {
				attempts = append(attempts, &attempt{way: way, n: n, harm: harm, choice: byte(choice.Uint32())})
			}
		}
	}
	inParallel(len(attempts), func(i int) {
		a := attempts[i]
		a.came = make(chan struct{})
		stop, addr := startRelay(t, &tunneltest.Relay{Frame: a.frame}, h.addr)
		defer stop()
		client, err := tunnel.Dial(t.Context(), "ws://"+addr+"/wax", h.config())
		if err != nil {
			t.Errorf("%v: %v", a, err)
			return
		}
		defer client.Close()
		server := <-of(client.Binding())
		defer server.Close()
		clean := streamCells(t, a, client, server)
		if a.harm.name == "" {
			if !clean {
				t.Error("without harm the streams did not end cleanly")
			}
			return
		}
		if a.harmed.IsZero() {
			t.Errorf("%v: the relay did no harm", a)
		}
		if clean {
			t.Errorf("%v: streams ended cleanly", a)
		}
		for _, end := range []*tunnel.Tunnel{client, server} {
			select {
			case <-end.Done():
			case <-time.After(noticeWithin):
				t.Errorf("%v: an end has not ended", a)
				continue
			}
			if err := end.Err(); !errors.Is(err, tunnel.ErrRecord) && !errors.Is(err, tunnel.ErrTruncated) {
				t.Errorf("%v: a tunnel ended with %v", a, err)
			}
		}
	})
	h.checkNobody(t)
}

// streamCells sends numbered cells both ways of a stream, with a REKEY and a PING now and then, and
// reports whether a stream came to a clean end. It fails if something was read that was not written.
func streamCells(t *testing.T, a *attempt, client, server *tunnel.Tunnel) (clean bool) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	const cells = 64
	send := func(tun *tunnel.Tunnel, s *tunnel.Stream) {
		for i := range cells {
			if _, err := fmt.Fprintf(s, "%08d", i); err != nil {
				return
			}
			if i%4 == 3 && (tun.Rekey() != nil || ping(ctx, tun) != nil) {
				return
			}
		}
		s.CloseWrite()
	}
	receive := func(who string, s *tunnel.Stream) bool {
		b, err := io.ReadAll(s)
		for i := 0; len(b) > 0; i++ {
			want := fmt.Sprintf("%08d", i)
			n := min(len(b), len(want))
			if string(b[:n]) != want[:n] || i >= cells {
				t.Errorf("%v: %s read %q as cell %d", a, who, b[:n], i)
				break
			}
			b = b[n:]
		}
		return err == nil
	}
	s, err := client.OpenStream(ctx, tunnel.Request{Kind: tunnel.KindApp})
	if err != nil {
		return false
	}
	var work sync.WaitGroup
	var atServer bool
	work.Go(func() { send(client, s) })
	work.Go(func() {
		in, err := server.AcceptStream(ctx)
		if err != nil {
			return
		}
		s, err := in.Accept()
		if err != nil {
			return
		}
		work.Go(func() { send(server, s) })
		atServer = receive("the server", s)
	})
	// One way may have come through whole before the other was harmed; both cannot.
	atClient := receive("the client", s)
	work.Wait()
	return atClient && atServer
}

// What belongs to WebSocket and not to a record cannot end a connection cleanly either.
// PROTOCOL.md §4.12, §5.1 rows 3 and 4, §5.2.
func TestTamperFraming(t *testing.T) {
	h := newTestHost(t, func(s *tunnel.Server) { unlimited(s); s.PlainConns = true })
	tests := []struct {
		name  string
		bytes string // unmasked; the mask bit and a mask of zeros are put in for the server
		want  error
	}{
		{"close frame 1000", "\x88\x02\x03\xe8", tunnel.ErrTruncated},
		{"close frame without a code", "\x88\x00", tunnel.ErrTruncated},
		{"close frame 1008", "\x88\x02\x03\xf0", tunnel.ErrTruncated},
		{"close frame of one byte", "\x88\x01\x03", tunnel.ErrTruncated}, // broken, but the WebSocket library lets it pass
		{"text message", "\x81\x02hi", tunnel.ErrRecord},
		{"empty text message", "\x81\x00", tunnel.ErrRecord},
		{"compressed message", "\xc2\x02hi", tunnel.ErrRecord},
		{"reserved opcode", "\x83\x02hi", tunnel.ErrRecord},
		{"continuation of nothing", "\x80\x02hi", tunnel.ErrRecord},
		{"fragmented ping", "\x09\x02hi", tunnel.ErrRecord},
		{"message of 192 MiB", "\x82\x7f\x00\x00\x00\x00\x0c\x00\x00\x00", tunnel.ErrRecord},
		{"message of 2^63 bytes and more", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", tunnel.ErrRecord},
		{"junk in an unmasked HTTP answer", "HTTP/1.1 400 Bad Request\r\n\r\n", tunnel.ErrRecord},
	}
	for _, test := range tests {
		for _, way := range []tunneltest.Direction{tunneltest.ToServer, tunneltest.ToClient} {
			t.Run(test.name+" "+way.String(), func(t *testing.T) {
				raw := []byte(test.bytes)
				if way == tunneltest.ToServer {
					raw[1] |= 0x80
					header := map[byte]int{126: 4, 127: 10}[raw[1]&0x7f]
					raw = slices.Insert(raw, max(header, 2), 0, 0, 0, 0)
				}
				relay := &tunneltest.Relay{After: func(d tunneltest.Direction, number int) []byte {
					if d == way && number == 1 {
						return raw
					}
					return nil
				}}
				client, err := tunnel.DialConn(t.Context(), "ws://"+relay.Start(t, h.addr)+"/wax", h.config())
				if err != nil {
					t.Fatal(err)
				}
				server, err := h.AcceptConn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				read := func(c *tunnel.Conn) <-chan error {
					end := make(chan error, 1)
					go func() {
						m, err := c.ReadMessage(context.Background())
						for err == nil && string(m) == "before" {
							m, err = c.ReadMessage(context.Background())
						}
						if err == nil {
							err = fmt.Errorf("read %q", m)
						}
						end <- err
					}()
					return end
				}
				victim, other := read(server), read(client)
				if way == tunneltest.ToClient {
					victim, other = other, victim
				}
				// The first records are a PING and its PONG; the second ones bring the harm with them.
				client.WriteMessage(t.Context(), []byte("before"))
				server.WriteMessage(t.Context(), []byte("before"))
				if err := <-victim; !errors.Is(err, test.want) {
					t.Errorf("the reader got %v, want %v", err, test.want)
				}
				if err := <-other; !errors.Is(err, tunnel.ErrTruncated) {
					t.Errorf("the other end: %v, want %v", err, tunnel.ErrTruncated)
				}
			})
		}
	}
}
