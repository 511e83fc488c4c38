package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// Beginner is a connection or a pool.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// ErrOtherEpoch reports that the log is known by another epoch by now.
var ErrOtherEpoch = errors.New("the log has another epoch by now")

// Admit lets projectors fold from one run of the log alone (see [Config].Run), and returns
// how far each shard is folded then: whatever was under way is either counted in or will be
// refused. epoch is what the log must be known by still, empty for whatever it is.
func Admit(ctx context.Context, db Beginner, run, epoch string, shards int) (folded []events.Position, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var known string
		if err := tx.QueryRow(ctx, `SELECT coalesce((SELECT value FROM store_settings WHERE name = 'log_epoch'), '')`).Scan(&known); err != nil {
			return fmt.Errorf("look at the epoch: %w", err)
		}
		if epoch != "" && known != epoch {
			return ErrOtherEpoch
		}
		if _, err := tx.Exec(ctx, `INSERT INTO projection_checkpoints (projection, shard, position) SELECT $1, n, 0 FROM generate_series(0, $2 - 1) n
			ON CONFLICT DO NOTHING`, Name, shards); err != nil {
			return fmt.Errorf("make checkpoints: %w", err)
		}
		// In one order, as others do it too.
		rows, err := tx.Query(ctx, `
WITH locked AS (SELECT shard FROM projection_checkpoints WHERE projection = $1 ORDER BY shard FOR UPDATE),
moved AS (UPDATE projection_checkpoints c SET log_run = $2 FROM locked WHERE c.projection = $1 AND c.shard = locked.shard RETURNING c.shard, c.position)
SELECT position FROM moved ORDER BY shard`, Name, run)
		if err != nil {
			return fmt.Errorf("move checkpoints: %w", err)
		}
		if folded, err = pgx.CollectRows(rows, pgx.RowTo[events.Position]); err != nil {
			return fmt.Errorf("move checkpoints: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("admit a run of the log: %w", err)
	}
	return folded, nil
}
