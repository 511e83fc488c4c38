package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// Beginner is a connection or a pool.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// ErrOtherEpoch reports that the log is known by another epoch by now.
var ErrOtherEpoch = errors.New("the log has another epoch by now")

// ErrRestoring reports that somebody puts the log back.
var ErrRestoring = errors.New("the log is being put back")

// restoring stands before a run in which nobody folds.
const restoring = "restoring "

// Freeze lets no projector fold any more, until [Admit] lets one, and returns how far each
// shard is folded. Whoever calls it holds the lock of who puts the log back.
func Freeze(ctx context.Context, db Beginner, name, epoch string, shards int) ([]events.Position, error) {
	return Admit(ctx, db, restoring+name, epoch, shards, true)
}

// Admit lets projectors fold from one run of the log alone (see [Config].Run), and returns
// how far each shard is folded then: whatever was under way is either counted in or will be
// refused. epoch is what the log must be known by still. It returns [ErrRestoring] where
// somebody else puts the log back, unless isRestorer says that it is the caller who did.
func Admit(ctx context.Context, db Beginner, run, epoch string, shards int, isRestorer bool) (folded []events.Position, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO projection_checkpoints (projection, shard, position) SELECT $1, n, 0 FROM generate_series(0, $2 - 1) n
			ON CONFLICT DO NOTHING`, Name, shards); err != nil {
			return fmt.Errorf("make checkpoints: %w", err)
		}
		// In one order, as others do it too; and before the epoch is looked at, so that it
		// is not an earlier one.
		var runs []string
		rows, err := tx.Query(ctx, `SELECT log_run FROM projection_checkpoints WHERE projection = $1 ORDER BY shard FOR UPDATE`, Name)
		if err == nil {
			runs, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			return fmt.Errorf("lock checkpoints: %w", err)
		}
		if slices.ContainsFunc(runs, func(run string) bool { return strings.HasPrefix(run, restoring) }) && !isRestorer {
			return ErrRestoring
		}
		var known string
		if err := tx.QueryRow(ctx, `SELECT coalesce((SELECT value FROM store_settings WHERE name = 'log_epoch'), '')`).Scan(&known); err != nil {
			return fmt.Errorf("look at the epoch: %w", err)
		}
		if known != epoch {
			return ErrOtherEpoch
		}
		rows, err = tx.Query(ctx, `
WITH moved AS (UPDATE projection_checkpoints SET log_run = $2 WHERE projection = $1 RETURNING shard, position)
SELECT position FROM moved ORDER BY shard`, Name, run)
		if err == nil {
			folded, err = pgx.CollectRows(rows, pgx.RowTo[events.Position])
		}
		if err != nil {
			return fmt.Errorf("move checkpoints: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("admit a run of the log: %w", err)
	}
	return folded, nil
}

// Checkpoints returns how far each shard is folded, 0 for one of which nothing is.
func Checkpoints(ctx context.Context, q Querier, shards int) ([]events.Position, error) {
	rows, err := q.Query(ctx, `SELECT coalesce(c.position, 0) FROM generate_series(0, $2 - 1) n
		LEFT JOIN projection_checkpoints c ON c.projection = $1 AND c.shard = n ORDER BY n`, Name, shards)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	folded, err := pgx.CollectRows(rows, pgx.RowTo[events.Position])
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	return folded, nil
}
