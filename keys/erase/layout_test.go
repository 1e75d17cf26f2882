package erase_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/rand"
	"crypto/sha256"
	"reflect"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"waxwire.example/waxwire/keys/erase"
)

// What the wiping relies on in objects of the standard library that it does not own. A Go release
// that lays them out differently fails here, by name, and not in the memory of a server.

// indirect returns the path to the first field of a type that keeps something outside the object.
func indirect(t reflect.Type, path string) string {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if found := indirect(f.Type, path+"."+f.Name); found != "" {
				return found
			}
		}
	case reflect.Array:
		return indirect(t.Elem(), path+"[]")
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface, reflect.Func, reflect.Chan, reflect.UnsafePointer, reflect.String:
		return path
	}
	return ""
}

// Object zeroes the object and nothing that it points to, so these may point to nothing.
func TestObjectsHoldTheirKeysThemselves(t *testing.T) {
	block := must(aes.NewCipher(testKey()))
	for name, p := range map[string]any{
		"aes":              block,
		"aes-gcm":          must(cipher.NewGCM(block)),
		"chacha20poly1305": must(chacha20poly1305.New(testKey())),
		"sha256":           sha256.New(),
	} {
		if v := reflect.ValueOf(p); v.Kind() != reflect.Pointer {
			t.Errorf("%s is a %v and no pointer: Object cannot reach its memory", name, v.Type())
		} else if path := indirect(v.Type().Elem(), v.Type().Elem().String()); path != "" {
			t.Errorf("%s keeps something outside itself, in %s: Object would leave it: new Go release?", name, path)
		}
	}
}

// arrays calls f with all memory of numbers that can be reached from v.
func arrays(v reflect.Value, seen map[uintptr]bool, f func(reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && !seen[v.Pointer()] {
			seen[v.Pointer()] = true
			arrays(v.Elem(), seen, f)
		}
	case reflect.Interface:
		if !v.IsNil() {
			arrays(v.Elem(), seen, f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			arrays(v.Field(i), seen, f)
		}
	case reflect.Array, reflect.Slice:
		switch v.Type().Elem().Kind() {
		case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			f(v)
		default:
			for i := range v.Len() {
				arrays(v.Index(i), seen, f)
			}
		}
	}
}

// memory is what an array holds, as far as it is bytes or small numbers: enough to tell one secret
// from another.
func memory(v reflect.Value) []byte {
	b := make([]byte, 0, 2*v.Len())
	for i := range v.Len() {
		n := v.Index(i).Uint()
		if b = append(b, byte(n)); v.Type().Elem().Kind() != reflect.Uint8 {
			b = append(b, byte(n>>8))
		}
	}
	return b
}

// All places of an object that hold a piece of its secret hold none after the wiping. They are noted
// before, so that a pointer which the wiping drops hides nothing.
func TestNoPlaceKeepsASecret(t *testing.T) {
	scalar, seed := make([]byte, 32), make([]byte, mlkem.SeedSize)
	rand.Read(scalar)
	rand.Read(seed)
	private := must(ecdh.X25519().NewPrivateKey(scalar))
	decapsulation := must(mlkem.NewDecapsulationKey768(seed))
	// The secret vector is computed from the seed; a second object says what it is.
	var vector []byte
	arrays(reflect.ValueOf(must(mlkem.NewDecapsulationKey768(seed))).Elem().FieldByName("key").Elem().FieldByName("s"), map[uintptr]bool{},
		func(v reflect.Value) { vector = append(vector, memory(v)...) })
	if len(vector) != 3*256*2 {
		t.Fatalf("the secret vector has %d bytes, want %d: new Go release?", len(vector), 3*256*2)
	}

	for _, tt := range []struct {
		name    string
		object  any
		secrets [][]byte
		wipe    func()
	}{
		{"X25519", private, [][]byte{scalar}, func() { erase.ECDH(private) }},
		{"ML-KEM-768", decapsulation, [][]byte{seed[:32], seed[32:], vector[:512], vector[512:1024], vector[1024:]}, func() { erase.MLKEM(decapsulation) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			places := make([][]reflect.Value, len(tt.secrets))
			arrays(reflect.ValueOf(tt.object), map[uintptr]bool{}, func(v reflect.Value) {
				for i, s := range tt.secrets {
					if bytes.Contains(memory(v), s) {
						places[i] = append(places[i], v)
					}
				}
			})
			tt.wipe()
			for i, found := range places {
				if len(found) == 0 {
					t.Errorf("secret %d is nowhere in the object before the wiping: this test would prove nothing", i)
				}
				for _, v := range found {
					if m := memory(v); !bytes.Equal(m, make([]byte, len(m))) {
						t.Errorf("secret %d is still in the object after the wiping", i)
					}
				}
			}
		})
	}
}
