package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"waxwire.example/waxwire/tunnel"
	"waxwire.example/waxwire/tunnel/forward"
)

// forwardSpecs are the forwards of a client as they were written.
type forwardSpecs struct{ local, remote, dynamic []string }

// forwards are those of a client. Dynamic ones are among the local ones.
type forwards struct {
	locals  []forward.Local
	remotes []forward.Remote
}

func (s forwardSpecs) parse() (f forwards, err error) {
	if len(s.local)+len(s.remote)+len(s.dynamic) == 0 {
		return f, fail(codeUsage, nil, "there is nothing to forward", "Name something with -L "+forward.LocalForm,
			"                or -R "+forward.RemoteForm, "                or -D "+forward.DynamicForm)
	}
	if f.locals, err = parseSpecs(s.local, forward.ParseLocal, forward.LocalForm); err != nil {
		return f, err
	}
	if f.remotes, err = parseSpecs(s.remote, forward.ParseRemote, forward.RemoteForm); err != nil {
		return f, err
	}
	seen := make(map[forward.Address]bool)
	for _, r := range f.remotes {
		if seen[r.Listen] && !anyPort(r.Listen) {
			return f, fail(codeForwardSpec, nil, fmt.Sprintf("-R %s: it would listen on %s twice", visible(r.String()), visible(r.Listen.String())))
		}
		seen[r.Listen] = true
	}
	dynamic, err := parseSpecs(s.dynamic, forward.ParseDynamic, forward.DynamicForm)
	f.locals = append(f.locals, dynamic...)
	return f, err
}

func parseSpecs[T any](specs []string, parse func(string) (T, error), form string) (list []T, err error) {
	for _, spec := range specs {
		f, err := parse(spec)
		if err != nil {
			return nil, fail(codeForwardSpec, err, visible(err.Error()), "Form: "+form)
		}
		list = append(list, f)
	}
	return list, nil
}

// anyPort says whether the system chooses the port.
func anyPort(a forward.Address) bool {
	return a.Network == "tcp" && strings.HasSuffix(a.Addr, ":0")
}

// stats are those of all forwards together.
func (c *client) stats() forward.Stats {
	s, r := c.forwards.Stats(), c.reverser.Stats()
	return forward.Stats{
		Waiting: s.Waiting + r.Waiting, Open: s.Open + r.Open, Total: s.Total + r.Total, Refused: s.Refused + r.Refused,
		In: s.In + r.In, Out: s.Out + r.Out,
	}
}

