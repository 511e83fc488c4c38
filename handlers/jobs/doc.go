// Package jobs does work on many messages that takes a while: redriving dead letters,
// replaying what a queue held, and what a seek owes from history.
//
// It guarantees that a job goes on where it was, whichever instance ends when: its
// progress is in Postgres, an instance works on it as long as its lease is renewed, and
// what it does to a message it does once, however often it is begun anew within 24 hours.
// Jobs read history in the order of the log, a bounded part at a time, and write through
// the dispatcher like everybody else. A cancelled job ends with the part under way.
//
// It imports packages commands and events, and pgx for the jobs and the history.
package jobs
