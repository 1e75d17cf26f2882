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

// Limits.
const (
	MaxProxyHead = maxProxyHead
	MaxListeners = maxListeners
	MaxArrivals  = maxArrivals
)

// SetProxyTimeout sets how long a program may take to say what it wants.
func SetProxyTimeout(f any, d time.Duration) {
	switch f := f.(type) {
	case *Forwarder:
		f.proxyTimeout = d
	case *Reverser:
		f.proxyTimeout = d
	}
}

// ListenRequest reads the request of a listen stream and writes it again.
func ListenRequest(s string) (again string, ok bool) {
	name, a, problem := parseListenRequest(s)
	return name + " " + a.String(), problem == ""
}
