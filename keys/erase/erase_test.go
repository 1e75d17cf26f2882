package erase_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"waxwire.example/waxwire/keys/erase"
)

var guards = []struct {
	name string
	run  func(func())
}{
	{"Do", erase.Do},
	{"Handshake", erase.Handshake},
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestGuard(t *testing.T) {
	if got := erase.Guard(); got != wantGuard {
		t.Errorf("Guard() = %q, want %q", got, wantGuard)
	}
}

func TestGuardedFunctionRunsOnceBeforeReturn(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			n := 0
			g.run(func() { n++ })
			if n != 1 {
				t.Errorf("f ran %d times, want 1", n)
			}
		})
	}
}

func TestPanicKeepsItsValue(t *testing.T) {
	want := errors.New("out of nonces")
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			got := func() (got any) {
				defer func() { got = recover() }()
				g.run(func() { panic(want) })
				return "no panic"
			}()
			if got != want {
				t.Errorf("recovered %v, want %v", got, want)
			}
		})
	}
}

// A panic(nil) must not look like a plain return or like a Goexit.
func TestPanicNil(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			got := func() (got any) {
				defer func() { got = recover() }()
				g.run(func() { panic(nil) })
				return "no panic"
			}()
			if _, ok := got.(*runtime.PanicNilError); !ok {
				t.Errorf("recovered %v, want *runtime.PanicNilError", got)
			}
		})
	}
}

func TestGoexitEndsTheCaller(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			var wg sync.WaitGroup
			returned := false
			wg.Go(func() {
				g.run(runtime.Goexit)
				returned = true
			})
			wg.Wait()
			if returned {
				t.Error("the caller went on after runtime.Goexit in f")
			}
		})
	}
}

func TestGuardsNest(t *testing.T) {
	var order []string
	erase.Handshake(func() {
		erase.Do(func() {
			erase.Handshake(func() { order = append(order, "inner") })
		})
		order = append(order, "outer")
	})
	if want := []string{"inner", "outer"}; !reflect.DeepEqual(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
}

func TestDoDoesNotAllocate(t *testing.T) {
	aead, err := chacha20poly1305.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	plaintext, nonce, out := make([]byte, 64), make([]byte, 12), make([]byte, 0, 128)
	if got := testing.AllocsPerRun(100, func() {
		// A closure over local variables: Do must not make them escape.
		sealed := 0
		erase.Do(func() {
			out = aead.Seal(out[:0], nonce, plaintext, nil)
			sealed++
		})
		if sealed != 1 {
			t.Fatalf("sealed %d records, want 1", sealed)
		}
	}); got != 0 {
		t.Errorf("Do with a closure made %v allocations, want 0", got)
	}
	prebuilt := func() { out = aead.Seal(out[:0], nonce, plaintext, nil) }
	if got := testing.AllocsPerRun(100, func() { erase.Do(prebuilt) }); got != 0 {
		t.Errorf("Do with a prebuilt function made %v allocations, want 0", got)
	}
}

func TestBytes(t *testing.T) {
	b := []byte{1, 2, 3}
	erase.Bytes(b[:2])
	if want := []byte{0, 0, 3}; !bytes.Equal(b, want) {
		t.Errorf("got %v, want %v", b, want)
	}
	erase.Bytes(nil)
}

// isZero looks at the object through reflection, as a debugger would, so that it depends neither
// on the methods of the object nor on the names of its fields.
func isZero(p any) bool { return reflect.ValueOf(p).Elem().IsZero() }

func testKey() []byte { return bytes.Repeat([]byte{0xC7}, 32) }

func TestObject(t *testing.T) {
	block, err := aes.NewCipher(testKey())
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	chacha, err := chacha20poly1305.New(testKey())
	if err != nil {
		t.Fatal(err)
	}
	xchacha, err := chacha20poly1305.NewX(testKey())
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.New()
	digest.Write(testKey())
	array := [4]byte{1, 2, 3, 4}

	for _, tt := range []struct {
		name string
		p    any
	}{
		{"aes", block},
		{"aes-gcm", gcm},
		{"chacha20poly1305", chacha},
		{"xchacha20poly1305", xchacha},
		{"sha256", digest},
		{"array", &array},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if isZero(tt.p) {
				t.Fatalf("%T is zero before Object: this test would prove nothing", tt.p)
			}
			erase.Object(tt.p)
			if !isZero(tt.p) {
				t.Errorf("%T is not zero after Object", tt.p)
			}
		})
	}
}

