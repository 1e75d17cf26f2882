package forward_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// dialled records what an Exit dials and connects it nowhere.
type dialled struct {
	mu   sync.Mutex
	list []string
}

func (d *dialled) dial(_ context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, network+" "+addr)
	return nil, errNotDialled
}

func (d *dialled) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.list
	d.list = nil
	return list
}

// What a peer with one permission may reach, and by which addresses. The far end is one whose own
// addresses are 203.0.113.7 and fd00::7.
func TestPolicy(t *testing.T) {
	names := map[string][][]netip.Addr{
		"localhost":     {addrs("127.0.0.1", "::1")},
		"db.internal":   {addrs("10.1.2.3", "10.1.2.4")},
		"both.internal": {addrs("10.1.2.3", "127.0.0.1")},
		"loop.internal": {addrs("127.0.0.1")},
		"own.internal":  {addrs("203.0.113.7")},
		"mapped.evil":   {addrs("::ffff:127.0.0.1")},
		"mapped.own":    {addrs("::ffff:203.0.113.7")},
		"mapped.ten":    {addrs("::ffff:10.0.0.1")},
		"meta.evil":     {addrs("169.254.169.254")},
		"pub.example":   {addrs("198.51.100.9", "2001:db8::9")},
		"twice.example": {addrs("198.51.100.9", "198.51.100.9")},
	}
	tests := []struct {
		allow, target string
		want          string // what is dialled, or the code that refuses
	}{
		// A name rule matches the name that was asked for, and lets it be whatever it resolves to.
		{"connect=localhost:80", "localhost:80", "tcp 127.0.0.1:80, tcp [::1]:80"},
		{"connect=localhost:80", "LOCALHOST:80", "tcp 127.0.0.1:80, tcp [::1]:80"},
		{"connect=localhost:80", "localhost.:80", "tcp 127.0.0.1:80, tcp [::1]:80"},
		{"connect=localhost:80", "localhost:81", "not allowed"},
		{"connect=localhost:80", "127.0.0.1:80", "not allowed"},
		{"connect=localhost:80", "[::1]:80", "not allowed"},
		{"connect=localhost:80", "loop.internal:80", "not allowed"},
		{"connect=own.internal:80", "own.internal:80", "tcp 203.0.113.7:80"},
		{"connect=db.internal:5000-6000", "db.internal:5432", "tcp 10.1.2.3:5432, tcp 10.1.2.4:5432"},
		{"connect=db.internal:5000-6000", "db.internal:6001", "not allowed"},
		{"connect=twice.example:80", "twice.example:80", "tcp 198.51.100.9:80"},
		// An address rule matches what is dialled, whatever it was called.
		{"connect=10.0.0.0/8:22", "10.9.9.9:22", "tcp 10.9.9.9:22"},
		{"connect=10.0.0.0/8:22", "db.internal:22", "tcp 10.1.2.3:22, tcp 10.1.2.4:22"},
		{"connect=10.0.0.0/8:22", "both.internal:22", "tcp 10.1.2.3:22"},
		{"connect=10.0.0.0/8:22", "localhost:22", "not allowed"},
		{"connect=10.0.0.0/8:22", "11.0.0.1:22", "not allowed"},
		{"connect=10.0.0.0/8:22", "[::ffff:10.0.0.1]:22", "tcp 10.0.0.1:22"},
		{"connect=127.0.0.1:80", "127.0.0.1:80", "tcp 127.0.0.1:80"},
		{"connect=127.0.0.1:80", "[::ffff:127.0.0.1]:80", "tcp 127.0.0.1:80"},
		{"connect=127.0.0.1:80", "localhost:80", "tcp 127.0.0.1:80"},
		{"connect=127.0.0.1:80", "[::1]:80", "not allowed"},
		{"connect=[::1]:80", "[::1]:80", "tcp [::1]:80"},
		{"connect=[::1]:80", "[0:0:0:0:0:0:0:1]:80", "tcp [::1]:80"},
		{"connect=203.0.113.7:80", "203.0.113.7:80", "tcp 203.0.113.7:80"},
		// A rule with a * reaches neither the host itself nor its link.
		{"connect=*:*", "198.51.100.9:80", "tcp 198.51.100.9:80"},
		{"connect=*:*", "pub.example:80", "tcp 198.51.100.9:80, tcp [2001:db8::9]:80"},
		{"connect=*:*", "127.0.0.1:80", "not allowed"},
		{"connect=*:*", "127.1.2.3:80", "not allowed"},
		{"connect=*:*", "[::1]:80", "not allowed"},
		{"connect=*:*", "localhost:80", "not allowed"},
		{"connect=*:*", "[::ffff:127.0.0.1]:80", "not allowed"},
		{"connect=*:*", "[::ffff:7f00:1]:80", "not allowed"},
		{"connect=*:*", "mapped.evil:80", "not allowed"},
		{"connect=*:*", "mapped.own:80", "not allowed"},
		{"connect=10.0.0.0/8:80", "mapped.ten:80", "tcp 10.0.0.1:80"},
		{"connect=*:*", "meta.evil:80", "not allowed"},
		{"connect=*:*", "169.254.169.254:80", "not allowed"},
		{"connect=*:*", "[fd00:ec2::254]:80", "not allowed"},
		{"connect=*:*", "[fe80::1]:80", "not allowed"},
		{"connect=*:*", "0.0.0.0:80", "not allowed"},
		{"connect=*:*", "0.1.2.3:80", "not allowed"},
		{"connect=*:*", "[::]:80", "not allowed"},
		{"connect=*:*", "224.0.0.1:80", "not allowed"},
		{"connect=*:*", "[ff02::1]:80", "not allowed"},
		{"connect=*:*", "255.255.255.255:80", "not allowed"},
		{"connect=*:*", "203.0.113.7:80", "not allowed"},
		{"connect=*:*", "[::ffff:203.0.113.7]:80", "not allowed"},
		{"connect=*:*", "[fd00::7]:80", "not allowed"},
		{"connect=*:*", "[fd00::8]:80", "tcp [fd00::8]:80"},
		{"connect=*:*", "own.internal:80", "not allowed"},
		{"connect=*:*", "both.internal:80", "tcp 10.1.2.3:80"},
		{"connect=*.internal:*", "db.internal:1", "tcp 10.1.2.3:1, tcp 10.1.2.4:1"},
		{"connect=*.internal:*", "loop.internal:1", "not allowed"},
		{"connect=*.internal:*", "internal:1", "not allowed"},
		{"connect=*.internal:*", "pub.example:1", "not allowed"},
		// What is not written as an address is not one, whatever the system would make of it.
		{"connect=*:*", "2130706433:80", "not allowed"},
		{"connect=*:*", "0x7f.1:80", "not allowed"},
		{"connect=*:*", "0x7f000001:80", "not allowed"},
		{"connect=*:*", "0177.0.0.1:80", "not allowed"},
		{"connect=*:*", "127.1:80", "not allowed"},
		{"connect=127.0.0.1:80", "127.1:80", "not allowed"},
		{"connect=*:*", "[fe80::1%eth0]:80", "not allowed"},
		{"connect=*:*", "[fe80::1%25eth0]:80", "not allowed"},
		{"connect=*:*", "a/../b:80", "not allowed"},
		{"connect=*:*", "localhost:80:80", "not allowed"},
		{"connect=*:*", "localhost", "not allowed"},
		{"connect=*:*", "pub.example:0", "not allowed"},
		{"connect=*:*", "pub.example:65536", "not allowed"},
		{"connect=*:*", "pub.example:http", "not allowed"},
		{"connect=*:*", "", "not allowed"},
		{"connect=*:*", "\x00:80", "not allowed"},
		{"connect=*:*", "/run/db.sock", "not allowed"}, // TCP was asked for
		// Whether a name exists is told only to whom that name is open.
		{"connect=gone.internal:80", "gone.internal:80", "no such target"},
		{"connect=*.internal:80", "gone.internal:80", "no such target"},
		{"connect=*:80", "gone.internal:80", "no such target"},
		{"connect=*:80", "gone.internal:81", "not allowed"},
		{"connect=10.0.0.0/8:80", "gone.internal:80", "not allowed"},
		{"", "gone.internal:80", "not allowed"},
		{"", "127.0.0.1:80", "not allowed"},
		{"message", "198.51.100.9:80", "not allowed"},
		{"listen=127.0.0.1:80", "127.0.0.1:80", "not allowed"},
		{"connect=unix:/run/db.sock", "127.0.0.1:80", "not allowed"},
		// Unix sockets are named by their one plain path.
		{"connect=unix:/run/db.sock", "unix:/run/db.sock", "unix /run/db.sock"},
		{"connect=unix:/run/db.sock", "unix:/run/../run/db.sock", "not allowed"},
		{"connect=unix:/run/db.sock", "unix:/run//db.sock", "not allowed"},
		{"connect=unix:/run/db.sock", "unix:/run/./db.sock", "not allowed"},
		{"connect=unix:/run/db.sock", "unix:/run/db.sock/", "not allowed"},
		{"connect=unix:/run/db.sock", "unix:run/db.sock", "not allowed"},
		{"connect=unix:/run/db.sock", "unix:@run/db.sock", "not allowed"},
		{"connect=unix:/run/db.sock", "unix:/run/db.sock\x00", "not allowed"},
		{"connect=unix:/run/db.sock", "unix:/run/other.sock", "not allowed"},
		{"connect=*:*", "unix:/run/db.sock", "not allowed"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s may %s", tt.target, tt.allow), func(t *testing.T) {
			var d dialled
			exit := &forward.Exit{
				Dial:     d.dial,
				Resolver: &resolver{answers: maps(names)},
				OwnAddrs: func() ([]netip.Addr, error) { return addrs("203.0.113.7", "fd00::7"), nil },
			}
			var allow []string
			if tt.allow != "" {
				allow = append(allow, tt.allow)
			}
			p := newPair(t, exit, allow...)
			req := tunnel.Request{Kind: tunnel.KindTCP, Target: tt.target}
			if path, ok := strings.CutPrefix(tt.target, "unix:"); ok {
				req = tunnel.Request{Kind: tunnel.KindUnix, Target: path}
			}
			st, err := p.client.OpenStream(testContext(t), req)
			if err != nil {
				t.Fatal(err)
			}
			err = st.Opened(testContext(t))
			var se *tunnel.StreamError
			if !errors.As(err, &se) || !se.Refused {
				t.Fatalf("Opened: got %v, want a refusal", err)
			}
			got := strings.Join(d.take(), ", ")
			if got == "" {
				got = se.Code.String()
			} else if se.Code != tunnel.Unreachable {
				t.Errorf("code after a failed dial: got %v", se.Code)
			}
			if got != tt.want {
				t.Errorf("got %s (%s), want %s", got, se.Text, tt.want)
			}
		})
	}
}

