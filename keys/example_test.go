package keys_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"waxwire.example/waxwire/keys"
)

// An identity is made once, kept in a file, and read at each start.
func Example() {
	dir, err := os.MkdirTemp("", "waxwire")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "identity.key")

	made, err := keys.Generate()
	if err != nil {
		panic(err)
	}
	defer made.Wipe()
	if err := keys.WriteIdentityFile(path, made, nil); err != nil {
		panic(err)
	}

	read, err := keys.ReadIdentityFile(path, nil)
	if err != nil {
		panic(err)
	}
	defer read.Wipe()
	fmt.Println(read.Public() == made.Public())
	// Output: true
}

func ExamplePublicKey_Fingerprint() {
	key, err := keys.ParsePublicKey("wax1zwvd0kkhs8hum5suun860kmf84ttag4pza6eznn5lzz5e0euld7qrtq2x9")
	if err != nil {
		panic(err)
	}
	fmt.Println(key.Fingerprint())
	fmt.Println(key.Short())
	// Output:
	// 1GPX-4VSD-XQSY-XBAK-RRPR-KW08-2SGJ-1T4Z
	// 1GPX-4VSD
}

func ExampleParsePermission() {
	for _, text := range []string{"connect=DB.Example.net:5432", "connect=[2001:db8:0::1]:1-65535", "connect=127.1:80"} {
		p, err := keys.ParsePermission(text)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(p)
	}
	// Output:
	// connect=db.example.net:5432
	// connect=[2001:db8::1]:*
	// keys: permission "connect=127.1:80": "127.1" is neither a name nor an address; write IPv4 addresses as 127.0.0.1
}

func ExamplePeer_AllowsConnect() {
	peer, err := keys.ParsePeer("laptop", []byte(`
		# the laptop of the office
		key wax1zwvd0kkhs8hum5suun860kmf84ttag4pza6eznn5lzz5e0euld7qrtq2x9
		allow connect=*.example.net:443
		allow connect=10.0.0.0/8:*
	`))
	if err != nil {
		panic(err)
	}
	web := netip.MustParseAddrPort("192.0.2.1:443")
	fmt.Println(peer.AllowsConnect("www.example.net", web, false))
	fmt.Println(peer.AllowsConnect("example.net", web, false))
	fmt.Println(peer.AllowsConnect("db.internal", netip.MustParseAddrPort("10.1.2.3:5432"), false))
	fmt.Println(peer.AllowsConnect("www.example.net", netip.MustParseAddrPort("127.0.0.1:443"), false))
	// Output:
	// true
	// false
	// true
	// false
}

func ExamplePeerDir() {
	path, err := os.MkdirTemp("", "peers")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(path)
	dir, err := keys.OpenPeerDir(path)
	if err != nil {
		panic(err)
	}
	key, err := keys.ParsePublicKey("wax1zwvd0kkhs8hum5suun860kmf84ttag4pza6eznn5lzz5e0euld7qrtq2x9")
	if err != nil {
		panic(err)
	}
	if err := dir.Add(keys.Peer{Name: "laptop", Key: key}); err != nil {
		panic(err)
	}
	peer, ok := dir.Lookup(key)
	fmt.Println(peer.Name, ok)

	// Another program makes a mistake: what was right goes on counting, and it is said once.
	if err := os.WriteFile(filepath.Join(path, "laptop"), []byte("kay wax1…\n"), 0o600); err != nil {
		panic(err)
	}
	peer, ok = dir.Lookup(key)
	fmt.Println(peer.Name, ok)
	fmt.Println(dir.Refresh())
	fmt.Println(dir.Refresh())
	// Output:
	// laptop true
	// laptop true
	// [keys: peer "laptop": line 1: unknown word "kay"; key, joined, allow or #]
	// []
}
