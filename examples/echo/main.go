// Command echo is the smallest whole program on waxwire: a server that sends back what it gets and a
// client that talks to it, both here, over a loopback socket.
//
//	go run ./examples/echo hello there
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
)

func main() {
	text := "hello"
	if len(os.Args) > 1 {
		text = strings.Join(os.Args[1:], " ")
	}
	answer, err := run(context.Background(), text)
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
	fmt.Println(answer)
}

// run serves, dials, sends text through a stream and returns what came back.
func run(ctx context.Context, text string) (string, error) {
	// Each end has a key, and knows the other's.
	serverKey, err := keys.Generate()
	if err != nil {
		return "", err
	}
	clientKey, err := keys.Generate()
	if err != nil {
		return "", err
	}
	peers := new(keys.PeerSet)
	if err := peers.Add(keys.Peer{Name: "client", Key: clientKey.Public()}); err != nil {
		return "", err
	}
	pin := serverKey.Public()

	server := &tunnel.Server{Identity: serverKey, Peers: peers}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	web := server.HTTPServer()
	go web.Serve(l)
	defer web.Close()
	defer server.Close()
	go serve(ctx, server)

	tun, err := tunnel.Dial(ctx, "ws://"+l.Addr().String(), &tunnel.Config{Identity: clientKey, ServerKey: pin})
	if err != nil {
		return "", err
	}
	defer tun.Close()
	stream, err := tun.OpenStream(ctx, tunnel.Request{Kind: tunnel.KindApp, Target: "echo"})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	// Both ends hold only so much: who writes everything before reading anything waits for ever.
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(stream, text)
		written <- errors.Join(err, stream.CloseWrite())
	}()
	answer, err := io.ReadAll(stream)
	return string(answer), errors.Join(err, <-written)
}

// serve echoes on every stream of every tunnel until the server is closed.
func serve(ctx context.Context, server *tunnel.Server) {
	for {
		tun, err := server.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			l := tunnel.Listener(tun)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					io.Copy(c, c)
				}()
			}
		}()
	}
}
