package keys

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"waxwire.example/waxwire/keys/erase"
)

// Errors of encrypted key files.
var (
	// ErrPassphrase is returned when the passphrase is wrong. A file that somebody changed looks
	// the same.
	ErrPassphrase = errors.New("the passphrase is wrong, or the file is damaged")
	// ErrPassphraseNeeded is returned when the file is encrypted and there is nobody to ask.
	ErrPassphraseNeeded = errors.New("a passphrase is needed")
)

// A KeyFileError says what is wrong with the content of a key file, or which key file it was about.
type KeyFileError struct {
	Path    string
	Problem string
	Err     error // the cause, or nil
}

func (e *KeyFileError) Error() string { return "keys: " + e.Path + ": " + e.Problem }
func (e *KeyFileError) Unwrap() error { return e.Err }

// A FileModeError is about a key file that others can read, or about a folder or a peer file that
// others can write.
type FileModeError struct {
	Path string
	Mode fs.FileMode
}

func (e *FileModeError) Error() string {
	can := "read"
	if e.Mode.IsDir() || e.Mode.Perm()&0o022 != 0 {
		can = "written"
	}
	return fmt.Sprintf("keys: %s can be %s by other users (%04o)", e.Path, can, e.Mode.Perm())
}

// A FileOwnerError is about a file that belongs to neither this user nor root.
type FileOwnerError struct {
	Path string
	UID  int
}

func (e *FileOwnerError) Error() string {
	return fmt.Sprintf("keys: %s belongs to another user (uid %d)", e.Path, e.UID)
}

const (
	maxKeyFile = 16 << 10

	pemType = "WAXWIRE ENCRYPTED KEY"
	pemHead = "-----BEGIN " + pemType + "-----"

	saltSize = 16
)

// kdf has the parameters of Argon2id.
type kdf struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// What new files get: 64 MiB, a third of a second. Files may ask for as much as maxKDF.
var (
	newKDF = kdf{memory: 64 << 10, time: 3, threads: 4}
	maxKDF = kdf{memory: 1 << 20, time: 16, threads: 16}
)

func (k kdf) String() string {
	return fmt.Sprintf("argon2id v=%d,m=%d,t=%d,p=%d", argon2.Version, k.memory, k.time, k.threads)
}

// parseKDF reads what String prints and refuses what would take too much memory or time, before
// anything is computed.
func parseKDF(s string) (kdf, string) {
	rest, ok := strings.CutPrefix(s, fmt.Sprintf("argon2id v=%d,", argon2.Version))
	if !ok {
		return kdf{}, "its Kdf is " + quoteShort(s) + ", which this version does not know"
	}
	var n [3]uint64
	parts := strings.Split(rest, ",")
	if len(parts) != len(n) {
		return kdf{}, "its Kdf is incomplete"
	}
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(parts[i], name)
		var err error
		if n[i], err = strconv.ParseUint(digits, 10, 32); !ok || err != nil {
			return kdf{}, "its Kdf is damaged"
		}
	}
	if n[0] > uint64(maxKDF.memory) || n[1] > uint64(maxKDF.time) || n[2] > uint64(maxKDF.threads) {
		return kdf{}, fmt.Sprintf("its Kdf asks for more than m=%d,t=%d,p=%d", maxKDF.memory, maxKDF.time, maxKDF.threads)
	}
	k := kdf{memory: uint32(n[0]), time: uint32(n[1]), threads: uint8(n[2])}
	if k.time < 1 || k.threads < 1 || k.memory < 8*uint32(k.threads) {
		return kdf{}, "its Kdf asks for too little"
	}
	if k.String() != s { // 064, for example
		return kdf{}, "its Kdf is damaged"
	}
	return k, ""
}

// keyFile is a key file that has been read but not opened.
type keyFile struct {
	created string        // of the comment, or empty
	secret  []byte        // the text of the secret key, part of what was parsed; or nil and
	sealed  *encryptedKey // the encrypted one
}

type encryptedKey struct {
	kdf    kdf
	salt   []byte
	nonce  []byte
	public PublicKey
	body   []byte
}

