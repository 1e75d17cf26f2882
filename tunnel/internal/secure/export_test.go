package secure

// What tests of the handshake look into.
type Payload = payload

var (
	AppendPayload = appendPayload
	ParsePayload  = parsePayload
	ChooseSuite   = chooseSuite
	RemovePadding = removePadding
	ParseClose    = parseClose
	AppendClose   = appendClose
)

const (
	Payload1Size   = payload1Size
	Payload2Size   = payload2Size
	ReplayEnrolled = replayEnrolled
	ReplayRefused  = replayRefused
)

// Fields returns a payload's fields in a form that can be compared.
func (p *payload) Fields() [9]any {
	return [9]any{p.suites, p.suite, p.max, string(p.invite), p.url, string(p.session), p.padding, p.reason, p.time}
}

// NewPayload makes a payload of the same fields.
func NewPayload(suites byte, max int, url string, session []byte, pad Padding) *Payload {
	return &payload{suites: suites, max: max, url: url, session: session, padding: pad}
}

// AppendPadding pads as a sender does.
func (p Padding) AppendPadding(plaintext []byte, max int) []byte {
	return p.appendPadding(plaintext, max)
}
