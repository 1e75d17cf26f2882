//go:build !unix

package tunneltest_test

import (
	"net"
	"testing"
)

// refusing returns an address on loopback where connections are probably refused.
func refusing(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
