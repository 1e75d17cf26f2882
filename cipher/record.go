package cipher

import (
	"encoding/binary"
	"time"

	"waxwire.example/waxwire/keys/erase"
)

// The limits of a key epoch. The sender ratchets at the first of the three Rekey values; a
// direction refuses to go past the Max values. PROTOCOL.md §4.
const (
	Overhead = 16 // a record is this much longer than its plaintext

	RekeyBytes   = 1 << 30 // of plaintext
	RekeyRecords = 1 << 20
	RekeyAfter   = 120 * time.Second // since the epoch's first record

	MaxEpochRecords = 1 << 24
	MaxEpochBytes   = 64 << 30 // of plaintext
)

const maxPlaintext = RekeyBytes // of one record; far below what an AEAD takes

// A direction is the keys of one direction and the state of its present epoch. All secrets are in
// it or in objects that only it points to.
type direction struct {
	suite Suite
	ts    [hashSize]byte // the traffic secret: makes this epoch's key and the next epoch's secret
	key   aeadKey
	iv    [nonceSize]byte
	nonce [nonceSize]byte

	seq   uint64 // records in this epoch
	bytes uint64 // their plaintext
	epoch uint64 // ratchets

	err error // why every call fails, nil while the keys live

	hasher
	temp [hashSize]byte // a derived secret on its way
}

// newDirection must run under erase.
func newDirection(s Suite, ts *[32]byte) (*direction, error) {
	d := &direction{suite: s, ts: *ts, hasher: newHasher()}
	if err := d.derive(); err != nil {
		d.wipe(err)
		return nil, err
	}
	return d, nil
}

// derive makes key and iv from ts. PROTOCOL.md §3.
func (d *direction) derive() (err error) {
	erase.Trace("ts", d.ts[:])
	d.expand(&d.temp, &d.ts, append([]byte("waxwire/1 key"), byte(d.suite))...)
	erase.Trace("key", d.temp[:keySize])
	d.key, err = newAEADKey(d.suite, d.temp[:keySize])
	d.expand(&d.temp, &d.ts, append([]byte("waxwire/1 iv"), byte(d.suite))...)
	copy(d.iv[:], d.temp[:])
	erase.Trace("iv", d.iv[:])
	clear(d.temp[:])
	return err
}

// ratchet starts the next epoch: it derives the next secret, wipes this epoch's, then installs.
// Who takes the new keys cannot open the records of before. PROTOCOL.md §3.
func (d *direction) ratchet() (err error) {
	if d.err != nil {
		return d.err
	}
	erase.Handshake(func() { // a secret that makes all later keys is worth more than a record's key
		d.expand(&d.temp, &d.ts, []byte("waxwire/1 next")...)
		clear(d.ts[:])
		d.key.wipe()
		clear(d.iv[:])
		d.ts = d.temp
		err = d.derive() // which clears temp
	})
	if err != nil {
		d.wipe(err)
		return err
	}
	d.seq, d.bytes = 0, 0
	d.epoch++
	return nil
}

// hasRoom reports whether the epoch has room for a record of n bytes of plaintext.
func (d *direction) hasRoom(n int) bool {
	return d.seq < MaxEpochRecords && n <= maxPlaintext && d.bytes <= MaxEpochBytes && uint64(n) <= MaxEpochBytes-d.bytes
}

// setNonce makes the nonce of record seq: iv xor (32 zero bits ‖ u64 seq). PROTOCOL.md §4.
func (d *direction) setNonce() {
	d.nonce = d.iv
	tail := d.nonce[nonceSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^d.seq)
}

func (d *direction) count(n int) {
	d.seq++
	d.bytes += uint64(n)
}

func (d *direction) wipe(err error) {
	if d.err == nil {
		d.err = err
	}
	d.key.wipe()
	d.hasher.wipe()
	clear(d.ts[:])
	clear(d.iv[:])
	clear(d.nonce[:])
	clear(d.temp[:])
}

// A Sealer makes the records of one direction. It is not safe for concurrent use: whoever seals
// also decides the order on the wire.
type Sealer struct {
	d *direction

	// The arguments and the result of seal, which is made once: a closure made for each record
	// would be an allocation for each record.
	dst, src, out []byte
	seal          func()
}

func newSealer(d *direction) *Sealer {
	s := &Sealer{d: d}
	s.seal = func() {
		s.d.setNonce()
		s.out = s.d.key.aead.Seal(s.dst, s.d.nonce[:], s.src, nil)
		clear(s.d.nonce[:])
	}
	return s
}

