package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/keys"
)

// Bounds of how long an invite may be good. It is a secret that lies about until it is used.
const (
	inviteLeast = time.Second
	inviteMost  = 30 * 24 * time.Hour
)

// inviteLook is how often a waiting "invite" looks whether somebody has joined.
const inviteLook = 200 * time.Millisecond

func (a *app) inviteCommand() *cobra.Command {
	var (
		url     string
		allow   []string
		expires time.Duration
		draw    bool
	)
	cmd := &cobra.Command{
		Use:   "invite NAME --url URL [--allow PERMISSION]... [--expires 15m] [--qr] [-q]",
		Short: "Let another host in: prints what to run there",
		Long: `Print an invite, which lets one other host in, once. Whoever runs "waxwire join" with it becomes the
peer NAME with these permissions: hand it over as you would a password. Then wait for that; the invite stays
good without it. With -q only the invite is printed, on standard output, and nobody waits.

URL is where the other host reaches the server, which has to be running when it joins.`,
		Example: `  waxwire invite laptop --url ws://relay.example.net:8443/wax --allow connect=localhost:80
  waxwire invite phone --url wss://relay.example.net/wax --qr
  waxwire invite backup --url wss://relay.example.net/wax -q | ssh backup waxwire join -`,
		Args:                  needs("NAME"),
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := keys.ValidName(args[0]); err != nil {
				return explainPeers(err, args[0])
			}
			if url == "" {
				return fail(codeUsage, nil, "--url is missing: where the other host reaches this server",
					"Form: --url ws://HOST[:PORT]/wax or wss://HOST[:PORT]/wax")
			}
			target, err := inviteURL(url)
			if err != nil {
				return err
			}
			permissions, err := parsePermissions(allow)
			if err != nil {
				return err
			}
			if expires < inviteLeast || expires > inviteMost {
				return usagef("--expires %s: from a second to 720h", expires)
			}
			return a.runInvite(keys.IssuedInvite{
				Name: args[0], Allow: permissions,
				Expires: time.Now().Add(expires + time.Second - 1).UTC().Truncate(time.Second), // rounded up
			}, target, expires, draw)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&url, "url", "", "where the other host reaches the server, as `URL`")
	f.StringArrayVar(&allow, "allow", nil, "what it may do: connect=HOST:PORT, ... (repeatable)")
	f.DurationVar(&expires, "expires", 15*time.Minute, "how long the invite is good")
	f.BoolVar(&draw, "qr", false, "draw it as a QR code too")
	return cmd
}

// inviteURL reads --url, which may be several with commas between them.
func inviteURL(text string) (string, error) {
	urls, err := parseServerURLs(text)
	if err != nil {
		return "", err
	}
	for _, u := range urls {
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsUnspecified() {
			return "", fail(codeUsage, nil, fmt.Sprintf("--url %s: nobody can dial %s", visible(u.String()), ip),
				"Name the address under which the other host reaches this one.")
		}
	}
	text = server{url: urls[0], others: urls[1:]}.urls()
	if len(text) > keys.MaxInviteURL {
		return "", usagef("--url is longer than %d bytes", keys.MaxInviteURL)
	}
	return text, nil
}

// openInvites opens the folder of the invites, which is made if it is not there.
func (a *app) openInvites(dir *keys.PeerDir) (*keys.InviteDir, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	invites, err := keys.OpenInviteDir(h.invites(), dir)
	if err != nil {
		return nil, explainInvites(err)
	}
	return invites, nil
}

// explainInvites says what went wrong with the files of the invites.
func explainInvites(err error) *failure {
	var mode *keys.FileModeError
	if errors.As(err, &mode) {
		return fail(codeInviteFile, err, fmt.Sprintf("%s can be written by other users (%04o)", shorten(mode.Path), mode.Mode.Perm()),
			"chmod go-w "+shorten(mode.Path))
	}
	return fail(codeInviteFile, err, visible(plain(err)))
}

// serverKey is the public key of this installation, whose identity is made if there is none.
func (a *app) serverKey() (keys.PublicKey, error) {
	h, err := a.home()
	if err != nil {
		return keys.PublicKey{}, err
	}
	key, _, err := keys.IdentityFileInfo(h.identity()) // without a passphrase
	if errors.Is(err, fs.ErrNotExist) {
		id, err := a.createIdentity(h.identity(), false)
		if err != nil {
			return keys.PublicKey{}, err
		}
		defer id.Wipe()
		a.tellCreated(h.identity(), id)
		return id.Public(), nil
	}
	if err != nil {
		return keys.PublicKey{}, explainKeyFile(err, h.identity())
	}
	return key, nil
}

