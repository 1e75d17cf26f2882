package tunnel_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The suites that say "nothing is lost" must notice when something is: built with a session that loses an
// acknowledged segment now and then, or delivers one twice, each of them fails.
func TestSuitesNoticeFaults(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("takes a build of its own")
	}
	suites := map[string][]string{
		"./internal/session": {"TestModel", "TestKnownSegments"},
		".":                  {"TestCutAfterEachByte", "TestCutTwice", "TestCutsUnderLoad", "TestFlap", "TestSoak"},
	}
	for dir, tests := range suites {
		binary := filepath.Join(t.TempDir(), "test")
		build := exec.Command("go", "test", "-c", "-tags", "sessionfault", "-o", binary, dir)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", build, err, out)
		}
		for _, name := range tests {
			for _, fault := range []string{"lose", "double"} {
				t.Run(name+"/"+fault, func(t *testing.T) {
					cmd := exec.Command(binary, "-test.run", "^"+name+"$", "-test.timeout", "120s")
					cmd.Dir = t.TempDir() // for what a failing test writes down
					cmd.Env = append(os.Environ(), "WAXWIRE_SESSION_FAULT="+fault, "WAXWIRE_FULL=")
					out, err := cmd.CombinedOutput()
					var exit *exec.ExitError
					switch {
					case err == nil:
						t.Errorf("it passes:\n%s", out)
					case !errors.As(err, &exit):
						t.Error(err)
					case !strings.Contains(string(out), "--- FAIL: "+name+" "):
						t.Errorf("it failed otherwise:\n%s", out)
					}
				})
			}
		}
	}
}
