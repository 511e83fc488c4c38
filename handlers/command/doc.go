// Package command is the HTTP face of the write side: it parses a request, calls
// the dispatcher, or starts a job, and renders the answer, and decides nothing itself.
//
// It guarantees that input it does not understand is refused before a command is
// made of it, and that a message's payload reaches the command byte for byte.
//
// It imports package commands, the shared HTTP edge and echo; never the read side.
package command
