// Package redis is the log and everything that delivers from it, on Redis
// Streams: the atomic append, leases, retries that wait for their time, wake-ups,
// the reader that projections follow and the live state of queues.
//
// It guarantees that an append and its effect on delivery are one step, that an
// append is never repeated by the client library, and that what it reports as
// appended was on Redis' disk when Redis runs with appendfsync always. All keys of
// a shard carry the shard's hash tag, so Redis Cluster can spread shards.
//
// It imports package events and third-party packages, nothing else of TallyMQ.
package redis
