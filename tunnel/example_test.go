package tunnel_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

// A server that answers each stream, and a client that asks.
func Example() {
	serverKey, err := keys.Generate()
	if err != nil {
		log.Fatal(err)
	}
	clientKey, err := keys.Generate()
	if err != nil {
		log.Fatal(err)
	}
	defer clientKey.Wipe()

	// The server is an http.Handler: mount it in any mux, behind any middleware.
	peers := new(keys.PeerSet)
	if err := peers.Add(keys.Peer{Name: "laptop", Key: clientKey.Public()}); err != nil {
		log.Fatal(err)
	}
	server := &tunnel.Server{Identity: serverKey, Peers: peers}
	defer server.Close() // wipes serverKey
	web := httptest.NewServer(server)
	defer web.Close()
	serverPublic := serverKey.Public()
	go func() {
		tun, err := server.Accept(context.Background())
		if err != nil {
			return
		}
		for {
			in, err := tun.AcceptStream(context.Background())
			if err != nil {
				return
			}
			stream, err := in.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(stream, "hello %s, you asked for %s", tun.Peer().Name, in.Request().Target)
			stream.Close()
		}
	}()

	// The client pins the server's key. The tunnel makes another connection by itself if this one is lost.
	ctx := context.Background()
	tun, err := tunnel.Dial(ctx, "ws"+strings.TrimPrefix(web.URL, "http"), &tunnel.Config{Identity: clientKey, ServerKey: serverPublic})
	if err != nil {
		log.Fatal(err)
	}
	defer tun.Close()
	stream, err := tun.OpenStream(ctx, tunnel.Request{Kind: tunnel.KindApp, Target: "greeting"})
	if err != nil {
		log.Fatal(err)
	}
	answer, err := io.ReadAll(stream)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(answer))
	// Output: hello laptop, you asked for greeting
}