func maps(m map[string][][]netip.Addr) map[string][][]netip.Addr {
	c := make(map[string][][]netip.Addr)
	for k, v := range m {
		c[k] = slices.Clone(v)
	}
	return c
}

// A name that means one thing when it is checked and another when it is dialled gets nowhere: it is
// looked up once.
func TestPolicyRebinding(t *testing.T) {
	var d dialled
	r := &resolver{answers: map[string][][]netip.Addr{"evil.example": {addrs("198.51.100.9"), addrs("127.0.0.1")}}}
	p := newPair(t, &forward.Exit{Dial: d.dial, Resolver: r}, "connect=*:*")
	open := func() {
		st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: "evil.example:80"})
		if err != nil {
			t.Fatal(err)
		}
		if st.Opened(testContext(t)) == nil {
			t.Fatal("opened")
		}
	}
	open()
	if got := d.take(); !slices.Equal(got, []string{"tcp 198.51.100.9:80"}) || r.asked != 1 {
		t.Errorf("dialled %q after %d lookups, want 198.51.100.9:80 after one", got, r.asked)
	}
	open() // now it is loopback from the start
	if got := d.take(); got != nil {
		t.Errorf("dialled %q", got)
	}
}

// If the own addresses cannot be listed, any address may be one of them.
func TestPolicyOwnAddressesUnknown(t *testing.T) {
	var d dialled
	p := newPair(t, &forward.Exit{Dial: d.dial, OwnAddrs: func() ([]netip.Addr, error) { return nil, errNotDialled }},
		"connect=*:80", "connect=10.0.0.0/8:80")
	for addr, want := range map[string]int{"198.51.100.9:80": 0, "10.0.0.1:80": 1} {
		st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: addr})
		if err != nil {
			t.Fatal(err)
		}
		if st.Opened(testContext(t)) == nil {
			t.Fatal("opened")
		}
		if got := d.take(); len(got) != want {
			t.Errorf("%s: dialled %q, want %d", addr, got, want)
		}
	}
}

