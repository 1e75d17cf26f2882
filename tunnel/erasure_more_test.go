package tunnel_test

import (
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/keys/erase"
	"waxwire.example/waxwire/tunnel"
)

// Paths of TestErasure that are no ends of a connection.

// keyFiles is about static keys: their files, in both forms, and their passphrases.
var keyFiles = erasurePath{name: "key files", stage: resting, run: func(c *child) {
	for i := range passphrase {
		passphrase[i] = 0
	}
	rand.Read(passphrase[:])
	for i := range passphrase {
		passphrase[i] = 'a' + passphrase[i]%26
	}
	erase.Trace("passphrase", passphrase[:])
	dir, err := os.MkdirTemp("", "waxwire")
	c.check(err)
	defer os.RemoveAll(dir)
	sealed, plain := filepath.Join(dir, "sealed"), filepath.Join(dir, "plain")

	made, err := keys.Generate()
	c.check(err)
	c.check(keys.WriteIdentityFile(sealed, made, passphrase[:]))
	made.Wipe()
	read, err := keys.ReadIdentityFile(sealed, func() ([]byte, error) { return append([]byte(nil), passphrase[:]...), nil })
	c.check(err)
	c.check(keys.WriteIdentityFile(plain, read, nil))
	again, err := keys.ReadIdentityFile(plain, nil)
	c.check(err)
	text, err := again.MarshalText()
	c.check(err)
	clear(text)
	c.live()
	clear(passphrase[:])
	read.Wipe()
	again.Wipe()
}}

var passphrase [40]byte

// underCollection is the worst case for the build without runtime/secret: eight tunnels shake hands, carry
// data and close while the garbage collector runs without a pause, which moves stacks and sends signals.
var underCollection = erasurePath{name: "8 tunnels, continuous GC", run: func(c *child) {
	var stop atomic.Bool
	var collecting sync.WaitGroup
	collecting.Go(func() {
		for !stop.Load() {
			runtime.GC()
		}
	})
	const tunnels = 8
	clients, servers := make([]*tunnel.Tunnel, tunnels), make([]*tunnel.Tunnel, tunnels)
	var all sync.WaitGroup
	for i := range tunnels {
		all.Go(func() {
			var err error
			clients[i], err = tunnel.Dial(c.Context(), c.h.url, c.config())
			c.check(err)
			servers[i], err = c.h.Accept(c.Context())
			c.check(err)
		})
	}
	all.Wait()
	for i := range tunnels {
		c.working.Go(func() { // the server's ends come in any order
			in, err := servers[i].AcceptStream(c.Context())
			c.check(err)
			s, err := in.Accept()
			c.check(err)
			io.Copy(s, s)
		})
		all.Go(func() {
			s, err := clients[i].OpenStream(c.Context(), tunnel.Request{Kind: tunnel.KindApp})
			c.check(err)
			b := make([]byte, 1000)
			for range erasureRecords {
				_, err := s.Write(b)
				c.check(err)
				_, err = io.ReadFull(s, b)
				c.check(err)
			}
		})
	}
	all.Wait()
	c.live()
	for i := range tunnels {
		all.Go(func() {
			clients[i].Close()
			c.waitFor(clients[i], servers[i])
		})
	}
	all.Wait()
	stop.Store(true)
	collecting.Wait()
}}

// openInvites let in who brings any.
type openInvites struct{ peers *keys.PeerSet }

func (openInvites) Check(keys.InviteHash) error { return nil }

func (o openInvites) Enrol(_ keys.InviteHash, key keys.PublicKey) (keys.Peer, error) {
	p := keys.Peer{Name: "guest", Key: key}
	return p, o.peers.Add(p)
}

// newChildInvite makes an invite as its two ends do: one prints what the other reads.
func newChildInvite(c *child) *keys.Invite {
	made, err := keys.NewInvite("ws://server/wax", c.h.serverKey(), time.Unix(1<<31, 0))
	c.check(err)
	text, err := made.MarshalText()
	c.check(err)
	made.Wipe()
	read, err := keys.ParseInvite(text)
	c.check(err)
	clear(text)
	return read
}

// enrolled is a tunnel of a client that the server did not know. Once it is up, nobody has the secret of the
// invite any more.
func enrolled(c *child) {
	invite, guest := newChildInvite(c), newTestIdentity(c)
	cfg := c.config()
	cfg.Identity, cfg.Invite = guest, invite.Secret()
	client, err := tunnel.Dial(c.Context(), c.h.url, cfg)
	c.check(err)
	_, err = client.Ping(c.Context())
	c.check(err)
	server, err := c.h.Accept(c.Context())
	c.check(err)
	invite.Wipe()
	cfg.Invite = nil
	c.live()
	client.Close()
	c.wait(client, server)
	guest.Wipe()
}
