package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/keys"
)

func (a *app) peersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Say who may connect to this server, and to what",
		Long: `Say who may connect to the server of this installation, and what each may do. A running server
sees changes within a second: a peer that is removed is cut off, a permission counts from the next
connection through the tunnel.

A permission is one of
  connect=HOST:PORT       HOST: a name, *.domain, an address, a range (10.0.0.0/8) or *; PORT: a
                          number, a range (8000-8100) or *
  connect=unix:/path      a unix socket
  listen=ADDR:PORT        a port here whose connections go to the peer (client -R). ADDR: an address, a
                          range or *; PORT: as above, ports below 1024 only if they are named
  listen=unix:/path       a unix socket of that kind
  message, files`,
		Args: unknownCommand,
		RunE: group,
	}
	cmd.AddCommand(a.peersListCommand(), a.peersAddCommand(), a.peersShowCommand(),
		a.peersAllowCommand(), a.peersDenyCommand(), a.peersRemoveCommand())
	return cmd
}

// openPeers opens the folder of the peers, which is made if it is not there.
func (a *app) openPeers() (*keys.PeerDir, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.peers(), 0o700); err != nil {
		return nil, explainPeers(err, "")
	}
	dir, err := keys.OpenPeerDir(h.peers())
	if err != nil {
		return nil, explainPeers(err, "")
	}
	return dir, nil
}

// explainPeers says what went wrong with the files of the peers.
func explainPeers(err error, name string) *failure {
	var (
		mode  *keys.FileModeError
		owner *keys.FileOwnerError
		file  *keys.PeerFileError
		bad   *keys.NameError
	)
	switch {
	case errors.As(err, &bad):
		return fail(codeUsage, err, fmt.Sprintf("%q cannot be a name: use 1 to 32 of a-z, 0-9 and -", visible(cut(bad.Name, 40))))
	case errors.Is(err, keys.ErrDuplicateKey) && errors.As(err, &file):
		return fail(codeExists, err, visible(file.Problem))
	case errors.Is(err, fs.ErrExist):
		return fail(codeExists, err, fmt.Sprintf("there is a peer %q already", name),
			"waxwire peers show "+name)
	case errors.Is(err, fs.ErrNotExist):
		return fail(codeNoSuchPeer, err, fmt.Sprintf("there is no peer %q", visible(name)), "waxwire peers list")
	case errors.As(err, &mode):
		return fail(codePeerFile, err, fmt.Sprintf("%s can be written by other users (%04o)", shorten(mode.Path), mode.Mode.Perm()),
			"chmod go-w "+shorten(mode.Path))
	case errors.As(err, &owner):
		return fail(codePeerFile, err, fmt.Sprintf("%s belongs to another user (uid %d)", shorten(owner.Path), owner.UID))
	case errors.As(err, &file) && file.Line > 0:
		return fail(codePeerFile, err, fmt.Sprintf("the file of peer %q, line %d: %s", file.Name, file.Line, visible(file.Problem)))
	case errors.As(err, &file):
		return fail(codePeerFile, err, fmt.Sprintf("the file of peer %q: %s", file.Name, visible(file.Problem)))
	}
	return fail(codePeerFile, err, visible(plain(err)))
}

// parsePermissions reads what the user allowed or denied.
func parsePermissions(texts []string) ([]keys.Permission, error) {
	var list []keys.Permission
	for _, text := range texts {
		p, err := keys.ParsePermission(text)
		if err != nil {
			var pe *keys.PermissionError
			problem := plain(err)
			if errors.As(err, &pe) {
				problem = pe.Problem
			}
			return nil, fail(codeUsage, err, fmt.Sprintf("the permission %q: %s", visible(cut(text, 80)), visible(problem)),
				"Form: connect=HOST:PORT, connect=unix:/path, listen=ADDR:PORT, listen=unix:/path, message or files.")
		}
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list, nil
}

type peerInfo struct {
	Name        string   `json:"name"`
	PublicKey   string   `json:"public_key"`
	Fingerprint string   `json:"fingerprint"`
	Joined      string   `json:"joined,omitempty"`
	Allow       []string `json:"allow"`
}

func infoOf(p keys.Peer) peerInfo {
	info := peerInfo{Name: p.Name, PublicKey: p.Key.String(), Fingerprint: p.Key.Fingerprint(), Allow: allowed(p)}
	if !p.Joined.IsZero() {
		info.Joined = p.Joined.UTC().Format(time.RFC3339)
	}
	return info
}

func allowed(p keys.Peer) []string {
	list := []string{}
	for _, permission := range p.Allow {
		list = append(list, permission.String())
	}
	return list
}

// warnBroken tells of files that cannot be used, so that a list is not taken for complete.
func (a *app) warnBroken(dir *keys.PeerDir) {
	for _, err := range dir.Refresh() {
		a.ui.warnf("%s", explainPeers(err, "").text)
	}
}

func (a *app) peersListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the peers",
		Example: `  waxwire peers list
  waxwire peers list --json`,
		Args: needs(),
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.openPeers()
			if err != nil {
				return err
			}
			a.warnBroken(dir)
			peers := dir.List()
			if a.json {
				infos := []peerInfo{}
				for _, p := range peers {
					infos = append(infos, infoOf(p))
				}
				return a.ui.result(struct {
					Peers []peerInfo `json:"peers"`
				}{infos})
			}
			if len(peers) == 0 {
				a.ui.sayf("There are no peers: nobody can connect. Add one:  waxwire peers add NAME wax1...")
				return nil
			}
			w := tabwriter.NewWriter(a.ui.out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tFINGERPRINT\tJOINED\tMAY")
			for _, p := range peers {
				joined, may := "", strings.Join(allowed(p), " ")
				if !p.Joined.IsZero() {
					joined = p.Joined.Local().Format(time.DateOnly)
				}
				if may == "" {
					may = "-"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, p.Key.Short(), joined, may)
			}
			return w.Flush()
		},
	}
}

