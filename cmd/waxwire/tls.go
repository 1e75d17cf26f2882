package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// A certificate is a pair of files, read again when one of them changes: whoever renews it need not
// tell us.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex // guards the following
	loaded  *tls.Certificate
	stamps  [2]stamp
	checked time.Time
}

type stamp struct {
	time time.Time
	size int64
}

// loadCertificate reads the files of --tls-cert and --tls-key. It is nil without them.
func loadCertificate(certFile, keyFile string) (*certificate, error) {
	if certFile == "" && keyFile == "" {
		return nil, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, usagef("--tls-cert and --tls-key go together")
	}
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		return nil, fail(codeTLSFiles, err, fmt.Sprintf("cannot use %s and %s: %s", visible(certFile), visible(keyFile), visible(plain(err))))
	}
	return c, nil
}

// tlsConfig returns how to serve with the files of --tls-cert and --tls-key, nil without them, and
// what reads them again.
func (a *app) tlsConfig(certFile, keyFile string) (*tls.Config, func() error, error) {
	c, err := loadCertificate(certFile, keyFile)
	if c == nil {
		return nil, func() error { return nil }, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"}, // HTTP/2 cannot be upgraded to a WebSocket
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.currentOr(a.log), nil },
	}, c.load, nil
}

// currentOr is current for those who can do nothing about files that are no good.
func (c *certificate) currentOr(log *slog.Logger) *tls.Certificate {
	cert, err := c.current()
	if err != nil {
		log.Warn("the TLS files stay as they were", "err", err)
	}
	return cert
}

func (c *certificate) load() error {
	stamps, err := c.stat()
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loaded, c.stamps = &cert, stamps
	return nil
}

func (c *certificate) stat() (stamps [2]stamp, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

// current returns the certificate. It looks at the files once in a second at most; files that
// cannot be used leave the old one in place, and are tried again.
func (c *certificate) current() (*tls.Certificate, error) {
	c.mu.Lock()
	cert, stamps, due := c.loaded, c.stamps, time.Since(c.checked) >= time.Second
	if due {
		c.checked = time.Now()
	}
	c.mu.Unlock()
	if !due {
		return cert, nil
	}
	if now, err := c.stat(); err != nil || now == stamps {
		return cert, err
	}
	if err := c.load(); err != nil {
		return cert, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loaded, nil
}
