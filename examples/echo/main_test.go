package main

import (
	"strings"
	"testing"
)

func TestEcho(t *testing.T) {
	for _, text := range []string{"hello", strings.Repeat("0123456789abcdef", 1<<16)} {
		got, err := run(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		if got != text {
			t.Errorf("%d bytes came back for %d", len(got), len(text))
		}
	}
}
