package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/acme/autocert"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// defaultListen is this host alone: without TLS that is what a reverse proxy in front needs.
const defaultListen = "127.0.0.1:8443"

type serverFlags struct {
	listen, allow, hosts, origins, urls, proxies, acme []string
	path, cert, key, clientCA, fallback, status        string
	acmeEmail, acmeDirectory, acmeHTTP                 string
}

func (a *app) serverCommand() *cobra.Command {
	var f serverFlags
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Take sealed connections from peers",
		Long: `Take sealed connections from peers, and connect them to what their permissions name. Nobody may
connect before "waxwire invite" or "waxwire peers add" lets them.

Without TLS it listens on this host only, for a reverse proxy in front, unless an address is written
out. What is inside is sealed either way. A unix socket is its owner's alone unless a mode is written
out, and has no TLS.

Who asks for anything else than a tunnel gets a 404, or what --fallback says: the tunnel can stand on
the same port as a web site.

With --acme it gets certificates for wss:// by itself, of Let's Encrypt unless --acme-directory names
another authority, whose terms you accept by that. The name has to lead here, to port 443.`,
		Example: `  waxwire server
  waxwire server --listen :8443 --status 127.0.0.1:7787
  waxwire server --listen :443 --tls-cert relay.crt --tls-key relay.key --host-allow relay.example.net
  waxwire server --acme relay.example.net --acme-email ops@example.net
  waxwire server --listen unix:/run/waxwire/relay.sock,mode=0660 --trusted-proxy unix
  waxwire server --listen :443 --tls-cert relay.crt --tls-key relay.key --fallback http://127.0.0.1:3000`,
		Args: needs(),
		RunE: func(*cobra.Command, []string) error { return a.runServer(f) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringArrayVar(&f.listen, "listen", nil, "where to listen, as `[HOST]:PORT` or unix:/path.sock[,mode=0660] (repeatable; default "+defaultListen+", with --acme "+acmeListen+")")
	fl.StringVar(&f.path, "path", "/wax", "the path of the URL under which tunnels are taken")
	fl.StringArrayVar(&f.allow, "allow", nil, "what peers may do that have no `PERMISSION` of their own (repeatable)")
	fl.StringVar(&f.cert, "tls-cert", "", "serve wss:// with this certificate `FILE`, read again when it changes")
	fl.StringVar(&f.key, "tls-key", "", "and its key `FILE`")
	fl.StringArrayVar(&f.acme, "acme", nil, "get a certificate for this `NAME`, and renew it (repeatable)")
	fl.StringVar(&f.acmeEmail, "acme-email", "", "where the authority may write to, as `ADDRESS`")
	fl.StringVar(&f.acmeDirectory, "acme-directory", autocert.DefaultACMEDirectory, "the authority, as the `URL` of its directory")
	fl.StringVar(&f.acmeHTTP, "acme-http", "", "let the authority ask by HTTP at `[HOST]:PORT` too, which it sees as port 80")
	fl.StringVar(&f.clientCA, "tls-client-ca", "", "ask TLS clients for a certificate of the authorities in this `FILE`, read again as well")
	fl.StringVar(&f.fallback, "fallback", fallbackNone, "pass on all that is not for waxwire to this `URL`; none: a 404")
	fl.StringVar(&f.status, "status", "off", "answer /healthz and /readyz on `ADDR`, or off")
	fl.StringArrayVar(&f.hosts, "host-allow", nil, "take requests for this host `NAME` only (repeatable)")
	fl.StringArrayVar(&f.origins, "origin-allow", nil, "take requests of web pages from this `ORIGIN` (repeatable; none is taken by default)")
	fl.StringArrayVar(&f.urls, "url-allow", nil, "take clients only that dialled this `URL`, which no proxy can rewrite (repeatable)")
	fl.StringArrayVar(&f.proxies, "trusted-proxy", nil, "believe X-Forwarded-For from this address range, as `CIDR`, or unix (repeatable)")
	return cmd
}

// peersWithDefault gives peers that have no permissions of their own those of --allow.
type peersWithDefault struct {
	*keys.PeerDir
	allow []keys.Permission
}

func (p peersWithDefault) Lookup(k keys.PublicKey) (keys.Peer, bool) {
	peer, ok := p.PeerDir.Lookup(k)
	if ok && len(peer.Allow) == 0 {
		peer.Allow = p.allow
	}
	return peer, ok
}

// Refresh hides the PeerDir's: this program refreshes it, connections or not.
func (p peersWithDefault) Refresh() []error { return nil }

// runServer serves until it is told to end.
func (a *app) runServer(f serverFlags) error {
	if len(f.listen) == 0 {
		f.listen = []string{defaultListen}
		if len(f.acme) > 0 {
			f.listen = []string{acmeListen}
		}
	}
	allow, err := parsePermissions(f.allow)
	if err != nil {
		return err
	}
	proxies, err := parsePrefixes(f.proxies)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(f.path, "/") || strings.ContainsAny(f.path, "?# ") {
		return usagef("--path %s: a path begins with / and has no ?, # or space", visible(f.path))
	}
	hosts, err := checkHosts(f.hosts)
	if err := errors.Join(err, checkOrigins(f.origins), checkURLs(f.urls), f.check()); err != nil {
		return err
	}
	fallback, err := newFallback(f.fallback, proxies, a.log)
	if err != nil {
		return err
	}
	secure, err := a.serverTLS(&f)
	if err != nil {
		return err
	}
	// What can be wrong with the flags shows before anything is written.
	ready := &readiness{}
	status, err := startStatus(f.status, ready)
	if err != nil {
		return err
	}
	defer status.Close()
	if f.acmeHTTP != "" {
		challenges, err := secure.acme.startHTTP(f.acmeHTTP)
		if err != nil {
			return err
		}
		defer challenges.Close()
	}
	listenings, err := listenAll(&f, secure.config)
	if err != nil {
		return err
	}
	id, path, created, err := a.loadIdentity(true)
	if err != nil {
		return err
	}
	defer id.Wipe()
	dir, err := a.openPeers()
	if err != nil {
		return err
	}
	for _, err := range dir.Refresh() {
		a.sayBrokenPeer(err)
	}
	invites, err := a.openInvites(dir)
	if err != nil {
		return err
	}

	srv := &tunnel.Server{
		Identity: id, Peers: peersWithDefault{dir, allow}, Invites: invites, Path: f.path,
		Hosts: hosts, Origins: f.origins, URLs: f.urls, TrustedProxies: proxies,
		Fallback: fallback, Logger: a.log,
	}
	var stopping atomic.Bool
	about := serverReport{processReport: newProcess(), PublicKey: id.Public().String(), Listening: []string{}}
	for _, l := range listenings {
		about.Listening = append(about.Listening, l.url)
	}
	reload := make(reloads)
	ctl, err := a.openControl(func() statusReply {
		r := about
		r.Stopping, r.Enrolled, r.Peers = stopping.Load(), len(dir.List()), reportPeers(srv.Tunnels())
		return statusReply{Server: &r}
	}, []controlRoute{reload.route()}, controlServer)
	if err != nil {
		return err
	}
	defer ctl.Close()
	ends, stop := catchEnd()
	defer stop()
	hangups, stopHangups := catchHangup()
	defer stopHangups()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer a.dumpOnSignal(func() []any { return []any{"connections", srv.Connections(), "peers", len(dir.List())} })()

	hs := srv.HTTPServer()
	var serving sync.WaitGroup
	failed := make(chan error, len(listenings))
	for _, l := range listenings {
		serving.Go(func() {
			if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	exit := &forward.Exit{Logger: a.log}
	serving.Go(func() { a.acceptTunnels(ctx, srv, exit) })
	serving.Go(func() { a.keepFresh(ctx, dir, secure.reload, hangups, reload) })
	if secure.acme != nil {
		secure.acme.obtain(ctx)
	}
	ready.set(true)
	a.sayListening(serverScreen{
		id: id, path: path, created: created, listenings: listenings, tls: secure.config != nil, fallback: f.fallback,
		peers: len(dir.List()), status: status.url(),
	})

	// New clients are told to come back later, and those that lose their connection meanwhile can go on
	// with what they have open: it listens until that is done.
	end := func(drain context.Context) {
		stopping.Store(true)
		ready.set(false)
		exit.StopListening()
		srv.Shutdown(drain)
		hs.Close()
		srv.Close()
		cancel()
		serving.Wait()
	}
	select {
	case err := <-failed:
		drain, cancel := context.WithCancel(context.Background())
		cancel()
		end(drain)
		return fail(codeFailure, err, "cannot go on listening: "+visible(plain(err)))
	case s := <-ends:
		exit.StopListening() // what is left open then is connections
		a.sayStopping(s, srv)
		return finish(s, ends, end)
	}
}

// acceptTunnels serves what the peers open until the server ends.
func (a *app) acceptTunnels(ctx context.Context, srv *tunnel.Server, exit *forward.Exit) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		tun, err := srv.Accept(context.Background())
		if err != nil {
			return
		}
		wg.Go(func() {
			peer := tun.Peer().Name
			a.ui.event("peer_connected", map[string]any{"peer": peer, "addr": tun.RemoteAddr().String()})
			exit.Serve(ctx, tun)
			<-tun.Done()
			a.ui.event("peer_disconnected", map[string]any{"peer": peer, "addr": tun.RemoteAddr().String()})
		})
	}
}

// keepFresh looks at the files of the peers once a second, and at all files when it is asked to.
func (a *app) keepFresh(ctx context.Context, dir *keys.PeerDir, readTLS func() error, hangups <-chan os.Signal, reload reloads) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, err := range dir.Refresh() {
				a.sayBrokenPeer(err)
			}
		case <-hangups:
			a.reload(dir, readTLS)
		case reply := <-reload:
			reply <- a.reload(dir, readTLS)
		}
	}
}

