package secure

import (
	"errors"
	"fmt"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/keys/erase"
)

// Sizes of the hello and of the answer before base64url: pattern and noise1, noise2. PROTOCOL.md §2.
const (
	HelloSize  = 1 + 1296 + payload1Size
	AnswerSize = 1152 + payload2Size
)

// patternIKhfs is the pattern byte of the hello. PROTOCOL.md §1.
const patternIKhfs = 1

// Config is what both ends' handshakes need. It is not modified.
type Config struct {
	Identity *keys.Identity
	Service  string       // at most 255 bytes; both ends must name the same
	Suite    cipher.Suite // 0: chosen by what is fast on both ends
	Max      int          // largest BinaryMessage that this end accepts, in bytes
	Padding  Padding      // of what this end sends
}

// MaxService is the longest service name, in bytes. PROTOCOL.md §1.
const MaxService = 255

// prologue binds both ends to the protocol, the pattern and the service. PROTOCOL.md §1.
func (c *Config) prologue() []byte {
	b := append([]byte("waxwire/1\x00"), patternIKhfs, byte(len(c.Service)>>8), byte(len(c.Service)))
	return append(b, c.Service...)
}

// Established is a finished handshake: the keys of one connection, which belong to the [Conn] that is
// made of it.
type Established struct {
	Client  bool
	Peer    keys.PublicKey
	Binding [32]byte // the handshake hash: the same on both ends, and of this connection only
	Suite   cipher.Suite
	Session []byte // the other end's session field; nil: a plain conn

	sealer  *cipher.Sealer
	opener  *cipher.Opener
	max     int // largest BinaryMessage that this end accepts
	peerMax int // largest BinaryMessage that the other end accepts
	padding Padding
}

// Wipe erases the keys of a handshake that does not become a Conn.
func (e *Established) Wipe() {
	e.sealer.Wipe()
	e.opener.Wipe()
}

func establish(hs *cipher.Handshake, cfg *Config, suite cipher.Suite) (*Established, error) {
	peer, _ := hs.RemoteStatic()
	binding := hs.Binding()
	sealer, opener, err := hs.Split(suite)
	if err != nil {
		return nil, err
	}
	return &Established{
		Peer: peer, Binding: binding, Suite: suite,
		sealer: sealer, opener: opener, max: cfg.Max, padding: cfg.Padding,
	}, nil
}

// A Hello is a client's handshake that waits for its answer. It is used for one attempt.
type Hello struct {
	cfg      *Config
	hs       *cipher.Handshake
	suites   byte
	sessions bool
}

// NewHello begins a client's handshake with the server of the given key and returns it with the hello
// to send. url is what the client dials, sealed for the server to compare. A nil session asks for a
// plain conn. invite is the secret of one, or nil; it is not kept.
func NewHello(cfg *Config, server keys.PublicKey, url string, session, invite []byte) (*Hello, []byte, error) {
	if len(url) > maxURL {
		return nil, nil, fmt.Errorf("the URL is longer than %d bytes", maxURL)
	}
	hs, err := cipher.NewHandshake(cipher.HandshakeConfig{
		Pattern: cipher.IKhfs, Initiator: true, Prologue: cfg.prologue(),
		Static: cfg.Identity, RemoteStatic: server,
	})
	if err != nil {
		return nil, nil, err
	}
	h := &Hello{cfg: cfg, hs: hs, suites: suiteMask(cfg.Suite), sessions: session != nil}
	p := make([]byte, 0, payload1Size)
	defer func() { erase.Bytes(p[:cap(p)]) }()
	erase.Do(func() {
		p, err = appendPayload(p, &payload{
			suites: h.suites, max: cfg.Max, invite: invite, url: url, session: session, padding: cfg.Padding,
		}, payload1Size)
	})
	if err != nil {
		hs.Wipe()
		return nil, nil, err
	}
	hello, err := hs.WriteMessage([]byte{patternIKhfs}, p)
	if err != nil {
		hs.Wipe()
		return nil, nil, err
	}
	return h, hello, nil
}

// Wipe erases the keys of an attempt that got no answer. It is idempotent.
func (h *Hello) Wipe() { h.hs.Wipe() }

// A RefusedError is a server's sealed word that it does not take this client. It is the only answer
// that counts as a verdict.
type RefusedError struct {
	Reason RefusedReason
	Time   time.Time // when an invite was used or expired; zero if it does not apply
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused by the server: reason %d", e.Reason)
}

// ErrAnswer says that an answer did not open, or does not fit the HTTP status that it came with: a
// fault of the network or somebody in between, never a verdict.
var ErrAnswer = errors.New("the answer does not open")

