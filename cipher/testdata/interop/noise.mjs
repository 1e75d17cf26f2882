// A second implementation of the waxwire handshake and records, for tests only.
//
// It shares no code with the Go one. The Noise rules come from the SymmetricState of
// @chainsafe/libp2p-noise, which libp2p uses; ML-KEM-768 from @noble/post-quantum; X25519 from
// @noble/curves; bech32 from @scure/base; HMAC and the record AEADs from OpenSSL through node:crypto.
// Only the token lists and the waxwire derivations (PROTOCOL.md §3, §4) are written here.

import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

// The packages are taken by path: WAXWIRE_INTEROP may name another node_modules, and
// libp2p-noise does not export its protocol.js.
const modules = process.env.WAXWIRE_INTEROP || fileURLToPath(new URL('./node_modules', import.meta.url))
const load = (path) => import(pathToFileURL(join(modules, path)).href)

const { SymmetricState, CipherState } = await load('@chainsafe/libp2p-noise/dist/src/protocol.js')
const { wrapCrypto } = await load('@chainsafe/libp2p-noise/dist/src/crypto.js')
const { pureJsCrypto } = await load('@chainsafe/libp2p-noise/dist/src/crypto/js.js')
const { ml_kem768 } = await load('@noble/post-quantum/ml-kem.js')
const { x25519 } = await load('@noble/curves/ed25519.js')
const { bech32 } = await load('@scure/base/index.js')

const crypto = wrapCrypto(pureJsCrypto)

export const hex = (bytes) => Buffer.from(bytes).toString('hex')
export const unhex = (text) => {
  if (!/^([0-9a-f]{2})*$/.test(text)) throw new Error('not hex')
  return new Uint8Array(Buffer.from(text, 'hex'))
}

// Text forms of keys.
const encode = (prefix, bytes) => bech32.encode(prefix, bech32.toWords(bytes))
const decode = (prefix, text) => {
  const got = bech32.decode(text.toLowerCase())
  const bytes = bech32.fromWords(got.words)
  if (got.prefix !== prefix || bytes.length !== 32) throw new Error(`not a ${prefix} key`)
  return new Uint8Array(bytes)
}
export const publicText = (bytes) => encode('wax', bytes)
export const secretText = (bytes) => encode('wax-secret-key-', bytes).toUpperCase()
export const publicKey = (text) => decode('wax', text)
export const secretKey = (text) => decode('wax-secret-key-', text)
export const publicOf = (secret) => x25519.getPublicKey(secret)

// Noise revision 34, with e1 and ekem1 of the hfs extension, revision 1.
const patterns = {
  IK: { pre: true, messages: ['e es s ss', 'e ee se'] },
  IKpsk2: { pre: true, messages: ['e es s ss', 'e ee se psk'] },
  IKhfs: { pre: true, messages: ['e es e1 s ss', 'e ee ekem1 se'] },
  'IKhfs+psk2': { pre: true, messages: ['e es e1 s ss', 'e ee ekem1 se psk'] },
  XX: { messages: ['e', 'e ee s es', 's se'] },
  XXhfs: { messages: ['e e1', 'e ee ekem1 s es', 's se'] },
  'NNhfs+psk0': { messages: ['psk e e1', 'e ee ekem1'] }
}

export const protocolName = (pattern) =>
  `Noise_${pattern}_25519${pattern.includes('hfs') ? '+MLKEM768' : ''}_ChaChaPoly_SHA256`

export class Peer {
  // All byte values are Uint8Array. s is the static secret, rs the static public key of the other
  // end; e, kemSeed and encapsRand fix what is random otherwise.
  constructor ({ pattern, role, prologue, s, rs, psk, e, kemSeed, encapsRand }) {
    const p = patterns[pattern]
    if (!p) throw new Error(`unknown pattern ${pattern}`)
    if (role !== 'initiator' && role !== 'responder') throw new Error(`unknown role ${role}`)
    Object.assign(this, { s, rs, psk, kemSeed, encapsRand })
    this.initiator = role === 'initiator'
    this.withPSK = pattern.includes('psk')
    this.fixedE = e
    this.messages = p.messages.map((m) => m.split(' '))
    this.next = 0
    this.state = new SymmetricState(crypto, protocolName(pattern))
    this.state.mixHash(prologue)
    if (p.pre) this.state.mixHash(this.initiator ? rs : publicOf(s))
  }

  get done () { return this.next === this.messages.length }

  take (writing) {
    if (this.done) throw new Error('the handshake is done')
    if (writing !== (this.initiator === (this.next % 2 === 0))) throw new Error('not our turn')
    return this.messages[this.next++]
  }

