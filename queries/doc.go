// Package queries reads the read tables: a query is a function that returns
// structs. It knows nothing of events or commands.
//
// It guarantees that a caller sees its own tenant's rows only (every query has the
// tenant in its condition), and that lists are read by keyset and cost the same on
// every page. What a query costs beyond its page is said where it is; the caller's
// context bounds it, on the server too.
//
// It imports pgx and squirrel, nothing of TallyMQ.
package queries
