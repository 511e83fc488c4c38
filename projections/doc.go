// Package projections folds the log into Postgres: the event history and the four
// read tables, message_topics, message_subscriptions, message_records and
// consumption_records.
//
// It guarantees that each event is folded exactly once, whoever crashes when: a
// batch's history, its rows and the shard's checkpoint are one transaction, on the
// very connection whose advisory lock makes this the shard's only projector. So at
// every commit the read tables equal the fold of the history, which [Verify] can
// show. Folds are pure: time comes from an event's position, ids from what the
// event says, and the size of batches makes no difference to the rows.
//
// [Rebuild] folds the whole history into new tables beside the read tables and swaps
// them, while projectors and readers go on. Whoever changes a fold raises [Version]:
// tables of an earlier version are rebuilt, and code of an earlier version folds no more.
//
// An event that cannot be folded stops its shard, loudly, until it can be: nothing
// is skipped.
//
// It imports package events, pgx, squirrel, uuid, x/sync and Watermill's message package.
package projections
