// Package postgres opens the database, brings its schema up to date, keeps its
// partitions and the few values that every instance of a store shares.
//
// It guarantees that migrations run once however many instances start, that a
// partition is there before its day begins, and that retention drops whole
// partitions instead of deleting rows.
//
// It imports package migrations and third-party packages, nothing else of TallyMQ.
package postgres
