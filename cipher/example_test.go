package cipher_test

import (
	"fmt"
	"log"

	"waxwire.example/waxwire/cipher"
	"waxwire.example/waxwire/keys"
)

// The two ends of a connection, without the network between them.
func Example() {
	client, err := keys.Generate()
	if err != nil {
		log.Fatal(err)
	}
	server, err := keys.Generate()
	if err != nil {
		log.Fatal(err)
	}
	prologue := []byte("example/1") // both ends must have the same

	// The client knows the server's key beforehand.
	c, err := cipher.NewHandshake(cipher.HandshakeConfig{
		Pattern: cipher.IKhfs, Initiator: true, Prologue: prologue,
		Static: client, RemoteStatic: server.Public(),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Wipe()
	s, err := cipher.NewHandshake(cipher.HandshakeConfig{Pattern: cipher.IKhfs, Prologue: prologue, Static: server})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Wipe()

	hello, err := c.WriteMessage(nil, []byte("a hello"))
	if err != nil {
		log.Fatal(err)
	}
	payload, err := s.ReadMessage(nil, hello)
	if err != nil {
		log.Fatal(err)
	}
	peer, _ := s.RemoteStatic()
	fmt.Printf("the server reads %q; from the client it knows: %v\n", payload, peer == client.Public())

	answer, err := s.WriteMessage(nil, []byte("an answer"))
	if err != nil {
		log.Fatal(err)
	}
	if payload, err = c.ReadMessage(nil, answer); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("the client reads %q; both are done: %v\n", payload, c.Done() && s.Done())

	sealer, _, err := c.Split(cipher.ChaCha20Poly1305)
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Wipe()
	_, opener, err := s.Split(cipher.ChaCha20Poly1305)
	if err != nil {
		log.Fatal(err)
	}
	defer opener.Wipe()
	record, err := sealer.Seal(nil, []byte("a record"))
	if err != nil {
		log.Fatal(err)
	}
	plaintext, err := opener.Open(nil, record)
	fmt.Printf("a record of %d bytes opens to %q, %v\n", len(record), plaintext, err)

	_, err = opener.Open(nil, record)
	fmt.Println("again:", err)
	// Output:
	// the server reads "a hello"; from the client it knows: true
	// the client reads "an answer"; both are done: true
	// a record of 24 bytes opens to "a record", <nil>
	// again: bad record
}

// Both ends ratchet at the same place in the stream of records: here after a record that says so.
func ExampleSealer_Ratchet() {
	sealer, opener, err := cipher.NewTestPair(cipher.AES256GCM, nil) // in life, from Handshake.Split
	if err != nil {
		log.Fatal(err)
	}
	for _, text := range []string{"one", "rekey", "two"} {
		record, err := sealer.Seal(nil, []byte(text))
		if err != nil {
			log.Fatal(err)
		}
		plaintext, err := opener.Open(record[:0], record)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("epoch %d: %s\n", opener.Epoch(), plaintext)
		if text == "rekey" {
			if err := sealer.Ratchet(); err != nil {
				log.Fatal(err)
			}
			if err := opener.Ratchet(); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output:
	// epoch 0: one
	// epoch 0: rekey
	// epoch 1: two
}

func ExampleParsePattern() {
	for _, name := range []string{"IKhfs+psk2", "IK+psk2"} {
		p, err := cipher.ParsePattern(name)
		fmt.Println(p, err)
	}
	// Output:
	// IKhfs+psk2 <nil>
	//  no handshake pattern "IK+psk2"
}
