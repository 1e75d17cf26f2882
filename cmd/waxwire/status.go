package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status [SERVER]",
		Short: "Show what the server and the clients of this user are doing",
		Long: `Show what the server and the clients that run here are doing: how they are connected, what is open, and
what waits for a connection that was lost. Those of the same home are seen, and only by their own user
(and by root). With the name or the URL of a server, only the clients of that are shown. It ends with status 1
if nothing is running.`,
		Example: `  waxwire status
  waxwire status relay
  waxwire status --json
  waxwire --home /srv/waxwire status`,
		Args: func(cmd *cobra.Command, args []string) error {
			return needs([]string{"SERVER"}[:min(len(args), 1)]...)(cmd, args)
		},
		ValidArgsFunction:     a.completeServers,
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return a.runStatus(time.Now, strings.Join(args, ""))
		},
	}
}

// A homeReport is what "status --json" prints.
type homeReport struct {
	Servers []serverReport `json:"servers"`
	Clients []clientReport `json:"clients"`
}

// runStatus shows what runs; if of is not empty, the clients of that server alone.
func (a *app) runStatus(now func() time.Time, of string) error {
	h, err := a.home()
	if err != nil {
		return err
	}
	report, silent := homeReport{Servers: []serverReport{}, Clients: []clientReport{}}, 0
	for _, p := range askAll(h.run) {
		switch {
		case p.err != nil:
			silent++
			a.ui.warnf("%s does not answer: %s", shorten(visible(p.path)), visible(plainControl(p.err)))
		case of != "" && (p.reply.Client == nil || p.reply.Client.Name != of && p.reply.Client.Server != of):
		case p.reply.Server != nil:
			report.Servers = append(report.Servers, *p.reply.Server)
		case p.reply.Client != nil:
			report.Clients = append(report.Clients, *p.reply.Client)
		}
	}
	if len(report.Servers)+len(report.Clients) == 0 {
		if of != "" {
			return fail(codeNotRunning, nil, fmt.Sprintf("no client of %s is running", visible(cut(of, 80))),
				"\"waxwire status\" shows what runs here.")
		}
		f := fail(codeNotRunning, nil, fmt.Sprintf("nothing is running: neither a server nor a client of %s", shorten(h.data)),
			"What runs with another --home or WAXWIRE_HOME is seen with the same one, and by the same user.")
		if silent > 0 {
			f = fail(codeNotRunning, nil, fmt.Sprintf("what is running with %s does not answer", shorten(h.data)))
		}
		return f
	}
	if a.json {
		return a.ui.result(report)
	}
	return a.ui.printf("%s", report.text(now(), a.ui.arrow()))
}

// text is the report as a person reads it. What it holds came through a socket: none of it is believed
// to be fit for a terminal.
func (r homeReport) text(now time.Time, arrow string) string {
	var blocks []string
	for _, s := range r.Servers {
		blocks = append(blocks, s.text(now))
	}
	for _, c := range r.Clients {
		blocks = append(blocks, c.text(now, arrow))
	}
	return strings.Join(blocks, "\n")
}

func (s serverReport) text(now time.Time) string {
	var b strings.Builder
	what := "running"
	if s.Stopping {
		what = "stopping after" // what is shown is how long it has been up
	}
	fmt.Fprintf(&b, "server   %s %s   pid %d\n", what, formatDuration(max(0, now.Sub(s.Started))), s.PID)
	for _, url := range s.Listening {
		fmt.Fprintf(&b, "  %s\n", visible(url))
	}
	connected, away := 0, 0
	for _, p := range s.Peers {
		for _, session := range p.Sessions {
			if session.Connected {
				connected++
			} else {
				away++
			}
		}
	}
	fmt.Fprintf(&b, "  %s enrolled, %s connected, %d away\n", count(s.Enrolled, "peer"), count(connected, "session"), away)
	var rows [][]string
	for _, p := range s.Peers {
		for _, session := range p.Sessions {
			rows = append(rows, append([]string{"  " + visible(cut(p.Name, 40)), session.state(now), session.rtt()}, session.counters()...))
		}
	}
	table(&b, rows)
	return b.String()
}

func (c clientReport) text(now time.Time, arrow string) string {
	var b strings.Builder
	name := visible(c.Name)
	switch s := c.Session; {
	case s.Connected:
		fmt.Fprintf(&b, "%s\n", strings.Join(append([]string{name, s.state(now), s.rtt()}, s.counters()...), "   "))
	default:
		state := s.state(now)
		if !c.Ready {
			state = "not connected yet"
		}
		parts := []string{state}
		switch {
		case c.NextTry == nil:
		case c.NextTry.After(now):
			parts = append(parts, "next try in "+formatDuration(c.NextTry.Sub(now)))
		default:
			parts = append(parts, "trying now")
		}
		if c.Waiting > 0 {
			parts = append(parts, count(c.Waiting, "connection")+" waiting")
		}
		fmt.Fprintf(&b, "%s   %s\n", name, strings.Join(parts, ", "))
		if s.Reason != "" {
			fmt.Fprintf(&b, "  %s\n", visible(cut(s.Reason, 200)))
		}
	}
	var rows [][]string
	for _, f := range c.Forwards {
		rows = append(rows, f.row(arrow))
	}
	table(&b, rows)
	return b.String()
}

// table aligns the columns of rows.
func table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}
