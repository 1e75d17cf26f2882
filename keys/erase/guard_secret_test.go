//go:build goexperiment.runtimesecret

package erase_test

import "runtime"

var wantGuard = func() string {
	switch runtime.GOOS + "/" + runtime.GOARCH {
	case "linux/amd64", "linux/arm64":
		return "runtime/secret"
	}
	return "scrub"
}()
