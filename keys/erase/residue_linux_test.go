package erase_test

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"waxwire.example/waxwire/keys/erase"
)

// These tests search the memory of a process for keys that it has used and erased. The process is
// this test binary, started again with residueEnv set.
const residueEnv = "ERASE_TEST_RESIDUE"

const secretSize = 64

// uses are ways to use 64 secret bytes that wipe every object they make. What they leave behind is
// only what a guard can erase.
var uses = map[string]func(secret []byte){
	"chacha20poly1305": func(secret []byte) {
		aead := must(chacha20poly1305.New(secret[:32]))
		useAEAD(aead)
		erase.Object(aead)
	},
	"aes-gcm": func(secret []byte) {
		block := must(aes.NewCipher(secret[:32]))
		aead := must(cipher.NewGCM(block))
		useAEAD(aead)
		erase.Object(aead)
		erase.Object(block)
	},
	"sha256": func(secret []byte) {
		h := sha256.New()
		h.Write(secret)
		var sum [32]byte
		h.Sum(sum[:0])
		erase.Object(h)
	},
	"x25519": func(secret []byte) {
		key := must(ecdh.X25519().NewPrivateKey(secret[:32]))
		clear(must(key.ECDH(key.PublicKey())))
		erase.ECDH(key)
	},
	"stack":      func(secret []byte) { spread(secret, 8) },  // less than the 4 KiB of Do
	"deep stack": func(secret []byte) { spread(secret, 72) }, // less than the 32 KiB of Handshake
	// The garbage collector must not move the stack while the secret is on it.
	"stack and collection": func(secret []byte) {
		spread(secret, 8)
		runtime.GC()
	},
	"ml-kem": func(secret []byte) {
		dk := must(mlkem.NewDecapsulationKey768(secret))
		shared, text := dk.EncapsulationKey().Encapsulate()
		clear(shared)
		clear(must(dk.Decapsulate(text)))
		erase.MLKEM(dk)
	},
	// What was encrypted under an ML-KEM key: whoever has it and the public key has the shared secret.
	"ml-kem message": func(secret []byte) {
		dk := must(mlkem.GenerateKey768())
		shared, text := must2(mlkemtest.Encapsulate768(dk.EncapsulationKey(), secret[:32]))
		clear(shared[:cap(shared)])
		clear(must(dk.Decapsulate(text)))
		erase.MLKEM(dk)
	},
}

func must2[A, B any](a A, b B, err error) (A, B) { return a, must(b, err) }

// spread leaves copies of the secret all over depth frames of the stack.
//
//go:noinline
func spread(secret []byte, depth int) byte {
	var local [256]byte
	copy(local[:], secret)
	if depth == 0 {
		return local[0]
	}
	return local[depth%len(local)] + spread(secret, depth-1)
}

func useAEAD(aead cipher.AEAD) {
	nonce, text := make([]byte, 12), make([]byte, 1024)
	sealed := aead.Seal(nil, nonce, text, nil)
	must(aead.Open(nil, nonce, sealed, nil))
}

func TestMain(m *testing.M) {
	if scenario := os.Getenv(residueEnv); scenario != "" {
		residueChild(scenario)
		return
	}
	os.Exit(m.Run())
}

// masked is static, so that no key is copied on its way out.
var masked [2 * secretSize]byte

// residueChild uses secrets as the scenario says, GUARD/USE, prints them masked, and waits.
func residueChild(scenario string) {
	guard, use, _ := strings.Cut(scenario, "/")
	run := func(f func()) { f() }
	switch guard {
	case "Do":
		run = erase.Do
	case "Handshake":
		run = erase.Handshake
	}
	done := make(chan struct{})
	go func() {
		secret := make([]byte, secretSize)
		rand.Read(secret)
		for i, b := range secret {
			const digits = "0123456789abcdef"
			b ^= 0xA5
			masked[2*i], masked[2*i+1] = digits[b>>4], digits[b&15]
		}
		run(func() { uses[use](secret) })
		clear(secret)
		close(done)
		select {} // the goroutine of a connection lives on, and so does the dead part of its stack
	}()
	<-done
	if erase.Guard() == "runtime/secret" {
		runtime.GC() // it erases the heap only now; otherwise memory stays as it was left
		runtime.GC()
	}
	fmt.Printf("%s\n", masked[:])
	io.ReadAll(os.Stdin)
}

