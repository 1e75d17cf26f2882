package tunnel

import (
	"bufio"
	"net"
	"net/http"

	"waxwire.example/waxwire/tunnel/internal/wsconn"
)

// notFound is the answer to all that is not for us. A request to switch protocols is refused with the
// connection closed, since some proxies start to pipe on the request alone. PROTOCOL.md §2.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	if s.Fallback != nil {
		if r.Header.Values(wsconn.HelloHeader) != nil {
			r = r.Clone(r.Context())
			r.Header.Del(wsconn.HelloHeader)
		}
		if wsconn.IsUpgrade(r) {
			w = &upgradeCloser{ResponseWriter: w}
		}
		s.Fallback.ServeHTTP(w, r)
		return
	}
	closeUpgrade(w, r)
	http.NotFound(w, r)
}

func (s *Server) tooBusy(w http.ResponseWriter, r *http.Request) {
	closeUpgrade(w, r)
	w.Header().Set("Retry-After", "1")
	http.Error(w, "503 service unavailable", http.StatusServiceUnavailable)
}

// upgradeCloser makes a fallback's refusal to switch protocols one that closes the connection, and
// leaves its consent alone: the fallback may have WebSockets of its own.
type upgradeCloser struct {
	http.ResponseWriter
	answered bool
}

func (u *upgradeCloser) WriteHeader(status int) {
	if !u.answered && (status >= 200 || status == http.StatusSwitchingProtocols) {
		u.answered = true
		if status != http.StatusSwitchingProtocols {
			u.Header().Set("Connection", "close")
			u.Header().Set("Cache-Control", "no-store")
		}
	}
	u.ResponseWriter.WriteHeader(status)
}

func (u *upgradeCloser) Write(p []byte) (int, error) {
	if !u.answered {
		u.WriteHeader(http.StatusOK)
	}
	return u.ResponseWriter.Write(p)
}

// Hijack and Flush are for handlers that ask for them by type.
func (u *upgradeCloser) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(u.ResponseWriter).Hijack()
}

func (u *upgradeCloser) Flush() { http.NewResponseController(u.ResponseWriter).Flush() }

func (u *upgradeCloser) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func closeUpgrade(w http.ResponseWriter, r *http.Request) {
	if wsconn.IsUpgrade(r) {
		w.Header().Set("Connection", "close")
		w.Header().Set("Cache-Control", "no-store")
	}
}
