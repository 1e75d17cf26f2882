// Package keys has what waxwire trusts: identities, and the peers that may connect.
//
// An [Identity] is one X25519 key for an installation. [Generate] makes one, [WriteIdentityFile]
// and [ReadIdentityFile] keep it on disk, and [Identity.Public] is what others are told. A
// [PublicKey] prints as wax1… and has a [PublicKey.Fingerprint] that people can compare aloud.
//
// An [Invite] is what somebody needs to enrol by itself, once: [NewInvite] makes it, its text goes to the other
// end, and an [InviteDir] keeps what the server has to know of it.
//
// A [Peer] is a name, a public key and what that key may do, as a list of [Permission]. A server
// looks peers up in a [PeerSet] (memory) or a [PeerDir] (one file a peer). Nothing is allowed that
// no permission names.
//
// The package reads and writes the files it is told to and nothing else: no environment, no
// default places, no log. Secrets are handled under package keys/erase, and an Identity prints as
// its public key, however it is printed; only [Identity.MarshalText] gives the secret away.
package keys
