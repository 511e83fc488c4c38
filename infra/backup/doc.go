// Package backup copies a store to and from a directory: the event history, and what is
// not folded from it, as segments of NDJSON compressed with zstd, and a manifest that
// names them all with their SHA-256.
//
// It guarantees that a backup is of one moment (one snapshot of Postgres) although the
// service goes on, that a directory has a manifest only of what is complete in it, that
// values come back as Postgres has them, byte for byte, and that a restore writes nothing
// before it has found every segment as the manifest says, into a database that is empty.
// A restore that did not end leaves a mark with which no service starts.
//
// A backup has the secrets of the store (service_keys) and all payloads: its files are
// for their owner alone (0600).
//
// It imports packages events and infra/postgres, pgx, zstd, jsontext and x/sync.
package backup
