package keys_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"waxwire.example/waxwire/keys"
)

func TestParsePermission(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, tt := range []struct {
		text string
		want string // the canonical text, or
		err  string // a part of the error
	}{
		{text: "message", want: "message"},
		{text: "files", want: "files"},
		{text: "connect=localhost:80", want: "connect=localhost:80"},
		{text: "connect=DB.Example.NET:5432", want: "connect=db.example.net:5432"},
		{text: "connect=db.example.net.:5432", want: "connect=db.example.net:5432"},
		{text: "connect=xn--bcher-kva.example:443", want: "connect=xn--bcher-kva.example:443"},
		{text: "connect=XN--BCHER-KVA.example:443", want: "connect=xn--bcher-kva.example:443"},
		{text: "connect=my_service:8080", want: "connect=my_service:8080"},
		{text: "connect=4chan.org:80", want: "connect=4chan.org:80"},
		{text: "connect=1.2.3.4.example:80", want: "connect=1.2.3.4.example:80"},
		{text: "connect=0xdead.example:80", want: "connect=0xdead.example:80"},
		{text: "connect=" + long + "." + long + "." + long + ":1", want: "connect=" + long + "." + long + "." + long + ":1"},
		{text: "connect=127.0.0.1:80", want: "connect=127.0.0.1:80"},
		{text: "connect=[::1]:80", want: "connect=[::1]:80"},
		{text: "connect=[2001:DB8:0:0::0001]:80", want: "connect=[2001:db8::1]:80"},
		{text: "connect=[::ffff:10.0.0.1]:80", want: "connect=10.0.0.1:80"},
		{text: "connect=[::ffff:a00:1]:80", want: "connect=10.0.0.1:80"},
		{text: "connect=10.0.0.0/8:*", want: "connect=10.0.0.0/8:*"},
		{text: "connect=10.0.0.1/32:80", want: "connect=10.0.0.1:80"},
		{text: "connect=0.0.0.0/0:443", want: "connect=0.0.0.0/0:443"},
		{text: "connect=[fd00::/8]:443", want: "connect=[fd00::/8]:443"},
		{text: "connect=[FD00:0::/8]:443", want: "connect=[fd00::/8]:443"},
		{text: "connect=[::1/128]:443", want: "connect=[::1]:443"},
		{text: "connect=*:*", want: "connect=*:*"},
		{text: "connect=*:443", want: "connect=*:443"},
		{text: "connect=*.example.net:443", want: "connect=*.example.net:443"},
		{text: "connect=*.Example.NET.:443", want: "connect=*.example.net:443"},
		{text: "connect=localhost:8000-8100", want: "connect=localhost:8000-8100"},
		{text: "connect=localhost:80-80", want: "connect=localhost:80"},
		{text: "connect=localhost:1-65535", want: "connect=localhost:*"},
		{text: "connect=localhost:65535", want: "connect=localhost:65535"},
		{text: "connect=unix:/run/docker.sock", want: "connect=unix:/run/docker.sock"},
		{text: "connect=unix:/run/My App/a:80", want: "connect=unix:/run/My App/a:80"},
		{text: "listen=127.0.0.1:9000", want: "listen=127.0.0.1:9000"},
		{text: "listen=[::1]:9000-9100", want: "listen=[::1]:9000-9100"},
		{text: "listen=127.0.0.0/8:*", want: "listen=127.0.0.0/8:*"},
		{text: "listen=*:*", want: "listen=*:*"},
		{text: "listen=0.0.0.0:80", want: "listen=0.0.0.0:80"},
		{text: "listen=unix:/run/x", want: "listen=unix:/run/x"},

		{text: "", err: "it is empty"},
		{text: "Message", err: "unknown word"},
		{text: " message", err: "unknown word"},
		{text: "message ", err: "unknown word"},
		{text: "message=yes", err: `"message" takes nothing after it`},
		{text: "files=", err: `"files" takes nothing after it`},
		{text: "shell", err: "unknown word; one of message, files"},
		{text: "=localhost:80", err: "it is empty"},
		{text: "connect", err: "connect needs HOST:PORT, for example connect=localhost:80"},
		{text: "connect=", err: "connect needs HOST:PORT"},
		{text: "listen", err: "listen needs HOST:PORT, for example listen=127.0.0.1:9000"},
		{text: "connect=localhost", err: "the port is missing"},
		{text: "connect=localhost:", err: "the port is missing"},
		{text: "connect=:80", err: "the host is missing"},
		{text: "connect=.:80", err: "the host is missing"},
		{text: "connect=localhost:0", err: "is not a port"},
		{text: "connect=localhost:65536", err: "is not a port"},
		{text: "connect=localhost:-80", err: "the port is missing"},
		{text: "connect=localhost:80-", err: "the port is missing"},
		{text: "connect=localhost:+80", err: "is not a port"},
		{text: "connect=localhost:080", err: "is not a port"},
		{text: "connect=localhost:0x50", err: "is not a port"},
		{text: "connect=localhost:http", err: `"http" is not a port`},
		{text: "connect=localhost:90-80", err: "runs backwards"},
		{text: "connect=localhost:80-90-100", err: "is not a port"},
		{text: "connect=localhost:*-80", err: "is not a port"},
		{text: "connect=localhost: 80", err: "is not a port"},
		{text: "connect=localhost :80", err: "the name has a ' '"},
		{text: "connect=http://localhost:80", err: "IPv6 address stands in brackets"},
		{text: "connect=user@host:22", err: "the name has a '@'"},
		{text: "connect=host\x00:22", err: `the name has a '\x00'`},
		{text: "connect=a..b:80", err: "empty label"},
		{text: "connect=.example.net:80", err: "empty label"},
		{text: "connect=example.net..:80", err: "empty label"},
		{text: "connect=-a.example:80", err: "hyphen"},
		{text: "connect=a-.example:80", err: "hyphen"},
		{text: "connect=" + long + "a:80", err: "longer than 63"},
		{text: "connect=" + strings.Repeat("a.", 127) + "b:80", err: "longer than 253"},
		{text: "connect=bücher.example:80", err: "ASCII form (xn--"},
		{text: "connect=loca\u200blhost:80", err: "ASCII form (xn--"},

		// What some program takes for an address and another for a name.
		{text: "connect=127.1:80", err: "neither a name nor an address"},
		{text: "connect=2130706433:80", err: "neither a name nor an address"},
		{text: "connect=0x7f.1:80", err: "neither a name nor an address"},
		{text: "connect=0x7f000001:80", err: "neither a name nor an address"},
		{text: "connect=0X7F000001:80", err: "neither a name nor an address"},
		{text: "connect=127.0.0.0x1:80", err: "neither a name nor an address"},
		{text: "connect=0177.0.0.1:80", err: "neither a name nor an address"},
		{text: "connect=127.0.0.01:80", err: "neither a name nor an address"},
		{text: "connect=127.0.0.1.:80", err: "neither a name nor an address"},
		{text: "connect=256.0.0.1:80", err: "neither a name nor an address"},
		{text: "connect=1.2.3.4.5:80", err: "neither a name nor an address"},
		{text: "connect=example.123:80", err: "neither a name nor an address"},
		{text: "connect=*.1:80", err: "neither a name nor an address"},

		{text: "connect=*.*:80", err: "a * is the whole host or its first label"},
		{text: "connect=*example.net:80", err: "a * is the whole host or its first label"},
		{text: "connect=a.*.net:80", err: "a * is the whole host or its first label"},
		{text: "connect=10.*:80", err: "a * is the whole host or its first label"},
		{text: "connect=*.:80", err: "the host is missing"},
		{text: "connect=**:80", err: "a * is the whole host or its first label"},

		{text: "connect=::1:80", err: "stands in brackets"},
		{text: "connect=fe80::1%eth0:80", err: "stands in brackets"},
		{text: "connect=[fe80::1%eth0]:80", err: "zone"},
		{text: "connect=[fe80::%eth0/64]:80", err: "zone"},
		{text: "connect=[127.0.0.1]:80", err: "brackets are for IPv6"},
		{text: "connect=[10.0.0.0/8]:80", err: "brackets are for IPv6"},
		{text: "connect=[localhost]:80", err: "is not an IPv6 address"},
		{text: "connect=[::1:80", err: `the "]"`},
		{text: "connect=[::1]", err: `the port after "]" is missing`},
		{text: "connect=[::1]80", err: `the port after "]" is missing`},
		{text: "connect=[]:80", err: "is not an IPv6 address"},
		{text: "connect=[::1]]:80", err: `the port after "]" is missing`},
		{text: "connect=10.0.0.1/8:80", err: "write 10.0.0.0/8 or a single address"},
		{text: "connect=10.0.0.0/33:80", err: "is not an address range"},
		{text: "connect=10.0.0.0/08:80", err: "is not an address range"},
		{text: "connect=10.0.0.0/:80", err: "is not an address range"},
		{text: "connect=10.0.0.0/255.0.0.0:80", err: "is not an address range"},
		{text: "connect=example.net/8:80", err: "is not an address range"},
		{text: "connect=[fd00::]/8:443", err: "inside the brackets"},
		{text: "connect=[::ffff:10.0.0.0/104]:80", err: "as IPv4"},

		{text: "connect=unix:", err: "path after unix: is missing"},
		{text: "connect=unix:run/x", err: "not absolute"},
		{text: "connect=unix:@abstract", err: "not absolute"},
		{text: "connect=unix:/run/../etc/x", err: "write the path as /etc/x"},
		{text: "connect=unix:/run//x", err: "write the path as /run/x"},
		{text: "connect=unix:/run/", err: "write the path as /run"},
		{text: "connect=unix:/", err: "is a directory"},
		{text: "connect=unix:/a\nallow message", err: "cannot be printed"},
		{text: "connect=unix:/a\x00", err: "cannot be printed"},
		{text: "connect=unix:/a ", err: "white space"},
		{text: "connect=unix:/" + strings.Repeat("a", 103), err: "too long for a socket"},

		{text: "listen=localhost:9000", err: "is not an address; listen takes one"},
		{text: "listen=*.example.net:9000", err: "is not an address"},
		{text: "listen=unix:run/x", err: "not absolute"},
		{text: "listen=unix:/run/../x", err: "write the path as /x"},
		{text: "listen=9000", err: "the port is missing"},
		{text: "listen=127.0.0.1:0", err: "is not a port"},
		{text: "connect=" + strings.Repeat("a", 600), err: "longer than 512 bytes"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			got, err := keys.ParsePermission(tt.text)
			if tt.err != "" {
				var permissionErr *keys.PermissionError
				if !errors.As(err, &permissionErr) || permissionErr.Text != tt.text || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want a PermissionError with %q", err, tt.err)
				}
				if got != (keys.Permission{}) {
					t.Errorf("permission %v beside an error, want none", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != tt.want {
				t.Errorf("prints %q, want %q", got, tt.want)
			}
			again, err := keys.ParsePermission(got.String())
			if err != nil || again != got {
				t.Errorf("what it prints parses to %v, %v", again, err)
			}
		})
	}
}

func peerWith(tb testing.TB, permissions ...string) keys.Peer {
	tb.Helper()
	p := keys.Peer{Name: "laptop", Key: testPublic(tb, 0)}
	for _, text := range permissions {
		permission, err := keys.ParsePermission(text)
		if err != nil {
			tb.Fatal(err)
		}
		p.Allow = append(p.Allow, permission)
	}
	return p
}

func TestAllowsConnect(t *testing.T) {
	const own = true // addr is the server's own
	for _, tt := range []struct {
		name  string
		rules string // separated by spaces
		host  string
		addr  string
		own   bool
		want  bool
	}{
		{name: "nothing allowed", rules: "message files listen=*:*", host: "a.example", addr: "192.0.2.1:80"},
		{name: "name", rules: "connect=a.example:80", host: "a.example", addr: "192.0.2.1:80", want: true},
		{name: "name as the client wrote it", rules: "connect=a.example:80", host: "A.Example.", addr: "192.0.2.1:80", want: true},
		{name: "other name", rules: "connect=a.example:80", host: "b.example", addr: "192.0.2.1:80"},
		{name: "name below", rules: "connect=a.example:80", host: "x.a.example", addr: "192.0.2.1:80"},
		{name: "name that ends alike", rules: "connect=a.example:80", host: "evila.example", addr: "192.0.2.1:80"},
		{name: "name that begins alike", rules: "connect=a.example:80", host: "a.example.evil", addr: "192.0.2.1:80"},
		{name: "address of an allowed name", rules: "connect=a.example:80", host: "192.0.2.1", addr: "192.0.2.1:80"},
		{name: "address without a name", rules: "connect=a.example:80", addr: "192.0.2.1:80"},
		{name: "name that is loopback", rules: "connect=localhost:80", host: "localhost", addr: "127.0.0.1:80", want: true},
		{name: "name that is our own address", rules: "connect=me.example:80", host: "me.example", addr: "192.0.2.9:80", own: own, want: true},

		{name: "port", rules: "connect=a.example:80", host: "a.example", addr: "192.0.2.1:81"},
		{name: "port range, first", rules: "connect=a.example:80-90", host: "a.example", addr: "192.0.2.1:80", want: true},
		{name: "port range, last", rules: "connect=a.example:80-90", host: "a.example", addr: "192.0.2.1:90", want: true},
		{name: "port range, before", rules: "connect=a.example:80-90", host: "a.example", addr: "192.0.2.1:79"},
		{name: "port range, after", rules: "connect=a.example:80-90", host: "a.example", addr: "192.0.2.1:91"},
		{name: "any port", rules: "connect=a.example:*", host: "a.example", addr: "192.0.2.1:65535", want: true},
		{name: "any port of loopback", rules: "connect=localhost:*", host: "localhost", addr: "127.0.0.1:22", want: true},
		{name: "port 0", rules: "connect=a.example:*", host: "a.example", addr: "192.0.2.1:0"},

		{name: "below", rules: "connect=*.a.example:80", host: "x.a.example", addr: "192.0.2.1:80", want: true},
		{name: "far below", rules: "connect=*.a.example:80", host: "z.y.x.a.example", addr: "192.0.2.1:80", want: true},
		{name: "below, the domain itself", rules: "connect=*.a.example:80", host: "a.example", addr: "192.0.2.1:80"},
		{name: "below, ends alike", rules: "connect=*.a.example:80", host: "xa.example", addr: "192.0.2.1:80"},
		{name: "below, empty label", rules: "connect=*.a.example:80", host: ".a.example", addr: "192.0.2.1:80"},
		{name: "below, odd label", rules: "connect=*.a.example:80", host: "x/y.a.example", addr: "192.0.2.1:80"},
		{name: "below, goes on", rules: "connect=*.a.example:80", host: "x.a.example.evil", addr: "192.0.2.1:80"},
		{name: "below, loopback", rules: "connect=*.a.example:80", host: "x.a.example", addr: "127.0.0.1:80"},
		{name: "below, our own address", rules: "connect=*.a.example:80", host: "x.a.example", addr: "192.0.2.9:80", own: own},
		{name: "below, loopback named too", rules: "connect=*.a.example:80 connect=127.0.0.1:80", host: "x.a.example", addr: "127.0.0.1:80", want: true},

		{name: "address", rules: "connect=192.0.2.1:80", host: "192.0.2.1", addr: "192.0.2.1:80", want: true},
		{name: "address, asked by name", rules: "connect=192.0.2.1:80", host: "a.example", addr: "192.0.2.1:80", want: true},
		{name: "other address", rules: "connect=192.0.2.1:80", host: "192.0.2.1", addr: "192.0.2.2:80"},
		{name: "address decides, not what was asked for", rules: "connect=192.0.2.1:80", host: "192.0.2.1", addr: "10.0.0.1:80"},
		{name: "loopback address", rules: "connect=127.0.0.1:80", host: "127.0.0.1", addr: "127.0.0.1:80", want: true},
		{name: "loopback of the other kind", rules: "connect=127.0.0.1:80", host: "::1", addr: "[::1]:80"},
		{name: "our own address", rules: "connect=192.0.2.9:80", host: "192.0.2.9", addr: "192.0.2.9:80", own: own, want: true},
		{name: "IPv4 in IPv6", rules: "connect=192.0.2.1:80", host: "", addr: "[::ffff:192.0.2.1]:80", want: true},
		{name: "IPv6", rules: "connect=[2001:db8::1]:80", host: "2001:db8::1", addr: "[2001:db8::1]:80", want: true},
		{name: "IPv6 with a zone", rules: "connect=[fe80::1]:80", host: "fe80::1%eth0", addr: "[fe80::1%eth0]:80"},

		{name: "range", rules: "connect=10.0.0.0/8:80", host: "10.255.1.2", addr: "10.255.1.2:80", want: true},
		{name: "range, name in it", rules: "connect=10.0.0.0/8:80", host: "db", addr: "10.0.0.7:80", want: true},
		{name: "range, outside", rules: "connect=10.0.0.0/8:80", host: "db", addr: "11.0.0.7:80"},
		{name: "range, IPv4 in IPv6", rules: "connect=10.0.0.0/8:80", host: "db", addr: "[::ffff:10.0.0.7]:80", want: true},
		{name: "range of IPv6", rules: "connect=[fd00::/8]:80", host: "db", addr: "[fd12::1]:80", want: true},
		{name: "range with loopback", rules: "connect=127.0.0.0/8:80", host: "x", addr: "127.9.9.9:80", want: true},
		{name: "range of all IPv6 has no IPv4", rules: "connect=[::/0]:80", host: "", addr: "[::ffff:10.0.0.7]:80"},

		{name: "any, name", rules: "connect=*:80", host: "a.example", addr: "192.0.2.1:80", want: true},
		{name: "any, address", rules: "connect=*:80", host: "192.0.2.1", addr: "192.0.2.1:80", want: true},
		{name: "any, no name", rules: "connect=*:80", addr: "192.0.2.1:80", want: true},
		{name: "any, private address", rules: "connect=*:80", host: "db", addr: "10.0.0.1:80", want: true},
		{name: "any, other port", rules: "connect=*:80", host: "a.example", addr: "192.0.2.1:81"},
		{name: "any, our own address", rules: "connect=*:*", host: "a.example", addr: "192.0.2.9:80", own: own},
		// These count as guarded even if the caller has not said so.
		{name: "any, loopback", rules: "connect=*:*", host: "localhost", addr: "127.0.0.1:80"},
		{name: "any, far loopback", rules: "connect=*:*", host: "x", addr: "127.255.255.254:80"},
		{name: "any, IPv6 loopback", rules: "connect=*:*", host: "localhost", addr: "[::1]:80"},
		{name: "any, loopback in IPv6", rules: "connect=*:*", host: "x", addr: "[::ffff:127.0.0.1]:80"},
		{name: "any, unspecified", rules: "connect=*:*", host: "x", addr: "0.0.0.0:80"},
		{name: "any, unspecified IPv6", rules: "connect=*:*", host: "x", addr: "[::]:80"},
		{name: "any, link-local", rules: "connect=*:*", host: "metadata", addr: "169.254.169.254:80"},
		{name: "any, link-local IPv6", rules: "connect=*:*", host: "x", addr: "[fe80::1]:80"},
		{name: "any, link-local with a zone", rules: "connect=*:*", host: "x", addr: "[fe80::1%eth0]:80"},
		{name: "any, link-local multicast", rules: "connect=*:*", host: "x", addr: "224.0.0.251:80"},
		{name: "any, and loopback by name", rules: "connect=*:* connect=localhost:80", host: "localhost", addr: "127.0.0.1:80", want: true},
		{name: "any, and link-local by address", rules: "connect=*:* connect=169.254.169.254:80", host: "metadata", addr: "169.254.169.254:80", want: true},
		{name: "any does not allow sockets of itself", rules: "connect=unix:/run/x", host: "x", addr: "192.0.2.1:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := peerWith(t, strings.Fields(tt.rules)...)
			if got := p.AllowsConnect(tt.host, netip.MustParseAddrPort(tt.addr), tt.own); got != tt.want {
				t.Errorf("AllowsConnect(%q, %s, %v) under %q is %v, want %v", tt.host, tt.addr, tt.own, tt.rules, got, tt.want)
			}
		})
	}
	if peerWith(t, "connect=*:*", "connect=a.example:*").AllowsConnect("a.example", netip.AddrPort{}, false) {
		t.Error("no address at all is allowed, want not")
	}
}

