// Package restore folds a shard's history into what Redis holds of it for delivery: the
// topics and subscriptions, what each consumer group has not settled, what waits for
// another attempt or for its time, and the idempotency keys. It is the same table of
// effects that the append script has, folded a second time: whatever Redis loses can so be
// put back.
//
// Leases are not events, so a message that was leased comes once more, as the attempt that
// it was. What it holds in memory is bounded by what is not settled.
//
// It imports package events, pgx and nothing else of TallyMQ.
package restore
