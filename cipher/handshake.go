package cipher

import (
	"crypto/mlkem"
	"errors"
	"fmt"
	"log/slog"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/keys/erase"
)

// MaxHandshakeMessage is the largest handshake message, in bytes. Noise rev. 34, §3.
const MaxHandshakeMessage = 65535

// A HandshakeConfig says who shakes hands with whom. A field that the pattern has no use for must
// be left zero: a key that is given but not checked would be a false promise.
type HandshakeConfig struct {
	Pattern   Pattern
	Initiator bool   // the client
	Prologue  []byte // what both ends know and must agree on; may be empty. PROTOCOL.md §1

	// Static is this end's identity, where the pattern sends or needs it. It is used until the
	// handshake ends and is not wiped.
	Static *keys.Identity

	// RemoteStatic is the responder's key, where the pattern's initiator knows it beforehand (IK).
	RemoteStatic keys.PublicKey

	// PSK is the pre-shared key of 32 random bytes, where the pattern has one. It is copied.
	PSK []byte
}

// LogValue and String keep the PSK out of logs.
func (c HandshakeConfig) String() string       { return "cipher.HandshakeConfig(" + string(c.Pattern) + ")" }
func (c HandshakeConfig) GoString() string     { return c.String() }
func (c HandshakeConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// A staticKey is what a handshake needs of a [keys.Identity].
type staticKey interface {
	Public() keys.PublicKey
	DH(peer keys.PublicKey) ([]byte, error)
}

// A Handshake is one end of a Noise handshake. The ends write and read messages in turn, the
// initiator first; after the last one, Split gives the record keys and wipes everything else.
//
// Any error is final: the state is wiped, and every later call returns the same error. A Handshake
// is not safe for concurrent use. Wipe it on every path that does not reach Split.
type Handshake struct {
	pattern   Pattern
	script    script
	initiator bool

	sym    symmetricState
	static staticKey
	psk    [pskSize]byte
	e      ephemeral
	e1     kemKey
	re     keys.PublicKey // the other end's ephemeral key
	re1    []byte         // its encapsulation key, unparsed
	rs     keys.PublicKey // its static key, meaningful if hasRS
	hasRS  bool

	next    int   // the message that is written or read next
	err     error // why every call fails, nil while the handshake lives
	binding [32]byte

	fixed fixedRandom
}

// A fixedRandom replaces the fresh secrets of a handshake by given ones, for test vectors. Nothing
// outside tests sets it.
type fixedRandom struct {
	ephemeral   []byte // X25519 scalar
	kemSeed     []byte // ML-KEM d ‖ z
	encapsulate func(*mlkem.EncapsulationKey768) (secret, ciphertext []byte)
}

// NewHandshake starts a handshake. It refuses a config that lacks a key that the pattern needs,
// above all a pre-shared key, and one that has a key which the pattern ignores.
func NewHandshake(c HandshakeConfig) (*Handshake, error) {
	var static staticKey
	if c.Static != nil {
		static = c.Static
	}
	return newHandshake(c, static, ChaCha20Poly1305)
}

func newHandshake(c HandshakeConfig, static staticKey, suite Suite) (*Handshake, error) {
	sc, err := compile(c.Pattern)
	if err != nil {
		return nil, err
	}
	knowsRemote := c.Initiator && sc.responderKnown
	switch {
	case static == nil && sc.needsStatic(c.Initiator):
		return nil, fmt.Errorf("pattern %v needs a static key of this end", c.Pattern)
	case static != nil && !sc.needsStatic(c.Initiator):
		return nil, fmt.Errorf("pattern %v has no use for a static key of this end", c.Pattern)
	case knowsRemote && c.RemoteStatic == (keys.PublicKey{}):
		return nil, fmt.Errorf("pattern %v needs the other end's static key", c.Pattern)
	case !knowsRemote && c.RemoteStatic != (keys.PublicKey{}):
		return nil, fmt.Errorf("pattern %v does not check a given static key of the other end", c.Pattern)
	case !sc.psk && len(c.PSK) != 0:
		return nil, fmt.Errorf("pattern %v has no use for a pre-shared key", c.Pattern)
	case sc.psk && len(c.PSK) != pskSize:
		return nil, fmt.Errorf("pattern %v needs a pre-shared key of %d bytes, not %d", c.Pattern, pskSize, len(c.PSK))
	case sc.psk && isZero(c.PSK):
		return nil, errors.New("the pre-shared key is all zero")
	}

	h := &Handshake{
		pattern:   c.Pattern,
		script:    sc,
		initiator: c.Initiator,
		static:    static,
		rs:        c.RemoteStatic,
		hasRS:     knowsRemote,
	}
	h.fixed.encapsulate = encapsulate
	erase.Do(func() {
		copy(h.psk[:], c.PSK)
		if sc.psk {
			erase.Trace("psk", h.psk[:])
		}
		h.sym.init(protocolName(c.Pattern, sc.hfs, suite), suite)
		h.sym.mixHash(c.Prologue)
		if sc.responderKnown {
			responder := h.rs
			if !h.initiator {
				responder = static.Public()
			}
			h.sym.mixHash(responder[:])
		}
	})
	return h, nil
}

// isZero does not stop at the first byte that is not zero.
func isZero(b []byte) bool {
	var or byte
	for _, v := range b {
		or |= v
	}
	return or == 0
}

// WriteMessage appends the next message, with payload at its end, to dst and returns the extended
// slice. The payload is sealed except where the pattern has no key yet: in the first message of NN
// and XX without psk0. payload is not kept and must not overlap dst's spare capacity.
//
// It fails with [ErrTurn] out of turn, and with [ErrHandshake] if a key of the other end turns out
// to be unusable: a point of low order, or an ML-KEM key that is not canonical. Noise rev. 34, §5.3.
func (h *Handshake) WriteMessage(dst, payload []byte) ([]byte, error) {
	return h.process(true, func() ([]byte, error) { return h.write(dst, payload) })
}

// ReadMessage reads the next message, appends its payload to dst and returns the extended slice. No
// payload is given out unless all of the message was right. msg is not kept and must not overlap
// dst's spare capacity.
//
// Every fault of the message is [ErrHandshake]; out of turn, the error is [ErrTurn].
func (h *Handshake) ReadMessage(dst, msg []byte) ([]byte, error) {
	return h.process(false, func() ([]byte, error) { return h.read(dst, msg) })
}

// process runs f, one message's work, if it is the turn of writing or reading.
func (h *Handshake) process(writing bool, f func() ([]byte, error)) (out []byte, err error) {
	if h.err != nil {
		return nil, h.err
	}
	if h.Done() || writing != h.myTurn() {
		h.fail(ErrTurn)
		return nil, h.err
	}
	erase.Handshake(func() {
		ok := false
		defer func() { // after a panic too
			if !ok {
				h.fail(ErrHandshake)
				out, err = nil, ErrHandshake
			}
		}()
		out, err = f()
		ok = err == nil
	})
	return out, err
}

func (h *Handshake) myTurn() bool { return (h.next%2 == 0) == h.initiator }

func (h *Handshake) write(dst, payload []byte) ([]byte, error) {
	start := len(dst)
	for _, t := range h.script.messages[h.next] {
		var err error
		switch t {
		case tokenE:
			if h.e, err = newEphemeral(h.fixed.ephemeral); err == nil {
				pub := h.e.public()
				dst = append(dst, pub[:]...)
				err = h.mixEphemeral(&pub)
			}
		case tokenS:
			pub := h.static.Public()
			dst = h.sym.encryptAndHash(dst, pub[:])
		case tokenE1:
			if h.e1, err = newKEMKey(h.fixed.kemSeed); err == nil {
				dst = h.sym.encryptAndHash(dst, h.e1.public())
			}
		case tokenEKEM1:
			var pub *mlkem.EncapsulationKey768
			if pub, err = parseKEMKey(h.re1); err == nil {
				secret, ciphertext := h.fixed.encapsulate(pub)
				erase.Trace("kem", secret)
				erase.Trace("kem-coins", secret[len(secret):cap(secret)])
				dst = h.sym.encryptAndHash(dst, ciphertext)
				err = h.sym.mixKey(secret)
				clear(secret[:cap(secret)]) // the coins too
			}
		default:
			err = h.mix(t)
		}
		if err != nil {
			return nil, err
		}
	}
	dst = h.sym.encryptAndHash(dst, payload)
	if len(dst)-start > MaxHandshakeMessage {
		return nil, ErrHandshake
	}
	h.advance()
	return dst, nil
}

func (h *Handshake) read(dst, msg []byte) ([]byte, error) {
	if len(msg) > MaxHandshakeMessage {
		return nil, ErrHandshake
	}
	// take cuts the next n bytes off msg; what is left at the end is the payload.
	take := func(n int) (part []byte, err error) {
		if len(msg) < n {
			return nil, ErrHandshake
		}
		part, msg = msg[:n], msg[n:]
		return part, nil
	}
	for _, t := range h.script.messages[h.next] {
		var part []byte
		var err error
		switch t {
		case tokenE:
			if part, err = take(dhSize); err == nil {
				h.re = keys.PublicKey(part)
				err = h.mixEphemeral(&h.re)
			}
		case tokenS:
			if part, err = take(dhSize + h.sym.overhead()); err == nil {
				if part, err = h.sym.decryptAndHash(nil, part); err == nil {
					h.rs, h.hasRS = keys.PublicKey(part), true
				}
			}
		case tokenE1:
			// Parsing the key costs half a scalar multiplication: not before it is used, when
			// the other end has shown who it is.
			if part, err = take(kemKeySize + h.sym.overhead()); err == nil {
				h.re1, err = h.sym.decryptAndHash(nil, part)
			}
		case tokenEKEM1:
			if part, err = take(kemCipherSize + h.sym.overhead()); err == nil {
				err = h.readKEM(part)
			}
		default:
			err = h.mix(t)
		}
		if err != nil {
			return nil, err
		}
	}
	dst, err := h.sym.decryptAndHash(dst, msg)
	if err != nil {
		return nil, err
	}
	h.advance()
	return dst, nil
}

func (h *Handshake) readKEM(sealed []byte) error {
	ciphertext, err := h.sym.decryptAndHash(nil, sealed)
	if err != nil {
		return err
	}
	secret, err := h.e1.decapsulate(ciphertext)
	if err != nil {
		return err
	}
	erase.Trace("kem", secret)
	h.e1.wipe()
	return h.sym.mixKey(secret)
}

// mixEphemeral hashes an ephemeral public key in. With a pre-shared key it is also mixed into the
// key, so that no two handshakes under one PSK use the same key. Noise rev. 34, §9.2.
func (h *Handshake) mixEphemeral(pub *keys.PublicKey) error {
	h.sym.mixHash(pub[:])
	if !h.script.psk {
		return nil
	}
	public := *pub // mixKey wipes what it mixed in
	return h.sym.mixKey(public[:])
}

// mix does a token that sends nothing.
func (h *Handshake) mix(t token) error {
	if t == tokenPSK {
		return h.sym.mixKeyAndHash(h.psk[:])
	}
	var mine interface {
		DH(keys.PublicKey) ([]byte, error)
	} = &h.e
	if t == tokenSS || t == tokenES && !h.initiator || t == tokenSE && h.initiator {
		mine = h.static
	}
	theirs := h.re
	if t == tokenSS || t == tokenES && h.initiator || t == tokenSE && !h.initiator {
		theirs = h.rs
	}
	secret, err := mine.DH(theirs)
	if err != nil {
		return err
	}
	erase.Trace("dh", secret)
	return h.sym.mixKey(secret)
}

func (h *Handshake) advance() {
	h.next++
	if h.Done() {
		h.binding = h.sym.h
	}
}

// Done reports whether the last message has been written or read.
func (h *Handshake) Done() bool { return h.next == len(h.script.messages) }

// RemoteStatic returns the other end's static key, false while it is not known or after a failure.
// A key that was just read has been proven by its owner only up to the pattern's guarantees: the
// first message of IK can be a replay until a record has opened.
func (h *Handshake) RemoteStatic() (keys.PublicKey, bool) { return h.rs, h.hasRS }

// Binding is the hash of the whole handshake: the same at both ends, and only there. It is zero
// until the last message, and stays after Split. Noise rev. 34, §11.2.
func (h *Handshake) Binding() [32]byte { return h.binding }

// Split returns this end's two halves of the connection, keyed for records under s, and wipes the
// handshake: only [Handshake.Binding] and [Handshake.RemoteStatic] answer after it. It fails with
// [ErrTurn] before the last message. PROTOCOL.md §3.
func (h *Handshake) Split(s Suite) (*Sealer, *Opener, error) {
	var send, recv *direction
	err := h.split(func(initiator, responder *[32]byte) (err error) {
		if !s.Valid() {
			return fmt.Errorf("no record keys for %v", s)
		}
		if !h.initiator {
			initiator, responder = responder, initiator
		}
		if send, err = newDirection(s, initiator); err == nil {
			recv, err = newDirection(s, responder)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return newSealer(send), newOpener(recv), nil
}

// split gives f the two transport secrets, then wipes the handshake.
func (h *Handshake) split(f func(initiator, responder *[32]byte) error) (err error) {
	if h.err != nil {
		return h.err
	}
	if !h.Done() {
		h.fail(ErrTurn)
		return h.err
	}
	erase.Handshake(func() {
		defer h.wipe(ErrWiped)
		h.sym.split()
		err = f(&h.sym.temp[0], &h.sym.temp[1])
	})
	if err != nil {
		h.fail(err)
	}
	return err
}

// Wipe destroys all secrets of the handshake. It is idempotent.
func (h *Handshake) Wipe() {
	if h.err == nil {
		h.fail(ErrWiped)
	}
}

// fail ends the handshake without keys: nothing that it said about the other end holds.
func (h *Handshake) fail(err error) {
	h.wipe(err)
	h.rs, h.hasRS = keys.PublicKey{}, false
	h.binding = [32]byte{}
	h.next = 0
}

func (h *Handshake) wipe(err error) {
	h.err = err
	h.sym.wipe()
	h.e.wipe()
	h.e1.wipe()
	clear(h.psk[:])
	clear(h.re[:])
	clear(h.re1)
	h.re1 = nil
	h.static = nil
}

// String is the handshake's pattern; its secrets do not print.
func (h *Handshake) String() string   { return "cipher.Handshake(" + string(h.pattern) + ")" }
func (h *Handshake) GoString() string { return h.String() }
