package forward_test

import (
	"errors"
	"strings"
	"testing"

	"waxwire.example/waxwire/tunnel/forward"
)

func tcp(addr string) forward.Address          { return forward.Address{Network: "tcp", Addr: addr} }
func unix(path string) forward.Address         { return forward.Address{Network: "unix", Addr: path} }
func local(l, t forward.Address) forward.Local { return forward.Local{Listen: l, Target: t} }

var goodSpecs = []struct {
	spec string
	want forward.Local
}{
	{"8080:localhost:80", local(tcp("127.0.0.1:8080"), tcp("localhost:80"))},
	{"0:localhost:80", local(tcp("127.0.0.1:0"), tcp("localhost:80"))},
	{"127.0.0.1:8080:localhost:80", local(tcp("127.0.0.1:8080"), tcp("localhost:80"))},
	{"localhost:8080:db:5432", local(tcp("127.0.0.1:8080"), tcp("db:5432"))},
	{"*:8080:db:5432", local(tcp(":8080"), tcp("db:5432"))},
	{"0.0.0.0:8080:db:5432", local(tcp("0.0.0.0:8080"), tcp("db:5432"))},
	{"[::1]:8080:[2001:DB8::1]:80", local(tcp("[::1]:8080"), tcp("[2001:db8::1]:80"))},
	{"[::]:8080:x:1", local(tcp("[::]:8080"), tcp("x:1"))},
	{"8080:[::ffff:10.0.0.1]:80", local(tcp("127.0.0.1:8080"), tcp("10.0.0.1:80"))},
	{"8080:DB.Internal.:80", local(tcp("127.0.0.1:8080"), tcp("db.internal:80"))},
	{"8080:my_host:80", local(tcp("127.0.0.1:8080"), tcp("my_host:80"))},
	{"8080:1and1.example:80", local(tcp("127.0.0.1:8080"), tcp("1and1.example:80"))},
	{"8080:0xfood:80", local(tcp("127.0.0.1:8080"), tcp("0xfood:80"))},
	{"/tmp/a.sock:localhost:80", local(unix("/tmp/a.sock"), tcp("localhost:80"))},
	{"/tmp/a.sock:[::1]:80", local(unix("/tmp/a.sock"), tcp("[::1]:80"))},
	{"5432:/run/pg/.s.PGSQL.5432", local(tcp("127.0.0.1:5432"), unix("/run/pg/.s.PGSQL.5432"))},
	{"[::1]:5432:/run/a:b", local(tcp("[::1]:5432"), unix("/run/a:b"))},
	{"/a:/b:c", local(unix("/a"), unix("/b:c"))},
}

func TestParseLocal(t *testing.T) {
	for _, tt := range goodSpecs {
		got, err := forward.ParseLocal(tt.spec)
		if err != nil || got != tt.want {
			t.Errorf("ParseLocal(%q) = %+v, %v; want %+v", tt.spec, got, err, tt.want)
		}
	}
}

