// Package queries reads the read tables: a query is a function that returns
// structs. It knows nothing of events or commands.
//
// It guarantees that a caller sees its own tenant's rows only (every query has the
// tenant in its condition), that lists are read by keyset and cost the same on
// every page, and that no query reads more rows than its page has, but for filters
// that hardly any row passes; the pool's statement timeout bounds those.
//
// It imports pgx and squirrel, nothing of TallyMQ.
package queries