func TestAllowsOthers(t *testing.T) {
	listen := func(rule, addr string) bool {
		return peerWith(t, rule).AllowsListen(netip.MustParseAddrPort(addr))
	}
	for _, tt := range []struct {
		name      string
		got, want bool
	}{
		{"message", peerWith(t, "message").AllowsMessage(), true},
		{"message for files", peerWith(t, "message").AllowsFiles(), false},
		{"files", peerWith(t, "files").AllowsFiles(), true},
		{"files for messages", peerWith(t, "files").AllowsMessage(), false},
		{"nobody's message", keys.Peer{}.AllowsMessage(), false},
		{"the empty permission", keys.Peer{Allow: []keys.Permission{{}}}.AllowsMessage(), false},
		{"socket", peerWith(t, "connect=unix:/run/x").AllowsUnix("/run/x"), true},
		{"other socket", peerWith(t, "connect=unix:/run/x").AllowsUnix("/run/xy"), false},
		{"socket below", peerWith(t, "connect=unix:/run/x").AllowsUnix("/run/x/y"), false},
		{"socket by another way", peerWith(t, "connect=unix:/run/x").AllowsUnix("/run/../run/x"), false},
		{"empty socket", peerWith(t, "connect=unix:/run/x", "connect=*:*").AllowsUnix(""), false},
		{"socket by connect", peerWith(t, "connect=*:*").AllowsUnix("/run/x"), false},
		{"listen", listen("listen=127.0.0.1:9000", "127.0.0.1:9000"), true},
		{"listen in IPv6 form", listen("listen=127.0.0.1:9000", "[::ffff:127.0.0.1]:9000"), true},
		{"listen elsewhere", listen("listen=127.0.0.1:9000", "0.0.0.0:9000"), false},
		{"listen on another port", listen("listen=127.0.0.1:9000", "127.0.0.1:9001"), false},
		{"listen in a range", listen("listen=127.0.0.0/8:9000-9100", "127.0.0.2:9100"), true},
		{"listen anywhere", listen("listen=*:9000", "0.0.0.0:9000"), true},
		{"listen on any port", listen("listen=127.0.0.1:*", "127.0.0.1:0"), true},
		{"listen on a free port of a range", listen("listen=127.0.0.1:9000-9100", "127.0.0.1:0"), false},
		{"listen on a low port that is named", listen("listen=127.0.0.1:80", "127.0.0.1:80"), true},
		{"listen on a low port of a range", listen("listen=127.0.0.1:80-90", "127.0.0.1:90"), true},
		{"listen on a low port of all", listen("listen=*:*", "127.0.0.1:1023"), false},
		{"listen on the first port of all", listen("listen=*:*", "127.0.0.1:1024"), true},
		{"listen on a socket", peerWith(t, "listen=unix:/run/x").AllowsListenUnix("/run/x"), true},
		{"listen on another socket", peerWith(t, "listen=unix:/run/x").AllowsListenUnix("/run/y"), false},
		{"listen on a socket by connect", peerWith(t, "connect=unix:/run/x", "listen=*:*").AllowsListenUnix("/run/x"), false},
		{"connect to a socket by listen", peerWith(t, "listen=unix:/run/x").AllowsUnix("/run/x"), false},
		{"listen by connect", listen("connect=*:*", "127.0.0.1:9000"), false},
		{"listen on nothing", peerWith(t, "listen=*:*").AllowsListen(netip.AddrPort{}), false},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

func TestPermissionInJSON(t *testing.T) {
	p := peerWith(t, "connect=A.example:80").Allow
	text, err := json.Marshal(p)
	if err != nil || string(text) != `["connect=a.example:80"]` {
		t.Errorf("%s, %v", text, err)
	}
	var got []keys.Permission
	if err := json.Unmarshal(text, &got); err != nil || len(got) != 1 || got[0] != p[0] {
		t.Errorf("read back %v, %v, want %v", got, err, p)
	}
	if err := json.Unmarshal([]byte(`["shell"]`), &got); err == nil {
		t.Error("an unknown permission was read")
	}
	if text, err := json.Marshal([]keys.Permission{{}}); err == nil {
		t.Errorf("the empty permission became %s, want an error", text)
	}
	if got := (keys.Permission{}).String(); got != "" {
		t.Errorf("the empty permission prints as %q, want nothing", got)
	}
}

func FuzzPermission(f *testing.F) {
	for _, s := range []string{
		"message", "files", "connect=localhost:80", "connect=*.Example.net.:1-65535", "connect=[::ffff:1.2.3.4]:*",
		"connect=10.0.0.0/8:80-90", "connect=[fd00::/8]:443", "connect=unix:/run/x", "listen=*:*", "listen=127.0.0.1/32:9",
		"connect=0x7f.1:80", "connect=[fe80::1%a]:80", "", "connect=", "connect=[]:", "connect=unix:/a\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := keys.ParsePermission(s)
		if err != nil {
			if p != (keys.Permission{}) || p.String() != "" {
				t.Errorf("%q: permission %v beside error %v", s, p, err)
			}
			return
		}
		again, err := keys.ParsePermission(p.String())
		if err != nil || again != p || again.String() != p.String() {
			t.Errorf("%q prints as %q, which parses to %v, %v", s, p, again, err)
		}
		if strings.ContainsAny(p.String(), "\n\r\x00") {
			t.Errorf("%q prints as %q, which is no line", s, p)
		}
	})
}
