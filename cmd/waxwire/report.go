package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// What follows is what a process says of itself at its control socket, and "status --json" passes on.
// Fields are added, never changed. Numbers of bytes are of what went over the wire, sealed; in is what
// came from the other end.

// A statusReply has one of the two.
type statusReply struct {
	Server *serverReport `json:"server,omitempty"`
	Client *clientReport `json:"client,omitempty"`
}

type processReport struct {
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
}

// newProcess is this one.
func newProcess() processReport {
	return processReport{PID: os.Getpid(), Version: readVersion().Version, Started: time.Now().UTC()}
}

type serverReport struct {
	processReport
	Listening []string     `json:"listening"` // URLs
	PublicKey string       `json:"public_key"`
	Stopping  bool         `json:"stopping"` // no new sessions are taken
	Enrolled  int          `json:"enrolled"` // peers that may connect
	Peers     []peerReport `json:"peers"`    // that are connected, or away
}

type peerReport struct {
	Name        string          `json:"name"`
	Fingerprint string          `json:"fingerprint"`
	Sessions    []sessionReport `json:"sessions"`
}

type sessionReport struct {
	Connected          bool      `json:"connected"`
	Since              time.Time `json:"since"`            // of the connection, or of its loss
	Reason             string    `json:"reason,omitempty"` // of the loss, or why the last try failed
	Addr               string    `json:"addr"`             // of the other end, or of a proxy; the last one if away
	RTT                float64   `json:"rtt_ms"`           // 0 while none was measured
	Streams            int       `json:"streams"`
	InBytes            uint64    `json:"in_bytes"`
	OutBytes           uint64    `json:"out_bytes"`
	Resumes            uint64    `json:"resumes"`
	RetransmittedBytes uint64    `json:"retransmitted_bytes"`
	WaitingBytes       uint64    `json:"waiting_bytes"` // sent, or about to be, and not acknowledged
}

type clientReport struct {
	processReport
	Server     string          `json:"server"`     // the URL
	Alternates []string        `json:"alternates"` // its other URLs
	Name       string          `json:"name"`       // what the server is called
	Ready      bool            `json:"ready"`      // false before the first connection
	Session    sessionReport   `json:"session"`
	Tries      int             `json:"tries"`    // that have failed since the connection was lost
	NextTry    *time.Time      `json:"next_try"` // null while connected
	Waiting    int             `json:"waiting"`  // connections that wait for the server
	Forwards   []forwardReport `json:"forwards"`
}

type forwardReport struct {
	Listen    string `json:"listen"` // at the server, if the type is remote
	Target    string `json:"target"` // here, if the type is remote; none if it is dynamic
	Open      int    `json:"open"`
	Total     int    `json:"total"`
	Refused   int    `json:"refused"` // by the other end; of a remote one, those whose target could not be reached
	Type      string `json:"type"`    // local, remote or dynamic
	Listening bool   `json:"listening"`
}

// The types of forwards.
const (
	typeLocal   = "local"
	typeRemote  = "remote"
	typeDynamic = "dynamic"
)

// reportSession is what a tunnel's counters are now.
func reportSession(tun *tunnel.Tunnel) sessionReport {
	status, _ := tun.Status()
	st := tun.Stats()
	r := sessionReport{
		Connected: status.Connected, Since: status.Since.UTC(),
		Addr: tun.RemoteAddr().String(), RTT: float64(tun.RTT().Microseconds()) / 1000,
		Streams: st.Streams, InBytes: st.ReceivedBytes, OutBytes: st.SentBytes,
		Resumes: st.Resumes, RetransmittedBytes: st.RetransmittedBytes, WaitingBytes: st.WaitingBytes,
	}
	if !status.Connected && status.Err != nil {
		r.Reason = visible(plain(status.Err))
	}
	return r
}

