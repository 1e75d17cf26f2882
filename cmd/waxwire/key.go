package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/keys"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make, show and protect the identity of this installation",
		Args:  unknownCommand,
		RunE:  group,
	}
	cmd.AddCommand(a.keyNewCommand(), a.keyShowCommand(), a.keyFingerprintCommand(), a.keyPassphraseCommand())
	return cmd
}

// keyInfo is what there is to say about an identity.
type keyInfo struct {
	PublicKey   string `json:"public_key"`
	Fingerprint string `json:"fingerprint"`
	Path        string `json:"path,omitempty"`
	Encrypted   bool   `json:"encrypted"`
}

func (a *app) keyNewCommand() *cobra.Command {
	var ask bool
	cmd := &cobra.Command{
		Use:   "new [--passphrase]",
		Short: "Make the identity, if there is none, and print its public key",
		Long: `Make the identity and print its public key. "server", "client" and "pipe" make one too if there
is none. An identity that exists is never overwritten.`,
		Example: `  waxwire key new
  waxwire key new --passphrase
  waxwire key new --passphrase-file /run/secrets/waxwire`,
		Args:                  needs(),
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			h, err := a.home()
			if err != nil {
				return err
			}
			id, err := a.createIdentity(h.identity(), ask)
			if err != nil {
				return err
			}
			defer id.Wipe()
			a.ui.sayf("  Identity     created %s (readable by you only)", shorten(h.identity()))
			a.ui.sayf("  Fingerprint  %s", id.Public().Fingerprint())
			return a.printKey(id.Public(), h.identity(), ask || a.passphraseFile() != "")
		},
	}
	cmd.Flags().BoolVar(&ask, "passphrase", false, "ask for a passphrase and encrypt the file with it")
	return cmd
}

func (a *app) printKey(k keys.PublicKey, path string, encrypted bool) error {
	if a.json {
		return a.ui.result(keyInfo{k.String(), k.Fingerprint(), path, encrypted})
	}
	return a.ui.printf("%s\n", k)
}

// keyInfo reads the identity's file without its secret.
func (a *app) keyInfo() (k keys.PublicKey, path string, encrypted bool, err error) {
	h, err := a.home()
	if err != nil {
		return k, "", false, err
	}
	k, encrypted, err = keys.IdentityFileInfo(h.identity())
	if err != nil {
		return k, "", false, explainKeyFile(err, h.identity())
	}
	return k, h.identity(), encrypted, nil
}

func (a *app) keyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the public key",
		Example: `  waxwire key show
  waxwire key show --json
  ssh relay waxwire peers add laptop "$(waxwire key show)"`,
		Args: needs(),
		RunE: func(*cobra.Command, []string) error {
			k, path, encrypted, err := a.keyInfo()
			if err != nil {
				return err
			}
			return a.printKey(k, path, encrypted)
		},
	}
}

func (a *app) keyFingerprintCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fingerprint [wax1...]",
		Short: "Print the fingerprint of this identity, or of a public key, to compare aloud",
		Example: `  waxwire key fingerprint
  waxwire key fingerprint wax1...`,
		Args: func(cmd *cobra.Command, args []string) error {
			return needs(make([]string, min(len(args), 1))...)(cmd, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var info keyInfo
			if len(args) == 1 {
				k, err := parseKey(args[0])
				if err != nil {
					return err
				}
				info = keyInfo{PublicKey: k.String(), Fingerprint: k.Fingerprint()}
			} else {
				k, path, encrypted, err := a.keyInfo()
				if err != nil {
					return err
				}
				info = keyInfo{k.String(), k.Fingerprint(), path, encrypted}
			}
			if a.json {
				return a.ui.result(info)
			}
			return a.ui.printf("%s\n", info.Fingerprint)
		},
	}
}

// parseKey reads a public key that the user typed.
func parseKey(text string) (keys.PublicKey, error) {
	k, err := keys.ParsePublicKey(text)
	if err != nil {
		return k, fail(codeUsage, err, fmt.Sprintf("%s: %s", visible(cut(text, 80)), visible(plain(err))),
			"\"waxwire key show\" prints a public key.")
	}
	return k, nil
}

func (a *app) keyPassphraseCommand() *cobra.Command {
	var remove bool
	var file string
	cmd := &cobra.Command{
		Use:   "passphrase [--remove]",
		Short: "Set, change or remove the passphrase of the identity",
		Example: `  waxwire key passphrase
  waxwire key passphrase --new-passphrase-file /run/secrets/waxwire
  waxwire key passphrase --remove`,
		Args:                  needs(),
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			if remove && file != "" {
				return usagef("--remove and --new-passphrase-file contradict each other")
			}
			_, path, encrypted, err := a.keyInfo()
			if err != nil {
				return err
			}
			if remove && !encrypted {
				a.ui.sayf("%s has no passphrase.", shorten(path))
				return nil
			}
			id, _, _, err := a.loadIdentity(false)
			if err != nil {
				return err
			}
			defer id.Wipe()
			phrase, err := a.newPassphrase(!remove, file)
			if err != nil {
				return err
			}
			defer clear(phrase)
			if err := keys.ReplaceIdentityFile(path, id, phrase); err != nil {
				return explainKeyFile(err, path)
			}
			if remove {
				a.ui.sayf("%s has no passphrase any more.", shorten(path))
			} else {
				a.ui.sayf("%s is encrypted with the new passphrase.", shorten(path))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "keep the identity without a passphrase")
	cmd.Flags().StringVar(&file, "new-passphrase-file", "", "read the new passphrase from `FILE`")
	return cmd
}
