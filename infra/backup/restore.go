package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tallymq/tallymq/infra/postgres"
)

// unfinishedSetting is the store setting that a restore has until it has ended.
const unfinishedSetting = "restore_unfinished"

// RestoreOptions says what to restore, and how.
type RestoreOptions struct {
	Dir string
	// Shards is with how many the service will run, 0 for unknown.
	Shards int
	// Fold folds the history of all shards into the empty read tables, and tells progress
	// of the events folded so far, from any goroutine.
	Fold   func(ctx context.Context, shards int, progress func(events int64)) error
	Logger *slog.Logger
	// Progress may be nil.
	Progress Progress
}

// Restored is what a restore has done.
type Restored struct {
	Manifest Manifest
	// Events and Rows were loaded: of history, and of other tables.
	Events, Rows int64
	// Missing are tables of the backup that the schema does not have.
	Missing []string
}

// ErrUnfinished is what whoever finds the mark of a restore is told.
var ErrUnfinished = errors.New("a restore into this database did not end: drop the schema (DROP SCHEMA … CASCADE; CREATE SCHEMA …) and restore again")

func unfinishedError(since string) error {
	return fmt.Errorf("%w; it began at %s", ErrUnfinished, since)
}

// CheckEnded returns [ErrUnfinished] where a restore into the database has not ended: what
// stands there is not to be used.
func CheckEnded(ctx context.Context, pool *pgxpool.Pool) error {
	since, err := postgres.Setting(ctx, pool, unfinishedSetting)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	if since != "" {
		return unfinishedError(since)
	}
	return nil
}

type restore struct {
	RestoreOptions

	pool     *pgxpool.Pool
	manifest Manifest
	there    []string

	mu       sync.Mutex
	done     int64
	total    int64
	restored Restored
}

// Restore makes an empty database what the backup is of: first all of the backup is
// checked, then its rows are loaded, then history is folded. Until all of it is there the
// database has a mark, see [CheckEnded].
func Restore(ctx context.Context, pool *pgxpool.Pool, o RestoreOptions) (Restored, error) {
	m, err := Check(ctx, o.Dir, o.Progress)
	if err != nil {
		return Restored{}, err
	}
	if o.Shards != 0 && o.Shards != m.Shards {
		return Restored{}, fmt.Errorf("SHARDS: is %d, but the backup is of a store with %d: set it to that", o.Shards, m.Shards)
	}
	r := &restore{RestoreOptions: o, pool: pool, manifest: m}
	r.restored.Manifest = m
	if err := r.checkEmpty(ctx); err != nil {
		return Restored{}, err
	}
	if err := r.prepare(ctx); err != nil {
		return Restored{}, err
	}
	if err := r.loadAll(ctx); err != nil {
		return Restored{}, err
	}
	if err := r.fold(ctx); err != nil {
		return Restored{}, err
	}
	if err := r.finish(ctx); err != nil {
		return Restored{}, err
	}
	return r.restored, nil
}

// checkEmpty refuses a database that has anything in its schema.
func (r *restore) checkEmpty(ctx context.Context) error {
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error { //nolint:wrapcheck // wrapped inside
		there, err := tablesThere(ctx, tx)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		var found []string
		for _, table := range there {
			var has bool
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+pgx.Identifier{table}.Sanitize()+`)`).Scan(&has); err != nil {
				return fmt.Errorf("restore: look into %s: %w", table, err)
			}
			if has && !slices.Contains(leftOut, table) {
				found = append(found, table)
			}
		}
		if len(found) == 0 {
			return nil
		}
		if slices.Contains(found, "store_settings") {
			var since string
			err := tx.QueryRow(ctx, `SELECT coalesce((SELECT value FROM store_settings WHERE name = $1), '')`, unfinishedSetting).Scan(&since)
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			if since != "" {
				return unfinishedError(since)
			}
		}
		return fmt.Errorf("restore: the database is not empty, there are rows in %s: give an empty one, or a schema of its own (search_path in DATABASE_URL)", strings.Join(found, ", "))
	})
}

// prepare makes the schema as the backup's was, with its partitions, and leaves the mark.
func (r *restore) prepare(ctx context.Context) error {
	if err := postgres.MigrateTo(ctx, r.pool, r.Logger, r.manifest.Migration); err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	// Two restores at once: one of them finds the other's mark.
	_, err := r.pool.Exec(ctx, `INSERT INTO store_settings (name, value) VALUES ($1, $2)`, unfinishedSetting, time.Now().UTC().Format(time.RFC3339))
	if err != nil {
		return fmt.Errorf("restore: mark the database: %w", err)
	}
	days := map[time.Time]bool{}
	for _, s := range r.manifest.Segments {
		for _, text := range s.Days {
			day, err := time.Parse(dayLayout, text)
			if err != nil {
				return fmt.Errorf("restore: %s: segment %s: days: %w", manifestName, s.File, err)
			}
			if !day.Add(24 * time.Hour).After(r.manifest.Horizon) {
				continue
			}
			days[day] = true
		}
	}
	list := make([]time.Time, 0, len(days))
	for day := range days {
		list = append(list, day)
	}
	slices.SortFunc(list, time.Time.Compare)
	if err := postgres.EnsureDays(ctx, r.pool, list); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := postgres.EnsurePartitions(ctx, r.pool, time.Now()); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error { //nolint:wrapcheck // wrapped inside
		r.there, err = tablesThere(ctx, tx)
		return err
	})
}

