package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"

	"github.com/spf13/cobra"

	"waxwire.example/waxwire/keys"
)

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the running server read its files again",
		Long: `Have the server that runs here read the files of its peers, and its TLS files, again. It does so by itself
when they change, within a second or so: this says at once whether they are good. What is not stays as it
was, and nobody is disconnected. SIGHUP does the same, and leaves the answer to the log.`,
		Example: `  waxwire reload
  waxwire --home /srv/waxwire reload`,
		Args:                  needs(),
		DisableFlagsInUseLine: true,
		RunE:                  func(*cobra.Command, []string) error { return a.runReload() },
	}
}

// A reloadReply is what a server answers: what of its files is no good.
type reloadReply struct {
	Problems []reloadProblem `json:"problems"`
	Peers    int             `json:"peers"` // that may connect now
}

type reloadProblem struct {
	Code code   `json:"code"`
	Text string `json:"text"`
}

// reloads are requests to read all files again, each with where the answer goes.
type reloads chan chan<- reloadReply

// route is where "waxwire reload" asks.
func (c reloads) route() controlRoute {
	return controlRoute{"POST /reload", func(w http.ResponseWriter, r *http.Request) {
		reply := make(chan reloadReply, 1)
		select {
		case c <- reply:
		case <-r.Context().Done(): // it is stopping
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(<-reply)
	}}
}

// reload reads all files again, for whoever asked for it. Problems of peers that were told before are told
// again: only a second look at the folder knows them all.
func (a *app) reload(dir *keys.PeerDir, readTLS func() error) reloadReply {
	reply := reloadReply{Problems: []reloadProblem{}}
	if err := readTLS(); err != nil {
		a.log.Warn("the TLS files stay as they were", "err", err)
		reply.Problems = append(reply.Problems, reloadProblem{codeTLSFiles, "the TLS files stay as they were: " + visible(plain(err))})
	}
	for _, err := range dir.Refresh() {
		a.sayBrokenPeer(err)
	}
	all, err := a.openPeers()
	if err != nil {
		reply.Problems = append(reply.Problems, reloadProblem{codePeerFile, asFailure(err).text})
	} else {
		for _, err := range all.Refresh() {
			reply.Problems = append(reply.Problems, reloadProblem{codePeerFile, explainPeers(err, "").text})
		}
	}
	reply.Peers = len(dir.List())
	a.log.Info("files were read again", "peers", reply.Peers, "problems", len(reply.Problems))
	return reply
}

func (a *app) runReload() error {
	h, err := a.home()
	if err != nil {
		return err
	}
	var reply reloadReply
	var silent error
	done := false
	for _, dir := range h.run {
		path := filepath.Join(dir, controlServer)
		if checkControlDir(dir) != nil {
			continue
		}
		err := callControl(path, http.MethodPost, "/reload", &reply)
		if done = err == nil; done {
			break
		}
		if !isRefused(err) && !errors.Is(err, fs.ErrNotExist) {
			silent = err
		}
	}
	switch {
	case done:
	case silent != nil:
		return fail(codeNotRunning, silent, fmt.Sprintf("the server of %s does not answer: %s", shorten(h.data), visible(plainControl(silent))))
	default:
		return fail(codeNotRunning, nil, fmt.Sprintf("no server of %s is running", shorten(h.data)),
			"One that runs with another --home or WAXWIRE_HOME is reached with the same one, and by the same user.")
	}
	if len(reply.Problems) > 0 {
		first := reply.Problems[0]
		if _, ok := catalogue[first.Code]; !ok {
			first.Code = codeFailure
		}
		f := fail(first.Code, nil, visible(first.Text))
		for _, p := range reply.Problems[1:min(len(reply.Problems), 4)] {
			f.hints = append(f.hints, visible(p.Text))
		}
		if n := len(reply.Problems) - 4; n > 0 {
			f.hints[2] = fmt.Sprintf("and %s", count(n+1, "further problem"))
		}
		return f
	}
	if a.json {
		return a.ui.result(reply)
	}
	a.ui.okf("The server has read its files again: %s may connect.", count(reply.Peers, "peer"))
	return nil
}
