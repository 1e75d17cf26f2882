package erase

import (
	"crypto/ecdh"
	"crypto/mlkem"
	"reflect"
)

// Bytes clears b. Only the length counts: what lies between length and capacity stays.
func Bytes(b []byte) {
	if !skipWipe {
		clear(b)
	}
}

// Object zeroes what p points to: an AEAD, an AES block, a SHA-256 state. p is a pointer, an
// interface that holds one, or a pointer to such an interface; nil is nothing to do. Only the
// object itself is zeroed, not what it points to in turn, and it must not be used afterwards:
// most such objects then work with an all-zero key. Object panics if p holds no pointer.
func Object(p any) {
	if p == nil {
		return
	}
	v := reflect.ValueOf(p)
	for {
		if v.Kind() != reflect.Pointer {
			panic("erase: Object needs a pointer, not " + v.Type().String())
		}
		if v.IsNil() {
			return
		}
		v = v.Elem()
		if v.Kind() == reflect.Interface {
			if v.IsNil() {
				return
			}
			v = v.Elem()
			continue
		}
		if v.Kind() != reflect.Pointer {
			if !skipWipe {
				v.SetZero()
			}
			return
		}
	}
}

// ECDH zeroes the scalar of an X25519 key, which must not be used afterwards. Make such keys with
// NewPrivateKey from a buffer of your own, and clear that too: GenerateKey leaves a copy behind
// that nobody can reach. ECDH panics if this Go release keeps the scalar elsewhere.
func ECDH(k *ecdh.PrivateKey) {
	if k == nil {
		return
	}
	f := reflect.ValueOf(k).Elem().FieldByName("privateKey")
	if f.Kind() != reflect.Slice || f.Len() == 0 {
		panic("erase: ecdh.PrivateKey has no field privateKey with the key: new Go release?")
	}
	Bytes(f.Bytes())
}

// MLKEM zeroes the seed and the expanded key of dk, which must not be used afterwards. It panics if
// this Go release keeps them elsewhere.
func MLKEM(dk *mlkem.DecapsulationKey768) {
	if dk == nil {
		return
	}
	f := reflect.ValueOf(dk).Elem().FieldByName("key")
	if f.Kind() != reflect.Pointer || f.IsNil() {
		panic("erase: mlkem.DecapsulationKey768 has no field key with the key: new Go release?")
	}
	if skipWipe {
		return
	}
	// The pointer came out of an unexported field, and reflect lets nobody write through such a
	// one. NewAt makes another pointer to the same object, which it does.
	reflect.NewAt(f.Type().Elem(), f.UnsafePointer()).Elem().SetZero()
}