// The texts are what a user reads: they are part of the interface.
var badSpecs = []struct{ spec, want string }{
	{"8080:localhost", `-L 8080:localhost: the port after "localhost:" is missing`},
	{"8080:localhost:", `-L 8080:localhost:: the port after "localhost:" is missing`},
	{"127.0.0.1:8080:localhost", `-L 127.0.0.1:8080:localhost: the port after "localhost:" is missing`},
	{"8080:[::1]", `-L 8080:[::1]: the port after "[::1]:" is missing`},
	{"", `-L : nothing is written there`},
	{"8080", `-L 8080: the target after "8080:" is missing`},
	{"8080:", `-L 8080:: the target after "8080:" is missing`},
	{"8080:80", `-L 8080:80: the host before ":80" is missing`},
	{"8080::80", `-L 8080::80: the host before ":80" is missing`},
	{":8080:localhost:80", `-L :8080:localhost:80: the address before the first colon is missing; * listens on all of them`},
	{"web:localhost:80", `-L web:localhost:80: "web" is neither a port nor an address of this host`},
	{"127.0.0.1", `-L 127.0.0.1: the port after "127.0.0.1:" is missing`},
	{"127.0.0.1:web:localhost:80", `-L 127.0.0.1:web:localhost:80: "web" is not a port number (0 to 65535)`},
	{"65536:localhost:80", `-L 65536:localhost:80: "65536" is not a port number (0 to 65535)`},
	{"8080:localhost:0", `-L 8080:localhost:0: "0" is not a port number (1 to 65535)`},
	{"8080:localhost:http", `-L 8080:localhost:http: "http" is not a port number (1 to 65535)`},
	{"8080:localhost:53/udp", `-L 8080:localhost:53/udp: "53/udp" is not a port number (1 to 65535)`},
	{"8080:localhost:+80", `-L 8080:localhost:+80: "+80" is not a port number (1 to 65535)`},
	{"8080:::1:80", `-L 8080:::1:80: the host before "::1:80" is missing`},
	{"8080:2001:db8::1:80", `-L 8080:2001:db8::1:80: there are too many colons; an IPv6 address stands in brackets, as in [::1]`},
	{"[::1:8080:localhost:80", `-L [::1:8080:localhost:80: the bracket after [ is not closed`},
	{"[127.0.0.1]:8080:localhost:80", `-L [127.0.0.1]:8080:localhost:80: "[127.0.0.1]" is not an IPv6 address`},
	{"[::1]8080:localhost:80", `-L [::1]8080:localhost:80: after "[::1]" must come a colon`},
	{"8080:[fe80::1%eth0]:80", `-L 8080:[fe80::1%eth0]:80: "[fe80::1%eth0]" is not an IPv6 address`},
	{"8080:0x7f.1:80", `-L 8080:0x7f.1:80: "0x7f.1" is not an address as it is usually written (as 127.0.0.1)`},
	{"8080:2130706433:80", `-L 8080:2130706433:80: "2130706433" is not an address as it is usually written (as 127.0.0.1)`},
	{"8080:0177.0.0.1:80", `-L 8080:0177.0.0.1:80: "0177.0.0.1" is not an address as it is usually written (as 127.0.0.1)`},
	{"8080:a..b:80", `-L 8080:a..b:80: "a..b" is not a host name`},
	{"8080:-a:80", `-L 8080:-a:80: "-a" is not a host name`},
	{"8080:bücher.example:80", `-L 8080:bücher.example:80: "bücher.example" is not a host name`},
	{"8080:a b:80", `-L 8080:a b:80: "a b" is not a host name`},
	{"8080:\x1b[2J:80", `-L "8080:\x1b[2J:80": "\x1b[2J" is not a host name`},
	{"/tmp/a.sock", `-L /tmp/a.sock: the target after "/tmp/a.sock:" is missing`},
	{"/tmp/../a.sock:localhost:80", `-L /tmp/../a.sock:localhost:80: "/tmp/../a.sock" is not the plain absolute path of a socket`},
	{"8080:/run/../a", `-L 8080:/run/../a: "/run/../a" is not the plain absolute path of a socket`},
	{"8080:/", `-L 8080:/: "/" is not the plain absolute path of a socket`},
	{"8080:/" + strings.Repeat("a", 103), "-L 8080:/" + strings.Repeat("a", 103) + ": the path of a socket can have 103 bytes at most, this one has 104"},
}

func TestParseLocalErrors(t *testing.T) {
	for _, tt := range badSpecs {
		got, err := forward.ParseLocal(tt.spec)
		var se *forward.SpecError
		if !errors.As(err, &se) {
			t.Errorf("ParseLocal(%q) = %+v, %v; want a *SpecError", tt.spec, got, err)
			continue
		}
		if err.Error() != tt.want {
			t.Errorf("ParseLocal(%q):\n got  %s\n want %s", tt.spec, err, tt.want)
		}
		if got != (forward.Local{}) {
			t.Errorf("ParseLocal(%q) returned %+v beside an error", tt.spec, got)
		}
	}
}

