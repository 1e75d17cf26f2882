package mux

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"waxwire.example/waxwire/tunnel/internal/message"
)

// The examples of RFC 9000, appendix A.1. The last is not the shortest form: it is read, not sent.
func TestVarintVectors(t *testing.T) {
	for _, tt := range []struct {
		name     string
		wire     string
		v        uint64
		shortest bool
	}{
		{"eight bytes", "c2197c5eff14e88c", 151288809941952652, true},
		{"four bytes", "9d7f3e7d", 494878333, true},
		{"two bytes", "7bbd", 15293, true},
		{"one byte", "25", 37, true},
		{"longer than needed", "4025", 37, false},
		{"largest", "ffffffffffffffff", maxVarint, true},
		{"zero in eight", "c000000000000000", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(tt.wire)
			if err != nil {
				t.Fatal(err)
			}
			if v, n := parseVarint(b); v != tt.v || n != len(b) {
				t.Errorf("parseVarint: got %d of %d bytes, want %d of %d", v, n, tt.v, len(b))
			}
			if _, n := parseVarint(b[:len(b)-1]); n != 0 {
				t.Errorf("parseVarint took %d bytes of a cut one", n)
			}
			got := appendVarint(nil, tt.v)
			if tt.shortest && !bytes.Equal(got, b) {
				t.Errorf("appendVarint: got %x, want %x", got, b)
			}
			if len(got) != varintLen(tt.v) || len(got) > len(b) {
				t.Errorf("appendVarint: %d bytes, varintLen %d, vector %d", len(got), varintLen(tt.v), len(b))
			}
		})
	}
}

func TestVarintBoundaries(t *testing.T) {
	for _, v := range []uint64{0, 1<<6 - 1, 1 << 6, 1<<14 - 1, 1 << 14, 1<<30 - 1, 1 << 30, maxVarint} {
		if got, n := parseVarint(appendVarint(nil, v)); got != v || n != varintLen(v) {
			t.Errorf("%d: got %d in %d bytes, want %d bytes", v, got, n, varintLen(v))
		}
	}
}

// reappend writes a parsed frame again.
func reappend(b []byte, f frame) []byte {
	switch f.typ {
	case typeOpen:
		return appendOpen(b, f.id, f.kind, f.n, f.body)
	case typeOpened:
		return appendOpened(b, f.id, f.n)
	case typeRefused:
		return appendRefused(b, f.id, f.code, string(f.body))
	case typeData:
		return appendData(b, f.id, f.body)
	case typeFin:
		return appendFin(b, f.id)
	case typeReset:
		return appendReset(b, f.id, f.code)
	case typeStop:
		return appendStop(b, f.id, f.code)
	}
	return appendCredit(b, f.id, f.n)
}

func everyFrame() []frame {
	long := bytes.Repeat([]byte("x"), MaxRequest)
	return []frame{
		{typ: typeOpen, id: 1, kind: 1, n: 256 << 10, body: []byte("localhost:80")},
		{typ: typeOpen, id: maxVarint, kind: maxVarint, n: maxVarint, body: long},
		{typ: typeOpened, id: 1, n: 1 << 20},
		{typ: typeRefused, id: 3, code: message.NoSuchTarget, body: []byte("no such host")},
		{typ: typeRefused, id: 3, code: 1<<16 - 1, body: long[:MaxText]},
		{typ: typeData, id: 70000, body: []byte("payload")},
		{typ: typeData, id: 1, body: []byte{}},
		{typ: typeFin, id: 64},
		{typ: typeReset, id: 5, code: message.Cancelled},
		{typ: typeStop, id: 5, code: message.OK},
		{typ: typeCredit, id: 5, n: 65536},
	}
}

