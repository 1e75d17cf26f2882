package tunnel_test

import (
	"bytes"
	"cmp"
	"crypto/aes"
	stdcipher "crypto/cipher"
	"crypto/mlkem"
	"crypto/sha256"
	"crypto/sha3"
	"encoding"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
)

// This file searches the memory of another process for what is left of secrets.

const (
	pieceSize  = 8 // what counts as found
	filterBits = 18
)

// A form is one way in which a secret may lie in memory: as it is, or as something that the secret can
// be computed from.
type form struct {
	secret int // index of the secret
	name   string
	size   int // in bytes
}

// A place is where in a form a piece is.
type place struct{ form, offset int }

// A search knows the pieces of some secrets, each in all its forms.
type search struct {
	forms  []form
	pieces map[uint64]place
	filter [1 << filterBits / 64]uint64 // by the low bits of a piece: passes one in a few hundred places
}

func newSearch() *search { return &search{pieces: make(map[uint64]place)} }

// add looks for b too. What is known already, or says nothing, is left out: both ends hold the same
// secrets, and zeros are everywhere.
func (s *search) add(f form, b []byte) {
	if len(b) < pieceSize {
		return
	}
	f.size = len(b)
	s.forms = append(s.forms, f)
	for at := 0; at < len(b); at += pieceSize {
		at = min(at, len(b)-pieceSize)
		piece := b[at : at+pieceSize]
		word := binary.NativeEndian.Uint64(piece)
		if _, known := s.pieces[word]; known || bytes.Count(piece, piece[:1]) > pieceSize/2 {
			continue
		}
		s.pieces[word] = place{len(s.forms) - 1, at}
		low := word % (1 << filterBits)
		s.filter[low/64] |= 1 << (low % 64)
	}
}

// addSecret looks for a secret in all its forms: the pads and states of HMAC, the byte order of SHA-256,
// the round keys and the GHASH table of AES-GCM, what ML-KEM expands its seed to.
func (s *search) addSecret(i int, sec secret, gcm bool) {
	b := sec.bytes
	s.add(form{secret: i, name: "itself"}, b)
	if sec.text {
		return
	}
	s.add(form{secret: i, name: "as words"}, swapped(b))
	for name, pad := range map[string]byte{"ipad": 0x36, "opad": 0x5c} {
		padded := bytes.Clone(b)
		for i := range padded {
			padded[i] ^= pad
		}
		s.add(form{secret: i, name: name}, padded)
		s.add(form{secret: i, name: name + " as words"}, swapped(padded))
	}
	switch {
	case sec.name == "ck", sec.name == "prk", sec.name == "ts": // keys of HMAC
		for name, pad := range map[string]byte{"inner state": 0x36, "outer state": 0x5c} {
			padded := make([]byte, sha256.BlockSize)
			copy(padded, b)
			for i := range padded {
				padded[i] ^= pad
			}
			h := sha256.New()
			h.Write(padded)
			state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
			if err != nil {
				panic(err)
			}
			s.add(form{secret: i, name: name}, state[4:36]) // behind the name of the format
			s.add(form{secret: i, name: name + " as words"}, swapped(state[4:36]))
		}
	case sec.name == "key" && gcm:
		block, err := aes.NewCipher(b)
		if err != nil {
			panic(err)
		}
		aead, err := stdcipher.NewGCM(block)
		if err != nil {
			panic(err)
		}
		arrays(reflect.ValueOf(aead).Elem(), "", func(name string, memory []byte) {
			s.add(form{secret: i, name: name}, memory)
		})
	case sec.name == "mlkem-seed":
		dk, err := mlkem.NewDecapsulationKey768(b)
		if err != nil {
			panic(err)
		}
		arrays(reflect.ValueOf(dk).Elem().FieldByName("key").Elem().FieldByName("s"), "s", func(name string, memory []byte) {
			s.add(form{secret: i, name: name}, memory)
		})
		// FIPS 203, algorithm 13: the noise is made from the second half of G(d ‖ k).
		sum := sha3.Sum512(append(bytes.Clone(b[:32]), 3))
		s.add(form{secret: i, name: "sigma"}, sum[32:])
	}
}

// swapped has the bytes of each 32-bit word turned round.
func swapped(b []byte) []byte {
	out := bytes.Clone(b)
	for i := 0; i+4 <= len(out); i += 4 {
		slices.Reverse(out[i : i+4])
	}
	return out
}

// arrays calls f with the memory of all arrays of numbers in v, as this machine lays it out.
func arrays(v reflect.Value, name string, f func(name string, memory []byte)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			arrays(v.Field(i), v.Type().Field(i).Name, f)
		}
	case reflect.Array:
		var memory []byte
		for i := range v.Len() {
			switch e := v.Index(i); e.Kind() {
			case reflect.Uint8:
				memory = append(memory, byte(e.Uint()))
			case reflect.Uint16:
				memory = binary.NativeEndian.AppendUint16(memory, uint16(e.Uint()))
			case reflect.Uint32:
				memory = binary.NativeEndian.AppendUint32(memory, uint32(e.Uint()))
			case reflect.Uint64:
				memory = binary.NativeEndian.AppendUint64(memory, e.Uint())
			default:
				arrays(e, name, f)
			}
		}
		if memory != nil {
			f(name, memory)
		}
	}
}