func (a *app) peersAddCommand() *cobra.Command {
	var allow []string
	cmd := &cobra.Command{
		Use:   "add NAME wax1... [--allow PERMISSION]...",
		Short: "Let a peer in by its public key",
		Example: `  waxwire peers add laptop wax1... --allow connect=localhost:80
  waxwire peers add backup wax1... --allow connect=10.0.0.0/8:22 --allow connect=unix:/run/db.sock
  waxwire peers add phone wax1...                # may connect, and to nothing yet`,
		Args:                  needs("NAME", "wax1..."),
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := keys.ValidName(args[0]); err != nil {
				return explainPeers(err, args[0])
			}
			key, err := parseKey(args[1])
			if err != nil {
				return err
			}
			permissions, err := parsePermissions(allow)
			if err != nil {
				return err
			}
			dir, err := a.openPeers()
			if err != nil {
				return err
			}
			p := keys.Peer{Name: args[0], Key: key, Joined: time.Now().UTC().Truncate(time.Second), Allow: permissions}
			if err := dir.Add(p); err != nil {
				return explainPeers(err, p.Name)
			}
			return a.tellPeer(p, "added")
		},
	}
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "what it may do: connect=HOST:PORT, ... (repeatable)")
	return cmd
}

// tellPeer says what a peer may do now.
func (a *app) tellPeer(p keys.Peer, what string) error {
	if a.json {
		return a.ui.result(infoOf(p))
	}
	may := strings.Join(allowed(p), ", ")
	if may == "" {
		may = "nothing yet. Allow something:  waxwire peers allow " + p.Name + " connect=localhost:80"
	}
	a.ui.okf("%s %s (%s). It may: %s", p.Name, what, p.Key.Short(), may)
	return nil
}

func (a *app) peersShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a peer: its key and what it may do",
		Example:           "  waxwire peers show laptop",
		Args:              needs("NAME"),
		ValidArgsFunction: a.completePeers,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.openPeers()
			if err != nil {
				return err
			}
			p, err := dir.Get(args[0])
			if err != nil {
				return explainPeers(err, args[0])
			}
			if a.json {
				return a.ui.result(infoOf(p))
			}
			info := infoOf(p)
			var b strings.Builder
			fmt.Fprintf(&b, "name         %s\nkey          %s\nfingerprint  %s\n", info.Name, info.PublicKey, info.Fingerprint)
			if info.Joined != "" {
				fmt.Fprintf(&b, "joined       %s\n", info.Joined)
			}
			for _, permission := range info.Allow {
				fmt.Fprintf(&b, "allow        %s\n", permission)
			}
			return a.ui.printf("%s", b.String())
		},
	}
}

// changePeer reads a peer, lets f change its permissions, and writes it.
func (a *app) changePeer(name string, texts []string, f func(have, given []keys.Permission) ([]keys.Permission, error)) error {
	permissions, err := parsePermissions(texts)
	if err != nil {
		return err
	}
	dir, err := a.openPeers()
	if err != nil {
		return err
	}
	p, err := dir.Get(name)
	if err != nil {
		return explainPeers(err, name)
	}
	if p.Allow, err = f(slices.Clone(p.Allow), permissions); err != nil {
		return err
	}
	if err := dir.Put(p); err != nil {
		return explainPeers(err, name)
	}
	return a.tellPeer(p, "changed")
}

func (a *app) peersAllowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "allow NAME PERMISSION...",
		Short: "Let a peer do more",
		Example: `  waxwire peers allow laptop connect=localhost:5432
  waxwire peers allow laptop 'connect=*.internal:443' connect=10.0.0.0/8:22`,
		Args:              needs("NAME", "PERMISSION+"),
		ValidArgsFunction: a.completePeers,
		RunE: func(_ *cobra.Command, args []string) error {
			return a.changePeer(args[0], args[1:], func(have, given []keys.Permission) ([]keys.Permission, error) {
				for _, p := range given {
					if !slices.Contains(have, p) {
						have = append(have, p)
					}
				}
				return have, nil
			})
		},
	}
}

func (a *app) peersDenyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "deny NAME PERMISSION...",
		Short: "Take permissions from a peer, as \"peers show\" prints them",
		Example: `  waxwire peers deny laptop connect=localhost:5432
  waxwire peers deny laptop message files`,
		Args: needs("NAME", "PERMISSION+"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completePeers(cmd, args, typed)
			}
			dir, err := a.openPeers()
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			p, err := dir.Get(args[0])
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return allowed(p), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return a.changePeer(args[0], args[1:], func(have, given []keys.Permission) ([]keys.Permission, error) {
				for _, p := range given {
					i := slices.Index(have, p)
					if i < 0 {
						// Another rule may still allow it: that must not look as if it had been denied.
						return nil, fail(codeNoSuchRule, nil, fmt.Sprintf("%s has no permission %s", args[0], p),
							"What it has:  waxwire peers show "+args[0])
					}
					have = slices.Delete(have, i, i+1)
				}
				return have, nil
			})
		},
	}
}

func (a *app) peersRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Short:             "Shut a peer out, at once",
		Example:           "  waxwire peers remove laptop",
		Args:              needs("NAME"),
		ValidArgsFunction: a.completePeers,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.openPeers()
			if err != nil {
				return err
			}
			if err := dir.Remove(args[0]); err != nil {
				return explainPeers(err, args[0])
			}
			if a.json {
				return a.ui.result(struct {
					Removed string `json:"removed"`
				}{args[0]})
			}
			a.ui.okf("%s removed. A server that is running cuts it off within a second.", args[0])
			return nil
		},
	}
}
