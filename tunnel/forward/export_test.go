package forward

import (
	"io"
	"time"
)

// ReadProxyRequest is what a dynamic forward makes of what a program says first: where it wants to go,
// and what came after that.
func ReadProxyRequest(rw io.ReadWriter, auth func(user, password string) bool) (target Address, rest []byte, err error) {
	r, err := readProxyRequest(rw, auth)
	if err != nil {
		return Address{}, nil, err
	}
	return r.target, r.rest(), nil
}

// MaxProxyHead is how long a request may be.
const MaxProxyHead = maxProxyHead

// SetProxyTimeout sets how long a program may take to say what it wants.
func SetProxyTimeout(f *Forwarder, d time.Duration) { f.proxyTimeout = d }