// The addresses of this very host, as the system lists them, are guarded.
func TestPolicyOwnAddresses(t *testing.T) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var d dialled
	p := newPair(t, &forward.Exit{Dial: d.dial}, "connect=*:*")
	for _, a := range list {
		ip, _, err := net.ParseCIDR(a.String())
		if err != nil {
			t.Fatal(err)
		}
		st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: net.JoinHostPort(ip.String(), "80")})
		if err != nil {
			t.Fatal(err)
		}
		var se *tunnel.StreamError
		if err := st.Opened(testContext(t)); !errors.As(err, &se) || se.Code != tunnel.NotAllowed {
			t.Errorf("%v: got %v, want not allowed", ip, err)
		}
	}
	if len(list) == 0 || d.take() != nil {
		t.Errorf("of %v some were dialled", list)
	}
}

// Permissions count from the next open, and a peer that was removed has none.
func TestPolicyChanges(t *testing.T) {
	var d dialled
	p := newPair(t, &forward.Exit{Dial: d.dial}, "connect=10.0.0.1:80")
	code := func() tunnel.Code {
		st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: "10.0.0.1:80"})
		if err != nil {
			t.Fatal(err)
		}
		var se *tunnel.StreamError
		if err := st.Opened(testContext(t)); !errors.As(err, &se) {
			t.Fatal(err)
		}
		return se.Code
	}
	if got := code(); got != tunnel.Unreachable || d.take() == nil {
		t.Fatalf("with the permission: %v", got)
	}
	peer := p.server.Peer()
	p.peers.Remove("laptop")
	peer.Allow = nil
	if err := p.peers.Add(peer); err != nil {
		t.Fatal(err)
	}
	if got := code(); got != tunnel.NotAllowed || d.take() != nil {
		t.Errorf("without it: %v", got)
	}
}

