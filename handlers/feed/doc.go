// Package feed is the lifecycle feed over HTTP: every event of a tenant, by page or
// followed as server-sent events, as CloudEvents 1.0.
//
// It guarantees that a cursor stands right behind an event: whoever goes on from it
// meets what follows in each shard's order, without a gap and without a repetition,
// however often a connection breaks. The shards are merged by position as far as they
// are folded at that moment. A tenant sees its own events only. A page, the number of
// streams, what they hold and how often they ask the database are all bounded, and a
// stream's reader who does not read is cut.
//
// It imports packages events (its catalogue of kinds) and queries, the shared HTTP
// edge, echo and go-json-experiment; never the write side.
package feed