// parseKeyFile reads a key file of either form. It runs no KDF. problem is empty if all is well.
func parseKeyFile(data []byte) (f keyFile, problem string) {
	if at := bytes.Index(data, []byte("-----BEGIN ")); at >= 0 {
		created, other := parseComments(data[:at])
		if len(other) > 0 {
			return keyFile{}, "there is something beside the key in it"
		}
		f.created = created
		f.sealed, problem = parseEncrypted(data[at:])
		if problem != "" {
			return keyFile{}, problem
		}
		return f, ""
	}
	created, other := parseComments(data)
	switch len(other) {
	case 0:
		return keyFile{}, "there is no key in it"
	case 1:
		return keyFile{created: created, secret: other[0]}, ""
	}
	return keyFile{}, "there is something beside the key in it"
}

// parseComments returns the time of "# created: " and the lines that are no comments.
func parseComments(data []byte) (created string, other [][]byte) {
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0:
		case line[0] == '#':
			if text, ok := bytes.CutPrefix(line, []byte("# created: ")); ok {
				if _, err := time.Parse(time.RFC3339, string(text)); err == nil {
					created = string(text)
				}
			}
		default:
			other = append(other, line)
		}
	}
	return created, other
}

func parseEncrypted(data []byte) (*encryptedKey, string) {
	if !bytes.HasPrefix(data, []byte(pemHead)) {
		return nil, "it is a key file of another program"
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil || block.Type != pemType:
		return nil, "it is damaged or cut short"
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, "there is something after the key in it"
	}
	for _, name := range []string{"Kdf", "Nonce", "Public", "Salt"} {
		if block.Headers[name] == "" {
			return nil, "it has no " + name
		}
	}
	if len(block.Headers) != 4 {
		return nil, "it has a header that this version does not know"
	}
	k := &encryptedKey{body: block.Bytes}
	var problem string
	if k.kdf, problem = parseKDF(block.Headers["Kdf"]); problem != "" {
		return nil, problem
	}
	var err error
	b64 := base64.StdEncoding.Strict()
	if k.salt, err = b64.DecodeString(block.Headers["Salt"]); err != nil || len(k.salt) != saltSize {
		return nil, "its Salt is damaged"
	}
	if k.nonce, err = b64.DecodeString(block.Headers["Nonce"]); err != nil || len(k.nonce) != chacha20poly1305.NonceSizeX {
		return nil, "its Nonce is damaged"
	}
	if k.public, err = ParsePublicKey(block.Headers["Public"]); err != nil {
		return nil, "its Public is " + problemOf(err)
	}
	if want := KeySize + chacha20poly1305.Overhead; len(k.body) != want {
		return nil, fmt.Sprintf("it holds %d bytes instead of %d", len(k.body), want)
	}
	return k, ""
}

func (k *encryptedKey) headers() map[string]string {
	return map[string]string{
		"Kdf":    k.kdf.String(),
		"Nonce":  base64.StdEncoding.EncodeToString(k.nonce),
		"Public": k.public.String(),
		"Salt":   base64.StdEncoding.EncodeToString(k.salt),
	}
}

// additional is what the body authenticates beside the key: "waxwire/1 key" ‖ 0x00 ‖ the headers in
// the order of their names, each as "Name: value\n".
func (k *encryptedKey) additional() []byte {
	b := []byte("waxwire/1 key\x00")
	h := k.headers()
	for _, name := range []string{"Kdf", "Nonce", "Public", "Salt"} {
		b = fmt.Appendf(b, "%s: %s\n", name, h[name])
	}
	return b
}

