package tunnel_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/internal/tunneltest"
)

// A scripted conversation of two tunnels, in parts, that tells whether each byte has arrived once and in
// order: what the tests of lost connections have going on while they do harm.

const (
	talkStreams = 3 // two that the client opens, and one that the server does
	talkParts   = 3
)

// A talk carries cells both ways over three streams.
type talk struct {
	client, server *tunnel.Tunnel
	cells          uint64 // of each part of each direction
	seed           uint64
	between        func(part int) // called after each part has arrived

	next   [talkParts]chan struct{} // closed when a part may begin
	came   chan struct{}            // a direction's part has arrived
	failed chan error
	stop   chan struct{}
	tasks  sync.WaitGroup
}

// parts is how many parts a direction of a stream has: some are half closed early.
func parts(stream int, fromClient bool) int {
	if stream == 0 && fromClient || stream == 1 && !fromClient {
		return 1
	}
	return talkParts
}

// run is over when all has arrived and both ends of all streams have been read to their end.
func (k *talk) run() error {
	k.came, k.failed, k.stop = make(chan struct{}), make(chan error), make(chan struct{})
	for i := range k.next {
		k.next[i] = make(chan struct{})
	}
	k.tasks.Go(func() { k.check(k.acceptAll(k.server, 2)) })
	k.tasks.Go(func() { k.check(k.acceptAll(k.client, 1)) })
	for i := range talkStreams {
		from := k.client
		if i == 1 {
			from = k.server
		}
		s, err := from.OpenStream(context.Background(), tunnel.Request{Kind: tunnel.KindApp, Target: strconv.Itoa(i)})
		if err != nil {
			return k.abort(fmt.Errorf("open: %w", err))
		}
		k.start(s, i, from == k.client)
	}
	for part := range talkParts {
		close(k.next[part])
		for i := range talkStreams {
			for _, fromClient := range []bool{false, true} {
				if part >= parts(i, fromClient) {
					continue
				}
				select {
				case <-k.came:
				case err := <-k.failed:
					return k.abort(err)
				}
			}
		}
		k.between(part)
	}
	over := make(chan struct{})
	go func() { k.tasks.Wait(); close(over) }()
	select {
	case <-over:
		return nil
	case err := <-k.failed:
		return k.abort(err)
	}
}

// abort ends both tunnels, so that all who use them return.
func (k *talk) abort(err error) error {
	close(k.stop)
	k.client.CloseWith(tunnel.Cancelled, "")
	k.server.CloseWith(tunnel.Cancelled, "")
	k.tasks.Wait()
	return err
}

func (k *talk) check(err error) {
	if err != nil {
		select {
		case k.failed <- err:
		case <-k.stop:
		}
	}
}

func (k *talk) acceptAll(t *tunnel.Tunnel, n int) error {
	for range n {
		in, err := t.AcceptStream(context.Background())
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		i, err := strconv.Atoi(in.Request().Target)
		if err != nil {
			return err
		}
		s, err := in.Accept()
		if err != nil {
			return fmt.Errorf("accept stream %d: %w", i, err)
		}
		k.start(s, i, t == k.client)
	}
	return nil
}

// start sends and receives on one end of a stream.
func (k *talk) start(s *tunnel.Stream, stream int, client bool) {
	name := fmt.Sprintf("stream %d at the server", stream)
	if client {
		name = fmt.Sprintf("stream %d at the client", stream)
	}
	k.tasks.Go(func() {
		if err := k.send(s, stream, client); err != nil {
			k.check(fmt.Errorf("%s: write: %w", name, err))
		}
	})
	k.tasks.Go(func() {
		if err := k.receive(s, stream, !client); err != nil {
			k.check(fmt.Errorf("%s: read: %w", name, err))
		}
	})
}

func (k *talk) contents(stream int, fromClient bool) tunneltest.Cells {
	c := tunneltest.Cells{Seed: k.seed, Stream: uint32(2 * stream)}
	if fromClient {
		c.Stream++
	}
	return c
}

func (k *talk) send(s *tunnel.Stream, stream int, client bool) error {
	w := k.contents(stream, client).Writer(s, rand.New(rand.NewPCG(k.seed, uint64(stream))))
	for part := range parts(stream, client) {
		select {
		case <-k.next[part]:
		case <-k.stop:
			return nil
		}
		if err := w.Send(k.cells); err != nil {
			return err
		}
	}
	return s.CloseWrite()
}

func (k *talk) receive(s *tunnel.Stream, stream int, fromClient bool) error {
	checker := k.contents(stream, fromClient).Checker()
	n := parts(stream, fromClient)
	for range n {
		if _, err := io.CopyN(checker, s, int64(k.cells)*tunneltest.CellSize); err != nil {
			return err
		}
		select {
		case k.came <- struct{}{}:
		case <-k.stop:
			return nil
		}
	}
	if _, err := io.Copy(checker, s); err != nil {
		return err
	}
	return checker.Finish(uint64(n) * k.cells)
}

// pair is two ends of one tunnel.
type pair struct{ client, server *tunnel.Tunnel }

// dialUntilUp dials as a program would: again if that fails, or if the tunnel is lost before the other end
// has been heard. It returns both ends; tunnels of dials that the client gave up are left alone.
func dialUntilUp(t testing.TB, h *host, cfg *tunnel.Config) (p pair, dials int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		dials++
		client, err := tunnel.Dial(ctx, h.url, cfg)
		if err != nil {
			if ctx.Err() != nil {
				t.Fatalf("no tunnel after %d dials: %v", dials, err)
			}
			continue
		}
		if _, err := client.Ping(ctx); err != nil {
			if ctx.Err() != nil {
				t.Fatalf("a tunnel that never comes up, after %d dials: %v", dials, err)
			}
			client.Close()
			continue
		}
		p.client = client
		break
	}
	for {
		server, err := h.Accept(ctx)
		if err != nil {
			t.Fatalf("the server does not see the tunnel: %v", err)
		}
		if server.Binding() == p.client.Binding() {
			p.server = server
			return p, dials
		}
	}
}
