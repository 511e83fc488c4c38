package projections

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// swap puts the new tables in the place of the live ones, all or nothing. Projectors wait
// from when their checkpoints are locked, and readers from when the tables are, until the
// commit; either is waited for no longer than lockWait, which is how long those wait who
// come meanwhile. Locks are taken in the order in which projectors and whoever changes
// partitions take them. Readers take theirs in any order: as the wait is over before
// PostgreSQL looks for circles (deadlock_timeout, 1 s), it is never a reader that must go.
func (r *rebuild) swap(ctx context.Context, tables []RebuiltTable, lockWait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, swapTimeout)
	defer cancel()
	encoded, err := encodeTables(tables)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error { //nolint:wrapcheck // wrapped inside
		if err := r.lockOthers(ctx, tx); err != nil {
			return err
		}
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		if err := r.lockWriters(ctx, tx, lockWait); err != nil {
			return err
		}
		if err := r.foldTail(ctx, tx); err != nil {
			return err
		}
		if err := r.level(ctx, tx); err != nil {
			return err
		}
		if err := r.exchange(ctx, tx, lockWait); err != nil {
			return err
		}
		for _, s := range []struct {
			sql  string
			args []any
		}{
			{`INSERT INTO projection_versions (projection, version) VALUES ($1, $2) ON CONFLICT (projection) DO UPDATE SET version = excluded.version, updated_at = now()`, []any{Name, r.o.Version}},
			{`INSERT INTO projection_checkpoints (projection, shard, position) SELECT $1, p.shard, p.position FROM projection_rebuild_positions p WHERE p.rebuild_id = $2 AND p.position > 0 ON CONFLICT DO NOTHING`, []any{Name, r.state.ID}},
			{`UPDATE projection_rebuilds SET status = 'done', phase = 'done', tables = $2::text::jsonb, error = NULL, updated_at = now(), finished_at = now() WHERE id = $1`, []any{r.state.ID, encoded}},
		} {
			if _, err := tx.Exec(ctx, s.sql, s.args...); err != nil {
				return fmt.Errorf("swap: %w", err)
			}
		}
		return nil
	})
}

// lockOthers keeps partitions as they are, and vacuum away, which gives way to who waits
// for it a while. Readers, projectors and the workers of this rebuild do not notice.
func (r *rebuild) lockOthers(ctx context.Context, tx pgx.Tx) error {
	tables := slices.Clone(readTables)
	for _, table := range readTables {
		tables = append(tables, r.shadow.own+"."+table)
	}
	return execAll(ctx, tx,
		`SET LOCAL synchronous_commit TO on`,
		fmt.Sprintf(`SET LOCAL lock_timeout TO '%dms'`, vacuumWait.Milliseconds()),
		`SELECT pg_advisory_xact_lock(hashtextextended('tallymq:partitions:' || current_schema(), 0))`,
		`LOCK TABLE `+strings.Join(tables, ", ")+` IN SHARE UPDATE EXCLUSIVE MODE`,
	)
}

// lockWriters keeps checkpoints, and with them history, as they are.
func (r *rebuild) lockWriters(ctx context.Context, tx pgx.Tx, wait time.Duration) error {
	return execAll(ctx, tx,
		fmt.Sprintf(`SET LOCAL lock_timeout TO '%dms'`, wait.Milliseconds()),
		`LOCK TABLE projection_checkpoints IN SHARE ROW EXCLUSIVE MODE`,
	)
}

// execAll runs statements one by one.
func execAll(ctx context.Context, tx pgx.Tx, statements ...string) error {
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("swap: %w", err)
		}
	}
	return nil
}

// foldTail folds what came since it last caught up. Projectors wait for it.
func (r *rebuild) foldTail(ctx context.Context, tx pgx.Tx) error {
	if err := r.shadow.first(ctx, tx, "LOCAL"); err != nil {
		return err
	}
	left := RebuildTailMax
	for shard := range r.o.Shards {
		at := r.position(shard)
		records, err := ReadHistory(ctx, tx, shard, at, uint64(left)+1)
		if err != nil {
			return err
		}
		if left -= len(records); left < 0 {
			return fmt.Errorf("swap: %w: more than %d events", errNotNow, RebuildTailMax)
		}
		if len(records) == 0 {
			continue
		}
		upTo := records[len(records)-1].Position
		more, err := ReadHistory(ctx, tx, shard, upTo, 1)
		if err != nil {
			return err
		}
		if len(more) > 0 {
			return fmt.Errorf("swap: %w: more than %d bytes", errNotNow, BatchBytesMax)
		}
		if err := r.applyTail(ctx, shard, at, records); err != nil {
			return err
		}
	}
	return nil
}

