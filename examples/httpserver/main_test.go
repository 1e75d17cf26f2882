package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestWebServerInATunnel(t *testing.T) {
	big := strings.Repeat("waxwire ", 1<<18)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path+big) })
	got, err := run(t.Context(), handler, "/big")
	if err != nil {
		t.Fatal(err)
	}
	if got != "/big"+big {
		t.Errorf("got %d bytes, want %d", len(got), len("/big"+big))
	}
}
