package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit statuses. Scripts rely on them.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitConfig      = 3
	exitUnreachable = 4
	exitIdentity    = 5
	exitNotAllowed  = 6
	exitAbsent      = 7
	exitSignal      = 128 // and the number of the signal
)

// A code names a kind of failure for programs. The list is stable: codes are added, never changed.
type code string

const (
	codeFailure        code = "failure"
	codeUsage          code = "usage"
	codeUnknownCommand code = "unknown_command"
	codeUnknownFlag    code = "unknown_flag"
	codeForwardSpec    code = "forward_spec"

	codeKeyFileMode     code = "key_file_mode"
	codeKeyFile         code = "key_file"
	codeNoIdentity      code = "no_identity"
	codePassphrase      code = "passphrase"
	codePassphraseWrong code = "passphrase_wrong"
	codePeerFile        code = "peer_file"
	codeTLSFiles        code = "tls_files"
	codeServerFile      code = "server_file"
	codeInviteFile      code = "invite_file"
	codeACME            code = "acme"

	codeUnreachable code = "unreachable"
	codeNoSuchHost  code = "no_such_host"
	codeTimeout     code = "timeout"
	codeNotOurs     code = "not_a_waxwire_server"
	codeUpgrade     code = "upgrade_not_passed"
	codeNoTLS       code = "server_without_tls"
	codeTLS         code = "server_wants_tls"
	codeCertificate code = "tls_certificate"
	codeBusy        code = "server_busy"
	codeClientCert  code = "tls_client_certificate"

	codeProxySetting     code = "proxy_setting"
	codeProxyUnreachable code = "proxy_unreachable"
	codeProxyLogin       code = "proxy_login"
	codeProxyRefused     code = "proxy_refused"

	codeServerKey    code = "server_key_changed"
	codeNotEnrolled  code = "not_enrolled"
	codeRefused      code = "refused"
	codeInvite       code = "invite_damaged"
	codeInviteUsed   code = "invite_used"
	codeInviteOver   code = "invite_expired"
	codeInviteLost   code = "invite_refused"
	codeNobodyJoined code = "nobody_joined"
	codeNotAllowed   code = "not_allowed"
	codeTarget       code = "target_unreachable"
	codeTunnelLost   code = "tunnel_lost"
	codePortInUse    code = "port_in_use"
	codeCannotListen code = "cannot_listen"
	codeRemoteListen code = "server_cannot_listen"
	codeTakenOver    code = "taken_over"

	codeExists       code = "exists"
	codeNoSuchPeer   code = "no_such_peer"
	codeNoSuchServer code = "no_such_server"
	codeNoSuchRule   code = "no_such_permission"
	codeDemo         code = "demo_failed"
	codeBench        code = "bench_failed"
	codeRunning      code = "already_running"
	codeNotRunning   code = "not_running"
)

