// Package history serves event_history as a Watermill subscriber: a program of any
// kind reads every event from the beginning, as long as retention has kept it, and then
// follows. It is watermill-sql's subscriber, with a schema, an offset and a transaction
// of our own beneath it.
//
// It guarantees each consumer group every event of a shard, at least once, in the order
// of the shard's log: one event of a shard is in hand at a time, and a nack brings it
// again before what follows. Groups are independent of one another. Of the subscribers
// of one group, one reads a shard and the others stand by. Where retention dropped
// events before a group had read them, it says so and reads no further until
// [Config.OnGap] lets it. Payloads are encrypted where TallyMQ encrypts them.
//
// No event is missed because another's transaction is still open: a shard's events are
// committed by its one projector, in the order of their positions, so what is visible
// has no gaps that fill up later. That is why the snapshot condition of watermill-sql's
// own schema, which waits for every write transaction of the server, is not needed.
//
// While a handler works, no transaction and no lock of a table is held: neither
// retention nor vacuum waits for it. What holds a shard for a group is a session's
// advisory lock, so a pooler between it and Postgres must keep sessions.
//
// A handler may write to the same database in the transaction in which the offset moves,
// see sql.TxFromContext, and so have its effect exactly once. That transaction is of all
// messages that were read at once: what a handler wrote before a nack is its own to undo.
//
// Publishing is the projector's, and events are a closed catalogue, so Watermill's suite
// for Pub/Subs, which publishes what it likes, has nothing to run on.
//
// It imports package events, pgx, uuid, Watermill and watermill-sql, nothing else of
// TallyMQ.
package history
