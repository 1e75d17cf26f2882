package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"
)

// A ui is where a command speaks to its user: out for data and results, err for everything else.
// It is safe for concurrent use.
type ui struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // err is a terminal
	color    bool
	unicode  bool
	quiet    bool
	json     bool

	mu       sync.Mutex // guards the following and the order of what is written
	fleeting bool       // the last line on the terminal is to be written over
}

// isTerminal says whether a stream is a terminal.
func isTerminal(s any) bool {
	f, ok := s.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// wantsColor decides by the flag, then the environment, then whether it is a terminal.
func wantsColor(flag string, terminal bool, getenv func(string) string) bool {
	switch {
	case flag == "always":
		return true
	case flag == "never", getenv("NO_COLOR") != "":
		return false
	case getenv("FORCE_COLOR") != "":
		return true
	}
	return terminal && getenv("TERM") != "dumb"
}

// hasUnicode says whether the locale is one in which ✓ and → can be shown.
func hasUnicode(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// sayf tells the user something, unless -q or --json.
func (u *ui) sayf(format string, args ...any) {
	if u.quiet || u.json {
		return
	}
	u.write(fmt.Sprintf(format, args...))
}

// okf, warnf: a line with its mark.
func (u *ui) okf(format string, args ...any) {
	u.sayf("%s %s", u.mark("✓", "ok", "32"), fmt.Sprintf(format, args...))
}

// warnf is said with -q too.
func (u *ui) warnf(format string, args ...any) {
	if !u.json {
		u.write(u.mark("!", "!", "33") + " " + fmt.Sprintf(format, args...))
	}
}

// warnIndented is a further line of a warning.
func (u *ui) warnIndented(line string) {
	if !u.json {
		u.write("  " + line)
	}
}

func (u *ui) mark(symbol, ascii, colour string) string {
	if !u.unicode {
		symbol = ascii
	}
	if u.color {
		return "\x1b[" + colour + "m" + symbol + "\x1b[0m"
	}
	return symbol
}

// arrow is → or ->.
func (u *ui) arrow() string {
	if u.unicode {
		return "→"
	}
	return "->"
}

// updatef is a warning that the next line replaces, on a terminal.
func (u *ui) updatef(format string, args ...any) {
	if u.json {
		return
	}
	u.write(u.mark("!", "!", "33") + " " + fmt.Sprintf(format, args...))
	u.mu.Lock()
	u.fleeting = u.terminal
	u.mu.Unlock()
}

// progressf shows on a terminal what is being done; the next line replaces it.
func (u *ui) progressf(format string, args ...any) {
	if !u.terminal || u.quiet {
		return
	}
	u.write(fmt.Sprintf(format, args...))
	u.mu.Lock()
	u.fleeting = true
	u.mu.Unlock()
}

// clearProgress takes the line of progressf away.
func (u *ui) clearProgress() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.eraseLocked()
}

func (u *ui) eraseLocked() {
	if u.fleeting {
		io.WriteString(u.err, "\x1b[1A\r\x1b[K")
		u.fleeting = false
	}
}

func (u *ui) write(line string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.eraseLocked()
	io.WriteString(u.err, line+"\n")
}

// print writes a result to standard output.
func (u *ui) printf(format string, args ...any) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, err := fmt.Fprintf(u.out, format, args...)
	return err
}

// result writes v as one JSON object with "schema":1 in front. v is a struct.
func (u *ui) result(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	rest := string(b[1:])
	if rest != "}" {
		rest = "," + rest
	}
	return u.printf("{\"schema\":1%s\n", rest)
}

// event writes an event of a long-running command, with --json only.
func (u *ui) event(name string, fields map[string]any) {
	if !u.json {
		return
	}
	m := map[string]any{"event": name, "time": time.Now().UTC().Format(time.RFC3339Nano)}
	for k, v := range fields {
		m[k] = v
	}
	u.result(m)
}

// visible returns text of another's making as a terminal can show it: control characters and those
// that turn the direction of writing are spelled out.
func visible(s string) string {
	if strings.IndexFunc(s, hidden) < 0 && !strings.ContainsRune(s, unicode.ReplacementChar) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, `\u{%x}`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.Is(unicode.Zl, r) ||
		unicode.Is(unicode.Zp, r) || unicode.Is(unicode.Cf, r)
}

// formatBytes is a size as a person reads it: 41.2 MB.
func formatBytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n)/1000, []string{"kB", "MB", "GB", "TB", "PB", "EB"}
	for v >= 999.95 && len(units) > 1 {
		v, units = v/1000, units[1:]
	}
	return fmt.Sprintf("%.1f %s", v, units[0])
}

// formatDuration is a time as a person reads it: 19 ms, 6 s, 12 min, 3 h 20 min.
func formatDuration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

// count is "1 connection", "2 connections".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