func (a *app) sayBrokenPeer(err error) {
	a.log.Warn("a peer's file stays as it was", "err", explainPeers(err, "").text)
}

// sayStopping says what is waited for: tunnels with something open, be their clients connected or not.
func (a *app) sayStopping(s os.Signal, srv *tunnel.Server) {
	connections, open := srv.Connections(), 0
	for _, tun := range srv.Tunnels() {
		open += tun.Stats().Streams
	}
	a.ui.event("stopping", map[string]any{"signal": signalName(s), "connections": connections, "streams": open})
	if !a.screen() {
		a.log.Info("stopping", "signal", signalName(s), "connections", connections, "streams", open)
	} else if open > 0 {
		a.ui.sayf("Waiting up to %s for %s. Again to stop at once.", formatDuration(drainTime), count(open, "stream"))
	}
}

// A serverScreen is what is said when the server is ready.
type serverScreen struct {
	id         *keys.Identity
	path       string
	created    bool
	listenings []listening
	tls        bool
	peers      int
	status     string
	fallback   string
}

func (a *app) sayListening(s serverScreen) {
	public := s.id.Public()
	if s.created {
		a.ui.event("identity_created", map[string]any{"path": s.path, "public_key": public.String(), "fingerprint": public.Fingerprint()})
	}
	for _, l := range s.listenings {
		a.ui.event("listening", map[string]any{"url": l.url, "public_key": public.String(), "peers": s.peers})
	}
	if !a.screen() {
		if s.created {
			a.log.Info("identity created", "path", s.path, "public_key", public.String(), "fingerprint", public.Fingerprint())
		}
		if s.status != "" {
			a.log.Info("status", "url", s.status)
		}
		for _, l := range s.listenings {
			a.log.Info("listening", "url", l.url, "public_key", public.String(), "peers", s.peers)
		}
		return
	}
	a.ui.sayf("waxwire %s", readVersion().Version)
	a.ui.sayf("")
	if s.created {
		a.ui.sayf("  Identity     created %s (readable by you only)", shorten(s.path))
	}
	a.ui.sayf("  Fingerprint  %s", public.Fingerprint())
	a.ui.sayf("  Public key   %s", public)
	for i, l := range s.listenings {
		label, note := "", ""
		if i == 0 {
			label = "Listening"
		}
		if l.local() {
			note = "   sealed; for a proxy of this host"
		} else if !s.tls {
			note = "   sealed; for wss:// add --acme NAME or --tls-cert and --tls-key"
		}
		a.ui.sayf("  %-11s  %s%s", label, l.url, note)
	}
	if s.fallback != fallbackNone {
		a.ui.sayf("  Fallback     %s", visible(s.fallback))
	}
	if s.status != "" {
		a.ui.sayf("  Status       %s", s.status)
	}
	if s.peers > 0 {
		a.ui.sayf("  Peers        %d enrolled", s.peers)
		return
	}
	a.ui.sayf("  Peers        none: nobody can connect yet")
	a.ui.sayf("")
	a.ui.sayf("Next, in another terminal:")
	a.ui.sayf("  waxwire invite laptop --url %s --allow connect=localhost:80", dialled(s.listenings))
	a.ui.sayf("")
}

// dialled is a URL that clients may use.
func dialled(all []listening) string {
	for _, l := range all {
		if !l.local() {
			return reachable(l.url)
		}
	}
	return "wss://HOST/wax"
}

// reachable puts this host's name in the place of an address that stands for all interfaces.
func reachable(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err != nil || !ip.IsUnspecified() {
		return text
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "HOST"
	}
	u.Host = net.JoinHostPort(name, u.Port())
	return u.String()
}
