package cipher

import (
	"fmt"
	"slices"
	"strings"
)

// A Pattern is the name of a handshake pattern with its modifiers, such as "IKhfs+psk2": it says
// who sends which key when. Noise rev. 34, §7 to §9; Noise hfs rev. 1.
//
// There are IK, XX and NN, each alone or with hfs, which adds ML-KEM-768 to the Diffie-Hellman of
// the ephemeral keys, and with pre-shared keys at psk0 (before the first message's keys) up to the
// number of its messages (at the end of that message). PROTOCOL.md §1 speaks the two constants
// alone; the others are here so that published vectors and other implementations can check us.
type Pattern string

const (
	IKhfs     Pattern = "IKhfs"      // the client knows the server's key, one round trip
	IKhfsPSK2 Pattern = "IKhfs+psk2" // the same with a pre-shared key
)

// ParsePattern returns the pattern of that name, or an error for a name that is not exactly one of
// a pattern that this package speaks.
func ParsePattern(name string) (Pattern, error) {
	if _, err := compile(Pattern(name)); err != nil {
		return "", err
	}
	return Pattern(name), nil
}

// String is the pattern's name.
func (p Pattern) String() string { return string(p) }

// A token is one step of a handshake message.
type token uint8

const (
	tokenE     token = iota + 1 // an ephemeral key is sent
	tokenS                      // a static key is sent
	tokenEE                     // Diffie-Hellman of the two ephemeral keys
	tokenES                     // of the initiator's ephemeral and the responder's static key
	tokenSE                     // of the initiator's static and the responder's ephemeral key
	tokenSS                     // of the two static keys
	tokenPSK                    // the pre-shared key is mixed in
	tokenE1                     // an ML-KEM key is sent (hfs)
	tokenEKEM1                  // an ML-KEM ciphertext is sent, its secret is mixed in (hfs)
)

func (t token) isDH() bool { return t >= tokenEE && t <= tokenSS }

// A script is a pattern as steps. The initiator writes messages 0, 2, ...
type script struct {
	responderKnown bool // pre-message "<- s": the initiator has the responder's static key
	messages       [][]token
	hfs, psk       bool
}

// The patterns without modifiers. Noise rev. 34, §7.5.
var basePatterns = map[string]script{
	"NN": {messages: [][]token{
		{tokenE},
		{tokenE, tokenEE},
	}},
	"XX": {messages: [][]token{
		{tokenE},
		{tokenE, tokenEE, tokenS, tokenES},
		{tokenS, tokenSE},
	}},
	"IK": {responderKnown: true, messages: [][]token{
		{tokenE, tokenES, tokenS, tokenSS},
		{tokenE, tokenEE, tokenSE},
	}},
}

// compile turns a name into steps. Modifiers stand in one order, hfs before psk0 before psk1, so
// that a pattern has one name.
func compile(p Pattern) (script, error) {
	bad := func() (script, error) {
		return script{}, fmt.Errorf("no handshake pattern %.32q", string(p))
	}
	if len(p) < 2 {
		return bad()
	}
	base, ok := basePatterns[string(p[:2])]
	if !ok {
		return bad()
	}
	sc := script{responderKnown: base.responderKnown}
	for _, m := range base.messages {
		sc.messages = append(sc.messages, slices.Clone(m))
	}
	if len(p) == 2 {
		return sc, nil
	}
	last := ""
	for modifier := range strings.SplitSeq(string(p[2:]), "+") {
		if modifier <= last { // also refuses what is empty or there twice
			return bad()
		}
		last = modifier
		switch modifier {
		case "hfs":
			sc.addHFS()
		case "psk0", "psk1", "psk2", "psk3":
			if !sc.addPSK(int(modifier[3] - '0')) {
				return bad()
			}
		default:
			return bad()
		}
	}
	return sc, nil
}

// addHFS puts e1 after the first e or, if a Diffie-Hellman follows it at once, after that, where
// it is sealed already; and ekem1 after the first ee. Noise hfs rev. 1, §3.
func (sc *script) addHFS() {
	sc.hfs = true
	first := sc.messages[0]
	at := slices.Index(first, tokenE) + 1
	if at < len(first) && first[at].isDH() {
		at++
	}
	sc.messages[0] = slices.Insert(first, at, tokenE1)
	for i, m := range sc.messages {
		if at := slices.Index(m, tokenEE); at >= 0 {
			sc.messages[i] = slices.Insert(m, at+1, tokenEKEM1)
			return
		}
	}
}

// addPSK puts psk at the start of the first message (0) or at the end of message n. It reports
// false if there is no such message. Noise rev. 34, §9.4.
func (sc *script) addPSK(n int) bool {
	if n > len(sc.messages) {
		return false
	}
	sc.psk = true
	if n == 0 {
		sc.messages[0] = slices.Insert(sc.messages[0], 0, tokenPSK)
	} else {
		sc.messages[n-1] = append(sc.messages[n-1], tokenPSK)
	}
	return true
}

// needsStatic reports whether that role has a static key of its own in this pattern.
func (sc *script) needsStatic(initiator bool) bool {
	if !initiator && sc.responderKnown {
		return true
	}
	for i, m := range sc.messages {
		if (i%2 == 0) == initiator && slices.Contains(m, tokenS) {
			return true
		}
	}
	return false
}
