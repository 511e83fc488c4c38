// Package queries reads the read tables: a query is a function that returns
// structs. It knows nothing of events or commands.
//
// It guarantees that a caller sees its own tenant's rows only (every query has the
// tenant in its condition), and that lists are read by keyset and cost the same on
// every page. What a query costs beyond its page is said where it is; the caller's
// context bounds it, on the server too.
//
// What is asked as of then (asof*.go) is folded from event_history by the rules of the
// projections; a test holds it against what was answered then.
//
// It imports pgx and squirrel, nothing of TallyMQ.
package queries
