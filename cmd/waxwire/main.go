// Waxwire carries TCP connections and unix sockets between two hosts through a WebSocket, sealed
// end to end inside it. Run it without arguments for where to begin, "waxwire demo" to see it work.
//
// Standard output carries data and results only; what is said to a person goes to standard error.
// Exit status: 0 done, 1 other failure, 2 usage, 3 configuration or key file, 4 the server cannot be
// reached or is not one of ours, 5 an identity was refused, 6 not allowed, 128+n ended by signal n.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
