package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

// fallbackNone is what --fallback says for a plain 404.
const fallbackNone = "none"

// bodyPatience is how long a body on its way to the backend may pause.
const bodyPatience = time.Minute

// newFallback makes what answers requests that are not for waxwire: the backend at a URL, or, if nil, nobody.
// It gets them as they are, WebSockets included. The hello was taken out before.
func newFallback(text string, trusted []netip.Prefix, log *slog.Logger) (http.Handler, error) {
	if text == fallbackNone {
		return nil, nil
	}
	backend, err := url.Parse(text)
	if err != nil || backend.Scheme != "http" && backend.Scheme != "https" || backend.Hostname() == "" ||
		backend.User != nil || backend.RawQuery != "" || backend.Fragment != "" {
		return nil, fail(codeUsage, nil, "--fallback: this is neither the URL of a backend nor none", "Form: http://127.0.0.1:3000")
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(backend)
			r.Out.Host, r.Out.URL.RawQuery = r.In.Host, r.In.URL.RawQuery
			if isTrusted(r.In.RemoteAddr, trusted) { // what it says of the client goes on
				r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			}
			r.SetXForwarded()
			if isTrusted(r.In.RemoteAddr, trusted) {
				for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
					if values := r.In.Header[name]; len(values) > 0 {
						r.Out.Header[name] = values
					}
				}
			}
		},
		// The environment's proxy is for the way out, not for a backend.
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second,
			IdleConnTimeout:     time.Minute,
			MaxIdleConnsPerHost: 32,
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.Debug("the backend did not answer", "backend", backend.Host, "err", err)
			http.Error(w, "502 bad gateway", http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &patientBody{r.Body, http.NewResponseController(w)}
		}
		proxy.ServeHTTP(w, r)
	}), nil
}

// A patientBody is read as long as something comes. The server's deadline for a request, which is for
// strangers that say little, would cut every upload that takes longer.
type patientBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.rc.SetReadDeadline(time.Now().Add(bodyPatience))
	return b.ReadCloser.Read(p)
}

func isTrusted(remote string, trusted []netip.Prefix) bool {
	ap, err := netip.ParseAddrPort(remote)
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool {
		return err == nil && p.Contains(ap.Addr().Unmap().WithZone("")) || err != nil && !p.IsValid()
	})
}