func TestFrameParsesAsAppended(t *testing.T) {
	for _, f := range everyFrame() {
		wire := reappend(nil, f)
		f.parsed = len(wire)
		got, err := parseFrame(append(wire, "what follows"...))
		if err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		if len(got.body) == 0 && len(f.body) == 0 {
			got.body, f.body = nil, nil
		}
		if !reflect.DeepEqual(got, f) {
			t.Errorf("got %+v, want %+v", got, f)
		}
		for i := range wire {
			if _, err := parseFrame(wire[:i]); err != errCutFrame {
				t.Errorf("%d of %d bytes of type %d: got %v, want %v", i, len(wire), f.typ, err, errCutFrame)
			}
		}
	}
	if n := len(appendOpen(nil, maxVarint, maxVarint, maxVarint, make([]byte, MaxRequest))); n != maxControlLen {
		t.Errorf("the longest OPEN has %d bytes, maxControlLen is %d", n, maxControlLen)
	}
}

func TestFrameRefused(t *testing.T) {
	open := func(n int) []byte { return appendOpen(nil, 1, 1, 1, make([]byte, n)) }
	text := func(n int) []byte { return appendRefused(nil, 1, 1, strings.Repeat("x", n)) }
	reset := func(code uint64) []byte { return appendVarint([]byte{typeReset, 1}, code) }
	for _, tt := range []struct {
		name string
		wire []byte
		err  error
	}{
		{"request at the limit", open(MaxRequest), nil},
		{"request past the limit", open(MaxRequest + 1), errLongRequest},
		{"text at the limit", text(MaxText), nil},
		{"text past the limit", text(MaxText + 1), errLongText},
		{"largest code", reset(1<<16 - 1), nil},
		{"code past the largest", reset(1 << 16), errCode},
		{"type 0", []byte{0, 1, 0}, errFrameType},
		{"type 9", []byte{9, 1, 0}, errFrameType},
		{"largest type", append(appendVarint(nil, maxVarint), 1, 1), errFrameType},
		{"type in two bytes", []byte{0x40, typeFin, 1}, nil},
		{"length past the message", []byte{typeData, 1, 5, 'a', 'b', 'c', 'd'}, errCutFrame},
		{"largest length", append(appendVarint([]byte{typeData, 1}, maxVarint), 'a'), errCutFrame},
		{"nothing", nil, errCutFrame},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parseFrame(tt.wire); err != tt.err {
				t.Errorf("got %v, want %v", err, tt.err)
			}
		})
	}
}

// A DATA frame fills the room that it was measured for, and never more.
func TestDataLen(t *testing.T) {
	for _, id := range []streamID{1, 64, 1 << 14, 1 << 30, maxVarint} {
		for _, room := range []int{-1, 0, 1, 5, 12, 64, 66, 68, 70, 1000, 16383, 16390, 128 << 10} {
			n := dataLen(id, room)
			if n == 0 {
				continue
			}
			if got := len(appendData(nil, id, make([]byte, n))); got > room || got < room-8 {
				t.Errorf("id %d: %d bytes make a frame of %d, room is %d", id, n, got, room)
			}
		}
	}
}

func FuzzFrame(f *testing.F) {
	for _, fr := range everyFrame() {
		f.Add(reappend(nil, fr))
	}
	f.Add([]byte{0x40, typeCredit, 0xc0, 0, 0, 0, 0, 0, 0, 5, 0x80, 0, 0, 1})
	f.Add([]byte{typeData, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := parseFrame(b)
		if err != nil {
			if _, ok := err.(protocolError); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if fr.parsed < 2 || fr.parsed > len(b) {
			t.Fatalf("parsed %d of %d bytes", fr.parsed, len(b))
		}
		wire := reappend(nil, fr)
		if len(wire) > fr.parsed {
			t.Fatalf("%x came back longer: %x", b[:fr.parsed], wire)
		}
		again, err := parseFrame(wire)
		if err != nil {
			t.Fatal(err)
		}
		again.parsed, fr.parsed = 0, 0
		if !reflect.DeepEqual(again, fr) {
			t.Fatalf("got %+v, want %+v", again, fr)
		}
	})
}
