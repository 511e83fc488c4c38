// Package query is the HTTP face of the read side: it parses a request, runs a
// query and renders its rows.
//
// It guarantees that a tenant sees its own rows only, another tenant's being as
// missing as one that never was, that cursors are good for one tenant and one list,
// and that a store that does not answer is a 503 and no wrong answer.
//
// It imports package queries, the shared HTTP edge and echo; never the write side.
package query
