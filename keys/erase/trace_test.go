//go:build !erasetrace || !unix

package erase_test

import (
	"bytes"
	"os"
	"testing"

	"waxwire.example/waxwire/keys/erase"
)

// A binary that is built without the tag has nothing of the trace, so that no environment can make it
// give its secrets away or keep them.
func TestNoTraceWithoutItsTag(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"FD", "SKIP"} {
		// In two pieces, or this test would find itself.
		if name := "WAXWIRE_ERASE" + string([]byte("TRACE_")) + part; bytes.Contains(binary, []byte(name)) {
			t.Errorf("%s is in a binary that was built without the tag erasetrace", name)
		}
	}
	if !bytes.Contains(binary, []byte("this test would prove nothing")) {
		t.Error("the binary does not even hold this text")
	}
	if got := testing.AllocsPerRun(10, func() { erase.Trace("key", nil) }); got != 0 {
		t.Errorf("Trace made %v allocations, want 0", got)
	}
}
