package projections

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tallymq/tallymq/events"
)

// foldBatchEvents is how many events FoldAll folds in one transaction: larger than a
// projector's batches, since nobody waits for one of them.
const foldBatchEvents = 5000

// FoldAllOptions says how to fold all history.
type FoldAllOptions struct {
	Shards int
	// Workers is how many shards are folded at once, each on a connection of its own.
	Workers int
	Connect func(ctx context.Context) (*pgx.Conn, error)
	// Progress is told of the events folded so far, by any goroutine; may be nil.
	Progress func(events int64)
}

// FoldAll folds the whole history into the read tables, which must be empty while nobody
// else writes them. It moves no checkpoint. Where it fails, the tables are of no use: its
// commits do not wait for Postgres' disk, so a later one that does must end the work.
func FoldAll(ctx context.Context, o FoldAllOptions) error {
	queue := make(chan int, o.Shards)
	for shard := range o.Shards {
		queue <- shard
	}
	close(queue)
	var folded atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range max(1, o.Workers) {
		group.Go(func() error {
			conn, err := o.Connect(ctx)
			if err != nil {
				return fmt.Errorf("fold: %w", err)
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			if _, err := conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
				return fmt.Errorf("fold: %w", err)
			}
			w := newWriter(conn.PgConn())
			for shard := range queue {
				if err := foldShard(ctx, conn, w, shard, &folded, o.Progress); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait() //nolint:wrapcheck // wrapped inside
}

func foldShard(ctx context.Context, conn *pgx.Conn, w *writer, shard int, folded *atomic.Int64, progress func(int64)) error {
	after := events.Position(0)
	for {
		records, err := ReadHistory(ctx, conn, shard, after, foldBatchEvents)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return nil
		}
		c, err := fold(records)
		if err != nil {
			return err
		}
		erasure, err := historyErasure(shard, records)
		if err != nil {
			return err
		}
		// History may be of before what it tells of was erased.
		statements, err := c.allStatements(true)
		if err != nil {
			return err
		}
		if erasure.sql != "" {
			statements = append([]statement{erasure}, statements...)
		}
		if err := w.run(ctx, statements); err != nil {
			return fmt.Errorf("fold shard %d after %d: %w", shard, after, err)
		}
		after = records[len(records)-1].Position
		if n := folded.Add(int64(len(records))); progress != nil {
			progress(n)
		}
	}
}
