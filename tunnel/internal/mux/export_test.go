package mux

import "waxwire.example/waxwire/tunnel/internal/message"

// What tests of package mux_test need to play the other end by hand.
const (
	TypeOpen, TypeOpened, TypeRefused, TypeData = typeOpen, typeOpened, typeRefused, typeData
	TypeFin, TypeReset, TypeStop, TypeCredit    = typeFin, typeReset, typeStop, typeCredit

	EarlyData  = earlyData
	MinMessage = minMessage
	MaxVarint  = maxVarint
)

type Frame struct {
	Type, ID, Kind, N uint64
	Code              message.Code
	Body              []byte
}

func ParseFrame(b []byte) (f Frame, rest []byte, err error) {
	p, err := parseFrame(b)
	if err != nil {
		return Frame{}, nil, err
	}
	return Frame{p.typ, uint64(p.id), p.kind, p.n, p.code, p.body}, b[p.parsed:], nil
}

func Open(id, kind, window uint64, request string) []byte {
	return appendOpen(nil, streamID(id), kind, window, []byte(request))
}
func Opened(id, window uint64) []byte { return appendOpened(nil, streamID(id), window) }
func Refused(id uint64, code message.Code, text string) []byte {
	return appendRefused(nil, streamID(id), code, text)
}
func Data(id uint64, n int) []byte {
	return appendData(nil, streamID(id), make([]byte, n))
}
func DataOf(id uint64, s string) []byte         { return appendData(nil, streamID(id), []byte(s)) }
func Fin(id uint64) []byte                      { return appendFin(nil, streamID(id)) }
func Reset(id uint64, code message.Code) []byte { return appendReset(nil, streamID(id), code) }
func Stop(id uint64, code message.Code) []byte  { return appendStop(nil, streamID(id), code) }
func Credit(id, n uint64) []byte                { return appendCredit(nil, streamID(id), n) }
func AppendVarint(b []byte, v uint64) []byte    { return appendVarint(b, v) }

// Held is how many bytes of receive buffers the stream has.
func (s *Stream) Held() int {
	s.recv.mu.Lock()
	defer s.recv.mu.Unlock()
	n := 0
	for c := s.recv.queue.head; c != nil; c = c.next {
		n += cap(c.buf)
	}
	return n
}

// HoldsBuffer says whether the writer holds a message buffer.
func (m *Mux) HoldsBuffer() bool {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return m.w.buf != nil
}

// Queued is how many bytes of control frames wait.
func (m *Mux) Queued() int {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return len(m.w.control) - m.w.controlOff
}