// The catalogue: what a kind of failure means to a script. retry says whether the same command may
// succeed later without anybody changing anything; a client that has been connected goes on trying.
var catalogue = map[code]struct {
	exit  int
	retry bool
}{
	codeFailure:        {exitFailure, false},
	codeUsage:          {exitUsage, false},
	codeUnknownCommand: {exitUsage, false},
	codeUnknownFlag:    {exitUsage, false},
	codeForwardSpec:    {exitUsage, false},

	codeKeyFileMode:     {exitConfig, false},
	codeKeyFile:         {exitConfig, false},
	codeNoIdentity:      {exitConfig, false},
	codePassphrase:      {exitConfig, false},
	codePassphraseWrong: {exitConfig, false},
	codePeerFile:        {exitConfig, false},
	codeTLSFiles:        {exitConfig, false},
	codeServerFile:      {exitConfig, false},
	codeInviteFile:      {exitConfig, false},
	codeACME:            {exitFailure, true},

	codeUnreachable: {exitUnreachable, true},
	codeNoSuchHost:  {exitUnreachable, true},
	codeTimeout:     {exitUnreachable, true},
	codeNotOurs:     {exitUnreachable, false},
	codeUpgrade:     {exitUnreachable, true},
	codeNoTLS:       {exitUnreachable, false},
	codeTLS:         {exitUnreachable, false},
	codeCertificate: {exitUnreachable, false},
	codeBusy:        {exitUnreachable, true},
	codeClientCert:  {exitUnreachable, false},

	codeProxySetting:     {exitUsage, false},
	codeProxyUnreachable: {exitUnreachable, true},
	codeProxyLogin:       {exitUnreachable, false},
	codeProxyRefused:     {exitUnreachable, true},

	codeServerKey:    {exitIdentity, false},
	codeNotEnrolled:  {exitIdentity, false},
	codeRefused:      {exitIdentity, false},
	codeInvite:       {exitIdentity, false},
	codeInviteUsed:   {exitIdentity, false},
	codeInviteOver:   {exitIdentity, false},
	codeInviteLost:   {exitIdentity, false},
	codeNobodyJoined: {exitAbsent, false},

	codeNotAllowed:   {exitNotAllowed, false},
	codeTarget:       {exitFailure, true},
	codeTunnelLost:   {exitFailure, true},
	codePortInUse:    {exitFailure, false},
	codeCannotListen: {exitFailure, false},
	codeRemoteListen: {exitNotAllowed, false},
	codeTakenOver:    {exitFailure, false},

	codeExists:       {exitFailure, false},
	codeNoSuchPeer:   {exitFailure, false},
	codeNoSuchServer: {exitUsage, false},
	codeNoSuchRule:   {exitFailure, false},
	codeDemo:         {exitFailure, false},
	codeBench:        {exitFailure, true},
	codeRunning:      {exitFailure, false},
	codeNotRunning:   {exitFailure, false},
}

// A failure is an error as its user meets it: "waxwire: WHAT: WHY" and at most four lines that say
// what to do. Neither may hold text of the other end that was not made visible.
type failure struct {
	code  code
	text  string
	hints []string
	cause error // the library's own words, shown with -v
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

func fail(c code, cause error, text string, hints ...string) *failure {
	return &failure{code: c, cause: cause, text: text, hints: hints}
}

func usagef(format string, args ...any) *failure {
	return fail(codeUsage, nil, fmt.Sprintf(format, args...))
}

// A silentExit ends the program with a status and nothing said.
type silentExit int

func (e silentExit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// asFailure is err as a failure; one that is not in the catalogue yet stands in its own words.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{code: codeFailure, text: visible(err.Error()), cause: err}
}

// report says what went wrong and returns the exit status.
func report(w io.Writer, err error, asJSON, verbose bool) int {
	var silent silentExit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &silent):
		return int(silent)
	}
	f := asFailure(err)
	entry := catalogue[f.code]
	if asJSON {
		type body struct {
			Code      code   `json:"code"`
			Exit      int    `json:"exit"`
			Retryable bool   `json:"retryable"`
			Message   string `json:"message"`
			Hint      string `json:"hint,omitempty"`
			Cause     string `json:"cause,omitempty"`
		}
		b := body{Code: f.code, Exit: entry.exit, Retryable: entry.retry, Message: f.text, Hint: strings.Join(f.hints, "\n")}
		if verbose && f.cause != nil {
			b.Cause = f.cause.Error()
		}
		line, _ := json.Marshal(struct {
			Schema int  `json:"schema"`
			Error  body `json:"error"`
		}{1, b})
		fmt.Fprintf(w, "%s\n", line)
		return entry.exit
	}
	fmt.Fprintf(w, "waxwire: %s\n", f.text)
	for _, h := range f.hints {
		fmt.Fprintf(w, "  %s\n", h)
	}
	if verbose && f.cause != nil && f.cause.Error() != f.text {
		fmt.Fprintf(w, "  (%s)\n", visible(f.cause.Error()))
	}
	return entry.exit
}