  write (payload) {
    const out = []
    for (const token of this.take(true)) {
      switch (token) {
        case 'e':
          this.e = this.fixedE ?? x25519.utils.randomSecretKey()
          out.push(publicOf(this.e))
          this.mixE(publicOf(this.e))
          break
        case 's':
          out.push(this.state.encryptAndHash(publicOf(this.s)))
          break
        case 'e1':
          this.kem = ml_kem768.keygen(this.kemSeed ?? new Uint8Array(randomBytes(64)))
          out.push(this.state.encryptAndHash(this.kem.publicKey))
          break
        case 'ekem1': {
          const { cipherText, sharedSecret } = ml_kem768.encapsulate(this.ek, this.encapsRand ?? new Uint8Array(randomBytes(32)))
          out.push(this.state.encryptAndHash(cipherText))
          this.state.mixKey(sharedSecret)
          break
        }
        default:
          this.mix(token)
      }
    }
    out.push(this.state.encryptAndHash(payload))
    return new Uint8Array(Buffer.concat(out.map((part) => part.subarray())))
  }

  read (message) {
    let rest = message
    const cut = (length, sealed) => {
      if (sealed && this.state.cs.hasKey()) length += 16
      if (rest.length < length) throw new Error('message too short')
      const part = rest.slice(0, length)
      rest = rest.slice(length)
      return part
    }
    for (const token of this.take(false)) {
      switch (token) {
        case 'e':
          this.re = cut(32, false)
          this.mixE(this.re)
          break
        case 's':
          this.rs = this.state.decryptAndHash(cut(32, true))
          break
        case 'e1':
          this.ek = this.state.decryptAndHash(cut(1184, true))
          break
        case 'ekem1':
          this.state.mixKey(ml_kem768.decapsulate(this.state.decryptAndHash(cut(1088, true)), this.kem.secretKey))
          break
        default:
          this.mix(token)
      }
    }
    return this.state.decryptAndHash(rest)
  }

  mixE (e) {
    this.state.mixHash(e)
    if (this.withPSK) this.state.mixKey(e)
  }

  mix (token) {
    switch (token) {
      case 'ee': return this.state.mixKey(this.dh(this.e, this.re))
      case 'ss': return this.state.mixKey(this.dh(this.s, this.rs))
      case 'es': return this.state.mixKey(this.initiator ? this.dh(this.e, this.rs) : this.dh(this.s, this.re))
      case 'se': return this.state.mixKey(this.initiator ? this.dh(this.s, this.re) : this.dh(this.e, this.rs))
      case 'psk': {
        // MixKeyAndHash, which SymmetricState has no method for.
        const [ck, h, k] = crypto.hkdf(this.state.ck, this.psk)
        this.state.ck = ck
        this.state.mixHash(h)
        this.state.cs = new CipherState(crypto, k)
        return
      }
      default: throw new Error(`unknown token ${token}`)
    }
  }

  dh (secret, point) {
    return crypto.dh({ privateKey: secret }, point)
  }

  // split gives the handshake hash and the two secrets, initiator to responder first.
  split () {
    if (!this.done) throw new Error('the handshake is not done')
    const [c2s, s2c] = this.state.split()
    return { hash: new Uint8Array(this.state.h), c2s: new Uint8Array(c2s.k), s2c: new Uint8Array(s2c.k) }
  }
}

const expand1 = (key, ...info) =>
  new Uint8Array(createHmac('sha256', key).update(Buffer.concat([...info, Buffer.of(1)])).digest())

const aead = { 1: 'aes-256-gcm', 2: 'chacha20-poly1305' }

// One direction of records under one suite, PROTOCOL.md §3 and §4.
export class Direction {
  constructor (suite, secret) {
    if (!aead[suite]) throw new Error(`unknown suite ${suite}`)
    this.suite = suite
    this.start(secret)
  }

  start (secret) {
    const suite = Buffer.of(this.suite)
    this.key = expand1(secret, Buffer.from('waxwire/1 key'), suite)
    this.iv = expand1(secret, Buffer.from('waxwire/1 iv'), suite).slice(0, 12)
    this.nextSecret = expand1(secret, Buffer.from('waxwire/1 next'))
    this.seq = 0n
  }

  ratchet () { this.start(this.nextSecret) }

  nonce () {
    const nonce = Buffer.alloc(12)
    nonce.writeBigUInt64BE(this.seq++, 4)
    for (let i = 0; i < 12; i++) nonce[i] ^= this.iv[i]
    return nonce
  }

  seal (plaintext) {
    const c = createCipheriv(aead[this.suite], this.key, this.nonce(), { authTagLength: 16 })
    return new Uint8Array(Buffer.concat([c.update(plaintext), c.final(), c.getAuthTag()]))
  }

  open (record) {
    if (record.length < 16) throw new Error('record too short')
    const d = createDecipheriv(aead[this.suite], this.key, this.nonce(), { authTagLength: 16 })
    d.setAuthTag(record.slice(-16))
    return new Uint8Array(Buffer.concat([d.update(record.slice(0, -16)), d.final()]))
  }
}

export const sha256 = (...parts) => new Uint8Array(createHash('sha256').update(Buffer.concat(parts)).digest())