// Seal appends the next record, ciphertext ‖ tag, to dst and returns the extended slice. It is
// [Overhead] bytes longer than plaintext; dst may be plaintext[:0], otherwise they must not
// overlap. Seal does not allocate if dst has the capacity, and keeps neither.
//
// It fails with [ErrExhausted] before anything is sealed once the epoch is full, and with
// [ErrWiped] after Wipe. PROTOCOL.md §4.
func (s *Sealer) Seal(dst, plaintext []byte) ([]byte, error) {
	if s.d.err != nil {
		return nil, s.d.err
	}
	if !s.d.hasRoom(len(plaintext)) {
		return nil, ErrExhausted
	}
	s.dst, s.src = dst, plaintext
	erase.Do(s.seal)
	out := s.out
	s.dst, s.src, s.out = nil, nil, nil
	s.d.count(len(plaintext))
	return out, nil
}

// Due reports whether the epoch is to end now: the next record is REKEY, then comes Ratchet. age is
// the time since the epoch's first record; an epoch without a record is never due. PROTOCOL.md §4.
func (s *Sealer) Due(age time.Duration) bool {
	return s.d.seq > 0 && (s.d.seq >= RekeyRecords || s.d.bytes >= RekeyBytes || age >= RekeyAfter)
}

// Records is how many records this epoch has sealed.
func (s *Sealer) Records() uint64 { return s.d.seq }

// Bytes is how much plaintext this epoch has sealed.
func (s *Sealer) Bytes() uint64 { return s.d.bytes }

// Epoch is how many times the keys were ratcheted.
func (s *Sealer) Epoch() uint64 { return s.d.epoch }

// Ratchet wipes the epoch's keys and starts the next epoch. PROTOCOL.md §3.
func (s *Sealer) Ratchet() error { return s.d.ratchet() }

// Wipe destroys the keys; from then on, calls fail with [ErrWiped]. It is idempotent.
func (s *Sealer) Wipe() { s.d.wipe(ErrWiped) }

// String is the type's name; the keys do not print.
func (s *Sealer) String() string   { return "cipher.Sealer" }
func (s *Sealer) GoString() string { return s.String() }

// An Opener opens the records of one direction, in the order in which they were sealed. It is not
// safe for concurrent use.
type Opener struct {
	d *direction

	// As in [Sealer].
	dst, src, out []byte
	err           error
	open          func()
}

func newOpener(d *direction) *Opener {
	o := &Opener{d: d}
	o.open = func() {
		o.d.setNonce()
		o.out, o.err = o.d.key.aead.Open(o.dst, o.d.nonce[:], o.src, nil)
		clear(o.d.nonce[:])
		if o.err != nil {
			o.d.wipe(ErrOpen)
		}
	}
	return o
}

// Open appends the plaintext of record to dst and returns the extended slice. record is what one
// Seal appended; dst may be record[:0], otherwise they must not overlap. Open does not allocate if
// dst has the capacity, and keeps neither.
//
// Any failure is [ErrOpen], with no detail, and is final: the keys are wiped, and the Opener
// returns it from then on. After Wipe the error is [ErrWiped]. PROTOCOL.md §4.
func (o *Opener) Open(dst, record []byte) ([]byte, error) {
	if o.d.err != nil {
		return nil, o.d.err
	}
	size := len(record) - Overhead
	if size < 0 || !o.d.hasRoom(size) {
		o.d.wipe(ErrOpen)
		return nil, ErrOpen
	}
	o.dst, o.src = dst, record
	erase.Do(o.open)
	out, err := o.out, o.err
	o.dst, o.src, o.out, o.err = nil, nil, nil, nil
	if err != nil {
		return nil, ErrOpen
	}
	o.d.count(size)
	return out, nil
}

// Records is how many records this epoch has opened.
func (o *Opener) Records() uint64 { return o.d.seq }

// Bytes is how much plaintext this epoch has opened.
func (o *Opener) Bytes() uint64 { return o.d.bytes }

// Epoch is how many times the keys were ratcheted.
func (o *Opener) Epoch() uint64 { return o.d.epoch }

// Ratchet wipes the epoch's keys and starts the next epoch. PROTOCOL.md §3.
func (o *Opener) Ratchet() error { return o.d.ratchet() }

// Wipe destroys the keys; from then on, calls fail with [ErrWiped]. It is idempotent.
func (o *Opener) Wipe() { o.d.wipe(ErrWiped) }

// String is the type's name; the keys do not print.
func (o *Opener) String() string   { return "cipher.Opener" }
func (o *Opener) GoString() string { return o.String() }