// Kinds of streams that are not forwards are refused.
func TestPolicyKinds(t *testing.T) {
	p := newPair(t, &forward.Exit{}, "connect=*:*", "connect=127.0.0.1:*", "message", "files")
	for _, kind := range []tunnel.Kind{0, tunnel.KindUDP, tunnel.KindMessage, tunnel.KindFile, tunnel.KindControl, tunnel.KindApp, 99} {
		st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: kind, Target: "127.0.0.1:80"})
		if err != nil {
			t.Fatal(err)
		}
		var se *tunnel.StreamError
		if err := st.Opened(testContext(t)); !errors.As(err, &se) || se.Code != tunnel.NotAllowed {
			t.Errorf("%v: got %v, want not allowed", kind, err)
		}
	}
}

// What a refusal says is what Permitted reads.
func TestPermitted(t *testing.T) {
	many := []string{}
	for i := range 20 {
		many = append(many, fmt.Sprintf("connect=10.0.0.%d:80", i))
	}
	tests := []struct {
		name    string
		allow   []string
		targets string
	}{
		{"nothing", nil, ""},
		{"no targets", []string{"message"}, ""},
		{"one", []string{"connect=localhost:80"}, "localhost:80"},
		{"two and others", []string{"connect=localhost:80", "files", "connect=unix:/run/a"}, "localhost:80|unix:/run/a"},
		{"too many", many, "10.0.0.0:80|10.0.0.1:80|10.0.0.2:80|10.0.0.3:80|10.0.0.4:80|10.0.0.5:80|10.0.0.6:80|…"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, &forward.Exit{}, tt.allow...)
			st, err := p.client.OpenStream(testContext(t), tunnel.Request{Kind: tunnel.KindTCP, Target: "192.0.2.1:9"})
			if err != nil {
				t.Fatal(err)
			}
			var se *tunnel.StreamError
			if err := st.Opened(testContext(t)); !errors.As(err, &se) {
				t.Fatal(err)
			}
			name, targets, ok := forward.Permitted(se.Text)
			if !ok || name != "laptop" || strings.Join(targets, "|") != tt.targets || len(se.Text) > 120 {
				t.Errorf("Permitted(%q) = %q, %q, %v; want %q", se.Text, name, targets, ok, tt.targets)
			}
		})
	}
	for _, text := range []string{"", "no", "LAPTOP may connect to nothing", "\x1b[2J may connect to nothing"} {
		if name, _, ok := forward.Permitted(text); ok {
			t.Errorf("Permitted(%q) took %q", text, name)
		}
	}
}
