package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// readiness is what /readyz tells.
type readiness struct{ ready atomic.Bool }

func (r *readiness) set(ready bool) { r.ready.Store(ready) }

// A statusServer answers whether the server lives and takes connections. The zero value is off.
type statusServer struct {
	listener net.Listener
	http     *http.Server
}

func startStatus(addr string, ready *readiness) (*statusServer, error) {
	if addr == "off" {
		return &statusServer{}, nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fail(codeUsage, err, fmt.Sprintf("--status %s: this is neither HOST:PORT nor off", visible(addr)),
			"Form: 127.0.0.1:7787")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, explainListen(err, addr, "")
	}
	s := &statusServer{listener: l, http: &http.Server{
		Handler:           statusHandler(host, ready),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      5 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
	}}
	go s.http.Serve(l) // ends with Close
	return s, nil
}

func (s *statusServer) url() string {
	if s.listener == nil {
		return ""
	}
	return "http://" + s.listener.Addr().String()
}

func (s *statusServer) Close() {
	if s.http != nil {
		s.http.Close()
	}
}

// statusHandler answers requests that name host or this machine itself: a web page that has its own
// name point here learns nothing.
func statusHandler(host string, ready *readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.ready.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ready\n")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if !isLocalHost(r.Host, host) {
			http.Error(w, "this host is not served here", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func isLocalHost(asked, configured string) bool {
	name := asked
	if h, _, err := net.SplitHostPort(asked); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if configured != "" && strings.EqualFold(name, configured) || strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.IsLoopback()
}
