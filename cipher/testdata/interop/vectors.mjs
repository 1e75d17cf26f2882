// Prints hfs-vectors.json: handshakes between two of our JavaScript peers with everything random
// fixed. Its bytes never depend on the Go code. Rewrite with: npm run vectors

import { Direction, Peer, hex, protocolName, publicOf, publicText, secretText, sha256 } from './noise.mjs'

const seeded = (vector, what) => sha256(Buffer.from(`waxwire test vector ${vector}: ${what}`))
const fill = (vector, what, length) => {
  const parts = []
  for (let i = 0; i * 32 < length; i++) parts.push(seeded(vector, `${what} ${i}`))
  return new Uint8Array(Buffer.concat(parts).subarray(0, length))
}
const prologue = (pattern, service) => {
  const name = Buffer.from(service)
  const length = Buffer.alloc(2)
  length.writeUInt16BE(name.length)
  return new Uint8Array(Buffer.concat([Buffer.from('waxwire/1\0'), Buffer.of(pattern), length, name]))
}

function same (what, a, b) {
  if (hex(a) !== hex(b)) throw new Error(`the two ends disagree on ${what}`)
}

function vector ({ name, pattern, prologue, payloads }) {
  const statics = !pattern.startsWith('NN')
  const hybrid = pattern.includes('hfs')
  const is = statics ? seeded(name, 'initiator static') : undefined
  const rs = statics ? seeded(name, 'responder static') : undefined
  const ie = seeded(name, 'initiator ephemeral')
  const re = seeded(name, 'responder ephemeral')
  const psk = pattern.includes('psk') ? seeded(name, 'psk') : undefined
  const kemSeed = hybrid ? fill(name, 'kem seed', 64) : undefined
  const encapsRand = hybrid ? seeded(name, 'encapsulation') : undefined

  const initiator = new Peer({ pattern, role: 'initiator', prologue, s: is, e: ie, psk, kemSeed, rs: pattern.startsWith('IK') ? publicOf(rs) : undefined })
  const responder = new Peer({ pattern, role: 'responder', prologue, s: rs, e: re, psk, encapsRand })

  const messages = payloads.map((length, i) => {
    const [from, to] = i % 2 === 0 ? [initiator, responder] : [responder, initiator]
    const payload = fill(name, `payload ${i}`, length)
    const message = from.write(payload)
    same('a payload', to.read(message), payload)
    return { payload: hex(payload), message: hex(message) }
  })

  const a = initiator.split()
  const b = responder.split()
  for (const what of ['hash', 'c2s', 's2c']) same(what, a[what], b[what])

  const records = (suite, side) => {
    const send = new Direction(suite, a[side])
    const recv = new Direction(suite, a[side])
    const epochs = []
    for (let epoch = 0; epoch < 3; epoch++) {
      if (epoch > 0) { send.ratchet(); recv.ratchet() }
      epochs.push({
        key: hex(send.key),
        iv: hex(send.iv),
        next: hex(send.nextSecret),
        records: [9, 1, 300].map((length, i) => {
          const plaintext = fill(name, `record ${suite} ${side} ${epoch} ${i}`, length)
          const record = send.seal(plaintext)
          same('a record', recv.open(record), plaintext)
          return { plaintext: hex(plaintext), record: hex(record) }
        })
      })
    }
    return epochs
  }

  return {
    name,
    pattern,
    protocol: protocolName(pattern),
    prologue: hex(prologue),
    psk: psk && hex(psk),
    initiator: { secret: is && secretText(is), public: is && publicText(publicOf(is)), ephemeral: hex(ie), kemSeed: kemSeed && hex(kemSeed) },
    responder: { secret: rs && secretText(rs), public: rs && publicText(publicOf(rs)), ephemeral: hex(re), encapsRand: encapsRand && hex(encapsRand) },
    messages,
    hash: hex(a.hash),
    c2s: hex(a.c2s),
    s2c: hex(a.s2c),
    suites: [1, 2].map((suite) => ({ suite, c2s: records(suite, 'c2s'), s2c: records(suite, 's2c') }))
  }
}

const vectors = [
  // As the wire has them: the prologue of PROTOCOL.md §1 and payloads of 384 and 128 bytes.
  { name: 'IKhfs wire', pattern: 'IKhfs', prologue: prologue(1, ''), payloads: [384, 128] },
  { name: 'IKhfs wire with a service', pattern: 'IKhfs', prologue: prologue(1, 'müller'), payloads: [384, 128] },
  { name: 'IKhfs+psk2 wire', pattern: 'IKhfs+psk2', prologue: prologue(2, ''), payloads: [384, 128] },
  { name: 'IKhfs empty', pattern: 'IKhfs', prologue: new Uint8Array(0), payloads: [0, 0] },
  { name: 'XXhfs', pattern: 'XXhfs', prologue: prologue(1, 'test'), payloads: [0, 33, 64] },
  { name: 'NNhfs+psk0', pattern: 'NNhfs+psk0', prologue: prologue(1, 'test'), payloads: [5, 7] },
  { name: 'IK', pattern: 'IK', prologue: prologue(1, 'test'), payloads: [16, 0] },
  { name: 'XX', pattern: 'XX', prologue: prologue(1, 'test'), payloads: [1, 2, 3] }
].map(vector)

process.stdout.write(JSON.stringify(vectors, null, 1) + '\n')
