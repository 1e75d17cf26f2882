package tunnel

import (
	"errors"
	"io/fs"
	"time"

	"waxwire.example/waxwire/keys"
	"waxwire.example/waxwire/tunnel/internal/message"
	"waxwire.example/waxwire/tunnel/internal/secure"
)

// This file is how a server enrols who brings an invite. At the hello it is only looked at: that may be a
// replay. It is consumed when the client has proved its key. PROTOCOL.md §2.

// checkInvite says why an invite enrols nobody. The reason is 0 if it would.
func (s *Server) checkInvite(hash keys.InviteHash) refusal {
	if s.Invites == nil {
		return refusal{reason: secure.InviteExpired}
	}
	err := s.Invites.Check(hash)
	if err == nil {
		return refusal{}
	}
	state, ok := errors.AsType[*keys.InviteStateError](err)
	if !ok {
		s.log.Error("an invite cannot be read", "invite", hash.ID(), "err", err)
		return refusal{reason: secure.InviteExpired}
	}
	if state.Err == keys.ErrInviteUsed {
		return refusal{secure.InviteUsed, state.Time}
	}
	return refusal{secure.InviteExpired, state.Time}
}

// enrol makes a peer of a client that has proved its key. An error is what the client is told.
func (s *Server) enrol(hash keys.InviteHash, key keys.PublicKey) (keys.Peer, error) {
	_, err := s.Invites.Enrol(hash, key)
	if now, ok := s.Peers.Lookup(key); ok { // also if another connection of this key was faster
		if err == nil {
			s.log.Info("peer enrolled", "peer", now.Name, "key", key, "fingerprint", key.Fingerprint(), "invite", hash.ID())
		}
		return now, nil
	}
	if err == nil { // removed already
		return keys.Peer{}, &message.CloseError{Code: message.PeerRemoved}
	}
	no := &message.CloseError{Code: message.PeerRemoved}
	state, ok := errors.AsType[*keys.InviteStateError](err)
	switch {
	case ok && !state.Time.IsZero():
		no.Reason = state.Err.Error() + " at " + state.Time.UTC().Format(time.RFC3339)
	case ok:
		no.Reason = state.Err.Error()
	case errors.Is(err, fs.ErrExist):
		no.Reason = "there is another peer of the name that the invite has"
	default:
		no = &message.CloseError{Code: message.Internal, Reason: "the server cannot enrol anybody now"}
		s.log.Error("cannot enrol", "invite", hash.ID(), "key", key, "err", err)
		return keys.Peer{}, no
	}
	s.log.Warn("not enrolled", "reason", no.Reason, "invite", hash.ID(), "key", key, "fingerprint", key.Fingerprint())
	return keys.Peer{}, no
}
