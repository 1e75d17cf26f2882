package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// The picture: a row for each metric, a column for each path, a bar for each peer but the first. The
// scale is logarithmic, with raw in the middle; bars to the right are better.
const (
	plotLabels = 190.0
	plotColumn = 340.0
	plotGap    = 44.0
	plotTop    = 92.0
	plotBar    = 7.0
	plotRow    = 3*plotBar + 11
	plotRange  = 16.0 // from 1/16 to 16; what is beyond ends at the edge
)

const plotStyle = `
text { font: 12px system-ui, sans-serif; }
.title { font-size: 15px; font-weight: 600; }
.dim { font-size: 11px; }
.end { text-anchor: end; }
.mid { text-anchor: middle; }
.paper { fill: #ffffff; }
text { fill: #1f2328; }
.dim { fill: #59636e; }
.grid { stroke: #d8dee4; }
.one { stroke: #59636e; stroke-width: 1.5; }
.err { stroke: #1f2328; }
.p0 { fill: #afb8c1; } .p1 { fill: #54aeff; } .p2 { fill: #d4570e; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; }
text { fill: #e6edf3; }
.dim { fill: #9198a1; }
.grid { stroke: #30363d; }
.one { stroke: #9198a1; }
.err { stroke: #e6edf3; }
.p0 { fill: #656c76; } .p1 { fill: #1f6feb; } .p2 { fill: #f0883e; }
}
`

// svg draws the ratios. Whatever is better when it is lower is turned over, so that longer is better
// all over.
func (r *benchReport) svg() []byte {
	var rows []benchMetric
	for _, m := range benchMetrics {
		for _, p := range r.Paths {
			if _, ok := p.find(m.name, benchPeers[0]); ok {
				rows = append(rows, m)
				break
			}
		}
	}
	width := plotLabels + float64(len(r.Paths))*(plotColumn+plotGap)
	bottom := plotTop + float64(len(rows))*plotRow
	var b bytes.Buffer
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	text := func(x, y float64, class, s string) {
		put(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, escaped(s))
	}
	line := func(x1, y1, x2, y2 float64, class string) {
		put(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
	}
	put(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %[1]g %[2]g">`, width, bottom+34)
	put(`<title>Speed of ws, wss and waxwire, measured by raw TCP copy</title>`)
	put(`<style>%s</style>`, strings.TrimRight(plotStyle, "\n"))
	put(`<rect width="100%%" height="100%%" rx="6" class="paper"/>`)
	text(16, 26, "title", "Measured by raw TCP copy: to the right is better")
	text(16, 44, "dim", r.heading())
	for i, peer := range benchPeers[1:] {
		x := 16 + float64(i)*70
		put(`<rect x="%.1f" y="56" width="10" height="10" class="p%d"/>`, x, i)
		text(x+15, 65, "", peer)
	}
	for column, p := range r.Paths {
		left := plotLabels + float64(column)*(plotColumn+plotGap)
		at := func(ratio float64) float64 {
			v := math.Log2(min(max(ratio, 1/plotRange), plotRange)) / math.Log2(plotRange)
			return left + plotColumn/2*(1+v)
		}
		text(left+plotColumn/2, plotTop-14, "mid", p.title())
		for v := 1 / plotRange; v <= plotRange; v *= 2 {
			class := "grid"
			if v == 1 {
				class = "one"
			}
			line(at(v), plotTop-6, at(v), bottom, class)
			label := fmt.Sprintf("%.0fx", v)
			if v < 1 {
				label = fmt.Sprintf("1/%.0f", 1/v)
			}
			text(at(v), bottom+16, "dim mid", label)
		}
		for row, m := range rows {
			top := plotTop + float64(row)*plotRow
			for i, peer := range benchPeers[1:] {
				got, ok := p.find(m.name, peer)
				if !ok {
					continue
				}
				s := got.Ratio
				if m.lower {
					s = spread{Median: 1 / s.Median, Min: 1 / s.Max, Max: 1 / s.Min}
				}
				y := top + float64(i)*plotBar
				x1, x2 := min(at(1), at(s.Median)), max(at(1), at(s.Median))
				put(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="p%d"><title>%s</title></rect>`, x1, y, x2-x1, plotBar-1, i,
					escaped(fmt.Sprintf("%s, %s, %s: %s %s", p.title(), m.title, peer, threeDigits(got.Value.Median), m.unit)))
				middle := y + (plotBar-1)/2
				line(at(s.Min), middle, at(s.Max), middle, "err")
				line(at(s.Min), middle-2, at(s.Min), middle+2, "err")
				line(at(s.Max), middle-2, at(s.Max), middle+2, "err")
			}
		}
	}
	for row, m := range rows {
		text(plotLabels-10, plotTop+float64(row)*plotRow+1.5*plotBar+3, "end", m.title)
	}
	put(`</svg>`)
	return b.Bytes()
}

func escaped(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
