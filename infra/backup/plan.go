package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/infra/postgres"
)

// task reads rows into segments.
type task struct {
	segment Segment
	// number is that of its first segment.
	number int
	from   string
	args   []string
}

// describe reads what the store in the database is.
func describe(ctx context.Context, tx pgx.Tx) (Manifest, error) {
	m := Manifest{Format: Format}
	there, err := tablesThere(ctx, tx)
	if err != nil {
		return m, err
	}
	if !slices.Contains(there, "goose_db_version") || !slices.Contains(there, history) {
		return m, errors.New("backup: no service has used this database yet")
	}
	settings := map[string]string{}
	rows, err := tx.Query(ctx, `SELECT name, value FROM store_settings`)
	if err != nil {
		return m, fmt.Errorf("backup: settings: %w", err)
	}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		settings[name] = value
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("backup: settings: %w", err)
	}
	if settings[unfinishedSetting] != "" {
		return m, unfinishedError(settings[unfinishedSetting])
	}
	if settings["shards"] == "" || settings["log_epoch"] == "" {
		return m, errors.New("backup: no service has used this database yet")
	}
	m.Epoch = settings["log_epoch"]
	if m.Shards, err = strconv.Atoi(settings["shards"]); err != nil {
		return m, fmt.Errorf("backup: setting shards: %w", err)
	}
	if horizon := settings[postgres.HorizonSetting]; horizon != "" {
		if m.Horizon, err = time.Parse(time.RFC3339, horizon); err != nil {
			return m, fmt.Errorf("backup: setting %s: %w", postgres.HorizonSetting, err)
		}
	}
	err = tx.QueryRow(ctx, `SELECT now(), (SELECT max(version_id) FROM goose_db_version WHERE is_applied)`).Scan(&m.CreatedAt, &m.Migration)
	if err != nil {
		return m, fmt.Errorf("backup: schema version: %w", err)
	}
	m.CreatedAt = m.CreatedAt.UTC()
	return m, checkMigration("the database", m.Migration)
}

func checkMigration(whose string, version int64) error {
	newest, err := postgres.NewestMigration()
	if err != nil {
		return err //nolint:wrapcheck // says what it is about
	}
	if version > newest {
		return fmt.Errorf("backup: the schema of %s is of version %d; this program knows versions up to %d: use a newer tallymq", whose, version, newest)
	}
	return nil
}

// tablesThere are the tables of the schema, without partitions.
func tablesThere(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT relname FROM pg_class
		WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname`)
	if err != nil {
		return nil, fmt.Errorf("tables: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("tables: %w", err)
	}
	return names, nil
}

func checkpointsOf(ctx context.Context, tx pgx.Tx, projection string) (map[int]int64, error) {
	upTo := map[int]int64{}
	rows, err := tx.Query(ctx, `SELECT shard, position FROM projection_checkpoints WHERE projection = $1`, projection)
	if err != nil {
		return nil, fmt.Errorf("backup: checkpoints: %w", err)
	}
	var shard int
	var position int64
	_, err = pgx.ForEachRow(rows, []any{&shard, &position}, func() error {
		upTo[shard] = position
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("backup: checkpoints: %w", err)
	}
	return upTo, nil
}

// keep finds the segments of history that stay: those of the directory's manifest, and
// those that a backup that did not end has completed since.
func (b *run) keep(ctx context.Context, tx pgx.Tx) error {
	before := b.old
	var left Manifest
	err := loadJSON(b.unfinishedPath(), &left)
	if err == nil {
		err = left.validate()
	}
	switch {
	case err == nil && left.Generation == b.unfinished.Generation:
		before = left
	case err != nil && !isMissing(err):
		return err
	}
	if before.Generation > 0 && before.Shards != b.unfinished.Shards {
		return fmt.Errorf("backup: %s is of a store with %d shards, and the database has %d: choose another directory", b.Dir, before.Shards, b.unfinished.Shards)
	}
	for _, s := range before.Segments {
		if s.Table != history {
			continue
		}
		if err := checkSize(b.Dir, s); err != nil {
			return fmt.Errorf("backup: %w: choose another directory", err)
		}
		b.unfinished.Segments = append(b.unfinished.Segments, s)
	}
	if err := b.checkLineage(ctx, tx); err != nil {
		return err
	}
	// A migration may have changed rows that were read before it.
	if before.Migration != b.unfinished.Migration {
		b.unfinished.Segments = nil
	}
	// What retention has dropped from the store goes from the backup, segment by segment.
	horizon := b.unfinished.horizonPosition()
	b.unfinished.Segments = slices.DeleteFunc(b.unfinished.Segments, func(s Segment) bool { return s.Scope == scopeMessage && s.LastPosition < horizon })
	return b.removeLeftovers()
}

// checkLineage makes sure that the directory's history is this store's: the last event of
// each series is there, the very same. A store that was restored from an older backup, and
// went on from there, is another one.
func (b *run) checkLineage(ctx context.Context, tx pgx.Tx) error {
	horizon := b.unfinished.horizonPosition()
	for shard := range b.unfinished.Shards {
		for _, scope := range scopes {
			series := b.unfinished.series(shard, scope)
			if len(series) == 0 {
				continue
			}
			last := series[len(series)-1]
			if scope == scopeMessage && last.LastPosition < horizon {
				continue
			}
			var is bool
			err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM event_history WHERE shard = $1 AND scope = $2 AND position = $3 AND event_id = $4::text::uuid AND position <= $5)`,
				shard, scope, last.LastPosition, last.LastEventID, b.upTo[shard]).Scan(&is)
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			if !is {
				return fmt.Errorf("backup: %s is of another store, or of this one before it was restored: the database does not have event %s at %d/%d: choose another directory",
					b.Dir, last.LastEventID, shard, last.LastPosition)
			}
		}
	}
	return nil
}

