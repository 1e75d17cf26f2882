package tunnel_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"net/http/httptest"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// PROTOCOL.md §2.20 by the second implementation: what is on the wire where an invite is good, used, expired,
// not known, and lost to somebody faster.
func TestStrangerInvite(t *testing.T) {
	h := newInviting(t, func(t testing.TB, change func(*tunnel.Server)) *host {
		h := newTestServer(t, change)
		h.Path, h.Service = "", "s"
		web := httptest.NewServer(h.Server)
		h.addr = web.Listener.Addr().String()
		h.url = "ws://" + h.addr + "/"
		t.Cleanup(func() {
			h.Close()
			web.Close()
		})
		return h
	}, nil)
	hello := func(secret []byte) *strangerHello {
		t.Helper()
		static := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))
		return helloInvited(t, h.addr, "s", h.serverKey(), static, 3, []byte{0}, 4096, secret)
	}
	wantReason := func(secret []byte, reason byte, at int64) {
		t.Helper()
		if r, when := hello(secret).refused(t); r != reason || when != at {
			t.Errorf("refused with reason %d and time %d, want %d and %d", r, when, reason, at)
		}
	}
	good, expired := h.issue(t, time.Hour), h.issue(t, -time.Minute)
	wantReason(expired.Secret(), 3, expired.Expires.Unix())
	wantReason(bytes.Repeat([]byte{7}, 16), 3, 0)

	first, _, _ := hello(good.Secret()).accepted(t)
	second, _, _ := hello(good.Secret()).accepted(t)
	if err := first.send([]byte("\x0401234567")); err != nil {
		t.Fatal(err)
	}
	if p, err := first.receive(); err != nil || string(p) != "\x0501234567" {
		t.Fatalf("got %q, %v; want the PONG", p, err)
	}
	used, err := h.invites.Get(good.Hash())
	if err != nil {
		t.Fatal(err)
	}
	// The other one gets no PONG: nothing comes before the CLOSE.
	if err := second.send([]byte("\x0401234567")); err != nil {
		t.Fatal(err)
	}
	if p, err := second.receive(); err != nil || len(p) < 3 || p[0] != 2 || binary.BigEndian.Uint16(p[1:]) != 3 {
		t.Errorf("got %q, %v; want CLOSE 3", p, err)
	}
	wantReason(good.Secret(), 2, used.Used.Unix())
}

// PROTOCOL.md §1.9: the text of an invite, taken apart by the text alone.
func TestStrangerReadsInvite(t *testing.T) {
	server, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	invite, err := keys.NewInvite("wss://relay.example.net/wax", server.Public(), time.Unix(1_900_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	text, err := invite.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	const head = "WAX-INVITE-1"
	if string(text[:len(head)]) != head {
		t.Fatalf("it begins with %q", text[:len(head)])
	}
	// Five bits a character (BIP 173); the last six are the checksum.
	var bits, acc uint
	var data []byte
	for _, c := range text[len(head) : len(text)-6] {
		acc = acc<<5 | uint(bytes.IndexByte([]byte("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"), c))
		if bits += 5; bits >= 8 {
			bits -= 8
			data = append(data, byte(acc>>bits))
		}
	}
	key := server.Public()
	want := append(append([]byte{1}, key[:]...), invite.Secret()...)
	want = append(binary.BigEndian.AppendUint32(want, 1_900_000_000), "wss://relay.example.net/wax"...)
	if !bytes.Equal(data, want) {
		t.Errorf("it holds %x, want %x", data, want)
	}
}
