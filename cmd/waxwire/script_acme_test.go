package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// acme start VAR [KIND]: an ACME server that offers challenges of all kinds, or of one, at http://VAR/dir; its
// root is in roots.pem. acme reach ADDR|nobody: where it finds all names; before, it waits to be told. How names were
// looked at is in acme.log.
func cmdACME(ts *testscript.TestScript, neg bool, args []string) {
	noNeg(ts, neg)
	s := stateOf(ts)
	if args[0] == "reach" {
		s.acme.reach <- args[1]
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[1], l.Addr().String())
	a := &acmeServer{url: "http://" + l.Addr().String(), reach: make(chan string, 16), log: ts.MkAbs("acme.log"), kinds: []string{"tls-alpn-01", "http-01"}}
	if len(args) > 2 {
		a.kinds = args[2:]
	}
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	a.cert, err = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, nil, a.key.Public())
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("roots.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600))
	s.acme = a
	s.cleanup = append(s.cleanup, func() { l.Close() })
	go http.Serve(l, a)
}

// An acmeServer is as much of RFC 8555 as a client needs that does everything right, one order at a time. It
// does not verify signatures, but does see whether names lead to the account's own challenges.
type acmeServer struct {
	url   string
	reach chan string
	log   string
	kinds []string
	key   *ecdsa.PrivateKey
	cert  *x509.Certificate

	mu     sync.Mutex
	thumb  string // of the account's key
	name   string
	status string // of the authorization
	detail string
	issued []byte
}

var acmeToken = strings.Repeat("token", 8)

func (a *acmeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Replay-Nonce", fmt.Sprint(time.Now().UnixNano()))
	var protected struct {
		JWK *struct{ Crv, Kty, X, Y string } `json:"jwk"`
	}
	var payload struct {
		Identifiers []struct{ Value string }
		CSR, Status string
		Contact     []string
	}
	if r.Method == http.MethodPost {
		var body struct{ Protected, Payload string }
		json.NewDecoder(r.Body).Decode(&body)
		for text, to := range map[string]any{body.Protected: &protected, body.Payload: &payload} {
			b, _ := base64.RawURLEncoding.DecodeString(text)
			json.Unmarshal(b, to)
		}
	}
	say := func(status int, v any) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	order := func() map[string]any {
		m := map[string]any{"status": "pending", "authorizations": []string{a.url + "/authz"}, "finalize": a.url + "/finalize"}
		switch {
		case a.issued != nil:
			m["status"], m["certificate"] = "valid", a.url+"/cert"
		case a.status != "pending":
			m["status"] = map[string]string{"valid": "ready", "invalid": "invalid"}[a.status]
		}
		return m
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch r.URL.Path {
	case "/dir":
		say(200, map[string]string{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order"})
	case "/nonce":
	case "/account":
		k := protected.JWK
		sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, k.Crv, k.Kty, k.X, k.Y))
		a.thumb = base64.RawURLEncoding.EncodeToString(sum[:])
		a.note("account %s", payload.Contact)
		w.Header().Set("Location", a.url+"/account/1")
		say(201, map[string]string{"status": "valid"})
	case "/order":
		a.name, a.status, a.issued = payload.Identifiers[0].Value, "pending", nil
		a.note("order for %s", a.name)
		w.Header().Set("Location", a.url+"/order/1")
		say(201, order())
	case "/order/1":
		say(200, order())
	case "/authz":
		var list []map[string]any
		for _, kind := range a.kinds {
			c := map[string]any{"type": kind, "url": a.url + "/challenge/" + kind, "token": acmeToken, "status": a.status}
			if a.status == "invalid" {
				c["error"] = map[string]any{"type": "urn:ietf:params:acme:error:connection", "detail": a.detail, "status": 400}
			}
			list = append(list, c)
		}
		say(200, map[string]any{"status": a.status, "identifier": map[string]string{"type": "dns", "value": a.name}, "challenges": list})
	case "/finalize":
		der, _ := base64.RawURLEncoding.DecodeString(payload.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || a.status != "valid" || len(csr.DNSNames) != 1 || csr.DNSNames[0] != a.name {
			say(400, map[string]any{"type": "urn:ietf:params:acme:error:badCSR"})
			return
		}
		cert, err := a.sign(&x509.Certificate{DNSNames: csr.DNSNames}, a.cert, csr.PublicKey)
		if err == nil {
			a.issued = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		}
		w.Header().Set("Location", a.url+"/order/1")
		say(200, order())
	case "/cert":
		w.Write(a.issued)
	default:
		kind, ok := strings.CutPrefix(r.URL.Path, "/challenge/")
		if !ok {
			say(404, map[string]any{})
			return
		}
		name, keyAuth := a.name, acmeToken+"."+a.thumb
		go func() {
			addr := <-a.reach
			err := a.validate(kind, addr, name, keyAuth)
			a.mu.Lock()
			defer a.mu.Unlock()
			a.note("%s of %s: %v", kind, name, err)
			if a.status = "valid"; err != nil {
				a.status, a.detail = "invalid", err.Error()
			}
		}()
		say(200, map[string]any{"type": kind, "url": a.url + r.URL.Path, "token": acmeToken, "status": "processing"})
	}
}

func (a *acmeServer) note(format string, args ...any) {
	f, err := os.OpenFile(a.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(f, format+"\n", args...)
		f.Close()
	}
}

// validate sees whether a name leads to who has the account: RFC 8555 §8.3, RFC 8737.
func (a *acmeServer) validate(kind, addr, name, keyAuth string) error {
	if addr == "nobody" {
		return errors.New("nobody is there\x1b[2J")
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if kind == "http-01" {
		req, _ := http.NewRequest("GET", "http://"+name+"/.well-known/acme-challenge/"+acmeToken, nil)
		t := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }, DisableKeepAlives: true}
		resp, err := t.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); string(b) != keyAuth {
			return fmt.Errorf("got %q", b)
		}
		return nil
	}
	t := tls.Client(c, &tls.Config{ServerName: name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		return err
	}
	state := t.ConnectionState()
	sum := sha256.Sum256([]byte(keyAuth))
	want, _ := asn1.Marshal(sum[:])
	if state.NegotiatedProtocol != "acme-tls/1" {
		return errors.New("another protocol")
	}
	// The connection is good for that alone.
	io.WriteString(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, _ := io.ReadAll(t); len(b) > 0 {
		return fmt.Errorf("it speaks: %q", b)
	}
	for _, e := range state.PeerCertificates[0].Extensions {
		if e.Id.String() == "1.3.6.1.5.5.7.1.31" && bytes.Equal(e.Value, want) {
			return nil
		}
	}
	return errors.New("another certificate")
}

func (a *acmeServer) sign(tmpl, parent *x509.Certificate, public any) (*x509.Certificate, error) {
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour)
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