// reportPeers groups tunnels by their peers.
func reportPeers(tunnels []*tunnel.Tunnel) []peerReport {
	byKey := make(map[keys.PublicKey]*peerReport)
	for _, tun := range tunnels {
		peer := tun.Peer()
		p := byKey[peer.Key]
		if p == nil {
			p = &peerReport{Name: visible(peer.Name), Fingerprint: peer.Key.Fingerprint()}
			byKey[peer.Key] = p
		}
		p.Sessions = append(p.Sessions, reportSession(tun))
	}
	peers := []peerReport{}
	for _, p := range byKey {
		slices.SortFunc(p.Sessions, func(a, b sessionReport) int {
			return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Addr, b.Addr))
		})
		peers = append(peers, *p)
	}
	slices.SortFunc(peers, func(a, b peerReport) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return peers
}

// report is what the client says of itself.
func (c *client) report() statusReply {
	r := clientReport{
		processReport: c.process, Server: c.server.String(), Alternates: c.server.alternates(), Name: c.server.name(),
		Ready: c.up.Load(), Forwards: []forwardReport{},
	}
	away := c.absence.get()
	if tun, ok := c.keeper.Current(); ok {
		r.Session = reportSession(tun)
	} else {
		r.Session.Since = c.process.Started
	}
	if !r.Session.Connected {
		if !away.since.IsZero() {
			r.Session.Since = away.since.UTC()
		}
		r.Session.Reason, r.Tries, r.Waiting = away.reason, away.tries, c.stats().Open
		if !away.next.IsZero() {
			next := away.next.UTC()
			r.NextTry = &next
		}
	}
	if listeners := c.listeners.Load(); listeners != nil {
		for _, l := range *listeners {
			f, st := l.Local(), l.Stats()
			kind := typeLocal
			if f.Dynamic() {
				kind = typeDynamic
			}
			r.Forwards = append(r.Forwards, forwardReport{
				Type: kind, Listening: true,
				Listen: f.Listen.String(), Target: f.Target.String(), Open: st.Open, Total: st.Total, Refused: st.Refused,
			})
		}
	}
	if r.Ready { // then these are all
		for _, v := range c.reverses {
			m, st := v.Remote(), v.Stats()
			r.Forwards = append(r.Forwards, forwardReport{
				Type: typeRemote, Listening: v.Listening(),
				Listen: m.Listen.String(), Target: m.Target.String(), Open: st.Open, Total: st.Total, Refused: st.Refused,
			})
		}
	}
	return statusReply{Client: &r}
}

// counters are what a person is told of a session beside its state.
func (s sessionReport) counters() []string {
	list := []string{count(s.Streams, "stream"), formatBytes(int64(s.InBytes)) + " in", formatBytes(int64(s.OutBytes)) + " out"}
	var rest []string
	if s.Resumes > 0 {
		rest = append(rest, count(int(s.Resumes), "resume"))
	}
	if s.RetransmittedBytes > 0 {
		rest = append(rest, formatBytes(int64(s.RetransmittedBytes))+" sent again")
	}
	if s.WaitingBytes > 0 {
		rest = append(rest, formatBytes(int64(s.WaitingBytes))+" waiting")
	}
	return append(list, rest...)
}

// state is a session's in words: "connected 12 min" or "away for 20 s".
func (s sessionReport) state(now time.Time) string {
	d := formatDuration(max(0, now.Sub(s.Since)))
	if s.Connected {
		return "connected " + d
	}
	return "away for " + d
}

// rtt is a session's round trip in words.
func (s sessionReport) rtt() string {
	if !s.Connected || s.RTT <= 0 {
		return "-"
	}
	return formatDuration(time.Duration(s.RTT * float64(time.Millisecond)))
}

// row is what a person is told of a forward.
func (f forwardReport) row(arrow string) []string {
	letter, way := "L", visible(f.Listen)
	switch f.Type {
	case typeRemote:
		letter = "R"
	case typeDynamic:
		letter = "D"
	}
	if f.Target != "" {
		way += " " + arrow + " " + visible(f.Target)
	}
	return []string{"  " + letter + "  " + way, f.counters()}
}

func (f forwardReport) counters() string {
	text := fmt.Sprintf("%d open, %d total", f.Open, f.Total)
	if f.Type == typeRemote && !f.Listening {
		text = "not listening, " + text
	}
	if f.Refused > 0 {
		text += fmt.Sprintf(", %d refused", f.Refused)
	}
	return text
}
