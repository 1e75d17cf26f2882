package forward

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strconv"

	"waxwire.example/waxwire/tunnel"
)

// SOCKS5 is RFC 1928, its user names and passwords RFC 1929. Of the commands, CONNECT is served.

const (
	socksVersion = 5

	socksNoAuth       = 0
	socksUserPassword = 2
	socksNoMethod     = 0xff

	socksUserVersion = 1 // of RFC 1929

	socksConnect = 1

	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4
)

// A socksReply is the REP field of a reply.
type socksReply byte

const (
	socksSucceeded        socksReply = 0
	socksFailed           socksReply = 1
	socksNotAllowed       socksReply = 2
	socksNoNetwork        socksReply = 3
	socksNoHost           socksReply = 4
	socksRefused          socksReply = 5
	socksNoSuchCommand    socksReply = 7
	socksNoSuchAddressTyp socksReply = 8
)

// message is a whole reply. Where a connection comes from at the other end is nobody's business here:
// BND.ADDR and BND.PORT are zero.
func (r socksReply) message() []byte {
	return []byte{socksVersion, byte(r), 0, socksIPv4, 0, 0, 0, 0, 0, 0}
}

type socksAnswer struct{}

func (socksAnswer) accepted() []byte { return socksSucceeded.message() }

func (socksAnswer) refused(code tunnel.Code, _ string) []byte { return socksReplyOf(code).message() }

// socksReplyOf maps the codes of PROTOCOL.md §8 onto those of RFC 1928. There, 6 is "TTL expired", which
// programs take for something else than a timeout.
func socksReplyOf(code tunnel.Code) socksReply {
	switch code {
	case tunnel.OK:
		return socksSucceeded
	case tunnel.NotAllowed, tunnel.PeerRemoved:
		return socksNotAllowed
	case tunnel.Unreachable:
		return socksNoNetwork
	case tunnel.NoSuchTarget, tunnel.Timeout:
		return socksNoHost
	case tunnel.RefusedByTarget:
		return socksRefused
	}
	return socksFailed
}

// readSOCKS reads all that a program says before the reply.
func readSOCKS(in *bufio.Reader, out io.Writer, auth authorizer) (target Address, err error) {
	if err := readSOCKSMethods(in, out, auth); err != nil {
		return target, err
	}
	var head [4]byte // VER CMD RSV ATYP
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return target, err
	}
	fail := func(r socksReply, problem errProxy) (Address, error) {
		out.Write(r.message())
		return Address{}, problem
	}
	if head[0] != socksVersion || head[2] != 0 {
		return fail(socksFailed, "not a SOCKS5 request")
	}
	host := ""
	switch head[3] {
	case socksIPv4, socksIPv6:
		b := make([]byte, map[byte]int{socksIPv4: 4, socksIPv6: 16}[head[3]])
		if _, err := io.ReadFull(in, b); err != nil {
			return target, err
		}
		a, _ := netip.AddrFromSlice(b)
		host = a.String()
	case socksName:
		b, err := readCounted(in)
		if err != nil {
			return target, err
		}
		host = string(b)
	default:
		return fail(socksNoSuchAddressTyp, "an unknown type of address")
	}
	var port [2]byte
	if _, err := io.ReadFull(in, port[:]); err != nil {
		return target, err
	}
	if head[1] != socksConnect { // the request has been read in whole: the reply is not overtaken by a reset
		return fail(socksNoSuchCommand, "of SOCKS's commands only CONNECT is served")
	}
	host, problem := checkHost(host)
	if problem != "" {
		return fail(socksNoHost, errProxy(problem))
	}
	n, problem := parsePort(strconv.Itoa(int(port[0])<<8|int(port[1])), 1)
	if problem != "" {
		return fail(socksFailed, errProxy(problem))
	}
	return Address{"tcp", net.JoinHostPort(host, n)}, nil
}

// readSOCKSMethods agrees on how the program says who it is.
func readSOCKSMethods(in *bufio.Reader, out io.Writer, auth authorizer) error {
	if _, err := in.Discard(1); err != nil { // the version has been looked at
		return err
	}
	offered, err := readCounted(in)
	if err != nil {
		return err
	}
	want := byte(socksNoAuth)
	if auth != nil {
		want = socksUserPassword
	}
	found := false
	for _, m := range offered {
		found = found || m == want
	}
	if !found {
		out.Write([]byte{socksVersion, socksNoMethod})
		return errProxy("it offers no way to say who it is that is taken here")
	}
	if _, err := out.Write([]byte{socksVersion, want}); err != nil || auth == nil {
		return err
	}
	version, err := in.ReadByte()
	if err != nil {
		return err
	}
	user, err := readCounted(in)
	if err != nil {
		return err
	}
	password, err := readCounted(in)
	if err != nil {
		return err
	}
	if version != socksUserVersion || !auth(string(user), string(password)) {
		out.Write([]byte{socksUserVersion, 1})
		return errProxyLogin
	}
	_, err = out.Write([]byte{socksUserVersion, 0})
	return err
}

const errProxyLogin = errProxy("the user name or password is wrong")

// readCounted reads a byte and as many bytes as it says.
func readCounted(in *bufio.Reader) ([]byte, error) {
	n, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(in, b)
	return b, err
}
