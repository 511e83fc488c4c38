package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// differencesShown is how many rows a report shows of each table and kind.
const differencesShown = 20

// verifyFirstPage is how many events are read at first; pages double up to the batch.
const verifyFirstPage = 32

// Report is what [Verify] found.
type Report struct {
	// Events is how many were folded.
	Events int64
	// Tables is empty where the history is such that it cannot be folded.
	Tables []TableReport
	// Faults are, in words, what is wrong with the history and with checkpoints.
	Faults []string

	// isBroken says that the history is such.
	isBroken bool
}

// OK reports whether the history is whole, the checkpoints stand at its end, and the read
// tables equal its fold.
func (r Report) OK() bool {
	return len(r.Faults) == 0 && !r.Differs()
}

// Differs reports whether a read table does not equal the fold of the history.
func (r Report) Differs() bool {
	return slices.ContainsFunc(r.Tables, func(t TableReport) bool { return t.Missing+t.Unexpected > 0 })
}

// TableReport compares one read table with the fold. A row that differs counts as
// missing as the history has it and as unexpected as the table has it.
type TableReport struct {
	Table   string
	Rows    int64
	Missing int64
	// Unexpected rows stand in the table and are not what the history says.
	Unexpected int64
	// Changed is how many of both are the same row, otherwise.
	Changed int64
	// Examples say, of the first 20 such rows, what happened to which: it was changed
	// (and how), deleted, doubled, or added though no event says so.
	Examples []string
}

// VerifyOptions says how to verify.
type VerifyOptions struct {
	Shards int
	// Batch is how many events are folded at once; it must make no difference.
	Batch uint64
	// HorizonSetting is the store setting that says since when everything is kept; no
	// value is for ever. What is older, and a day more (a message's id and its event
	// may lie on either side of midnight), is not compared: retention has dropped what
	// it came from.
	HorizonSetting string
	// MessageIDBound is the least message id that can be of an instant or later.
	MessageIDBound func(time.Time) string
	// Progress is told of the events folded so far; may be nil.
	Progress func(events int64)
}

var readTables = []string{
	"message_topics", "message_subscriptions", "message_records", "consumption_records",
	"topic_counts", "topic_offsets", "group_counts", "dead_letters", "message_schedules",
}

