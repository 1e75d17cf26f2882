package keys_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/keys"
)

const passphraseOfVectors = "correct horse"

func passphrase(s string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(s), nil }
}

func writeFile(tb testing.TB, path string, data []byte, mode fs.FileMode) {
	tb.Helper()
	if err := os.WriteFile(path, data, mode); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		tb.Fatal(err)
	}
}

func readFile(tb testing.TB, path string) []byte {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// namesIn lists the folder, to see that nothing temporary is left there.
func namesIn(tb testing.TB, dir string) string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestWriteReadPlain(t *testing.T) {
	v := readVectors(t)[0]
	path := filepath.Join(t.TempDir(), "identity.key")
	before := time.Now().Add(-time.Second)
	if err := keys.WriteIdentityFile(path, testIdentity(t, 0), nil); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(readFile(t, path)), "\n")
	if len(lines) != 4 || lines[1] != "# public key: "+v.PublicText || lines[2] != v.SecretText || lines[3] != "" {
		t.Errorf("the file has %d lines, not created, public key, the secret", len(lines))
	}
	created, err := time.Parse("# created: "+time.RFC3339, lines[0])
	if err != nil || created.Before(before) || created.After(time.Now()) {
		t.Errorf("first line is %q, %v, want the time of creation", lines[0], err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if got := namesIn(t, filepath.Dir(path)); got != "identity.key" {
		t.Errorf("the folder has %s, want only the file", got)
	}
	id, err := keys.ReadIdentityFile(path, nil)
	if err != nil || id.Public() != testPublic(t, 0) {
		t.Errorf("read %v, %v, want %v", id, err, testPublic(t, 0))
	}
	public, encrypted, err := keys.IdentityFileInfo(path)
	if err != nil || encrypted || public != testPublic(t, 0) {
		t.Errorf("info %v, %v, %v, want %v, false", public, encrypted, err, testPublic(t, 0))
	}
}

// The file was made by other implementations of Argon2, XChaCha20-Poly1305, Bech32 and X25519:
// testdata/vectors.py.
func TestReadEncryptedVector(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	writeFile(t, path, readFile(t, "testdata/encrypted.key"), 0o600)

	handed := []byte(passphraseOfVectors)
	id, err := keys.ReadIdentityFile(path, func() ([]byte, error) { return handed, nil })
	if err != nil || id.Public() != testPublic(t, 0) {
		t.Fatalf("read %v, %v, want %v", id, err, testPublic(t, 0))
	}
	if !bytes.Equal(handed, make([]byte, len(handed))) {
		t.Error("the passphrase has not been wiped")
	}
	public, encrypted, err := keys.IdentityFileInfo(path)
	if err != nil || !encrypted || public != testPublic(t, 0) {
		t.Errorf("info %v, %v, %v, want %v, true", public, encrypted, err, testPublic(t, 0))
	}
	for _, wrong := range []string{"", "correct horse ", "Correct horse"} {
		if id, err := keys.ReadIdentityFile(path, passphrase(wrong)); !errors.Is(err, keys.ErrPassphrase) || id != nil {
			t.Errorf("passphrase %q: %v, %v, want ErrPassphrase", wrong, id, err)
		}
	}
	if _, err := keys.ReadIdentityFile(path, nil); !errors.Is(err, keys.ErrPassphraseNeeded) {
		t.Errorf("nobody to ask: %v, want ErrPassphraseNeeded", err)
	}
	gone := errors.New("the terminal is gone")
	if _, err := keys.ReadIdentityFile(path, func() ([]byte, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("error of the question: %v, want %v", err, gone)
	}
}

func TestWriteReadEncrypted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	phrase := []byte("Größe, auch mit Umlaut")
	if err := keys.WriteIdentityFile(path, testIdentity(t, 1), phrase); err != nil {
		t.Fatal(err)
	}
	if string(phrase) != "Größe, auch mit Umlaut" {
		t.Error("the caller's passphrase has been changed")
	}
	text := string(readFile(t, path))
	if !strings.Contains(text, "\nKdf: argon2id v=19,m=65536,t=3,p=4\n") || strings.Contains(text, "WAX-SECRET-KEY") {
		t.Errorf("the file is not an encrypted one:\n%s", text)
	}
	id, err := keys.ReadIdentityFile(path, passphrase(string(phrase)))
	if err != nil || id.Public() != testPublic(t, 1) {
		t.Errorf("read %v, %v, want %v", id, err, testPublic(t, 1))
	}

	// Without a passphrase again: the creation time stays, and so does the identity.
	created, _, _ := strings.Cut(text, "\n")
	if err := keys.ReplaceIdentityFile(path, id, nil); err != nil {
		t.Fatal(err)
	}
	text = string(readFile(t, path))
	if !strings.HasPrefix(text, created+"\n") || !strings.HasSuffix(text, readVectors(t)[1].SecretText+"\n") {
		t.Errorf("replaced file does not begin with %q and end with the secret", created)
	}
	if got := namesIn(t, filepath.Dir(path)); got != "identity.key" {
		t.Errorf("the folder has %s, want only the file", got)
	}
}

func TestEmptyPassphraseIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := keys.WriteIdentityFile(filepath.Join(dir, "identity.key"), testIdentity(t, 0), []byte{}); err == nil {
		t.Error("a file was written with an empty passphrase")
	}
	if got := namesIn(t, dir); got != "" {
		t.Errorf("the folder has %s, want nothing", got)
	}
}

func TestReplaceRefusesAnotherIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	if err := keys.ReplaceIdentityFile(path, testIdentity(t, 0), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("replacing what is not there: %v, want fs.ErrNotExist", err)
	}
	if err := keys.WriteIdentityFile(path, testIdentity(t, 0), nil); err != nil {
		t.Fatal(err)
	}
	before := readFile(t, path)
	err := keys.ReplaceIdentityFile(path, testIdentity(t, 1), nil)
	if err == nil || !strings.Contains(err.Error(), "another identity") {
		t.Errorf("error %v, want one about another identity", err)
	}
	if !bytes.Equal(readFile(t, path), before) {
		t.Error("the file has changed")
	}
}

