package projections

import (
	"context"
	"errors"
	"fmt"
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
	Tables []TableReport
}

// OK reports whether the read tables equal the fold of the history.
func (r Report) OK() bool {
	for _, t := range r.Tables {
		if t.Missing+t.Unexpected > 0 {
			return false
		}
	}
	return true
}

// TableReport compares one read table with the fold. A row that differs counts as
// missing as the history has it and as unexpected as the table has it.
type TableReport struct {
	Table   string
	Rows    int64
	Missing int64
	// Unexpected rows stand in the table and are not what the history says.
	Unexpected int64
	// Examples are such rows as JSON, at most 20 of each kind.
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
	"topic_counts", "group_counts", "dead_letters", "message_schedules",
}

// Verify folds the whole history into tables of its own and compares every row of
// the read tables with them. It works on one snapshot, so it may run while the
// service does. conn is used up by it: prepared statements remember its tables.
func Verify(ctx context.Context, conn *pgx.Conn, o VerifyOptions) (Report, error) {
	var report Report
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
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

// horizonOf reads since when rows can be compared, in the same snapshot; zero is for
// ever.
func horizonOf(ctx context.Context, tx pgx.Tx, setting string) (time.Time, error) {
	at, err := rawHorizon(ctx, tx, setting)
	if err != nil || at.IsZero() {
		return at, err
	}
	return at.Add(24 * time.Hour), nil
}

// rawHorizon reads since when messages are kept; zero is for ever.
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

// nothing is the condition that no row passes.
const nothing = " WHERE false"

// comparison returns the select list and the condition under which a table's rows
// can be compared: what retention has dropped cannot.
func comparison(table string, horizon time.Time, o VerifyOptions) (columns, where string) {
	if horizon.IsZero() {
		return "*", ""
	}
	switch table {
	case "topic_counts", "group_counts":
		return "*", nothing // they count what was dropped too
	case "message_records", "consumption_records", "dead_letters":
		return "*", fmt.Sprintf(" WHERE message_id >= '%s'", o.MessageIDBound(horizon))
	case "message_subscriptions":
		at := horizon.UTC().Format(time.RFC3339)
		return fmt.Sprintf("(to_jsonb(t) - 'last_consumed_at') AS subscription, CASE WHEN last_consumed_at >= '%s' THEN last_consumed_at END AS last", at), ""
	}
	return "*", ""
}

func compare(ctx context.Context, tx pgx.Tx, schema, table string, horizon time.Time, o VerifyOptions) (TableReport, error) {
	t := TableReport{Table: table}
	columns, where := comparison(table, horizon, o)
	folded := fmt.Sprintf("SELECT %s FROM pg_temp.%s t%s", columns, table, where)
	// The order of columns is the same: the temporary table was made LIKE the live one.
	live := fmt.Sprintf("SELECT %s FROM %s.%s t%s", columns, schema, table, where)
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM ("+live+") x").Scan(&t.Rows); err != nil {
		return t, fmt.Errorf("verify %s: %w", table, err)
	}
	for _, side := range []struct {
		label, a, b string
		count       *int64
	}{{"missing", folded, live, &t.Missing}, {"unexpected", live, folded, &t.Unexpected}} {
		rows, err := tx.Query(ctx, fmt.Sprintf(`WITH d AS (%s EXCEPT ALL %s) SELECT (SELECT count(*) FROM d), to_jsonb(d)::text FROM d LIMIT %d`, side.a, side.b, differencesShown))
		if err != nil {
			return t, fmt.Errorf("verify %s: %w", table, err)
		}
		var example string
		_, err = pgx.ForEachRow(rows, []any{side.count, &example}, func() error {
			t.Examples = append(t.Examples, side.label+" "+strings.TrimSpace(example))
			return nil
		})
		if err != nil {
			return t, fmt.Errorf("verify %s: %w", table, err)
		}
	}
	return t, nil
}
