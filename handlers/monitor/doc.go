// Package monitor serves what operators and other services ask about the service
// itself: metrics as JSON, health and status.
//
// It guarantees that every number was measured: rates are of the last minute over all
// instances, and what is not known is left out or null. It imports echo, package web
// and the standard library.
package monitor