// Verify folds the whole history into tables of its own and compares every row of
// the read tables with them. It works on one snapshot, so it may run while the
// service does. conn is used up by it: prepared statements remember its tables.
func Verify(ctx context.Context, conn *pgx.Conn, o VerifyOptions) (Report, error) {
	var report Report
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if err := lockForReading(ctx, tx); err != nil {
			return err
		}
		var schema string
		if err := tx.QueryRow(ctx, `SELECT quote_ident(current_schema())`).Scan(&schema); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		// A temporary table hides the live one of the same name, so the very
		// statements that write the read tables now write these.
		for _, table := range readTables {
			if _, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TEMP TABLE %s (LIKE %s.%s INCLUDING DEFAULTS INCLUDING INDEXES) ON COMMIT DROP`, table, schema, table)); err != nil {
				return fmt.Errorf("verify: %w", err)
			}
		}
		horizon, err := horizonOf(ctx, tx, o.HorizonSetting)
		if err != nil {
			return err
		}
		if err := checkLog(ctx, tx, o, horizon, &report); err != nil {
			return err
		}
		if report.isBroken {
			return errRollback
		}
		w := newWriter(tx.Conn().PgConn())
		for shard := range o.Shards {
			if err := refold(ctx, tx, w, shard, o, &report); err != nil {
				return err
			}
		}
		for _, table := range readTables {
			t, err := compare(ctx, tx, schema, table, horizon, o)
			if err != nil {
				return err
			}
			report.Tables = append(report.Tables, t)
		}
		return errRollback
	})
	if errors.Is(err, errRollback) {
		err = nil
	}
	return report, err
}

// checkLog looks at history and checkpoints.
func checkLog(ctx context.Context, tx pgx.Tx, o VerifyOptions, horizon time.Time, report *Report) error {
	history, err := checkHistory(ctx, tx, o.Shards)
	if err != nil {
		return err
	}
	checkpoints, err := checkCheckpoints(ctx, tx, o.Shards, horizon)
	if err != nil {
		return err
	}
	report.isBroken = len(history) > 0
	report.Faults = append(history, checkpoints...) //nolint:gocritic // both are ours
	return nil
}

// horizonOf reads since when rows can be compared, in the same snapshot; zero is for
// ever.
func horizonOf(ctx context.Context, tx pgx.Tx, setting string) (time.Time, error) {
	at, err := rawHorizon(ctx, tx, setting)
	if err != nil || at.IsZero() {
		return at, err
	}
	return at.Add(24 * time.Hour), nil
}

// rawHorizon reads since when messages are kept; zero is for ever, or that there were
// none before: no message is older than the first queue.
func rawHorizon(ctx context.Context, tx pgx.Tx, setting string) (time.Time, error) {
	var value string
	err := tx.QueryRow(ctx, `SELECT coalesce((SELECT value FROM store_settings WHERE name = $1), '')`, setting).Scan(&value)
	if err != nil || value == "" {
		return time.Time{}, err //nolint:wrapcheck // the caller's own transaction
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return at, fmt.Errorf("verify: setting %s: %w", setting, err)
	}
	var first int64
	if err := tx.QueryRow(ctx, `SELECT coalesce(min(position), 0) FROM event_history WHERE scope = 'admin'`).Scan(&first); err != nil {
		return at, fmt.Errorf("verify: %w", err)
	}
	if !events.Position(first).Time().Before(at) {
		return time.Time{}, nil
	}
	return at, nil
}

// errRollback ends a verification: it leaves nothing behind.
var errRollback = errors.New("done")

func refold(ctx context.Context, tx pgx.Tx, w *writer, shard int, o VerifyOptions, report *Report) error {
	after, limit := events.Position(0), min(o.Batch, verifyFirstPage)
	for {
		records, err := ReadHistory(ctx, tx, shard, after, limit)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return nil
		}
		after = records[len(records)-1].Position
		// Postgres weighs all that it is asked for: not much more than fits is asked for.
		limit = min(o.Batch, max(verifyFirstPage, 2*uint64(len(records))))
		c, err := fold(records)
		if err != nil {
			return err
		}
		statements, err := c.statements()
		if err != nil {
			return err
		}
		if err := w.run(ctx, statements); err != nil {
			return fmt.Errorf("verify: fold shard %d after %d: %w", shard, after, err)
		}
		report.Events += int64(len(records))
		if o.Progress != nil {
			o.Progress(report.Events)
		}
	}
}

// comparison returns the select list and the condition under which a table's rows
// can be compared: what retention has dropped cannot, nor counts of older queues, which
// count that too.
func comparison(ctx context.Context, q Querier, table string, horizon time.Time, o VerifyOptions) (columns, where string, err error) {
	if horizon.IsZero() {
		return "*", "", nil
	}
	switch table {
	case "topic_counts", "topic_offsets", "group_counts":
		return "*", fmt.Sprintf(" WHERE topic_id IN (SELECT id FROM message_topics WHERE created_at >= '%s')", horizon.UTC().Format(time.RFC3339)), nil
	case "message_records", "consumption_records", "dead_letters":
		return "*", fmt.Sprintf(" WHERE message_id >= '%s'", o.MessageIDBound(horizon)), nil
	case "message_subscriptions":
		list, err := texts(ctx, q, `SELECT CASE WHEN attname = 'last_consumed_at' THEN format('CASE WHEN last_consumed_at >= %L THEN last_consumed_at END AS last_consumed_at', $2::text)
			ELSE quote_ident(attname) END FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, table, horizon.UTC().Format(time.RFC3339))
		return strings.Join(list, ", "), "", err
	}
	return "*", "", nil
}

// twins are columns by which a row is known to be another one's double although its key
// differs: of one event there is one row.
var twins = map[string][]string{
	"message_topics":      {"tenant_id", "name", "created_at"},
	"message_records":     {"shard", "position"},
	"consumption_records": {"message_id", "subscription_id", "attempt", "processed_at"},
	"dead_letters":        {"topic_id", "consumer_group", "message_id", "position"},
	"message_schedules":   {"topic_id", "name", "created_at"},
}

