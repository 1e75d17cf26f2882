package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A benchMetric is one value that a measurement yields.
type benchMetric struct {
	name, title, unit string
	lower             bool // is better
}

// benchMetrics are all of them, in the order of the table.
var benchMetrics = []benchMetric{
	{"up1", "up, 1 stream", "MB/s", false},
	{"up8", "up, 8 streams", "MB/s", false},
	{"down1", "down, 1 stream", "MB/s", false},
	{"down8", "down, 8 streams", "MB/s", false},
	{"up1_cpu", "CPU, up, 1 stream", "s/GB", true},
	{"up8_cpu", "CPU, up, 8 streams", "s/GB", true},
	{"down1_cpu", "CPU, down, 1 stream", "s/GB", true},
	{"down8_cpu", "CPU, down, 8 streams", "s/GB", true},
	{"echo_p50", "echo, p50", "µs", true},
	{"echo_p99", "echo, p99", "µs", true},
	{"beside_up_p50", "echo beside up, p50", "µs", true},
	{"beside_up_p99", "echo beside up, p99", "µs", true},
	{"beside_down_p50", "echo beside down, p50", "µs", true},
	{"beside_down_p99", "echo beside down, p99", "µs", true},
	{"many", "echo, 64 connections", "1/s", false},
	{"new1", "new connections, 1 by 1", "1/s", false},
	{"new16", "new connections, by 16", "1/s", false},
}

// A benchReport is what a whole run has found.
type benchReport struct {
	Version string       `json:"version"`
	Go      string       `json:"go"`
	System  string       `json:"system"`
	CPUs    int          `json:"cpus"`
	Cipher  string       `json:"cipher"`
	Rounds  int          `json:"rounds"`
	Seconds float64      `json:"seconds"` // of one measurement
	Paths   []*benchPath `json:"paths"`
}

// A benchPath is what was measured with one delay.
type benchPath struct {
	Delay   float64       `json:"round_trip_seconds"` // that was added
	Results []benchResult `json:"results"`

	delay time.Duration
	byKey map[[2]string][]float64 // peer and metric: one value a round
}

// A benchResult is one metric of one peer.
type benchResult struct {
	Metric string `json:"metric"`
	Unit   string `json:"unit"`
	Better string `json:"better"` // higher or lower
	Peer   string `json:"peer"`
	Value  spread `json:"value"`
	Ratio  spread `json:"ratio"` // to the first peer, within a round
}

// A spread is what is left of a value for each round.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1]}
}

func newBenchPath(delay time.Duration) *benchPath {
	return &benchPath{Delay: delay.Seconds(), delay: delay, byKey: make(map[[2]string][]float64)}
}

func (p *benchPath) title() string {
	if p.delay == 0 {
		return "loopback"
	}
	return fmt.Sprintf("%v round trip", p.delay)
}

// add notes one round's values.
func (p *benchPath) add(peer string, values map[string]float64) {
	for name, v := range values {
		k := [2]string{peer, name}
		p.byKey[k] = append(p.byKey[k], v)
	}
}

// finish works out the results.
func (r *benchReport) finish() {
	for _, p := range r.Paths {
		p.Results = []benchResult{} // never null
		for _, m := range benchMetrics {
			base := p.byKey[[2]string{benchPeers[0], m.name}]
			for _, peer := range benchPeers {
				values := p.byKey[[2]string{peer, m.name}]
				if len(values) == 0 || len(values) != len(base) {
					continue
				}
				ratios := make([]float64, len(values))
				for i, v := range values {
					ratios[i] = v / base[i]
				}
				better := "higher"
				if m.lower {
					better = "lower"
				}
				p.Results = append(p.Results, benchResult{
					Metric: m.name, Unit: m.unit, Better: better, Peer: peer,
					Value: spreadOf(values), Ratio: spreadOf(ratios),
				})
			}
		}
	}
}

// find returns the result of a metric and a peer.
func (p *benchPath) find(metric, peer string) (benchResult, bool) {
	i := slices.IndexFunc(p.Results, func(r benchResult) bool { return r.Metric == metric && r.Peer == peer })
	if i < 0 {
		return benchResult{}, false
	}
	return p.Results[i], true
}

// heading says what was measured, how often and where.
func (r *benchReport) heading() string {
	return fmt.Sprintf("waxwire %s, %s, %s, %s, %s of %v, %s", r.Version, r.Cipher, r.System, count(r.CPUs, "CPU"),
		count(r.Rounds, "round"), time.Duration(r.Seconds*float64(time.Second)), r.Go)
}

// table is the report as a person reads it, at most 100 characters wide.
func (r *benchReport) table(unicode bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nRatios to raw, TCP copied by two hops: median (least–greatest). MB/s and 1/s: more is better; s/GB and µs: less.\n", r.heading())
	for _, p := range r.Paths {
		fmt.Fprintf(&b, "\n%-24s %-4s %7s", p.title(), "", benchPeers[0])
		for _, peer := range benchPeers[1:] {
			fmt.Fprintf(&b, "  %-16s", peer)
		}
		fmt.Fprintf(&b, "  %7s\n", "waxwire")
		for _, m := range benchMetrics {
			base, ok := p.find(m.name, benchPeers[0])
			if !ok {
				continue
			}
			fmt.Fprintf(&b, "%-24s %-4s %7s", m.title, m.unit, threeDigits(base.Value.Median))
			last := base
			for _, peer := range benchPeers[1:] {
				last, _ = p.find(m.name, peer)
				fmt.Fprintf(&b, "  %-16s", last.Ratio.String())
			}
			fmt.Fprintf(&b, "  %7s\n", threeDigits(last.Value.Median))
		}
	}
	if !unicode {
		return strings.NewReplacer("–", "-", "µs", "us").Replace(b.String())
	}
	return b.String()
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s–%s)", short(s.Median), short(s.Min), short(s.Max))
}

// short is a ratio in at most four characters, but for the largest.
func short(v float64) string {
	if v < 9.995 {
		return fmt.Sprintf("%.2f", v)
	}
	return threeDigits(v)
}

// threeDigits rounds to what a measurement is good for.
func threeDigits(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
