// Package telemetry is how the service speaks to operators.
//
// It guarantees that no message can flood the log: of each, a few a second are
// written, and how many were left out is said.
//
// It imports the standard library.
package telemetry
