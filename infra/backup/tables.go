package backup

import "slices"

// history is the table that all else is folded from.
const history = "event_history"

// scopes of history, see the schema: admin events are kept for ever, message events as
// long as retention says.
const (
	scopeAdmin   = "admin"
	scopeMessage = "message"
)

var scopes = []string{scopeAdmin, scopeMessage}

// checkpoints is the copied table that is restored last: with it, a service takes what
// stands in the database as folded.
const checkpoints = "projection_checkpoints"

// Every table of the schema is in one of these lists, and a test holds them against the
// schema: whoever adds a table decides what becomes of it.
var (
	// copied are those that nothing is folded into. One that a database does not have,
	// because its schema is older, is left out.
	copied = []string{
		"store_settings", "service_keys", "tenant_keys", "handover_checkpoints", "delivery_jobs",
		"history_seals", "history_hashes", "history_seal_origins", "history_readers", checkpoints,
	}
	// folded are those that a restore folds from history.
	folded = []string{
		"message_topics", "message_subscriptions", "message_records", "consumption_records",
		"topic_counts", "topic_offsets", "group_counts", "dead_letters", "message_schedules",
	}
	// leftOut are of the schema and of the program that uses it.
	leftOut = []string{"goose_db_version", "projection_versions", "projection_rebuilds", "projection_rebuild_positions", "log_epochs", "log_seen"}
)

// countedTable is what of a folded table remembers events that retention has dropped: once
// it has, no fold can tell it.
type countedTable struct {
	table string
	// columns are nil for all; the first is then the key.
	columns []string
}

var counted = []countedTable{
	{"topic_counts", nil}, {"topic_offsets", nil}, {"group_counts", nil}, {"message_subscriptions", []string{"id", "last_consumed_at"}},
}

// byMessage are the folded tables whose rows go with their message's day.
var byMessage = []string{"message_records", "consumption_records", "dead_letters"}

// isCounted reports whether a segment is of a folded table, there for what it counts.
func isCounted(table string) bool { return slices.Contains(folded, table) }

func isKnown(table string) bool {
	return table == history || slices.Contains(copied, table) ||
		slices.ContainsFunc(counted, func(c countedTable) bool { return c.table == table })
}
