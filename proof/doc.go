// Package proof is what makes a tenant's history provable: the log that each tenant has
// per shard, what its records are, the signed heads of such logs, and the file that
// proves a message's events.
//
// A log is a Merkle tree as in RFC 6962. Its records are seals; a seal is the Merkle root
// over the leaves (see [events.Leaf]) of the events that one transaction wrote to history
// for the tenant, of one scope and one day. A [Document] leads from events by their paths
// to seals, by the seals' proofs to the log's root, and by a signature to a key, and
// [Document.Check] follows it with nothing but the file.
//
// It guarantees that what was changed, or never was in the log, is refused, and that the
// error names what. It may import package events, and touches neither clock nor store.
package proof
