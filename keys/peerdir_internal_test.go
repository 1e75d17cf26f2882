package keys

import (
	"testing"
	"time"
)

// Whether a file system counts time in steps of nanoseconds or of two seconds cannot be chosen in a
// test, so this looks at the rule alone.
func TestSettled(t *testing.T) {
	now := time.Date(2026, 2, 21, 10, 0, 0, 0, time.UTC)
	at := func(ago time.Duration) int64 { return now.Add(-ago).UnixNano() }
	for _, tt := range []struct {
		name  string
		state fileState
		want  bool
	}{
		{"written an hour ago", fileState{modified: at(time.Hour), changed: at(time.Hour)}, true},
		{"written three seconds ago", fileState{modified: at(3 * time.Second), changed: at(3 * time.Second)}, true},
		{"written two seconds ago", fileState{modified: at(2 * time.Second), changed: at(2 * time.Second)}, false},
		{"written now", fileState{modified: at(0), changed: at(0)}, false},
		{"touched back now", fileState{modified: at(time.Hour), changed: at(0)}, false},
		{"no change time, written now", fileState{modified: at(0)}, false},
		{"no change time, written an hour ago", fileState{modified: at(time.Hour)}, true},
		{"by a clock ahead of ours", fileState{modified: at(-time.Hour), changed: at(-time.Hour)}, false},
	} {
		if got := tt.state.settled(now); got != tt.want {
			t.Errorf("%s: settled is %v, want %v", tt.name, got, tt.want)
		}
	}
}
