// Package limits bounds what callers may take of one instance: requests and body
// bytes per second of a tenant, pulls that wait, connections that are open.
//
// It guarantees that one tenant's use never lowers what another may use (but see
// [Limiter] for more tenants at once than are remembered), that its memory is
// bounded whatever callers send, that a refusal names the limit, its value and when
// to come again, and that nothing here waits: what is over a limit is refused.
//
// All limits are an instance's own: N instances together allow N times as much.
//
// It imports the standard library.
package limits