// withAEAD derives the key of the file and calls f with it.
//
// Argon2 works in goroutines and memory of its own, which nobody else can clear. In the build with
// runtime/secret that memory is erased as it was allocated under Handshake; in the other one reuse sees to
// it, as far as it can.
func (k *encryptedKey) withAEAD(passphrase []byte, f func(seal, open func(dst, text []byte) ([]byte, error)) error) error {
	defer reuse()
	var err error
	erase.Handshake(func() {
		key := argon2.IDKey(passphrase, k.salt, k.kdf.time, k.kdf.memory, k.kdf.threads, chacha20poly1305.KeySize)
		defer clear(key)
		erase.Trace("file-key", key)
		aead, newErr := chacha20poly1305.NewX(key)
		if newErr != nil {
			err = newErr
			return
		}
		defer erase.Object(aead)
		err = f(
			func(dst, text []byte) ([]byte, error) { return aead.Seal(dst, k.nonce, text, k.additional()), nil },
			func(dst, text []byte) ([]byte, error) { return aead.Open(dst, k.nonce, text, k.additional()) },
		)
	})
	return err
}

// reuse has the garbage collector free what nobody holds any more, gives large pieces back to the system,
// which erases them, and takes small ones again, which zeroes them. Among the latter is the state of
// a BLAKE2b hash of 360 bytes that Argon2 leaves with the passphrase in it. Nobody can say how many of
// that size are free: this takes as many as a program of some size has.
func reuse() {
	debug.FreeOSMemory()
	taken := make([][]byte, 4096)
	for i := range taken {
		taken[i] = make([]byte, 360)
	}
	runtime.KeepAlive(taken)
}

func (k *encryptedKey) open(passphrase []byte) (id *Identity, err error) {
	err = k.withAEAD(passphrase, func(_, open func(dst, text []byte) ([]byte, error)) error {
		secret := make([]byte, 0, KeySize+chacha20poly1305.Overhead)
		defer func() { clear(secret[:cap(secret)]) }()
		secret, err := open(secret, k.body)
		if err != nil {
			return ErrPassphrase
		}
		id, err = newIdentity(secret)
		return err
	})
	if err != nil {
		return nil, err
	}
	if id.Public() != k.public {
		id.Wipe()
		return nil, errors.New("its Public is not that of the key")
	}
	return id, nil
}

// sealKey encrypts the secret of id.
func sealKey(id *Identity, passphrase []byte, with kdf) (*encryptedKey, error) {
	k := &encryptedKey{
		kdf: with, public: id.Public(),
		salt: make([]byte, saltSize), nonce: make([]byte, chacha20poly1305.NonceSizeX),
	}
	rand.Read(k.salt)
	rand.Read(k.nonce)
	return k, k.withAEAD(passphrase, func(seal, _ func(dst, text []byte) ([]byte, error)) error {
		return id.withSecret(func(secret []byte) (err error) {
			k.body, err = seal(nil, secret)
			return err
		})
	})
}

// ReadIdentityFile reads the secret key file at path, in either form. passphrase is called if the
// file is encrypted, at most once, and what it returns is wiped; with a nil function such a file is
// [ErrPassphraseNeeded]. A wrong passphrase is [ErrPassphrase].
//
// On Unix the file must be this user's or root's and nobody else may read it, else the error is a
// [*FileOwnerError] or a [*FileModeError]; the latter also if others can replace it because they
// can write its folder. What the file holds is wrong: [*KeyFileError].
func ReadIdentityFile(path string, passphrase func() ([]byte, error)) (*Identity, error) {
	var id *Identity
	err := withKeyFile(path, func(f keyFile) (err error) {
		if f.sealed == nil {
			erase.Handshake(func() { id, err = parseIdentity(f.secret) })
			return err
		}
		if passphrase == nil {
			return ErrPassphraseNeeded
		}
		phrase, err := passphrase()
		defer clear(phrase)
		if err != nil {
			return fmt.Errorf("asking for the passphrase: %w", err)
		}
		id, err = f.sealed.open(phrase)
		return err
	})
	if err != nil {
		return nil, err
	}
	return id, nil
}

// IdentityFileInfo tells, without the passphrase, the public key of the key file at path and whether
// it is encrypted. That of an encrypted file is what the file says: only the passphrase proves it.
func IdentityFileInfo(path string) (public PublicKey, encrypted bool, err error) {
	err = withKeyFile(path, func(f keyFile) (err error) {
		public, encrypted, err = f.info()
		return err
	})
	return public, encrypted, err
}

