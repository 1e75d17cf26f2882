package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// maxInviteInput bounds what is read from standard input in the place of an invite, in bytes.
const maxInviteInput = 4096

func (a *app) joinCommand() *cobra.Command {
	var as string
	var reach reachFlags
	cmd := &cobra.Command{
		Use:   "join INVITE|- [--as NAME]",
		Short: "Enrol at a server with an invite, and save it",
		Long: `Enrol at the server that an invite is for, and save its URL and key under a name for "client", "pipe" and
"status". The key in the invite is the only one that is trusted. With - the invite is read from standard input,
where no other user of this host can see it. An identity is made if there is none.`,
		Example: `  waxwire join WAX-INVITE-1...
  waxwire join WAX-INVITE-1... --as office
  ssh relay waxwire invite laptop --url wss://relay.example.net/wax -q | waxwire join -`,
		Args:                  needs("INVITE"),
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if as != "" {
				if err := keys.ValidName(as); err != nil {
					return explainPeers(err, as)
				}
			}
			invite, err := a.readInvite(args[0])
			if err != nil {
				return err
			}
			defer invite.Wipe()
			return a.runJoin(invite, as, &reach)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&as, "as", "", "save the server as `NAME`; without it the name of its host")
	reach.addWay(cmd.Flags())
	return cmd
}

// readInvite parses the word of the command line, or standard input.
func (a *app) readInvite(word string) (*keys.Invite, error) {
	text := []byte(word)
	if word == "-" {
		text = make([]byte, maxInviteInput)
		n, err := io.ReadFull(a.ui.in, text)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, fail(codeFailure, err, "cannot read standard input: "+visible(plain(err)))
		}
		text = text[:n]
	}
	defer clear(text[:cap(text)])
	invite, err := keys.ParseInvite(text)
	if err != nil {
		return nil, explainInviteText(err)
	}
	return invite, nil
}

// explainInviteText says why a text is not an invite. Nothing was sent.
func explainInviteText(err error) *failure {
	var bad *keys.InviteError
	if !errors.As(err, &bad) {
		return fail(codeInvite, err, visible(plain(err)))
	}
	if errors.Is(err, keys.ErrInviteVersion) {
		return fail(codeInvite, err, "this invite cannot be read: "+bad.Problem)
	}
	return fail(codeInvite, err, "this invite is damaged: "+bad.Problem, "Paste it again.")
}

func (a *app) runJoin(invite *keys.Invite, as string, reach *reachFlags) error {
	srv, err := parseServer(invite.URL, invite.ServerKey.String())
	if err != nil {
		return err
	}
	c, err := a.wayTo(srv, reach)
	if err != nil {
		return err
	}
	srv = c.server
	h, err := a.home()
	if err != nil {
		return err
	}
	if as == "" {
		as = nameOf(srv.url)
	}
	// What can be wrong here shows before the invite is used up.
	old, err := h.readServer(as)
	known := err == nil && old.key == srv.key
	if !known && !errors.Is(err, fs.ErrNotExist) {
		return fail(codeExists, err, fmt.Sprintf("another server is saved as %q already, in %s", as, shorten(h.server(as))),
			"Save this one under another name:  waxwire join INVITE --as NAME")
	}
	if err := os.MkdirAll(h.servers(), 0o700); err != nil {
		return explainSave(err, h.server(as))
	}
	a.ui.sayf("  Server       %s", visible(srv.urls()))
	a.ui.sayf("  Fingerprint  %s   the only key that is trusted there", srv.key.Fingerprint())
	id, path, created, err := a.loadIdentity(true)
	if err != nil {
		return err
	}
	defer id.Wipe()
	if created {
		a.ui.event("identity_created", map[string]any{
			"path": path, "public_key": id.Public().String(), "fingerprint": id.Public().Fingerprint(),
		})
		a.ui.sayf("  Identity     created %s (readable by you only)", shorten(path))
	}
	c.id, c.invite = id, invite
	if err := c.enrol(); err != nil {
		return explainJoin(err, c, known)
	}
	if err := h.saveServer(as, srv); err != nil {
		f := explainSave(err, h.server(as))
		f.hints = []string{"This device is enrolled all the same. Without the file:",
			fmt.Sprintf("  waxwire client %s --server-key %s -L 8080:localhost:80", srv.urls(), srv.key)}
		return f
	}
	if a.json {
		return a.ui.result(struct {
			Name      string `json:"name"`
			URL       string `json:"url"`
			ServerKey string `json:"server_key"`
			PublicKey string `json:"public_key"`
			Path      string `json:"path"`
		}{as, srv.urls(), srv.key.String(), id.Public().String(), h.server(as)})
	}
	a.ui.okf("Joined %s. Saved as %q in %s", srv.name(), as, shorten(h.server(as)))
	a.ui.sayf("")
	a.ui.sayf("Try:  waxwire client %s -L 8080:localhost:80", as)
	return nil
}

// enrol connects, and says goodbye when the server has answered: it has enrolled this device then.
func (c *connector) enrol() error {
	ends, stop := catchEnd()
	defer stop()
	var interrupt endCatcher
	tun, err := interrupt.first(context.Background(), ends, func(ctx context.Context) (*tunnel.Tunnel, error) {
		tun, err := c.first(ctx, false, nil, func(error, time.Duration, time.Duration) {})
		if isRemoved(err) { // somebody was faster: the next answer says who and when
			if again, e := c.dial(ctx); e == nil || isFinal(e) {
				return again, e
			}
		}
		return tun, err
	})
	if interrupt.signal != nil {
		return silentExit(signalStatus(interrupt.signal))
	}
	if err != nil {
		return err
	}
	tun.Close()
	return nil
}

// isRemoved says whether the server has closed the connection because it does not want this device.
func isRemoved(err error) bool {
	var closed *tunnel.CloseError
	return errors.As(err, &closed) && closed.Remote && closed.Code == tunnel.PeerRemoved
}

// explainJoin says why an invite did not enrol this device. known says that it has joined this server before.
func explainJoin(err error, c *connector, known bool) error {
	const again = "Ask for a new one; this one will not work again."
	var refused *tunnel.RefusedError
	var closed *tunnel.CloseError
	var silent silentExit
	switch {
	case errors.As(err, &silent):
		return silent
	case errors.As(err, &refused) && refused.Reason == tunnel.InviteUsed:
		by := " by another device"
		if known {
			by = ""
		}
		return fail(codeInviteUsed, err, "this invite was used"+at(refused.Time)+by, again)
	case errors.As(err, &refused) && refused.Reason == tunnel.InviteExpired && !refused.Time.IsZero():
		return fail(codeInviteOver, err, "this invite expired"+at(refused.Time), again)
	case errors.As(err, &refused) && refused.Reason == tunnel.InviteExpired:
		return fail(codeInviteOver, err, fmt.Sprintf("%s does not know this invite: it was revoked, or expired long ago", c.server.name()), again)
	case isRemoved(err) && errors.As(err, &closed):
		return fail(codeInviteLost, err, fmt.Sprintf("%s does not enrol this device: %s", c.server.name(), visible(closed.Reason)),
			"Ask for a new invite, with another name.")
	}
	return c.explain(err)
}

func at(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " at " + clock(t, time.Now())
}

func explainSave(err error, path string) *failure {
	why := plain(err)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		why = pe.Err.Error()
	}
	return fail(codeServerFile, err, fmt.Sprintf("cannot write %s: %s", shorten(path), visible(why)))
}