// A hit is a piece that was found; a trace of a secret is a run of them.
type hit struct {
	at uint64
	place
}

type remains struct {
	form
	at   uint64
	from int // in the form
	n    int // bytes

	signal bool // it lies in what the kernel wrote to a thread's signal stack
}

func (r remains) full() bool { return r.n >= r.size }

// process reads the memory of a process.
type process struct {
	pid     int
	mem     *os.File
	pagemap *os.File
	buf     []byte
	read    int // bytes, of all searches
}

func openProcess(pid int) (*process, error) {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		mem.Close()
		return nil, err
	}
	return &process{pid: pid, mem: mem, pagemap: pagemap, buf: make([]byte, 1<<20)}, nil
}

func (p *process) close() {
	p.mem.Close()
	p.pagemap.Close()
}

// find searches all memory that the process can write to.
func (p *process) find(s *search) ([]remains, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil {
		return nil, err
	}
	var hits []hit
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			return nil, fmt.Errorf("maps: %q: %w", line, err)
		}
		if !strings.HasPrefix(mode, "rw") {
			continue
		}
		if hits, err = p.findIn(s, hits, from, to); err != nil {
			return nil, err
		}
	}
	all := joined(s, hits)
	for i, r := range all {
		all[i].signal = p.inSignalFrame(r)
	}
	return all, nil
}

// fpMagics mark the registers that Linux saves before it calls a signal handler, each at an offset from
// their beginning. Their size follows the mark. See arch/*/include/uapi/asm/sigcontext.h.
var fpMagics = map[uint32]uint64{
	0x46505853: 464, // FP_XSTATE_MAGIC1: amd64, 386
	0x46508001: 0,   // FPSIMD_MAGIC: arm64
}

// inSignalFrame says whether remains lie where a signal has saved the registers of a thread: the general
// ones, in front, or the vector registers.
func (p *process) inSignalFrame(r remains) bool {
	const before, behind = 12 << 10, 2 << 10
	from := r.at - before
	b := make([]byte, before+behind)
	n, _ := p.mem.ReadAt(b, int64(from))
	for at := 0; at+16 <= n; at += 4 {
		offset, ok := fpMagics[binary.NativeEndian.Uint32(b[at:])]
		if !ok {
			continue
		}
		size := uint64(binary.NativeEndian.Uint32(b[at+4:]))
		registers := from + uint64(at) - offset
		if size >= 512 && size < before && r.at >= registers-1024 && r.at+uint64(r.n) <= registers+size {
			return true
		}
	}
	return false
}

// findIn searches the pages of a mapping that are there. Those that nobody has touched are read from
// nowhere, and there are many of them.
func (p *process) findIn(s *search, hits []hit, from, to uint64) ([]hit, error) {
	page := uint64(os.Getpagesize())
	entries := make([]byte, 8*(to-from)/page)
	if n, err := p.pagemap.ReadAt(entries, int64(8*from/page)); err != nil && err != io.EOF {
		return nil, fmt.Errorf("pagemap: %w", err)
	} else if n == 0 {
		return hits, nil // [vsyscall]
	}
	const present = 1<<63 | 1<<62 // in memory, or swapped out
	there := func(at uint64) bool {
		return at < to && binary.NativeEndian.Uint64(entries[8*(at-from)/page:])&present != 0
	}
	for at := from; at < to; {
		if !there(at) {
			at += page
			continue
		}
		end := at
		for there(end) && end-at < uint64(len(p.buf)) {
			end += page
		}
		n, err := p.mem.ReadAt(p.buf[:end-at], int64(at))
		if n == 0 && err != nil {
			return hits, nil // [vvar] and its like
		}
		p.read += n
		hits = s.in(p.buf[:n], at, hits)
		if at = end; there(end) {
			at -= page // a piece may cross the border; joined drops what is found twice
		}
	}
	return hits, nil
}

func (s *search) in(b []byte, at uint64, hits []hit) []hit {
	for i := 0; i+pieceSize <= len(b); i++ {
		word := binary.NativeEndian.Uint64(b[i:])
		low := word % (1 << filterBits)
		if s.filter[low/64]&(1<<(low%64)) == 0 {
			continue
		}
		if p, ok := s.pieces[word]; ok {
			hits = append(hits, hit{at + uint64(i), p})
		}
	}
	return hits
}

// joined makes runs of pieces that lie in memory as they do in their form.
func joined(s *search, hits []hit) []remains {
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Compare(a.at, b.at) })
	hits = slices.Compact(hits)
	var all []remains
	open := make(map[[2]uint64]int) // form and where it would begin → index in all
	for _, h := range hits {
		key := [2]uint64{uint64(h.form), h.at - uint64(h.offset)}
		if i, ok := open[key]; ok && int(h.at-all[i].at) <= all[i].n {
			all[i].n = int(h.at-all[i].at) + pieceSize
			continue
		}
		open[key] = len(all)
		all = append(all, remains{form: s.forms[h.form], at: h.at, from: h.offset, n: pieceSize})
	}
	return all
}