// residue starts a child and returns how many places of its memory hold eight bytes of its secret.
func residue(t *testing.T, scenario string) int {
	t.Helper()
	child := exec.Command(os.Args[0])
	// No signal may interrupt the use of a key: what that leaves on a signal stack is the known
	// limit of the build without runtime/secret, and not what this test is about.
	child.Env = append(os.Environ(), residueEnv+"="+scenario, "GODEBUG=asyncpreemptoff=1", "GOGC=off")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); errors.Is(err, syscall.ENOEXEC) {
		t.Skip("this system cannot start the test binary by itself (an emulator runs it):", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		if err := child.Wait(); err != nil {
			t.Error("child:", err)
		}
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var secret []byte
	if _, err := fmt.Sscanf(line, "%x", &secret); err != nil || len(secret) != secretSize {
		t.Fatalf("child said %q: %v", line, err)
	}
	for i := range secret {
		secret[i] ^= 0xA5
	}
	return searchProcess(t, child.Process.Pid, secret)
}

func searchProcess(t *testing.T, pid int, secret []byte) (found int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	searched := 0
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			t.Fatalf("/proc/%d/maps: %q: %v", pid, line, err)
		}
		if !strings.HasPrefix(mode, "rw") {
			continue
		}
		memory := make([]byte, to-from)
		n, err := mem.ReadAt(memory, int64(from))
		if err != nil && n == 0 {
			continue // [vvar] and its like
		}
		searched += n
		for at := 0; at < len(secret); at += 8 {
			found += bytes.Count(memory[:n], secret[at:at+8])
		}
	}
	if searched < 1<<20 {
		t.Fatalf("searched %d bytes of the process: this test would prove nothing", searched)
	}
	return found
}

func TestNothingIsLeft(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes stack frames larger and keeps a shadow of memory")
	}
	for _, tt := range []struct {
		guard string
		uses  []string
	}{
		{"Do", []string{"stack", "stack and collection", "chacha20poly1305", "aes-gcm", "sha256"}},
		{"Handshake", []string{"deep stack", "stack and collection", "chacha20poly1305", "aes-gcm", "sha256", "x25519", "ml-kem"}},
	} {
		for _, use := range tt.uses {
			t.Run(tt.guard+"/"+use, func(t *testing.T) {
				if n := residue(t, tt.guard+"/"+use); n != 0 {
					t.Errorf("%d pieces of the key are left, want 0", n)
				}
			})
		}
	}
}

// The control: without a guard these are found, so the search works and the guards matter. The other
// uses leave something in some runs only: what they keep in registers, or what is overwritten later.
func TestSomethingIsLeftWithoutGuard(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes stack frames larger and keeps a shadow of memory")
	}
	for _, use := range []string{"stack", "deep stack"} {
		t.Run(use, func(t *testing.T) {
			if n := residue(t, "none/"+use); n == 0 {
				t.Error("nothing is left without a guard")
			}
		})
	}
}

// The known limit: crypto/mlkem decrypts the message of the KEM into memory of the heap that nobody can
// reach. Only runtime/secret erases that. If it is ever gone without, the comment of the package and
// README can promise more.
func TestMessageOfMLKEM(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes stack frames larger and keeps a shadow of memory")
	}
	n := residue(t, "Handshake/ml-kem message")
	if erase.Guard() == "runtime/secret" && n != 0 {
		t.Errorf("%d pieces of the message are left, want 0", n)
	}
	t.Logf("%d pieces of the message are left under %s", n, erase.Guard())
}
