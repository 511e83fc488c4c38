package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// compare folds up to where the live tables are in a snapshot and holds the new ones
// against it. Nobody is held up by it.
func (r *rebuild) compare(ctx context.Context) ([]RebuiltTable, error) {
	conn, err := r.o.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("rebuild: %w", err)
	}
	defer closeConn(conn)
	var out []RebuiltTable
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(live pgx.Tx) error {
		// Before the snapshot: a table that is there in it stays.
		if err := lockForReading(ctx, live); err != nil {
			return err
		}
		ends, err := ends(ctx, live, r.o.Shards)
		if err != nil {
			return err
		}
		if _, err := r.foldAll(ctx, ends); err != nil {
			return err
		}
		if err := r.settle(ctx); err != nil {
			return err
		}
		horizon, err := horizonOf(ctx, live, r.o.HorizonSetting)
		if err != nil {
			return err
		}
		for _, table := range readTables {
			t, err := r.compareTable(ctx, live, table, horizon)
			if err != nil {
				return err
			}
			out = append(out, t)
		}
		return nil
	})
	return out, err //nolint:wrapcheck // wrapped inside
}

func (r *rebuild) compareTable(ctx context.Context, live pgx.Tx, table string, horizon time.Time) (RebuiltTable, error) {
	t := RebuiltTable{Table: table}
	columns, where, err := comparison(ctx, live, table, horizon, VerifyOptions{MessageIDBound: r.o.MessageIDBound})
	if err != nil {
		return t, err
	}
	t.Partial = !horizon.IsZero() && (where != "" || columns != "*")
	var own error
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.SHA256, own = hashRows(ctx, r.conn.PgConn(), r.shadow.own, table, columns, where)
	}()
	t.LiveSHA256, err = hashRows(ctx, live.Conn().PgConn(), r.shadow.live, table, columns, where)
	<-done
	return t, errors.Join(err, own)
}

// settle does to the new tables what retention did to the live ones: what it dropped is
// gone, and what it left although its beginning is dropped is taken over.
func (r *rebuild) settle(ctx context.Context) error {
	return pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error { //nolint:wrapcheck // wrapped inside
		if _, err := r.shadow.syncPartitions(ctx, tx); err != nil {
			return err
		}
		horizon, err := rawHorizon(ctx, tx, r.o.HorizonSetting)
		if r.horizon = horizon; err != nil || horizon.IsZero() {
			return err
		}
		return execAll(ctx, tx, slices.Concat(r.dropOld(horizon), r.takeOver(horizon))...)
	})
}

// dropOld are statements that drop what retention has: later events of old messages.
func (r *rebuild) dropOld(horizon time.Time) []string {
	bound := r.o.MessageIDBound(horizon)
	return []string{
		fmt.Sprintf(`DELETE FROM %s.message_records_default WHERE message_id < '%s'`, r.shadow.own, bound),
		fmt.Sprintf(`DELETE FROM %s.consumption_records_default WHERE message_id < '%s'`, r.shadow.own, bound),
		fmt.Sprintf(`DELETE FROM %s.dead_letters WHERE message_id < '%s'`, r.shadow.own, bound),
	}
}

// takeOver are statements that take over rows of messages whose id is of the first hour
// that is kept and whose event was not: the clocks that make ids and positions differ by
// less. What their later events do to such a row is done to it already, and doing it again
// changes nothing.
func (r *rebuild) takeOver(horizon time.Time) []string {
	from, to := r.o.MessageIDBound(horizon), r.o.MessageIDBound(horizon.Add(clockSkewMax))
	first := int64(events.MakePosition(horizon.UnixMilli(), 0))
	var out []string
	for table, dropped := range map[string]string{
		"message_records":     fmt.Sprintf("position < %d", first),
		"consumption_records": fmt.Sprintf("processed_at < '%s'", horizon.UTC().Format(time.RFC3339)),
		"dead_letters":        fmt.Sprintf("position < %d", first),
	} {
		out = append(out, fmt.Sprintf(`INSERT INTO %s.%s SELECT * FROM %s.%s WHERE message_id >= '%s' AND message_id < '%s' AND %s ON CONFLICT DO NOTHING`,
			r.shadow.own, table, r.shadow.live, table, from, to, dropped))
	}
	return out
}

// countsOver are statements that take over what counts messages that retention dropped,
// of queues that are older than the horizon, once both sides are at the same positions.
func (r *rebuild) countsOver(horizon time.Time) []string {
	own, live := r.shadow.own, r.shadow.live
	older := fmt.Sprintf(`topic_id IN (SELECT id FROM %s.message_topics WHERE created_at < '%s')`, own, horizon.UTC().Format(time.RFC3339))
	var out []string
	for _, table := range []string{"topic_counts", "topic_offsets", "group_counts"} {
		out = append(out, fmt.Sprintf(`DELETE FROM %s.%s WHERE %s`, own, table, older),
			fmt.Sprintf(`INSERT INTO %s.%s SELECT * FROM %s.%s WHERE %s`, own, table, live, table, older))
	}
	return append(out, fmt.Sprintf(`UPDATE %s.message_subscriptions s SET last_consumed_at = l.last_consumed_at FROM %s.message_subscriptions l
		WHERE l.id = s.id AND s.last_consumed_at IS NULL AND l.last_consumed_at < '%s'`, own, live, horizon.Add(24*time.Hour).UTC().Format(time.RFC3339)))
}

func encodeTables(tables []RebuiltTable) (string, error) {
	text, err := json.Marshal(tables)
	if err != nil {
		return "", fmt.Errorf("rebuild: %w", err)
	}
	return string(text), nil
}