// The AEADs hold their key by value: after Object they seal as one with the zero key does. GCM
// checks its state elsewhere too, so this looks at ChaCha20-Poly1305 only.
func TestObjectLeavesTheZeroKey(t *testing.T) {
	aead, err := chacha20poly1305.New(testKey())
	if err != nil {
		t.Fatal(err)
	}
	zero, err := chacha20poly1305.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	erase.Object(&aead) // a pointer to the interface is as good as the interface
	nonce, plaintext := make([]byte, 12), []byte("text")
	got, want := aead.Seal(nil, nonce, plaintext, nil), zero.Seal(nil, nonce, plaintext, nil)
	if !bytes.Equal(got, want) {
		t.Errorf("sealed %x, want %x", got, want)
	}
}

func TestObjectOfNothing(t *testing.T) {
	var digest hash.Hash
	erase.Object(nil)
	erase.Object(&digest)
	erase.Object((*[4]byte)(nil))
}

func TestObjectOfNoPointer(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "erase: ") {
			t.Errorf("panic %q, want one of package erase", got)
		}
	}()
	erase.Object([4]byte{1})
	t.Error("Object took an array that it cannot zero")
}

func TestECDH(t *testing.T) {
	key, err := ecdh.X25519().NewPrivateKey(testKey())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.Bytes(), testKey()) {
		t.Fatalf("key is %x before ECDH: this test would prove nothing", key.Bytes())
	}
	erase.ECDH(key)
	if got, want := key.Bytes(), make([]byte, 32); !bytes.Equal(got, want) {
		t.Errorf("key is %x after ECDH, want zeros", got)
	}
	erase.ECDH(nil)
}

func TestMLKEM(t *testing.T) {
	dk, err := mlkem.NewDecapsulationKey768(bytes.Repeat([]byte{0xC7}, mlkem.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	inner := reflect.ValueOf(dk).Elem().Field(0)
	if inner.Kind() != reflect.Pointer || inner.Elem().IsZero() {
		t.Fatalf("mlkem.DecapsulationKey768 does not begin with a pointer to a key: %v", inner.Kind())
	}
	erase.MLKEM(dk)
	if got, want := dk.Bytes(), make([]byte, mlkem.SeedSize); !bytes.Equal(got, want) {
		t.Errorf("seed is %x after MLKEM, want zeros", got)
	}
	// The seed is not all: the expanded secret vector must be gone too.
	if !inner.Elem().IsZero() {
		t.Error("the expanded key is not zero after MLKEM")
	}
	erase.MLKEM(nil)
}

// A digest that was cloned or saved is another object; this shows why states are never marshalled.
func TestObjectDoesNotReachCopies(t *testing.T) {
	digest := sha256.New()
	digest.Write(testKey())
	state, err := digest.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	erase.Object(digest)
	if !bytes.Contains(state, testKey()) {
		t.Error("the saved state does not hold the key, so the warning in the comment is wrong")
	}
}

func BenchmarkDo(b *testing.B) {
	b.ReportAllocs()
	f := func() {}
	for b.Loop() {
		erase.Do(f)
	}
}

func BenchmarkHandshake(b *testing.B) {
	b.ReportAllocs()
	f := func() {}
	for b.Loop() {
		erase.Handshake(f)
	}
}

func ExampleDo() {
	var sum [32]byte
	erase.Do(func() { sum = sha256.Sum256([]byte("a secret")) })
	fmt.Printf("%x\n", sum[:4])
	// Output: 984ca516
}
