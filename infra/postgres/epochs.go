package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// EpochSetting is the store setting that says what the log is known by.
const EpochSetting = "log_epoch"

// FixEpoch gives the log its first epoch if it has none, and returns the one it has.
func FixEpoch(ctx context.Context, pool *pgxpool.Pool, first string) (string, error) {
	epoch, err := FixSetting(ctx, pool, EpochSetting, first)
	if err != nil {
		return "", err
	}
	if _, err := pool.Exec(ctx, `INSERT INTO log_epochs (epoch, reason) VALUES ($1, 'first use') ON CONFLICT DO NOTHING`, epoch); err != nil {
		return "", fmt.Errorf("note the epoch: %w", err)
	}
	return epoch, nil
}

// BeginAnew makes a store that was copied one of its own: a Redis of the store that it was
// copied from is another's from then on.
func BeginAnew(ctx context.Context, pool *pgxpool.Pool, first string) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, sql := range []string{`DELETE FROM log_epochs`, `DELETE FROM log_seen`, `DELETE FROM store_settings WHERE name = '` + EpochSetting + `'`} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err //nolint:wrapcheck // wrapped below
			}
		}
		return nil
	})
	if err == nil {
		_, err = FixEpoch(ctx, pool, first)
	}
	if err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	return nil
}

// Epochs returns whatever the log was and is known by.
func Epochs(ctx context.Context, pool *pgxpool.Pool) (map[string]bool, error) {
	rows, err := pool.Query(ctx, `SELECT epoch FROM log_epochs`)
	if err != nil {
		return nil, fmt.Errorf("epochs: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("epochs: %w", err)
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
	}
	return known, nil
}

// SeeLog notes that an instance sees the log in a Redis process.
func SeeLog(ctx context.Context, pool *pgxpool.Pool, process string) error {
	_, err := pool.Exec(ctx, `
WITH seen AS (INSERT INTO log_seen (process, seen_at) VALUES ($1, now()) ON CONFLICT (process) DO UPDATE SET seen_at = now())
DELETE FROM log_seen WHERE process <> $1 AND seen_at < now() - interval '1 hour'`, process)
	if err != nil {
		return fmt.Errorf("note where the log is: %w", err)
	}
	return nil
}

// LastSeen returns the Redis process in which an instance has last seen the log, empty for
// none, and how long ago that was.
func LastSeen(ctx context.Context, pool *pgxpool.Pool) (process string, ago time.Duration, err error) {
	var seconds float64
	err = pool.QueryRow(ctx, `SELECT process, extract(epoch FROM now() - seen_at)::float8 FROM log_seen ORDER BY seen_at DESC LIMIT 1`).Scan(&process, &seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("look where the log is: %w", err)
	}
	return process, time.Duration(seconds * float64(time.Second)), nil
}

// errEpochMoved reports that somebody else raised the epoch meanwhile.
var errEpochMoved = errors.New("the log has another epoch by now")

// RaiseEpoch gives the log another epoch than the one it has: it was put back, for a reason.
func RaiseEpoch(ctx context.Context, db interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}, from, next, reason string,
) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO log_epochs (epoch, reason) VALUES ($1, $2)`, next, reason); err != nil {
			return err //nolint:wrapcheck // wrapped below
		}
		raised, err := tx.Exec(ctx, `UPDATE store_settings SET value = $1 WHERE name = $2 AND value = $3`, next, EpochSetting, from)
		if err == nil && raised.RowsAffected() == 0 {
			err = errEpochMoved
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("raise the epoch: %w", err)
	}
	return nil
}