// removeLeftovers takes away what a backup that did not end has not completed.
func (b *run) removeLeftovers() error {
	dir := filepath.Join(b.Dir, generationDir(b.unfinished.Generation))
	entries, err := os.ReadDir(dir)
	if err != nil && !isMissing(err) {
		return fmt.Errorf("backup: %w", err)
	}
	for _, e := range entries {
		file := path.Join(generationDir(b.unfinished.Generation), e.Name())
		if e.Name() == unfinishedName || slices.ContainsFunc(b.unfinished.Segments, func(s Segment) bool { return s.File == file }) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
	}
	return nil
}

// plan says what is read, and counts it.
func (b *run) plan(ctx context.Context, tx pgx.Tx) ([]task, error) {
	there, err := tablesThere(ctx, tx)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	var tasks []task
	for shard := range b.unfinished.Shards {
		for _, scope := range scopes {
			tasks = append(tasks, b.historyTask(shard, scope))
		}
	}
	for _, table := range copied {
		if slices.Contains(there, table) {
			tasks = append(tasks, task{segment: Segment{Table: table}})
		}
	}
	for _, c := range counted {
		if slices.Contains(there, c.table) {
			tasks = append(tasks, task{segment: Segment{Table: c.table, Columns: c.columns}})
		}
	}
	for i := range tasks {
		t := &tasks[i]
		if t.segment.Columns == nil {
			if t.segment.Columns, err = columnsOf(ctx, tx, t.segment.Table); err != nil {
				return nil, err
			}
		}
		if t.from == "" {
			t.from = "FROM " + pgx.Identifier{t.segment.Table}.Sanitize()
		}
		var rows int64
		args := make([]any, 0, len(t.args))
		for _, a := range t.args {
			args = append(args, a)
		}
		if err := tx.QueryRow(ctx, "SELECT count(*) "+t.from, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...).Scan(&rows); err != nil {
			return nil, fmt.Errorf("backup: count %s: %w", t.segment.Table, err)
		}
		b.total += rows
	}
	return tasks, nil
}

// historyTask reads what a series does not have yet.
func (b *run) historyTask(shard int, scope string) task {
	after, number := int64(0), 0
	for _, s := range b.unfinished.series(shard, scope) {
		after = s.LastPosition
		if path.Dir(s.File) == generationDir(b.unfinished.Generation) {
			number++
		}
	}
	return task{
		segment: Segment{Table: history, Shard: shard, Scope: scope}, number: number,
		from: `FROM event_history WHERE shard = $1::smallint AND scope = $2::text AND position > $3::bigint AND position <= $4::bigint`,
		args: []string{strconv.Itoa(shard), scope, strconv.FormatInt(after, 10), strconv.FormatInt(b.upTo[shard], 10)},
	}
}

// columnsOf are the columns that a row is given, in order.
func columnsOf(ctx context.Context, tx pgx.Tx, table string) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT attname FROM pg_attribute
		WHERE attrelid = to_regclass(quote_ident($1)) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`, table)
	if err != nil {
		return nil, fmt.Errorf("columns of %s: %w", table, err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("columns of %s: %w", table, err)
	}
	return columns, nil
}
