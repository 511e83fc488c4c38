// Package retention takes messages away that their queue does not keep any longer
// (retentionMs): from the read tables, and their payloads from history, which keeps the
// rest of their events. It does so by events of the log (topic.retained), so that every
// fold of the history agrees. A message that a consumer group has not settled is kept until
// it is. It may import commands and pgx.
package retention
