package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// evilServer is a hub without an exit: the test says what the server does. It returns a client and the
// server's end of its tunnel.
func evilServer(t *testing.T) (*guest, *tunnel.Tunnel) {
	t.Helper()
	h := newHub(t, &forward.Exit{})
	h.raw = make(chan *tunnel.Tunnel, 1)
	g := h.connect(h.enrol("laptop"))
	return g, <-h.raw
}

// open opens a stream as a server and returns the client's verdict.
func open(t *testing.T, tun *tunnel.Tunnel, kind tunnel.Kind, target string) (*tunnel.Stream, error) {
	t.Helper()
	st, err := tun.OpenStream(testContext(t), tunnel.Request{Kind: kind, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	return st, st.Opened(testContext(t))
}

// The server of a client chooses nothing: what was not asked for is refused, whatever it is called, and
// nothing is dialled.
func TestReverserRefuses(t *testing.T) {
	g, server := evilServer(t)
	d := &dialled{}
	g.reverser.Dial = d.dial
	h := &holding{Reverse: g.reverser.Forward(forward.Remote{Listen: tcp("127.0.0.1:9000"), Target: tcp("localhost:3000")}), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { h.ended <- h.Hold(ctx, g.tun, func() {}) }()
	in, err := server.AcceptStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := in.Request(), (tunnel.Request{Kind: tunnel.KindListen, Target: "1 127.0.0.1:9000"}); got != want {
		t.Fatalf("it asks for %v, want %v", got, want)
	}
	control, err := in.Accept()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(control, "127.0.0.1:9000\n")
	eventually(t, "it is up", h.Listening)

	for _, r := range []tunnel.Request{
		{Kind: tunnel.KindTCP, Target: "localhost:3000"},
		{Kind: tunnel.KindTCP, Target: "1"},
		{Kind: tunnel.KindUnix, Target: "/run/docker.sock"},
		{Kind: tunnel.KindListen, Target: "1 127.0.0.1:0"},
		{Kind: tunnel.KindAccepted, Target: ""},
		{Kind: tunnel.KindAccepted, Target: "0"},
		{Kind: tunnel.KindAccepted, Target: "2"},
		{Kind: tunnel.KindAccepted, Target: "01"},
		{Kind: tunnel.KindAccepted, Target: "1 "},
		{Kind: tunnel.KindAccepted, Target: "1 localhost:22"},
		{Kind: tunnel.KindAccepted, Target: "localhost:22"},
		{Kind: tunnel.KindApp, Target: "1"},
		{Kind: tunnel.Kind(77), Target: "1"},
	} {
		_, err := open(t, server, r.Kind, r.Target)
		wantStreamError(t, err, tunnel.NotAllowed, "this was not asked for")
	}
	if list := d.take(); len(list) != 0 {
		t.Errorf("dialled %v", list)
	}
	_, err = open(t, server, tunnel.KindAccepted, "1")
	wantStreamError(t, err, tunnel.Unreachable, "") // the target is not for the server to know
	if list := d.take(); len(list) != 1 || list[0] != "tcp localhost:3000" {
		t.Errorf("dialled %v", list)
	}
	// Another tunnel has not asked for it, be it of the same client.
	g.h.connectWith(g.h.enrol("desk"), g.reverser)
	other := <-g.h.raw
	_, err = open(t, other, tunnel.KindAccepted, "1")
	wantStreamError(t, err, tunnel.NotAllowed, "this was not asked for")
	// Nor is there anything when it has ended.
	cancel()
	if err := h.wait(t); err != context.Canceled {
		t.Errorf("it ended with %v", err)
	}
	_, err = open(t, server, tunnel.KindAccepted, "1")
	wantStreamError(t, err, tunnel.NotAllowed, "this was not asked for")
	if list := d.take(); len(list) != 0 {
		t.Errorf("dialled %v", list)
	}
}

// A server that says something else than where it listens, or what cannot be, is not believed.
func TestReverserBound(t *testing.T) {
	tests := []struct {
		asked, line string
		want        string // "" if it is not taken
	}{
		{"127.0.0.1:9000", "127.0.0.1:9000\n", "127.0.0.1:9000"},
		{"127.0.0.1:0", "127.0.0.1:40000\n", "127.0.0.1:40000"},
		{"[::1]:0", "[::1]:40000\n", "[::1]:40000"},
		{":0", "*:40000\n", ":40000"},
		{"127.0.0.1:9000", "127.0.0.1:9001\n", ""},
		{"127.0.0.1:9000", "0.0.0.0:9000\n", ""},
		{"127.0.0.1:0", "127.0.0.1:0\n", ""},
		{"127.0.0.1:0", "*:40000\n", ""},
		{"127.0.0.1:0", "127.0.0.1:40000\x1b[2J\n", ""},
		{"127.0.0.1:0", "127.0.0.1:99999\n", ""},
		{"127.0.0.1:0", "\n", ""},
		{"127.0.0.1:0", "/run/x\n", ""},
		{"127.0.0.1:0", "127.0.0.1:40000", ""}, // and its end
		{"127.0.0.1:0", strings.Repeat("x", 1000), ""},
	}
	for _, tt := range tests {
		t.Run(tt.asked+" "+tt.line, func(t *testing.T) {
			g, server := evilServer(t)
			v := g.reverser.Forward(forward.Remote{Listen: tcp(tt.asked), Target: tcp("x:1")})
			up, ended := make(chan struct{}), make(chan error, 1)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() { ended <- v.Hold(ctx, g.tun, func() { close(up) }) }()
			in, err := server.AcceptStream(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			st, err := in.Accept()
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(st, tt.line)
			if !strings.HasSuffix(tt.line, "\n") {
				st.CloseWrite()
			}
			select {
			case <-up:
				if got := v.Remote().Listen.Addr; got != tt.want {
					t.Errorf("it listens on %q, want %q", got, tt.want)
				}
				if tt.want == "" {
					return
				}
				io.WriteString(st, "x") // there is nothing more to say
				if err := <-ended; err == nil || ctx.Err() != nil {
					t.Errorf("after more: %v", err)
				}
			case err := <-ended:
				if tt.want != "" || err == nil {
					t.Errorf("it was not taken: %v", err)
				}
			case <-time.After(patience):
				t.Fatal("nothing came of it")
			}
		})
	}
}

// What a client may say that it should not.
func TestListenRequests(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", "listen=*:*", "listen=unix:/run/x"))
	for _, request := range []string{
		"", " ", "1", "1 ", "x 127.0.0.1:0", "-1 127.0.0.1:0", " 127.0.0.1:0", "123456789012345678901 127.0.0.1:0",
		"1 127.0.0.1", "1 127.0.0.1:", "1 127.0.0.1:65536", "1 127.0.0.1:-1", "1 127.0.0.1:+1", "1 localhost:0", "1 :0", "1 ::1:0",
		"1 [fe80::1%lo]:0", "1 [::1]:0 ", "1 127.0.0.1:0\n", "1 /run/../x", "1 /run/x\x00", "1 run/x", "1  127.0.0.1:0",
	} {
		_, err := open(t, g.tun, tunnel.KindListen, request)
		var se *tunnel.StreamError
		if !errors.As(err, &se) || se.Code != tunnel.NotAllowed {
			t.Errorf("%q: %v, want it not allowed", request, err)
		}
	}

	st, err := open(t, g.tun, tunnel.KindListen, "7 [::ffff:127.0.0.1]:0")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := st.Read(b)
	addr := strings.TrimSuffix(string(b[:n]), "\n")
	if err != nil || !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Fatalf("got %q, %v", b[:n], err)
	}
	if c, err := net.Dial("tcp", addr); err == nil { // the reset may come first
		c.Close()
	}
	io.WriteString(st, "more") // it has nothing more to say
	_, err = st.Read(b)
	wantStreamError(t, err, tunnel.ProtocolError, "")
	wantClosed(t, addr)

	// A half-close ends it as well.
	st, err = open(t, g.tun, tunnel.KindListen, "8 127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n, _ = st.Read(b)
	st.CloseWrite()
	if n, err := st.Read(b); err != io.EOF {
		t.Errorf("got %q, %v", b[:n], err)
	}
	wantClosed(t, strings.TrimSuffix(string(b[:n]), "\n"))
}

// A peer may have so many, and one more is refused; other peers are not concerned.
func TestListenLimit(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", anyPort))
	var held []*holding
	for range forward.MaxListeners {
		held = append(held, g.mustHold("0:x:1"))
	}
	_, err := g.hold("0:x:1")
	wantStreamError(t, err, tunnel.TooMany, "this peer has 64 listeners already")
	g.mustHold(held[0].addr() + ":x:1") // in the place of one
	h.connect(h.enrol("desk", anyPort)).mustHold("0:x:1")
	held[1].cancel()
	held[1].wait(t)
	eventually(t, "there is room again", func() bool { _, err := g.hold("0:x:1"); return err == nil })
}

// While its client is away a listener keeps so many connections waiting, and resets more.
func TestListenWaiting(t *testing.T) {
	h := newHub(t, &forward.Exit{})
	g := h.connect(h.enrol("laptop", anyPort))
	held := g.mustHold("0:" + target(t, "tcp", "127.0.0.1:0", echo).String())
	g.cut(true)
	eventually(t, "the server has noticed", func() bool { return h.srv.Connections() == 0 })
	var waiting []net.Conn
	for range forward.MaxArrivals {
		waiting = append(waiting, dial(t, "tcp", held.addr()))
	}
	if c, err := net.Dial("tcp", held.addr()); err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		wantReset(t, c)
	}
	g.cut(false)
	g.tun.Reconnect()
	for _, c := range waiting {
		roundTrip(t, c, "hello")
	}
}

// Whatever is asked for, what is understood has one form, and that is understood in the same way.
func FuzzListenRequest(f *testing.F) {
	for _, s := range []string{"1 127.0.0.1:9000", "20 *:0", "3 [::1]:80", "4 [::ffff:10.0.0.1]:1", "5 /run/x", "x y", "1 [fe80::1%lo]:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		again, ok := forward.ListenRequest(s)
		if !ok {
			return
		}
		if twice, ok := forward.ListenRequest(again); !ok || twice != again {
			t.Fatalf("%q reads as %q, that as %q, %v", s, again, twice, ok)
		}
		if len(again) > len(s)+8 || strings.ContainsAny(again, "\n%") && !strings.Contains(again, " /") {
			t.Fatalf("%q reads as %q", s, again)
		}
	})
}
