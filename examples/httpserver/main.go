// Command httpserver serves an ordinary [http.Server] through a tunnel. It listens on no port of its
// own: the program dials out to a relay that it trusts by its key, and the relay reaches the web server
// behind it with an ordinary [http.Client]. Both are here, joined by a loopback socket.
//
//	go run ./examples/httpserver
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

func main() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "You asked for %s.\n", r.URL.Path)
	})
	body, err := run(context.Background(), handler, "/hello")
	if err != nil {
		fmt.Fprintln(os.Stderr, "httpserver:", err)
		os.Exit(1)
	}
	fmt.Print(body)
}

// run starts the relay and the web server, and returns what the relay gets for path.
func run(ctx context.Context, handler http.Handler, path string) (string, error) {
	relayKey, err := keys.Generate()
	if err != nil {
		return "", err
	}
	webKey, err := keys.Generate()
	if err != nil {
		return "", err
	}
	peers := new(keys.PeerSet)
	if err := peers.Add(keys.Peer{Name: "web", Key: webKey.Public()}); err != nil {
		return "", err
	}
	pin := relayKey.Public()

	relay := &tunnel.Server{Identity: relayKey, Peers: peers}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	front := relay.HTTPServer()
	go front.Serve(port)
	defer front.Close()
	defer relay.Close()

	// The web server: one line is different from any other.
	out, err := tunnel.Dial(ctx, "ws://"+port.Addr().String(), &tunnel.Config{Identity: webKey, ServerKey: pin})
	if err != nil {
		return "", err
	}
	defer out.Close()
	web := &http.Server{Handler: handler}
	go web.Serve(tunnel.Listener(out))
	defer web.Close()

	// The relay: its HTTP client dials through the tunnel.
	in, err := relay.Accept(ctx)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return in.DialContext(ctx, "app", addr)
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
