package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"waxwire.example/waxwire/keys"
)

// maxPassphrase bounds a passphrase, in bytes.
const maxPassphrase = 1024

// loadIdentity reads the identity, and makes one if there is none and create is set.
func (a *app) loadIdentity(create bool) (id *keys.Identity, path string, created bool, err error) {
	h, err := a.home()
	if err != nil {
		return nil, "", false, err
	}
	path = h.identity()
	id, err = keys.ReadIdentityFile(path, a.passphraseOf(path))
	switch {
	case err == nil:
		return id, path, false, nil
	case errors.Is(err, fs.ErrNotExist) && create:
		id, err = a.createIdentity(path, false)
		return id, path, err == nil, err
	}
	var f *failure
	if errors.As(err, &f) {
		return nil, "", false, f
	}
	return nil, "", false, explainKeyFile(err, path)
}

// createIdentity makes a new identity and its file. It is encrypted if a file with a passphrase was
// named; ask asks for one.
func (a *app) createIdentity(path string, ask bool) (*keys.Identity, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, explainKeyFile(err, path)
	}
	if _, err := os.Lstat(path); err == nil { // before anybody thinks up a passphrase
		return nil, explainKeyFile(fs.ErrExist, path)
	}
	phrase, err := a.newPassphrase(ask, a.passphraseFile())
	if err != nil {
		return nil, err
	}
	defer clear(phrase)
	id, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	if err := keys.WriteIdentityFile(path, id, phrase); err != nil {
		id.Wipe()
		return nil, explainKeyFile(err, path)
	}
	return id, nil
}

func (a *app) passphraseFile() string {
	if a.passphrase != "" {
		return a.passphrase
	}
	return os.Getenv("WAXWIRE_PASSPHRASE_FILE")
}

// passphraseOf returns what asks for the passphrase of a key file that has one, nil if nobody can
// be asked.
func (a *app) passphraseOf(path string) func() ([]byte, error) {
	if file := a.passphraseFile(); file != "" {
		return func() ([]byte, error) { return readPassphraseFile(file) }
	}
	if !a.canAsk() {
		return nil
	}
	return func() ([]byte, error) { return a.prompt(fmt.Sprintf("Passphrase of %s: ", shorten(path))) }
}

// newPassphrase returns a passphrase to encrypt with: that of file, if one is named, or one that is
// asked for twice; nil for none.
func (a *app) newPassphrase(ask bool, file string) ([]byte, error) {
	if file != "" {
		return readPassphraseFile(file)
	}
	if !ask {
		return nil, nil
	}
	if !a.canAsk() {
		return nil, fail(codePassphrase, nil, "there is nobody to ask for the new passphrase",
			"Run this on a terminal, or name a file that has it.")
	}
	first, err := a.prompt("New passphrase: ")
	if err != nil {
		return nil, err
	}
	second, err := a.prompt("Again: ")
	defer clear(second)
	if err == nil && !bytes.Equal(first, second) {
		err = fail(codePassphrase, nil, "the two passphrases differ")
	}
	if err != nil {
		clear(first)
		return nil, err
	}
	return first, nil
}

func (a *app) canAsk() bool { return !a.noInput && isTerminal(a.ui.in) }

func (a *app) prompt(text string) ([]byte, error) {
	io.WriteString(a.ui.err, text)
	phrase, err := term.ReadPassword(int(a.ui.in.(*os.File).Fd()))
	io.WriteString(a.ui.err, "\n")
	if err != nil {
		return nil, fail(codePassphrase, err, "no passphrase was given")
	}
	if len(phrase) == 0 {
		return nil, fail(codePassphrase, nil, "the passphrase is empty")
	}
	return phrase, nil
}

// readPassphraseFile returns the first line of a file, without its end.
func readPassphraseFile(path string) ([]byte, error) {
	bad := func(err error, problem string) ([]byte, error) {
		return nil, fail(codePassphrase, err, fmt.Sprintf("cannot read the passphrase from %s: %s", visible(shorten(path)), problem))
	}
	f, err := os.Open(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			return bad(err, visible(pe.Err.Error()))
		}
		return bad(err, visible(err.Error()))
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && othersCanRead(info) {
		_, err := bad(nil, fmt.Sprintf("other users can read it too (%04o)", info.Mode().Perm()))
		err.(*failure).hints = []string{"chmod 600 " + visible(shorten(path))}
		return nil, err
	}
	buf := make([]byte, maxPassphrase+2)
	defer clear(buf)
	n, err := io.ReadFull(f, buf)
	if err == nil {
		return bad(nil, "it is too long")
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		return bad(err, visible(err.Error()))
	}
	line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return bad(nil, "its first line is empty")
	}
	return bytes.Clone(line), nil
}
