package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/tallymq/tallymq/infra/backup"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/projections"
)

// foldWorkersMax is how many shards a restore folds at once.
const foldWorkersMax = 4

func backupCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "backup --to <directory>",
		Short: "Copy the history of DATABASE_URL, and what is not folded from it, into a directory",
		Long: `Copies one moment of the store while the service goes on: segments of NDJSON,
compressed with zstd, and a manifest that names each with its SHA-256. Into a directory
that has a backup of the same store it adds what has happened since. A backup that did not
end leaves the one before it as it was, and the next goes on from there.

The files have the store's keys and all payloads: they are for their owner alone (0600),
and whoever has them can sign as the service does. Payloads that were erased since stay in
the segments that had them: a restore erases them again.`,
		Example: "  tallymq backup --to /var/backups/tallymq\n  zstd -dc /var/backups/tallymq/000001/event_history-000-message-0000.ndjson.zst | jq -c '.data | fromjson'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pool, err := openDatabase(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer pool.Close()
			began := time.Now()
			bars := phases{w: cmd.ErrOrStderr()}
			defer bars.clear()
			s, err := backup.Run(cmd.Context(), pool, backup.Options{
				Dir: dir, ServiceVersion: version, Projection: projections.Name, Progress: bars.progress,
			})
			if err != nil {
				return err //nolint:wrapcheck // says what it does
			}
			bars.clear()
			all, _ := s.Manifest.Rows()
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s, %d other rows: %d segments, %.1f MB (%.1f MB of rows); %s has %d events up to %s\n",
				rowRate(s.Events, "events backed up", time.Since(began)), s.Rows, s.Segments, float64(s.Bytes)/1e6, float64(s.RawBytes)/1e6,
				dir, all, s.Manifest.CreatedAt.Format(time.RFC3339))
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "to", "", "the directory; it is made if need be")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

func restoreCommand() *cobra.Command {
	var dir string
	var isCheck bool
	cmd := &cobra.Command{
		Use:   "restore --from <directory>",
		Short: "Make an empty DATABASE_URL what a backup is of",
		Long: `Checks every segment of a backup against its manifest before anything is written, loads
it into a database that must be empty, and folds the history. No service starts on a
database whose restore has not ended. SHARDS must be what the backup's store had.`,
		Example: "  tallymq restore --from /var/backups/tallymq --check\n  DATABASE_URL=postgres://… tallymq restore --from /var/backups/tallymq\n  tallymq verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if isCheck {
				return runCheck(cmd, dir)
			}
			return runRestore(cmd, dir)
		},
	}
	cmd.Flags().StringVar(&dir, "from", "", "the directory that a backup was made into")
	cmd.Flags().BoolVar(&isCheck, "check", false, "only check the backup's files; needs no database")
	_ = cmd.MarkFlagRequired("from")
	return cmd
}

func runCheck(cmd *cobra.Command, dir string) error {
	bars := phases{w: cmd.ErrOrStderr()}
	defer bars.clear()
	m, err := backup.Check(cmd.Context(), dir, bars.progress)
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	bars.clear()
	historyRows, otherRows := m.Rows()
	_, _ = fmt.Fprintf(cmd.OutOrStdout(), "The backup is complete: %d events and %d other rows in %d segments, made at %s by %s, with SHARDS=%d.\n",
		historyRows, otherRows, len(m.Segments), m.CreatedAt.Format(time.RFC3339), m.ServiceVersion, m.Shards)
	return nil
}

func runRestore(cmd *cobra.Command, dir string) error {
	cfg, err := loadConfig(false)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	pool, err := openDatabase(cmd.Context(), logger)
	if err != nil {
		return err
	}
	defer pool.Close()
	began := time.Now()
	bars := phases{w: cmd.ErrOrStderr()}
	defer bars.clear()
	r, err := backup.Restore(cmd.Context(), pool, backup.RestoreOptions{
		Dir: dir, Shards: cfg.Shards, Logger: logger, Progress: bars.progress,
		Fold: func(ctx context.Context, shards int, progress func(int64)) error {
			if err := foldAll(cfg.DatabaseURL)(ctx, shards, progress); err != nil {
				return err
			}
			// The original may go on, with its own Redis.
			return postgres.BeginAnew(ctx, pool, newID())
		},
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it does
	}
	bars.clear()
	_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s, %d other rows, as of %s. `tallymq verify` compares the read tables with the history.\n",
		rowRate(r.Events, "events restored", time.Since(began)), r.Rows, r.Manifest.CreatedAt.Format(time.RFC3339))
	for _, table := range r.Missing {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "Not restored: %s, which the schema does not have.\n", table)
	}
	return nil
}

// foldAll folds all history on connections of its own.
func foldAll(databaseURL string) func(ctx context.Context, shards int, progress func(int64)) error {
	return func(ctx context.Context, shards int, progress func(int64)) error {
		return projections.FoldAll(ctx, projections.FoldAllOptions{
			Shards: shards, Workers: min(foldWorkersMax, runtime.GOMAXPROCS(0)), Progress: progress,
			Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, databaseURL) },
		})
	}
}

func rowRate(n int64, what string, took time.Duration) string {
	return fmt.Sprintf("%d %s in %s (%.0f/s)", n, what, took.Round(time.Millisecond), float64(n)/max(took.Seconds(), 1e-9))
}

// phases are progress bars, one after the other.
type phases struct {
	w io.Writer

	mu   sync.Mutex
	name string
	bar  *progressbar.ProgressBar
}

func (p *phases) progress(phase string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil || p.name != phase {
		if p.bar != nil {
			_ = p.bar.Clear()
		}
		unit := "rows"
		switch phase {
		case "checking":
			unit = "bytes"
		case "folding":
			unit = "events"
		}
		p.name, p.bar = phase, progress(p.w, max(total, 1), phase, unit)
	}
	// Tellings of several goroutines may come in another order.
	if done := min(done, max(total, 1)); done > p.bar.State().CurrentNum {
		_ = p.bar.Set64(done)
	}
}

func (p *phases) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