// loadAll loads what does not have to come last, several segments at once.
func (r *restore) loadAll(ctx context.Context) error {
	queue := make(chan Segment, len(r.manifest.Segments))
	for _, s := range r.manifest.Segments {
		switch {
		case !slices.Contains(r.there, s.Table):
			if !slices.Contains(r.restored.Missing, s.Table) {
				r.restored.Missing = append(r.restored.Missing, s.Table)
			}
		case !isCounted(s.Table) && s.Table != checkpoints:
			queue <- s
			r.total += s.Rows
		}
	}
	close(queue)
	group, loading := errgroup.WithContext(ctx)
	for range workers() {
		group.Go(func() error {
			for s := range queue {
				err := pgx.BeginFunc(loading, r.pool, func(tx pgx.Tx) error {
					// The last transaction waits for all of them: see finish.
					if _, err := tx.Exec(loading, `SET LOCAL synchronous_commit = off`); err != nil {
						return fmt.Errorf("restore: %w", err)
					}
					return r.load(loading, tx, s, s.Table, r.progress)
				})
				if err != nil {
					return err //nolint:wrapcheck // wrapped inside
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err //nolint:wrapcheck // wrapped inside
	}
	// What reads all of it next is planned by what there is.
	if _, err := r.pool.Exec(ctx, `ANALYZE `+history); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// load copies a segment into a table.
func (r *restore) load(ctx context.Context, tx pgx.Tx, s Segment, into string, progress func(rows int64)) (err error) {
	from, err := openSegment(r.Dir, s, r.manifest.horizonPosition(), progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	sql := fmt.Sprintf(`COPY %s (%s) FROM STDIN`, pgx.Identifier{into}.Sanitize(), quoted(s.Columns))
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, io.Reader(from), sql)
	if err != nil {
		return fmt.Errorf("restore: segment %s into %s: %w", s.File, into, err)
	}
	if want := s.Rows - from.rows.skipped; tag.RowsAffected() != want {
		return fmt.Errorf("restore: segment %s: %d rows came into %s, not %d", s.File, tag.RowsAffected(), into, want)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Table == history {
		r.restored.Events += tag.RowsAffected()
	} else {
		r.restored.Rows += tag.RowsAffected()
	}
	return nil
}

func (r *restore) progress(rows int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += rows
	if r.Progress != nil {
		r.Progress("loading", r.done, r.total)
	}
}

// fold folds history into the read tables, as this program's schema has them.
func (r *restore) fold(ctx context.Context) error {
	if err := postgres.Migrate(ctx, r.pool, r.Logger); err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	total := r.restored.Events
	return r.Fold(ctx, r.manifest.Shards, func(events int64) {
		if r.Progress != nil {
			r.Progress("folding", events, total)
		}
	})
}

// finish takes over what no fold can tell, then the checkpoints, and takes the mark away.
// Its commit makes those before it durable too: Postgres' log is written in order.
func (r *restore) finish(ctx context.Context) error {
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error { //nolint:wrapcheck // wrapped inside
		if !r.manifest.Horizon.IsZero() {
			if err := r.retain(ctx, tx); err != nil {
				return err
			}
		}
		for _, s := range r.manifest.Segments {
			if s.Table == checkpoints {
				if err := r.load(ctx, tx, s, s.Table, nil); err != nil {
					return err
				}
			}
		}
		for _, table := range slices.Concat(folded, r.present(copied)) {
			if _, err := tx.Exec(ctx, `ANALYZE `+pgx.Identifier{table}.Sanitize()); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
		}
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = on`); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM store_settings WHERE name = $1`, unfinishedSetting); err != nil {
			return fmt.Errorf("restore: take the mark away: %w", err)
		}
		return nil
	})
}

func (r *restore) present(tables []string) []string {
	return slices.DeleteFunc(slices.Clone(tables), func(t string) bool { return !slices.Contains(r.there, t) })
}

// retain makes the read tables as retention has left them: without what was before its
// horizon, and with what they count of it.
func (r *restore) retain(ctx context.Context, tx pgx.Tx) error {
	for _, table := range byMessage {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE message_id < $1`, postgres.MessageIDBound(r.manifest.Horizon)); err != nil {
			return fmt.Errorf("restore: retention of %s: %w", table, err)
		}
	}
	for _, c := range counted {
		if err := r.takeOver(ctx, tx, c); err != nil {
			return fmt.Errorf("restore: counts of %s: %w", c.table, err)
		}
	}
	return nil
}

func (r *restore) takeOver(ctx context.Context, tx pgx.Tx, c countedTable) error {
	table := pgx.Identifier{c.table}.Sanitize()
	copied := pgx.Identifier{"restored_" + c.table}
	if _, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TEMP TABLE %s ON COMMIT DROP AS SELECT * FROM %s WITH NO DATA`, copied.Sanitize(), table)); err != nil {
		return err //nolint:wrapcheck // the caller says what of
	}
	var columns string
	for _, s := range r.manifest.Segments {
		if s.Table == c.table {
			columns = quoted(s.Columns)
			if err := r.load(ctx, tx, s, copied[0], nil); err != nil {
				return err
			}
		}
	}
	if c.columns != nil {
		key, set := pgx.Identifier{c.columns[0]}.Sanitize(), make([]string, 0, len(c.columns))
		for _, name := range c.columns[1:] {
			set = append(set, fmt.Sprintf("%[1]s = f.%[1]s", pgx.Identifier{name}.Sanitize()))
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE %s t SET %s FROM %s f WHERE f.%s = t.%s`, table, strings.Join(set, ", "), copied.Sanitize(), key, key))
		return err //nolint:wrapcheck // the caller says what of
	}
	if _, err := tx.Exec(ctx, `DELETE FROM `+table); err != nil || columns == "" {
		return err //nolint:wrapcheck // the caller says what of
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %s (%s) SELECT %s FROM %s`, table, columns, columns, copied.Sanitize()))
	return err //nolint:wrapcheck // the caller says what of
}
