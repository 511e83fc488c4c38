// Package devstack starts private Redis and Postgres servers for development and
// for tests: on loopback, with data in a directory of their own, as durable as
// production is meant to be (every write on disk before it is answered).
//
// It guarantees that no server outlives the process that started it, that two
// processes never run on the same data, and that it touches no server that it did
// not start.
//
// It imports the standard library and pgx, nothing of TallyMQ. Only cmd and tests
// import it.
package devstack