func compare(ctx context.Context, tx pgx.Tx, schema, table string, horizon time.Time, o VerifyOptions) (TableReport, error) {
	t := TableReport{Table: table}
	columns, where, err := comparison(ctx, tx, table, horizon, o)
	if err != nil {
		return t, err
	}
	folded := fmt.Sprintf("SELECT %s FROM pg_temp.%s t%s", columns, table, where)
	// The order of columns is the same: the temporary table was made LIKE the live one.
	live := fmt.Sprintf("SELECT %s FROM %s.%s t%s", columns, schema, table, where)
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM ("+live+") x").Scan(&t.Rows); err != nil {
		return t, fmt.Errorf("verify %s: %w", table, err)
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(`WITH f AS MATERIALIZED (%[1]s EXCEPT ALL %[2]s), l AS MATERIALIZED (%[2]s EXCEPT ALL %[1]s),
		pairs AS MATERIALIZED (SELECT to_jsonb(f) AS f, to_jsonb(l) AS l, row_number() OVER (ORDER BY %[4]s) AS n FROM f FULL JOIN l USING (%[3]s))
		SELECT (SELECT count(*) FROM f), (SELECT count(*) FROM l), (SELECT count(*) FROM pairs WHERE f IS NOT NULL AND l IS NOT NULL), f::text, l::text
		FROM pairs WHERE n <= %[5]d ORDER BY n`, folded, live, strings.Join(tableKeys[table], ", "), strings.Join(tableKeys[table], ", "), differencesShown))
	if err != nil {
		return t, fmt.Errorf("verify %s: %w", table, err)
	}
	type pair struct{ folded, live *string }
	var pairs []pair
	var p pair
	_, err = pgx.ForEachRow(rows, []any{&t.Missing, &t.Unexpected, &t.Changed, &p.folded, &p.live}, func() error {
		pairs = append(pairs, p)
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("verify %s: %w", table, err)
	}
	for _, p := range pairs {
		example, err := name(ctx, tx, table, p.folded, p.live)
		if err != nil {
			return t, err
		}
		t.Examples = append(t.Examples, example)
	}
	return t, nil
}

// name says what happened to a row, given as JSON as it should be and as it is; nil is
// for not at all.
func name(ctx context.Context, tx pgx.Tx, table string, folded, live *string) (string, error) {
	switch {
	case live == nil:
		return "deleted " + keyOf(table, *folded) + ": " + *folded, nil
	case folded != nil:
		return "changed " + keyOf(table, *live) + ": " + strings.Join(changesOf(*folded, *live), "; "), nil
	}
	same := func(columns []string) string {
		conditions := make([]string, len(columns))
		for i, column := range columns {
			conditions[i] = fmt.Sprintf("t.%[1]s = l.%[1]s", column)
		}
		return strings.Join(conditions, " AND ")
	}
	condition := same(tableKeys[table])
	if twins[table] != nil {
		condition += " OR " + same(twins[table])
	}
	found, err := texts(ctx, tx, fmt.Sprintf(`SELECT to_jsonb(t)::text FROM pg_temp.%[1]s t, jsonb_populate_record(NULL::pg_temp.%[1]s, $1::text::jsonb) l WHERE %[2]s LIMIT 1`, table, condition), *live)
	if err != nil {
		return "", fmt.Errorf("verify %s: %w", table, err)
	}
	if len(found) > 0 {
		return "doubled " + keyOf(table, found[0]) + ": it stands there again as " + *live, nil
	}
	return "added " + keyOf(table, *live) + ", which no event says: " + *live, nil
}

// members are the members of a row's JSON.
func members(row string) map[string]json.RawMessage {
	var out map[string]json.RawMessage
	_ = json.Unmarshal([]byte(row), &out) // it is the server's
	return out
}

func keyOf(table, row string) string {
	all := members(row)
	parts := make([]string, len(tableKeys[table]))
	for i, column := range tableKeys[table] {
		parts[i] = column + " " + strings.Trim(string(all[column]), `"`)
	}
	return strings.Join(parts, ", ")
}

// changesOf are the columns that differ: as history says -> as the table has it.
func changesOf(folded, live string) []string {
	was, is := members(folded), members(live)
	var out []string
	for _, column := range slices.Sorted(maps.Keys(was)) {
		if string(was[column]) != string(is[column]) {
			out = append(out, fmt.Sprintf("%s %s -> %s", column, shorten(was[column]), shorten(is[column])))
		}
	}
	return out
}

// valueShownMax is how much of a value a report shows, in bytes.
const valueShownMax = 200

func shorten(value json.RawMessage) string {
	if len(value) <= valueShownMax {
		return string(value)
	}
	return strings.ToValidUTF8(string(value[:valueShownMax]), "") + "…"
}
