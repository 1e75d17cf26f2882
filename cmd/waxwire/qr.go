package main

import (
	"fmt"
	"strings"

	"rsc.io/qr"
)

// qrQuiet is how many light modules stand around a code, which readers need.
const qrQuiet = 2

// drawQR draws text as a QR code: with half blocks, two rows a line, or, where those cannot be shown, with two
// characters a module. What is drawn are the light modules, as on a dark terminal; with colour it is right on
// any.
func drawQR(text string, unicode, color bool) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("drawing a QR code: %w", err)
	}
	light := func(x, y int) bool { return !code.Black(x, y) } // outside of it too
	end := code.Size + qrQuiet
	step := 1
	if unicode {
		step = 2
	}
	var b strings.Builder
	for y := -qrQuiet; y < end; y += step {
		if color {
			b.WriteString("\x1b[97;40m")
		}
		for x := -qrQuiet; x < end; x++ {
			upper, lower := light(x, y), y+1 < end && light(x, y+1)
			switch {
			case !unicode && upper:
				b.WriteString("##")
			case !unicode:
				b.WriteString("  ")
			case upper && lower:
				b.WriteString("█")
			case upper:
				b.WriteString("▀")
			case lower:
				b.WriteString("▄")
			default:
				b.WriteString(" ")
			}
		}
		if color {
			b.WriteString("\x1b[0m")
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}
