// Package erase runs what touches secrets and leaves none of them behind.
//
// Dropping a key is not enough in Go. Copies stay on the dead part of the stack, on stacks that the
// runtime has moved, and in vector registers that a later signal writes to memory. [Do] closes
// these three leaks around a short call, such as sealing one record. [Handshake] does the same
// around longer work. [Object], [ECDH] and [MLKEM] zero the objects of the standard library that
// hold keys and have no method for it; they use reflection and never package unsafe.
//
// With GOEXPERIMENT=runtimesecret, on the systems that runtime/secret supports, Do and Handshake
// are runtime/secret.Do, which erases heap memory too. [Guard] says which of the two is at work.
//
// [Trace] is for the proof, TestErasure of package tunnel: it is empty but under the build tag
// erasetrace, which no shipped binary has.
//
// Limits. Memory that somebody else still holds is not erased: whoever makes a key object calls
// Object on it. Do covers 4 KiB of stack and Handshake 32 KiB; deeper calls leave what lies below.
// Without runtime/secret, a signal that arrives in the middle of Do leaves the registers on the thread's
// signal stack, pieces of a key among them, until the next signal; and a garbage collection may move the
// caller's stack within Do if that was much deeper before. During Handshake no signal arrives, on Linux.
// crypto/mlkem leaves the message that it decrypted, from which the shared secret can be computed, on
// the heap, where no call reaches it.
//
// Do costs about 50 ns and Handshake about 5 µs, which is 5 % of a Noise handshake. To measure it, build
// the benchmarks of package cipher once with -tags erasetrace, run them in turn with and without
// WAXWIRE_ERASETRACE_SKIP=guard in the environment, ten times each, and compare by benchstat.
//
// The function that is run must not start goroutines, wait for the network or write logs.
package erase