// listen opens all local ends or none.
func (c *client) listen(locals []forward.Local) ([]*forward.Listener, error) {
	var listeners []*forward.Listener
	for _, l := range locals {
		ln, err := c.forwards.Listen(l)
		if err != nil {
			for _, open := range listeners {
				open.Close()
			}
			return nil, explainListen(err, l.Listen.Addr, otherPort(l))
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

// otherPort is the same forward on a port that is probably free.
func otherPort(l forward.Local) string {
	host, port, err := net.SplitHostPort(l.Listen.Addr)
	if l.Listen.Network != "tcp" || err != nil {
		return ""
	}
	n := 0
	fmt.Sscan(port, &n)
	if n += 10000; n > 65535 {
		n = 0
	}
	other := forward.Local{Listen: forward.Address{Network: "tcp", Addr: net.JoinHostPort(host, fmt.Sprint(n))}, Target: l.Target}
	flag := "-L "
	if l.Dynamic() {
		flag = "-D "
	}
	return flag + strings.TrimPrefix(other.String(), "127.0.0.1:")
}

// reverse asks the server for all reverse forwards and keeps them up until ctx ends. If one of them cannot
// be had at first, that is the end.
func (c *client) reverse(ctx context.Context, keeping *sync.WaitGroup, ends <-chan os.Signal, tun *tunnel.Tunnel, remotes []forward.Remote) error {
	first := make(chan error, len(remotes))
	for _, m := range remotes {
		v := c.reverser.Forward(m)
		c.reverses = append(c.reverses, v)
		keeping.Go(func() { c.keepReverse(ctx, v, tun, first) })
	}
	for range remotes {
		select {
		case err := <-first:
			if err != nil {
				return err
			}
		case s := <-ends:
			return silentExit(signalStatus(s))
		}
	}
	return nil
}

// keepReverse holds one reverse forward in one tunnel after another. What becomes of it at first goes to
// first, and if that is an error, it ends.
func (c *client) keepReverse(ctx context.Context, v *forward.Reverse, tun *tunnel.Tunnel, first chan<- error) {
	var told string // where it listens, as far as anybody was told; "" if nobody was
	tries := 0
	for {
		err := v.Hold(ctx, tun, func() {
			tries = 0
			switch addr := v.Remote().Listen.String(); told {
			case "":
				told = addr
				first <- nil
			default:
				c.sayReverseAgain(v.Remote(), addr != told)
				told = addr
			}
		})
		var se *tunnel.StreamError
		switch {
		case told == "" && ctx.Err() == nil:
			first <- explainReverse(err, c.server, v.Remote())
			return
		case ctx.Err() != nil:
			return
		case err == forward.ErrTakenOver:
			c.sayReverseLost(v.Remote(), fail(codeTakenOver, err,
				fmt.Sprintf("%s: another client with this identity listens there now", c.server.name()),
				"It is not asked for again, or they would take it from each other."))
			return
		case errors.As(err, &se) && se.Remote && se.Code != tunnel.GoingAway && se.Code != tunnel.SessionLost:
			c.sayReverseLost(v.Remote(), explainReverse(err, c.server, v.Remote()))
		}
		last := tun
		if tun, err = c.keeper.Tunnel(ctx); err != nil {
			return
		}
		if tun != last {
			continue
		}
		tries++
		select {
		case <-time.After(tunnel.Backoff(tries)):
		case <-ctx.Done():
			return
		}
	}
}

// sayForwarding says that a local or dynamic forward is there.
func (c *client) sayForwarding(f forward.Local) {
	if f.Dynamic() {
		c.ui.event("forwarding", map[string]any{"type": typeDynamic, "listen": f.Listen.Addr})
		if c.screen() {
			c.ui.sayf("  %s %s %s   SOCKS5 and HTTP proxy", f.Listen, c.ui.arrow(), c.server.name())
			if open, ok := openToOthers(f.Listen); ok {
				c.ui.warnf("%s: whoever reaches this port can use it, and may do there what this device may.", open)
			}
		} else {
			c.log.Info("forwarding", "listen", f.Listen.Addr, "proxy", "SOCKS5 and HTTP")
		}
		return
	}
	c.ui.event("forwarding", map[string]any{"type": typeLocal, "listen": f.Listen.Addr, "target": f.Target.Addr})
	if c.screen() {
		c.ui.sayf("  %s %s %s %s %s", f.Listen, c.ui.arrow(), c.server.name(), c.ui.arrow(), f.Target)
	} else {
		c.log.Info("forwarding", "listen", f.Listen.Addr, "target", f.Target.Addr)
	}
}

// openToOthers says whether other hosts may reach an address.
func openToOthers(a forward.Address) (string, bool) {
	host, _, err := net.SplitHostPort(a.Addr)
	if a.Network != "tcp" || err != nil {
		return "", false
	}
	ip, err := netip.ParseAddr(host)
	return a.String(), err != nil || !ip.IsLoopback()
}

// sayReversing says that a reverse forward is there.
func (c *client) sayReversing(m forward.Remote) {
	event := map[string]any{"type": typeRemote, "listen": m.Listen.Addr}
	if m.Dynamic() {
		c.ui.event("forwarding", event)
		if c.screen() {
			c.ui.sayf("  %s %s %s here   SOCKS5 and HTTP proxy", c.server.name(), m.Listen, c.ui.arrow())
			c.ui.warnf("%s %s: whoever reaches this port there can reach what this host reaches.", c.server.name(), m.Listen)
		} else {
			c.log.Info("forwarding", "remote", m.Listen.Addr, "proxy", "SOCKS5 and HTTP")
		}
		return
	}
	event["target"] = m.Target.Addr
	c.ui.event("forwarding", event)
	if c.screen() {
		c.ui.sayf("  %s %s %s here %s %s", c.server.name(), m.Listen, c.ui.arrow(), c.ui.arrow(), m.Target)
	} else {
		c.log.Info("forwarding", "remote", m.Listen.Addr, "target", m.Target.Addr)
	}
}

// sayReverseAgain says that the server listens again after a session was lost. A person is told if it is
// on another port.
func (c *client) sayReverseAgain(m forward.Remote, moved bool) {
	if moved || !c.screen() {
		c.sayReversing(m)
	}
}

// sayReverseLost says that the server does not listen, or not any more.
func (c *client) sayReverseLost(m forward.Remote, f *failure) {
	c.ui.event("not_listening", map[string]any{"listen": m.Listen.Addr, "target": m.Target.Addr, "code": string(f.code), "reason": f.text})
	if !c.quietly.first(m.String() + f.text) {
		return
	}
	if !c.screen() {
		c.log.Warn("not listening", "remote", m.Listen.Addr, "target", m.Target.Addr, "code", string(f.code), "reason", f.text, "hint", strings.Join(f.hints, " "))
		return
	}
	c.ui.warnf("%s", f.text)
	for _, h := range f.hints {
		c.ui.warnIndented(h)
	}
}

// sayReverse tells what became of a connection that came to the server, as sayEvent does of others.
func (c *client) sayReverse(e forward.Event) {
	listen, target := e.Local.Listen, e.Local.Target
	switch e.Kind {
	case forward.Opened:
		c.log.Debug("connection opened", "remote", listen.Addr)
		return
	case forward.Refused:
	default:
		c.log.Debug("connection closed", "remote", listen.Addr, "in", e.In, "out", e.Out, "err", e.Err)
		return
	}
	why := "cannot be reached"
	var se *tunnel.StreamError
	if errors.As(e.Err, &se) {
		why = strings.TrimPrefix(se.Text, target.Addr+": ")
	}
	text := visible(fmt.Sprintf("cannot reach %s: %s", target, why))
	c.ui.event("refused", map[string]any{"type": typeRemote, "listen": listen.Addr, "target": target.Addr, "code": string(codeTarget), "reason": text})
	if !c.quietly.first(listen.Addr + text) {
		return
	}
	if c.screen() {
		c.ui.warnf("%s %s: %s", c.server.name(), listen, text)
	} else {
		c.log.Warn("connection refused", "remote", listen.Addr, "target", target.Addr, "code", string(codeTarget), "reason", text)
	}
}

// recent remembers what was said a short while ago.
type recent struct {
	mu   sync.Mutex
	said map[string]time.Time
}

const sayAgain = 10 * time.Second

func (r *recent) first(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for t, at := range r.said {
		if now.Sub(at) >= sayAgain {
			delete(r.said, t)
		}
	}
	if _, ok := r.said[text]; ok {
		return false
	}
	if r.said == nil {
		r.said = make(map[string]time.Time)
	}
	r.said[text] = now
	return true
}
