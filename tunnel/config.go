package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/secure"
)

// Config says who dials and whom. Identity and ServerKey are required. It must not be modified while
// it is in use.
type Config struct {
	// Identity is this end's key. Its owner wipes it, after the last tunnel.
	Identity *keys.Identity
	// ServerKey is the key that the server has to prove. There is no way to do without.
	ServerKey keys.PublicKey

	// Invite is the secret of an invite, which makes the server enrol Identity if it does not know it yet:
	// [keys.Invite.Secret]. It is sent in every hello until the server has been heard, and then, or when a
	// dial has failed, this package's copy is wiped. Nil: none.
	Invite []byte

	// Service must be the same on both ends, at most 255 bytes. It separates deployments that share a
	// key. Default: empty.
	Service string
	// Suite fixes the cipher of the records. Zero: AES-256-GCM if both ends have it in hardware, else
	// ChaCha20-Poly1305.
	Suite cipher.Suite
	// MaxMessage is the largest WebSocket message to accept, in bytes, from 4096 to 262144. Zero:
	// 131072. Lower it for gateways that refuse large ones; both ends' limits hold for both ways.
	MaxMessage int

	// Padding blurs the lengths of what this end sends. Zero: [PadNone].
	Padding Padding

	// TLS is for wss:// URLs. Nil: the system's roots, and the URL's host name.
	TLS *tls.Config
	// NetDial makes the network connection. Nil: a [net.Dialer].
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)
	// Proxy returns the proxy to go through on the way to a server, which is named by the URL that is dialled;
	// nil for none. It is http://, https://, socks5h:// (which finds the address of the server's name by
	// itself) or socks5:// (which gets an address), with USER:PASSWORD@ if need be. Nil: no proxy. An error
	// ends the dial; see also [*ProxyError].
	Proxy func(server *url.URL) (*url.URL, error)
	// ProxyTLS is for https:// proxies. Nil: the system's roots, and the proxy's host name.
	ProxyTLS *tls.Config
	// Header has further fields for the upgrade request, and Host replaces the URL's in it.
	Header http.Header
	Host   string

	// Alternates are further URLs of the same server, which holds the same key. They are tried in turn
	// where one fails.
	Alternates []string

	// HandshakeTimeout bounds a dial as a whole. Zero: 20 s.
	HandshakeTimeout time.Duration
	// Logger gets what is worth a note. Nil: nothing is logged.
	Logger *slog.Logger

	timing secure.Timing // tests shorten it
	host   host          // tests have their own
}

// Padding says how the lengths of records are blurred, at the price of some bytes.
type Padding uint8

// The policies. PROTOCOL.md §4.
const (
	PadNone  = Padding(secure.PadNone)  // lengths are what they are
	PadBlock = Padding(secure.PadBlock) // to a multiple of 64 bytes
	PadPadme = Padding(secure.PadPadme) // to few distinct lengths, at most 12 % more (Padmé)
)

const defaultHandshakeTimeout = 20 * time.Second

func (c *Config) check() error {
	switch {
	case c == nil || c.Identity == nil:
		return errors.New("tunnel: Config.Identity is missing")
	case c.ServerKey == keys.PublicKey{}:
		return errors.New("tunnel: Config.ServerKey is missing: a server is only trusted by its key")
	}
	if n := len(c.Invite); n != 0 && n != keys.InviteSecretSize {
		return fmt.Errorf("tunnel: Config.Invite has %d bytes, not %d", n, keys.InviteSecretSize)
	}
	return checkCommon(c.Service, c.Suite, c.MaxMessage, c.Padding)
}

func checkCommon(service string, suite cipher.Suite, max int, padding Padding) error {
	switch {
	case len(service) > secure.MaxService:
		return fmt.Errorf("tunnel: Service is longer than %d bytes", secure.MaxService)
	case suite != 0 && suite != cipher.AES256GCM && suite != cipher.ChaCha20Poly1305:
		return fmt.Errorf("tunnel: Suite %d does not exist", suite)
	case max != 0 && (max < secure.MinMax || max > secure.MaxMax):
		return fmt.Errorf("tunnel: MaxMessage must be from %d to %d", secure.MinMax, secure.MaxMax)
	case padding > PadPadme:
		return fmt.Errorf("tunnel: Padding %d does not exist", padding)
	}
	return nil
}

func (c *Config) handshakeTimeout() time.Duration {
	if c.HandshakeTimeout == 0 {
		return defaultHandshakeTimeout
	}
	return c.HandshakeTimeout
}

func maxMessage(configured int) int {
	if configured == 0 {
		return secure.DefaultMax
	}
	return configured
}

func loggerOrDiscard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// Limits bounds what a server spends on clients, above all on those that have not proved themselves.
// Zero fields have the defaults; negative ones mean no bound.
type Limits struct {
	// Handshakes is how many are computed at once; the others wait a moment, then get a 503. Default:
	// twice the processors.
	Handshakes int
	// SourceRate and SourceBurst bound the hellos of one source (IPv4 address or IPv6 /64), per
	// second. Default: 100 and 400.
	SourceRate, SourceBurst int
	// Unconfirmed is how many connections may wait for their client's first record; from half of it
	// on some are turned away at random. Default: 512.
	Unconfirmed int
	// UnconfirmedPerSource is the same for one source. Default: 16.
	UnconfirmedPerSource int
	// ConfirmTimeout is how long a client may take from its request to its first record. Default: 10 s.
	ConfirmTimeout time.Duration
	// Connections is how many clients there may be, tunnels that have lost their connection among them.
	// Default: 10,000.
	Connections int
	// PerPeer is how many connections one key may have when it asks for another one, and how many tunnels
	// beside them that have lost theirs: past it the one goes that has been away the longest. Those that
	// come back are let in beside the others. Default: 16.
	PerPeer int
	// KeptBytes is what all tunnels together may keep of what clients have not acknowledged; no key may
	// have more than an eighth of it. At the bound tunnels wait, and those that have lost their
	// connection go, of the key that has the most. Default: 1 GiB, or a quarter of the memory.
	KeptBytes int
	// PeerRate and PeerBurst bound how often one key may connect, per second. Default: 20 and 50.
	PeerRate, PeerBurst int
	// ResumeRate and ResumeBurst are the same for going on where a connection was lost. Default: 50 and
	// 100.
	ResumeRate, ResumeBurst int
}

func bound(configured, standard int) int {
	switch {
	case configured == 0:
		return standard
	case configured < 0:
		return int(^uint(0) >> 1)
	}
	return configured
}