func TestReplaceKeepsLink(t *testing.T) {
	dir := t.TempDir()
	link, target := filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := keys.WriteIdentityFile(target, testIdentity(t, 0), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	before := readFile(t, target)
	if err := keys.ReplaceIdentityFile(link, testIdentity(t, 0), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v, want a link still", info.Mode(), err)
	}
	if bytes.Equal(readFile(t, target), before) {
		t.Error("what it points to has not changed")
	}
}

func TestWriteNeverOverwrites(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		make func(path string) error
	}{
		{"file", func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) }},
		{"folder", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"link to nothing", func(path string) error { return os.Symlink("nothing", path) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(tt.name, " ", "-"))
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			before := namesIn(t, dir)
			if err := keys.WriteIdentityFile(path, testIdentity(t, 0), nil); !errors.Is(err, fs.ErrExist) {
				t.Errorf("error %v, want fs.ErrExist", err)
			}
			if got := namesIn(t, dir); got != before {
				t.Errorf("the folder has %s, want %s", got, before)
			}
		})
	}
	if got := string(readFile(t, filepath.Join(dir, "file"))); got != "mine" {
		t.Errorf("the file holds %q, want mine", got)
	}
}

// Of many that write at once exactly one wins, and the file is that one's, whole.
func TestWriteRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	var mu sync.Mutex
	var won []keys.PublicKey
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 6 {
		id := testIdentity(t, i)
		wg.Go(func() {
			<-start
			err := keys.WriteIdentityFile(path, id, nil)
			if err == nil {
				mu.Lock()
				won = append(won, id.Public())
				mu.Unlock()
			} else if !errors.Is(err, fs.ErrExist) {
				t.Errorf("error %v, want fs.ErrExist", err)
			}
		})
	}
	close(start)
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d writers won, want 1", len(won))
	}
	id, err := keys.ReadIdentityFile(path, nil)
	if err != nil || id.Public() != won[0] {
		t.Errorf("the file holds %v, %v, want %v", id, err, won[0])
	}
	if got := namesIn(t, filepath.Dir(path)); got != "identity.key" {
		t.Errorf("the folder has %s, want only the file", got)
	}
}

