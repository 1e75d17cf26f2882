package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestSpread(t *testing.T) {
	tests := []struct {
		values []float64
		want   spread
		text   string
	}{
		{[]float64{3}, spread{3, 3, 3}, "3.00 (3.00–3.00)"},
		{[]float64{4, 1}, spread{2.5, 1, 4}, "2.50 (1.00–4.00)"},
		{[]float64{9, 0.5, 123.4}, spread{9, 0.5, 123.4}, "9.00 (0.50–123)"},
		{[]float64{10, 0.004, 99.96, 11}, spread{10.5, 0.004, 99.96}, "10.5 (0.00–100)"},
	}
	for _, tt := range tests {
		got := spreadOf(tt.values)
		if got != tt.want || got.String() != tt.text {
			t.Errorf("spreadOf(%v) = %v, %q; want %v, %q", tt.values, got, got.String(), tt.want, tt.text)
		}
	}
}

// testReport has each metric of each peer, from very small ratios to very large ones.
func testReport() *benchReport {
	r := &benchReport{Version: "1.2.3", Go: "go1.26", System: "linux/<amd64>", CPUs: 2, Cipher: "ChaCha20-Poly1305", Rounds: 3, Seconds: 0.5}
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		p := newBenchPath(delay)
		for i, m := range benchMetrics {
			for j, peer := range benchPeers {
				for round := range 3 {
					p.add(peer, map[string]float64{m.name: 12345.6 / (1 + float64((i+1)*j*(round+1)*(round+1)*(round+1)))})
				}
			}
		}
		r.Paths = append(r.Paths, p)
	}
	r.finish()
	return r
}

func TestBenchTable(t *testing.T) {
	r := testReport()
	for _, unicode := range []bool{true, false} {
		table := r.table(unicode)
		if n := strings.Count(table, "\n"); n != 2+2*(2+len(benchMetrics)) {
			t.Errorf("%d lines:\n%s", n, table)
		}
		for _, line := range strings.Split(table, "\n")[2:] {
			if n := utf8.RuneCountInString(line); n > 100 {
				t.Errorf("%d characters: %s", n, line)
			}
			if !unicode && hasNonASCII(line) {
				t.Errorf("not ASCII: %s", line)
			}
		}
	}
}

func hasNonASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0
}

// The picture is well-formed, and needs nothing from anywhere.
func TestBenchPlot(t *testing.T) {
	svg := testReport().svg()
	d := xml.NewDecoder(bytes.NewReader(svg))
	bars := 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		e, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range e.Attr {
			if e.Name.Local == "rect" && a.Name.Local == "class" && strings.HasPrefix(a.Value, "p") && a.Value != "paper" {
				bars++
			}
			if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") || strings.HasPrefix(a.Value, "-") {
				t.Errorf("<%s %s=%q>", e.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if want := 3 + 2*3*len(benchMetrics); bars != want {
		t.Errorf("%d bars, want %d", bars, want)
	}
	if bytes.Contains(svg, []byte("http")) && bytes.Count(svg, []byte("http")) != 1 || bytes.Contains(svg, []byte("url(")) {
		t.Error("it refers to something outside")
	}
}

// Bytes that change or get lost on the way are noticed, whatever is measured.
func TestBenchNotices(t *testing.T) {
	tests := []struct {
		name string
		only []string
		hop  func(p []byte, at int) []byte
	}{
		{"changed", []string{"echo", "many", "new"}, func(p []byte, at int) []byte {
			for i := range p {
				p[i] ^= 0x80
			}
			return p
		}},
		{"cut off", []string{"up1", "down8", "beside"}, func(p []byte, at int) []byte { return p[:max(0, min(len(p), 1<<20-at))] }},
		{"left out", []string{"up1", "down1", "beside"}, func(p []byte, at int) []byte {
			if at > 1<<20 && len(p) > 1 {
				return p[1:]
			}
			return p
		}},
		{"intact", []string{"up1", "up8", "down1", "down8", "echo", "beside", "many", "new"}, nil},
	}
	for _, tt := range tests {
		for _, test := range benchTests {
			use := false
			for _, name := range tt.only {
				use = use || name == test.name
			}
			if !use {
				continue
			}
			t.Run(tt.name+"/"+test.name, func(t *testing.T) {
				p := &benchPeer{name: tt.name}
				defer p.close()
				var err error
				if p.target, err = startTarget(); err != nil {
					t.Fatal(err)
				}
				p.onEnd(p.target.close)
				if p.addr, err = p.serveEach(func(in net.Conn) { faultyHop(in, p.target.addr, tt.hop) }); err != nil {
					t.Fatal(err)
				}
				m := &measurement{peer: p, duration: 20 * time.Millisecond, quick: true, timeout: 30 * time.Second}
				if tt.hop != nil {
					m.timeout = 500 * time.Millisecond
				}
				_, err = test.run(m)
				if err == nil {
					err = p.target.settle()
				}
				if tt.hop == nil && err != nil {
					t.Errorf("got %v, want no error", err)
				}
				if tt.hop != nil && err == nil {
					t.Error("got no error")
				}
			})
		}
	}
}

// faultyHop copies both ways, all but the first byte of each by way of f.
func faultyHop(in net.Conn, to string, f func(p []byte, at int) []byte) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	one := func(dst, src net.Conn) {
		buf := make([]byte, 32<<10)
		for at := 0; ; {
			n, err := src.Read(buf)
			p := buf[:n]
			if f != nil && n > 0 {
				first := 0
				if at == 0 {
					first = 1 // says what the target is to do
				}
				p = append(p[:first:first], f(p[first:], at)...)
			}
			at += n
			if _, werr := dst.Write(p); werr != nil {
				return
			}
			if err != nil {
				dst.(*net.TCPConn).CloseWrite()
				return
			}
		}
	}
	both(func() { one(out, in) }, func() { one(in, out) })
}

// What lies between the ends of the long path takes its time, and loses nothing.
func TestDelayed(t *testing.T) {
	const delay = 20 * time.Millisecond
	p, err := startPeer("raw", delay)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	m := &measurement{peer: p, duration: 10 * time.Millisecond, delay: delay, quick: true, timeout: 30 * time.Second}
	got, err := m.echo()
	if err != nil {
		t.Fatal(err)
	}
	if us := got["echo_p50"]; us < float64(delay.Microseconds()) {
		t.Errorf("a round trip of %.0f µs, want %v at least", us, delay)
	}
	if _, err := m.bulk("up1", true, 1); err != nil {
		t.Error(err)
	}
	if err := p.target.settle(); err != nil {
		t.Error(err)
	}
}