// Finish opens the answer. accepted says whether it came with a 101 or with a 404; the sealed content
// must agree. The error is a [*RefusedError] or [ErrAnswer]; the attempt's keys are wiped either way.
func (h *Hello) Finish(answer []byte, accepted bool) (*Established, error) {
	defer h.hs.Wipe()
	b, err := h.hs.ReadMessage(nil, answer)
	if err != nil {
		return nil, ErrAnswer
	}
	p, err := parsePayload(b)
	if err != nil {
		return nil, ErrAnswer
	}
	if !accepted {
		if p.reason == 0 || p.suite != 0 {
			return nil, ErrAnswer
		}
		refused := &RefusedError{Reason: p.reason}
		if p.time != 0 && p.time < 1<<40 {
			refused.Time = time.Unix(int64(p.time), 0)
		}
		return nil, refused
	}
	if p.reason != 0 || p.suite == 0 || h.suites&byte(p.suite) == 0 || p.max == 0 ||
		h.sessions != (p.session != nil) {
		return nil, ErrAnswer
	}
	e, err := establish(h.hs, h.cfg, p.suite)
	if err != nil {
		return nil, ErrAnswer
	}
	e.Client, e.peerMax, e.Session = true, p.max, p.session
	return e, nil
}

// An Opened is a hello that a server could open: its sender knows the server's key. The server may
// now look at who it is, and then accepts or refuses, once.
type Opened struct {
	Peer    keys.PublicKey
	ID      HelloID
	URL     string
	Session []byte           // nil: a plain conn is asked for
	Invite  *keys.InviteHash // of the invite that the client brings; nil: none
	Max     int              // the largest BinaryMessage that the client accepts
	Problem RefusedReason    // not 0: the hello can only be refused, for this reason

	cfg   *Config
	hs    *cipher.Handshake
	suite cipher.Suite
}

// OpenHello opens a hello of [HelloSize] bytes. An error says that the sender does not know this
// server's key, and has to be answered like any stranger.
func OpenHello(cfg *Config, hello []byte) (*Opened, error) {
	if len(hello) != HelloSize || hello[0] != patternIKhfs {
		return nil, errPayload
	}
	hs, err := cipher.NewHandshake(cipher.HandshakeConfig{
		Pattern: cipher.IKhfs, Prologue: cfg.prologue(), Static: cfg.Identity,
	})
	if err != nil {
		return nil, err
	}
	b, err := hs.ReadMessage(nil, hello[1:])
	if err != nil {
		hs.Wipe()
		return nil, err
	}
	o := &Opened{cfg: cfg, hs: hs, ID: HelloID(hello[1:33])}
	o.Peer, _ = hs.RemoteStatic()
	defer erase.Bytes(b) // what is kept of it is copied
	p, err := parsePayload(b)
	if err != nil || p.suites == 0 || p.max == 0 || p.suite != 0 || p.reason != 0 {
		o.Problem = BadPayload
		return o, nil
	}
	o.URL, o.Session, o.Max = p.url, p.session, p.max
	if p.invite != nil {
		erase.Trace("invite", p.invite)
		hash := keys.HashInvite(p.invite)
		o.Invite = &hash
	}
	if o.suite = chooseSuite(p.suites, cfg.Suite); o.suite == 0 {
		o.Problem = NoCommonSuite
	}
	return o, nil
}

// Accept returns the answer that takes the client, and the connection's keys.
func (o *Opened) Accept(session []byte) ([]byte, *Established, error) {
	defer o.hs.Wipe()
	p, err := appendPayload(nil, &payload{
		suite: o.suite, max: o.cfg.Max, session: session, padding: o.cfg.Padding,
	}, payload2Size)
	if err != nil {
		return nil, nil, err
	}
	answer, err := o.hs.WriteMessage(nil, p)
	if err != nil {
		return nil, nil, err
	}
	e, err := establish(o.hs, o.cfg, o.suite)
	if err != nil {
		return nil, nil, err
	}
	e.peerMax, e.Session = o.Max, o.Session
	return answer, e, nil
}

// Refuse returns the answer that says why not. The keys are never split.
func (o *Opened) Refuse(reason RefusedReason, at time.Time) ([]byte, error) {
	defer o.hs.Wipe()
	p := &payload{reason: reason}
	if !at.IsZero() {
		p.time = uint64(at.Unix())
	}
	b, err := appendPayload(nil, p, payload2Size)
	if err != nil {
		return nil, err
	}
	return o.hs.WriteMessage(nil, b)
}

// Wipe erases the keys of a hello that gets no answer of its own. It is idempotent.
func (o *Opened) Wipe() { o.hs.Wipe() }
