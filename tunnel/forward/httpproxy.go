package forward

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"waxwire.example/waxwire/tunnel"
)

// Of HTTP, CONNECT is served (RFC 9110 §9.3.6), and nothing else: requests for other methods would have
// to be read and changed on their way. It is read strictly: a program that asks for a tunnel has no
// reason to do so in an unusual way, and a web page that could make one ask has.

const connectMethod = "CONNECT "

type httpAnswer struct{}

func (httpAnswer) accepted() []byte { return []byte("HTTP/1.1 200 Connection established\r\n\r\n") }

func (httpAnswer) refused(code tunnel.Code, text string) []byte {
	why := code.String()
	if text != "" {
		why += ": " + visible(text)
	}
	return httpMessage(httpStatusOf(code), why)
}

// httpStatusOf maps the codes of PROTOCOL.md §8 onto statuses of a gateway.
func httpStatusOf(code tunnel.Code) int {
	switch code {
	case tunnel.NotAllowed, tunnel.PeerRemoved:
		return http.StatusForbidden
	case tunnel.Timeout:
		return http.StatusGatewayTimeout
	case tunnel.TooMany, tunnel.GoingAway, tunnel.SessionLost:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadGateway
}

// httpMessage is a whole answer that refuses.
func httpMessage(status int, why string) []byte {
	login := ""
	if status == http.StatusProxyAuthRequired {
		login = "Proxy-Authenticate: Basic realm=\"waxwire\"\r\n"
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n%sContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s\n", status, http.StatusText(status), login, len(why)+1, why)
}

// readConnect reads a request, whose first letter has been looked at.
func readConnect(in *bufio.Reader, out io.Writer, auth authorizer) (target Address, err error) {
	if b, err := in.Peek(len(connectMethod)); err != nil || string(b) != connectMethod {
		if err == nil || errors.Is(err, io.EOF) {
			err = errNotProxy
		}
		return target, err
	}
	fail := func(status int, problem errProxy) (Address, error) {
		out.Write(httpMessage(status, string(problem)))
		return Address{}, problem
	}
	line, err := readLine(in)
	if err != nil {
		return fail(lineStatus(err), "the request cannot be read")
	}
	words := strings.Split(line, " ")
	if len(words) != 3 || words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0" {
		return fail(http.StatusBadRequest, "not a request of HTTP/1.1")
	}
	asked := words[1]
	target, problem := parseTarget(asked)
	if problem == "" && target.Network != "tcp" {
		problem = "this is not HOST:PORT"
	}
	if problem != "" {
		return fail(http.StatusBadRequest, errProxy(problem))
	}
	hosts, login, status, why := 0, "", 0, errProxy("")
	note := func(s int, w errProxy) { // the first fault counts, when the whole head has been read
		if status == 0 {
			status, why = s, w
		}
	}
	for {
		if line, err = readLine(in); err != nil {
			return fail(lineStatus(err), "the head of the request cannot be read")
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			note(http.StatusBadRequest, "a line of the head is not NAME: VALUE")
			continue
		}
		value = strings.Trim(value, " \t")
		switch name = strings.ToLower(name); {
		case name == "host":
			if hosts++; !isHostOf(value, asked) {
				note(http.StatusBadRequest, "Host is for something else than the request")
			}
		case name == "origin", strings.HasPrefix(name, "sec-fetch-"):
			note(http.StatusForbidden, "web pages are not served here")
		case name == "transfer-encoding", name == "content-length" && value != "0":
			note(http.StatusBadRequest, "a request for a tunnel has no content")
		case name == "proxy-authorization":
			login = value
		}
	}
	if hosts > 1 || hosts == 0 && words[2] == "HTTP/1.1" {
		note(http.StatusBadRequest, "there has to be one Host")
	}
	if status == 0 && auth != nil && !basicLogin(login, auth) {
		note(http.StatusProxyAuthRequired, errProxyLogin)
	}
	if status != 0 {
		return fail(status, why)
	}
	return target, nil
}

// isHostOf says whether a Host is that of the target: identical, or, as some programs write it, without
// the port.
func isHostOf(host, target string) bool {
	if strings.EqualFold(host, target) {
		return true
	}
	name, _, err := net.SplitHostPort(target)
	return err == nil && (strings.EqualFold(host, name) || strings.EqualFold(host, "["+name+"]"))
}

var errLine = errors.New("not a line")

// readLine reads a line of the head, which has to end in CR LF and have no control characters.
func readLine(in *bufio.Reader) (string, error) {
	b, err := in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	line, ok := strings.CutSuffix(string(b), "\r\n")
	if !ok || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return "", errLine
	}
	return line, nil
}

// lineStatus is the status for a head that cannot be read. Its end that does not come is the limit that
// has been reached, or nobody is there any more to read the answer.
func lineStatus(err error) int {
	if err == errLine {
		return http.StatusBadRequest
	}
	return http.StatusRequestHeaderFieldsTooLarge
}

func isToken(s string) bool {
	return s != "" && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") == ""
}

// basicLogin looks at a Proxy-Authorization. RFC 7617.
func basicLogin(value string, auth authorizer) bool {
	scheme, text, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimLeft(text, " "))
	if err != nil {
		return false
	}
	user, password, ok := strings.Cut(string(b), ":")
	return ok && auth(user, password)
}