func (f keyFile) info() (public PublicKey, encrypted bool, err error) {
	if f.sealed != nil {
		return f.sealed.public, true, nil
	}
	erase.Handshake(func() {
		var id *Identity
		if id, err = parseIdentity(f.secret); err == nil {
			public = id.Public()
			id.Wipe()
		}
	})
	return public, false, err
}

// withKeyFile opens, checks, reads and parses a key file, calls f and wipes what was read. Errors of
// f become [*KeyFileError].
func withKeyFile(path string, f func(keyFile) error) error {
	file, err := openTrusted(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if othersMayRead(info) {
		return &FileModeError{Path: path, Mode: info.Mode()}
	}
	buf := make([]byte, maxKeyFile+1)
	defer clear(buf)
	data, err := readFull(file, buf)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if len(data) > maxKeyFile {
		return &KeyFileError{Path: path, Problem: fmt.Sprintf("it is larger than %d bytes: not a key file", maxKeyFile)}
	}
	parsed, problem := parseKeyFile(data)
	if problem != "" {
		return &KeyFileError{Path: path, Problem: problem}
	}
	if err := f(parsed); err != nil {
		return &KeyFileError{Path: path, Problem: problemOf(err), Err: err}
	}
	return nil
}

// WriteIdentityFile writes id to a new file at path, which only this user can read. If passphrase is
// not nil the secret is encrypted with it; it must not be empty, and stays the caller's to wipe. A
// file that is there is never overwritten: the error is then [fs.ErrExist]. An error leaves no
// temporary file behind.
func WriteIdentityFile(path string, id *Identity, passphrase []byte) error {
	if _, err := os.Lstat(path); err == nil { // only saves the work: writeNew decides
		return fmt.Errorf("keys: writing %s: %w", path, fs.ErrExist)
	}
	return writeIdentity(path, id, passphrase, time.Now().UTC().Format(time.RFC3339), newKDF, writeNew)
}

// ReplaceIdentityFile writes the key file at path anew: with another passphrase, or with none if that
// is nil. The file must be there and hold the same identity, so that no other key can be lost by a
// mistake. The old content stays until the new one is on the disk; what the disk itself keeps of
// it is beyond this program.
func ReplaceIdentityFile(path string, id *Identity, passphrase []byte) error {
	path, err := filepath.EvalSymlinks(path) // a link stays, what it points to is replaced
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	created := ""
	err = withKeyFile(path, func(f keyFile) error {
		created = f.created
		public, _, err := f.info()
		if err == nil && public != id.Public() {
			err = fmt.Errorf("it holds another identity (%s)", public.Short())
		}
		return err
	})
	if err != nil {
		return err
	}
	return writeIdentity(path, id, passphrase, created, newKDF, writeReplacing)
}

func writeIdentity(path string, id *Identity, passphrase []byte, created string, with kdf, write func(string, []byte) error) error {
	if passphrase != nil && len(passphrase) == 0 {
		return &KeyFileError{Path: path, Problem: "the passphrase is empty"}
	}
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return err
	}
	var sealed *encryptedKey
	if passphrase != nil {
		var err error
		if sealed, err = sealKey(id, passphrase, with); err != nil {
			return &KeyFileError{Path: path, Problem: problemOf(err), Err: err}
		}
	}
	data := make([]byte, 0, 1024) // enough for both forms: growing would leave copies
	defer func() { clear(data[:cap(data)]) }()
	var err error
	erase.Handshake(func() {
		if created != "" {
			data = fmt.Appendf(data, "# created: %s\n", created)
		}
		data = fmt.Appendf(data, "# public key: %s\n", id.Public())
		if sealed != nil {
			data = append(data, pem.EncodeToMemory(&pem.Block{Type: pemType, Headers: sealed.headers(), Bytes: sealed.body})...)
			return
		}
		var text []byte
		if text, err = id.MarshalText(); err != nil {
			return
		}
		data = append(append(data, text...), '\n')
		clear(text)
	})
	if err != nil {
		return &KeyFileError{Path: path, Problem: problemOf(err), Err: err}
	}
	return write(path, data)
}
