// One end of a handshake, driven over stdin and stdout: one JSON object a line each way, bytes in hex,
// keys in their text form. See interop_js_test.go.
//
//   {"pattern","role","prologue","s","rs"?,"psk"?,"e"?,"kemSeed"?,"encapsRand"?}   first line, answered {"public"}
//   {"write": payload}            answered {"message", "done"}
//   {"read": message}             answered {"payload", "done"}
//   {"split": true}               answered {"hash", "c2s", "s2c", "remote", "keys"}
//   {"suite", "seal": plaintext}  answered {"record"}       sealed in our direction
//   {"suite", "open": record}     answered {"plaintext"}    opened in the other direction
//   {"suite", "ratchet": true}    answered {}               both directions
//
// Any failure is answered {"error"} and ends the program with status 1.

import { createInterface } from 'node:readline'
import { Direction, Peer, hex, publicKey, publicOf, publicText, secretKey, unhex } from './noise.mjs'

const optional = (value, parse) => value === undefined ? undefined : parse(value)

let peer, split
const directions = {}

function direction (suite) {
  if (!split) throw new Error('not split yet')
  directions[suite] ??= {
    send: new Direction(suite, peer.initiator ? split.c2s : split.s2c),
    recv: new Direction(suite, peer.initiator ? split.s2c : split.c2s)
  }
  return directions[suite]
}

// What PROTOCOL.md §3 derives from one secret, for both suites.
const derived = (secret) => [1, 2].map((suite) => {
  const d = new Direction(suite, secret)
  return { suite, key: hex(d.key), iv: hex(d.iv), next: hex(d.nextSecret) }
})

function answer (line) {
  const ask = JSON.parse(line)
  if (ask.pattern) {
    const s = optional(ask.s, secretKey)
    peer = new Peer({
      pattern: ask.pattern,
      role: ask.role,
      prologue: unhex(ask.prologue),
      s,
      rs: optional(ask.rs, publicKey),
      psk: optional(ask.psk, unhex),
      e: optional(ask.e, unhex),
      kemSeed: optional(ask.kemSeed, unhex),
      encapsRand: optional(ask.encapsRand, unhex)
    })
    return { public: s ? publicText(publicOf(s)) : '' }
  }
  if ('write' in ask) return { message: hex(peer.write(unhex(ask.write))), done: peer.done }
  if ('read' in ask) return { payload: hex(peer.read(unhex(ask.read))), done: peer.done }
  if (ask.split) {
    split = peer.split()
    return {
      hash: hex(split.hash),
      c2s: hex(split.c2s),
      s2c: hex(split.s2c),
      remote: peer.rs ? publicText(peer.rs) : '',
      keys: { c2s: derived(split.c2s), s2c: derived(split.s2c) }
    }
  }
  if ('seal' in ask) return { record: hex(direction(ask.suite).send.seal(unhex(ask.seal))) }
  if ('open' in ask) return { plaintext: hex(direction(ask.suite).recv.open(unhex(ask.open))) }
  if (ask.ratchet) {
    direction(ask.suite).send.ratchet()
    direction(ask.suite).recv.ratchet()
    return {}
  }
  throw new Error('unknown request')
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply
  try {
    reply = answer(line)
  } catch (err) {
    reply = { error: String(err.message) }
    process.exitCode = 1
  }
  process.stdout.write(JSON.stringify(reply) + '\n')
  if (reply.error) break
}
process.stdin.destroy()