func TestWriteWithoutFolder(t *testing.T) {
	err := keys.WriteIdentityFile(filepath.Join(t.TempDir(), "missing", "identity.key"), testIdentity(t, 0), nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

func TestWriteWipedIdentity(t *testing.T) {
	for _, phrase := range [][]byte{nil, []byte("x")} {
		dir := t.TempDir()
		id := testIdentity(t, 0)
		id.Wipe()
		if err := keys.WriteIdentityFile(filepath.Join(dir, "identity.key"), id, phrase); !errors.Is(err, keys.ErrWiped) {
			t.Errorf("error %v, want ErrWiped", err)
		}
		if got := namesIn(t, dir); got != "" {
			t.Errorf("the folder has %s, want nothing", got)
		}
	}
}

func TestKeyFileContent(t *testing.T) {
	v := readVectors(t)[0]
	sealed := string(readFile(t, "testdata/encrypted.key"))
	edit := func(old, new string) string {
		if !strings.Contains(sealed, old) {
			t.Fatalf("the encrypted file has no %q to change", old)
		}
		return strings.Replace(sealed, old, new, 1)
	}
	kdf := "argon2id v=19,m=64,t=2,p=2"
	for _, tt := range []struct {
		name, file string
		want       string // of the error, or empty
	}{
		{"key alone", v.SecretText, ""},
		{"lines of Windows", "# mine\r\n\r\n" + v.SecretText + "\r\n", ""},
		{"comment after", v.SecretText + "\n# WAX-SECRET-KEY-1 is how keys begin\n", ""},
		{"encrypted", sealed, ""},
		{"encrypted with lines of Windows", strings.ReplaceAll(sealed, "\n", "\r\n"), ""},

		{"empty", "", "there is no key in it"},
		{"comments only", "# created: now\n\n", "there is no key in it"},
		{"two keys", v.SecretText + "\n" + v.SecretText + "\n", "something beside the key"},
		{"public key", v.PublicText + "\n", "it is a public key"},
		{"cut short", v.SecretText[:40], "40 characters instead of 74"},
		{"one character changed", v.SecretText[:30] + "Q" + v.SecretText[31:], "a character is wrong or missing"},
		{"binary", "\x7fELF\x02\x01\x01\x00", "begins with WAX-SECRET-KEY-1"},
		{"too large", strings.Repeat("# padding\n", 2000) + v.SecretText, "larger than 16384 bytes"},
		{"key of another program", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "of another program"},

		{"encrypted, cut short", sealed[:len(sealed)-20], "damaged or cut short"},
		{"encrypted, cut in the headers", sealed[:strings.Index(sealed, "Salt")], "damaged or cut short"},
		{"encrypted, something before", "hello\n" + sealed, "something beside the key"},
		{"encrypted, something after", sealed + "hello\n", "something after the key"},
		{"encrypted, twice", sealed + sealed, "something after the key"},
		{"encrypted, header missing", edit("Kdf: "+kdf+"\n", ""), "it has no Kdf"},
		{"encrypted, header unknown", edit("Kdf: ", "Comment: x\nKdf: "), "header that this version does not know"},
		{"encrypted, other KDF", edit(kdf, "scrypt n=18"), "does not know"},
		{"encrypted, other version of it", edit("v=19", "v=16"), "does not know"},
		{"encrypted, too much memory", edit("m=64", "m=1048577"), "asks for more than m=1048576,t=16,p=16"},
		{"encrypted, too much time", edit("t=2", "t=17"), "asks for more than"},
		{"encrypted, too many threads", edit("p=2", "p=17"), "asks for more than"},
		{"encrypted, 2^32 passes", edit("t=2", "t=4294967296"), "Kdf is damaged"},
		{"encrypted, no time", edit("t=2", "t=0"), "asks for too little"},
		{"encrypted, no threads", edit("p=2", "p=0"), "asks for too little"},
		{"encrypted, little memory", edit("m=64", "m=15"), "asks for too little"},
		{"encrypted, parameter missing", edit(",p=2", ""), "Kdf is incomplete"},
		{"encrypted, parameters exchanged", edit("m=64,t=2", "t=2,m=64"), "Kdf is damaged"},
		{"encrypted, number in another form", edit("m=64", "m=064"), "Kdf is damaged"},
		{"encrypted, salt short", edit("Y0ea1poJCyWCd+yPum+ZQQ==", "Y0ea1poJCyWCd+yPum+Z"), "Salt is damaged"},
		{"encrypted, salt not base64", edit("Y0ea1poJCyWCd+yPum+ZQQ==", "Y0ea1poJCyWCd+yPum+ZQR=="), "Salt is damaged"},
		{"encrypted, nonce short", edit("eDd7UldXtJRCf4kBT5fXmSjzk40U61Hi", "eDd7"), "Nonce is damaged"},
		{"encrypted, public damaged", edit("Public: wax1z", "Public: wax1q"), "Public is not a public key: a character"},
		{"encrypted, body short", edit("y6/B", "y68="), "it holds 47 bytes instead of 48"},

		{"encrypted, nonce changed", edit("Nonce: eDd", "Nonce: fDd"), keys.ErrPassphrase.Error()},
		{"encrypted, salt changed", edit("Salt: Y0e", "Salt: Z0e"), keys.ErrPassphrase.Error()},
		{"encrypted, less memory", edit("m=64", "m=63"), keys.ErrPassphrase.Error()},
		{"encrypted, body changed", edit("7/Q+90", "8/Q+90"), keys.ErrPassphrase.Error()},
		{"encrypted, public of another", edit("Public: "+v.PublicText, "Public: "+readVectors(t)[1].PublicText), keys.ErrPassphrase.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "identity.key")
			writeFile(t, path, []byte(tt.file), 0o600)
			id, err := keys.ReadIdentityFile(path, passphrase(passphraseOfVectors))
			if tt.want == "" {
				if err != nil || id.Public() != testPublic(t, 0) {
					t.Errorf("read %v, %v, want %v", id, err, testPublic(t, 0))
				}
				return
			}
			var fileErr *keys.KeyFileError
			if !errors.As(err, &fileErr) || fileErr.Path != path || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want a KeyFileError for %s with %q", err, path, tt.want)
			}
			if id != nil {
				t.Errorf("identity %v beside an error, want none", id)
			}
			if strings.Contains(fmt.Sprint(err), v.SecretText[20:36]) {
				t.Errorf("error %q quotes the secret", err)
			}
		})
	}
}

func TestReadNothing(t *testing.T) {
	_, err := keys.ReadIdentityFile(filepath.Join(t.TempDir(), "identity.key"), nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
	if _, err := keys.ReadIdentityFile(t.TempDir(), nil); err == nil {
		t.Error("a folder was read as a key file")
	}
}