func TestParseTarget(t *testing.T) {
	if got, err := forward.ParseTarget("LOCALHOST:22"); err != nil || got != tcp("localhost:22") {
		t.Errorf("ParseTarget = %v, %v", got, err)
	}
	if got, err := forward.ParseTarget("/run/x.sock"); err != nil || got != unix("/run/x.sock") {
		t.Errorf("ParseTarget = %v, %v", got, err)
	}
	_, err := forward.ParseTarget("localhost")
	if want := `localhost: the port after "localhost:" is missing`; err == nil || err.Error() != want {
		t.Errorf("ParseTarget(localhost): got %v, want %s", err, want)
	}
}

// What is accepted prints as a forward that means the same, and what it names is well formed.
func FuzzParseLocal(f *testing.F) {
	for _, tt := range goodSpecs {
		f.Add(tt.spec)
	}
	for _, tt := range badSpecs {
		f.Add(tt.spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		l, err := forward.ParseLocal(spec)
		if err != nil {
			if l != (forward.Local{}) {
				t.Fatalf("a value beside the error %v", err)
			}
			return
		}
		again, err := forward.ParseLocal(l.String())
		if err != nil || again != l {
			t.Fatalf("ParseLocal(%q) = %+v, but ParseLocal(%q) = %+v, %v", spec, l, l, again, err)
		}
	})
}

func TestParseDynamic(t *testing.T) {
	for spec, want := range map[string]string{
		"1080":           "127.0.0.1:1080",
		"0":              "127.0.0.1:0",
		"localhost:1080": "127.0.0.1:1080",
		"*:1080":         ":1080",
		"[::1]:1080":     "[::1]:1080",
	} {
		got, err := forward.ParseDynamic(spec)
		if err != nil || got != local(tcp(want), forward.Address{}) || !got.Dynamic() {
			t.Errorf("ParseDynamic(%q) = %+v, %v; want %s", spec, got, err, want)
		}
		if again, err := forward.ParseDynamic(got.String()); err != nil || again != got {
			t.Errorf("%s reads as %+v, %v", got, again, err)
		}
	}
	for spec, want := range map[string]string{
		"":              "-D : nothing is written there",
		"1080:db:80":    `-D 1080:db:80: ":db:80" is too much; each connection says itself where it goes`,
		"65536":         `-D 65536: "65536" is not a port number (0 to 65535)`,
		"web":           `-D web: "web" is neither a port nor an address of this host`,
		"/run/x.sock:y": `-D /run/x.sock:y: a port is listened on here, not a socket`,
		"1080:":         `-D 1080:: there is nothing after "1080:"`,
		"127.0.0.1:":    `-D 127.0.0.1:: the port after "127.0.0.1:" is missing`,
	} {
		var se *forward.SpecError
		if _, err := forward.ParseDynamic(spec); !errors.As(err, &se) || err.Error() != want {
			t.Errorf("ParseDynamic(%q): %v, want %s", spec, err, want)
		}
	}
}

func TestParseRemote(t *testing.T) {
	for _, tt := range goodSpecs {
		got, err := forward.ParseRemote(tt.spec)
		if err != nil || got != forward.Remote(tt.want) {
			t.Errorf("ParseRemote(%q) = %+v, %v; want %+v", tt.spec, got, err, tt.want)
		}
		if again, err := forward.ParseRemote(got.String()); err != nil || again != got {
			t.Errorf("%s reads as %+v, %v", got, again, err)
		}
	}
	if got, err := forward.ParseRemote("*:1080"); err != nil || got != (forward.Remote{Listen: tcp(":1080")}) || !got.Dynamic() || got.String() != "*:1080" {
		t.Errorf("got %+v, %v", got, err)
	}
	var se *forward.SpecError
	if _, err := forward.ParseRemote("9000:"); !errors.As(err, &se) || err.Error() != `-R 9000:: the target after "9000:" is missing` {
		t.Errorf("got %v", err)
	}
	if _, err := forward.ParseRemote("9000:localhost"); !errors.As(err, &se) || err.Error() != `-R 9000:localhost: the port after "localhost:" is missing` {
		t.Errorf("got %v", err)
	}
}