func (r *rebuild) applyTail(ctx context.Context, shard int, at events.Position, records []events.Record) error {
	c, err := fold(records)
	if err != nil {
		return err
	}
	statements, err := c.statements()
	if err != nil {
		return err
	}
	moves, err := advanceStatement(r.state.ID, shard, at, records[len(records)-1].Position, int64(len(records)))
	if err != nil {
		return err
	}
	if err := r.tail.run(ctx, append(statements, moves)); err != nil {
		return fmt.Errorf("swap: fold shard %d after %d: %w", shard, at, err)
	}
	return nil
}

// level makes the new tables equal where history does not say it all, and makes sure that
// they are like the live ones.
func (r *rebuild) level(ctx context.Context, tx pgx.Tx) error {
	horizon, err := rawHorizon(ctx, tx, r.o.HorizonSetting)
	if err != nil {
		return err
	}
	if !horizon.Equal(r.horizon) {
		return fmt.Errorf("swap: %w: retention", errNotNow)
	}
	if !horizon.IsZero() {
		if err := execAll(ctx, tx, slices.Concat(r.dropOld(horizon), r.countsOver(horizon))...); err != nil {
			return err
		}
	}
	changed, err := r.shadow.syncPartitions(ctx, tx)
	if err != nil {
		return err
	}
	if changed > 0 {
		// What retention has dropped meanwhile is to be settled first.
		return fmt.Errorf("swap: %w: partitions", errNotNow)
	}
	return nil
}

// exchange drops the live tables and moves the new ones to where they were.
func (r *rebuild) exchange(ctx context.Context, tx pgx.Tx, wait time.Duration) error {
	if err := execAll(ctx, tx, `SET LOCAL search_path TO `+r.shadow.live); err != nil {
		return err
	}
	days, err := partitions(ctx, tx, r.shadow.own)
	if err != nil {
		return err
	}
	names := strings.Join(readTables, ", ")
	err = execAll(ctx, tx,
		fmt.Sprintf(`SET LOCAL statement_timeout TO '%dms'`, wait.Milliseconds()),
		`LOCK TABLE `+names+` IN ACCESS EXCLUSIVE MODE`,
		`SET LOCAL statement_timeout TO 0`,
	)
	if err != nil {
		return err
	}
	now, err := define(ctx, tx, r.shadow)
	if err != nil {
		return err
	}
	if now.sum() != r.def.sum() {
		return errOtherDefinition
	}
	statements := []string{`DROP TABLE ` + names}
	move := func(table string) {
		statements = append(statements, `ALTER TABLE `+r.shadow.own+`.`+pgx.Identifier{table}.Sanitize()+` SET SCHEMA `+r.shadow.live)
	}
	for _, table := range readTables {
		move(table)
	}
	for _, p := range days {
		move(p.name)
	}
	// One round trip: readers wait.
	if _, err := tx.Conn().PgConn().Exec(ctx, strings.Join(statements, ";\n")).ReadAll(); err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	return nil
}

// lockForReading keeps the read tables from being swapped for the rest of a transaction
// whose snapshot is not taken yet.
func lockForReading(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `LOCK TABLE `+strings.Join(readTables, ", ")+` IN ACCESS SHARE MODE`); err != nil {
		return fmt.Errorf("lock the read tables: %w", err)
	}
	return nil
}

// ends are where the shards' histories end.
func ends(ctx context.Context, q Querier, shards int) (map[int]events.Position, error) {
	rows, err := q.Query(ctx, `SELECT n, coalesce((SELECT max(position) FROM event_history h WHERE h.shard = n::smallint), 0) FROM generate_series(0, $1::int - 1) AS n`, shards)
	if err != nil {
		return nil, fmt.Errorf("read where history ends: %w", err)
	}
	out := map[int]events.Position{}
	var shard int
	var position int64
	_, err = pgx.ForEachRow(rows, []any{&shard, &position}, func() error {
		out[shard] = events.Position(position)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read where history ends: %w", err)
	}
	return out, nil
}
