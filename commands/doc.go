// Package commands decides: every command is a value, its decision a pure
// function of the state and the command, and the answer events or a [Refusal].
// Time, ids and chance enter as data.
//
// The [Dispatcher] is the one place that carries decisions out: load, decide,
// append, wait for the fold, and decide again where the state moved meanwhile. It
// guarantees that a command's events enter the log in one atomic step and at most
// once, and that an answer without error means what was asked: appended and, unless
// the caller asked not to wait, folded into Postgres.
//
// It imports package events and the standard library.
package commands