func (a *app) runInvite(issued keys.IssuedInvite, url string, valid time.Duration, draw bool) error {
	dir, err := a.openPeers()
	if err != nil {
		return err
	}
	invites, err := a.openInvites(dir)
	if err != nil {
		return err
	}
	if _, err := dir.Get(issued.Name); !errors.Is(err, fs.ErrNotExist) {
		return explainPeers(fs.ErrExist, issued.Name)
	}
	key, err := a.serverKey()
	if err != nil {
		return err
	}
	invite, err := keys.NewInvite(url, key, issued.Expires)
	if err != nil {
		return err
	}
	defer invite.Wipe()
	issued.Hash = invite.Hash()
	text, err := invite.MarshalText()
	if err != nil {
		return err
	}
	defer clear(text)
	ends, stop := catchEnd() // before the invite can be used
	defer stop()
	if err := invites.Add(issued); err != nil {
		return explainInvites(err)
	}
	if err := a.printInvite(issued, url, text, valid, draw); err != nil {
		return err
	}
	if a.quiet {
		return nil
	}
	return a.awaitJoin(invites, issued, ends)
}

// printInvite prints it: the line to run on standard output, or with -q the invite alone, and the rest for
// a person.
func (a *app) printInvite(i keys.IssuedInvite, url string, text []byte, valid time.Duration, draw bool) error {
	if a.json {
		return a.ui.result(struct {
			Name    string   `json:"name"`
			Invite  string   `json:"invite"`
			URL     string   `json:"url"`
			Expires string   `json:"expires"`
			Allow   []string `json:"allow"`
		}{i.Name, string(text), url, i.Expires.Format(time.RFC3339), allowed(keys.Peer{Allow: i.Allow})})
	}
	if a.quiet {
		return a.ui.printf("%s\n", text)
	}
	may := strings.Join(allowed(keys.Peer{Allow: i.Allow}), ", ")
	if may == "" {
		may = "nothing yet; allow something with \"waxwire peers allow\" when it has joined"
	}
	a.ui.sayf("Invite for %s. One use, %s (until %s).", i.Name, formatDuration(valid), clock(i.Expires, time.Now()))
	a.ui.sayf("It may: %s", may)
	a.ui.sayf("")
	if draw {
		picture, err := drawQR(string(text), a.ui.unicode, a.ui.color)
		if err != nil {
			return err
		}
		a.ui.sayf("%s", picture)
	}
	a.ui.sayf("On the other host run:")
	a.ui.sayf("")
	if err := a.ui.printf("  waxwire join %s\n", text); err != nil {
		return err
	}
	a.ui.sayf("")
	return nil
}

// awaitJoin looks until somebody has joined, the time is over, or nobody wants to know any more. The server is
// another process: what it does is seen in the files.
func (a *app) awaitJoin(invites *keys.InviteDir, i keys.IssuedInvite, ends <-chan os.Signal) error {
	a.ui.sayf("Waiting for %s. Ctrl-C stops waiting; the invite stays good.", i.Name)
	tick := time.NewTicker(inviteLook)
	defer tick.Stop()
	for {
		now, err := invites.Get(i.Hash)
		switch {
		case errors.Is(err, keys.ErrInviteUnknown):
			return fail(codeNobodyJoined, err, fmt.Sprintf("the invite for %s was revoked", i.Name))
		case err != nil:
			return explainInvites(err)
		case !now.Used.IsZero():
			a.ui.event("joined", map[string]any{"peer": i.Name, "public_key": now.By.String(), "fingerprint": now.By.Fingerprint()})
			a.ui.okf("%s joined (%s)", i.Name, now.By.Short())
			return nil
		case now.Check(time.Now()) != nil:
			return fail(codeNobodyJoined, nil, fmt.Sprintf("the invite for %s expired at %s, and nobody joined", i.Name, clock(i.Expires, time.Now())))
		}
		select {
		case <-tick.C:
		case s := <-ends:
			return silentExit(signalStatus(s))
		}
	}
}

// clock is a time of today as 14:32, any other with its date.
func clock(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}
