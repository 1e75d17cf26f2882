package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// A watched is what was read from files, read again when one of them changes: whoever renews them need not
// tell us.
type watched[T any] struct {
	files []string
	read  func() (T, error)

	mu      sync.Mutex // guards the following
	loaded  T
	stamps  []stamp
	checked time.Time
}

type stamp struct {
	time time.Time
	size int64
}

func (w *watched[T]) load() error {
	stamps, err := w.stat()
	if err != nil {
		return err
	}
	loaded, err := w.read()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loaded, w.stamps = loaded, stamps
	return nil
}

func (w *watched[T]) stat() ([]stamp, error) {
	var stamps []stamp
	for _, name := range w.files {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		stamps = append(stamps, stamp{info.ModTime(), info.Size()})
	}
	return stamps, nil
}

// current returns what the files hold. It looks at them once in a second at most; files that cannot be
// used leave what was there in place, are told to the log, and are tried again.
func (w *watched[T]) current(log *slog.Logger) T {
	w.mu.Lock()
	loaded, stamps, due := w.loaded, w.stamps, time.Since(w.checked) >= time.Second
	if due {
		w.checked = time.Now()
	}
	w.mu.Unlock()
	if !due {
		return loaded
	}
	now, err := w.stat()
	if err == nil && slices.Equal(now, stamps) {
		return loaded
	}
	if err == nil {
		err = w.load()
	}
	if err != nil {
		log.Warn("the TLS files stay as they were", "err", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.loaded
}

// loadCertificate reads the files of --tls-cert and --tls-key. It is nil without them.
func loadCertificate(certFile, keyFile string) (*watched[*tls.Certificate], error) {
	if certFile == "" && keyFile == "" {
		return nil, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, usagef("--tls-cert and --tls-key go together")
	}
	w := &watched[*tls.Certificate]{files: []string{certFile, keyFile}, read: func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		return &cert, err
	}}
	if err := w.load(); err != nil {
		return nil, fail(codeTLSFiles, err, fmt.Sprintf("cannot use %s and %s: %s", visible(certFile), visible(keyFile), visible(plain(err))))
	}
	return w, nil
}

// readAuthorities reads a file that has certificates in it, at least one.
func readAuthorities(flag, file string) ([]byte, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fail(codeTLSFiles, err, fmt.Sprintf("%s %s: %s", flag, visible(file), visible(cause(err))))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return nil, fail(codeTLSFiles, nil, fmt.Sprintf("%s %s: there is no certificate in it", flag, visible(file)),
			"It has to be in the PEM format: -----BEGIN CERTIFICATE-----")
	}
	return pem, nil
}

// A serverTLS is how a server does TLS.
type serverTLS struct {
	config *tls.Config  // nil for no TLS
	reload func() error // reads the files again
	acme   *acmeManager // nil without --acme
}

// serverTLS applies the --tls flags of the server.
func (a *app) serverTLS(f *serverFlags) (*serverTLS, error) {
	t := &serverTLS{reload: func() error { return nil }}
	var err error
	if t.acme, err = a.newACME(f); err != nil {
		return nil, err
	}
	cert, err := loadCertificate(f.cert, f.key)
	switch {
	case err != nil:
		return nil, err
	case t.acme != nil:
		t.config = t.acme.config()
	case cert != nil:
		t.reload = cert.load
		t.config = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"http/1.1"}, // HTTP/2 cannot be upgraded to a WebSocket
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.current(a.log), nil },
		}
	case f.clientCA != "":
		return nil, usagef("--tls-client-ca needs --tls-cert and --tls-key, or --acme")
	}
	if f.clientCA != "" {
		if err := t.askClients(a.log, f.clientCA); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// askClients has TLS clients show a certificate of the authorities in file.
func (t *serverTLS) askClients(log *slog.Logger, file string) error {
	pools := &watched[*x509.CertPool]{files: []string{file}, read: func() (*x509.CertPool, error) {
		pem, err := readAuthorities("--tls-client-ca", file)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		return pool, nil
	}}
	if _, err := readAuthorities("--tls-client-ca", file); err != nil {
		return err
	}
	if err := pools.load(); err != nil {
		return err
	}
	// A ticket would let in who showed a certificate once, whatever has become of its authority since.
	t.config.SessionTicketsDisabled = true
	t.config.ClientAuth = tls.RequireAndVerifyClientCert
	t.config.ClientCAs = pools.current(log)
	asking := t.config.Clone()
	other := t.config.GetConfigForClient
	t.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if other != nil { // for who shows none and gets no further
			if conf, err := other(hello); conf != nil || err != nil {
				return conf, err
			}
		}
		conf := asking.Clone()
		conf.ClientCAs = pools.current(log)
		return conf, nil
	}
	reload := t.reload
	t.reload = func() error {
		if err := reload(); err != nil {
			return err
		}
		return pools.load()
	}
	return nil
}
