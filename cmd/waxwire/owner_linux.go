package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ownerOf names the process that listens on a local address, "" if the system does not tell: the
// sockets are in /proc/net, whose they are is seen for one's own processes, or all by root.
func ownerOf(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return ""
	}
	want, _ := netip.ParseAddr(host)
	inode := ""
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if inode == "" {
			inode = listenerInode(table, want, n)
		}
	}
	if inode == "" {
		return ""
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
			pid := strings.Split(link, "/")[2]
			comm, err := os.ReadFile("/proc/" + pid + "/comm")
			if err != nil {
				continue
			}
			return fmt.Sprintf("%s (pid %s)", visible(strings.TrimSpace(string(comm))), pid)
		}
	}
	return ""
}

// listenerInode finds the listening socket that is in the way of want:port.
func listenerInode(table string, want netip.Addr, port int) string {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 10 || fields[3] != "0A" { // LISTEN
			continue
		}
		a, p, ok := strings.Cut(fields[1], ":")
		got, err := strconv.ParseInt(p, 16, 32)
		if !ok || err != nil || int(got) != port {
			continue
		}
		addr := hexAddr(a)
		if !want.IsValid() || want.IsUnspecified() || addr.IsUnspecified() || addr == want.Unmap() {
			return fields[9]
		}
	}
	return ""
}

// hexAddr reads an address as /proc/net writes it: words of four bytes, each in the host's order,
// which is little endian wherever this runs.
func hexAddr(s string) netip.Addr {
	b, err := hex.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}
