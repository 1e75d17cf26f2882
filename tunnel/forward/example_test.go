package forward_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// up is a [forward.Dialer] whose tunnel is simply there.
type up struct{ tun *tunnel.Tunnel }

func (u up) Tunnel(context.Context) (*tunnel.Tunnel, error) { return u.tun, nil }

// Both ends of a forward: a server that lets "laptop" reach one target, and a client with a local
// port in front of it.
func Example() {
	ctx := context.Background()
	check := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello from the target")
	}))
	defer target.Close()
	address := strings.TrimPrefix(target.URL, "http://")

	// The far end.
	serverID, err := keys.Generate()
	check(err)
	clientID, err := keys.Generate()
	check(err)
	permission, err := keys.ParsePermission("connect=" + address)
	check(err)
	peers := new(keys.PeerSet)
	check(peers.Add(keys.Peer{Name: "laptop", Key: clientID.Public(), Allow: []keys.Permission{permission}}))
	server := &tunnel.Server{Identity: serverID, Peers: peers}
	defer server.Close()
	web := httptest.NewServer(server)
	defer web.Close()
	go func() {
		if tun, err := server.Accept(ctx); err == nil {
			new(forward.Exit).Serve(ctx, tun)
		}
	}()

	// The near end.
	tun, err := tunnel.Dial(ctx, "ws"+strings.TrimPrefix(web.URL, "http"), &tunnel.Config{
		Identity: clientID, ServerKey: serverID.Public(),
	})
	check(err)
	defer tun.Close()
	local, err := forward.ParseLocal("0:" + address)
	check(err)
	listener, err := (&forward.Forwarder{Dialer: up{tun}}).Listen(local)
	check(err)
	defer listener.Close()
	go listener.Serve(ctx)

	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + listener.Local().Listen.Addr)
	check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(err)
	fmt.Print(string(body))
	// Output: hello from the target
}
