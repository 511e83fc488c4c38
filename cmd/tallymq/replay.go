package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/projections"
)

// replayPoll is how often replay looks at a rebuild that another process works on.
const replayPoll = 500 * time.Millisecond

func replayCommand() *cobra.Command {
	var projection string
	var restart bool
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Fold the event history of DATABASE_URL into new read tables and put them in the place of the old",
		Long: `Folds the whole event history into new tables beside the read tables, while a service
reads and writes these, compares both at the same positions, and swaps them in one
transaction. Prints the SHA-256 of each table's rows and which tables were not what the
history says. Ended in the middle, by whatever, it goes on where it stopped when it is
called again, or when a service on this database takes it up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if projection != projections.Name {
				return fmt.Errorf("--projection: is %q; there is: %s", projection, projections.Name)
			}
			tuneMemory()
			pool, err := openDatabase(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer pool.Close()
			return runReplay(cmd, pool, restart)
		},
	}
	cmd.Flags().StringVar(&projection, "projection", projections.Name, "what to fold")
	cmd.Flags().BoolVar(&restart, "restart", false, "begin anew where another rebuild was left")
	return cmd
}

func runReplay(cmd *cobra.Command, pool *pgxpool.Pool, restart bool) error {
	ctx := cmd.Context()
	verifying, err := verifyOptions(cmd, pool)
	if err != nil {
		return err
	}
	bar := newRebuildBar(cmd.ErrOrStderr())
	done, err := projections.Rebuild(ctx, projections.RebuildOptions{
		Shards: verifying.Shards, HorizonSetting: verifying.HorizonSetting, MessageIDBound: verifying.MessageIDBound, Restart: restart,
		Connect:  func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, pool.Config().ConnString()) },
		Progress: bar.show, Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if errors.Is(err, projections.ErrRebuildUnderWay) && !restart {
		done, err = followRebuild(ctx, pool, bar)
	}
	bar.end()
	if err != nil {
		return err
	}
	printRebuild(cmd.OutOrStdout(), done)
	return nil
}

// followRebuild shows the rebuild that another process works on, until it is done.
func followRebuild(ctx context.Context, pool *pgxpool.Pool, bar *rebuildBar) (projections.RebuildState, error) {
	for {
		standing, err := projections.StandingOf(ctx, pool)
		if err != nil {
			return projections.RebuildState{}, err //nolint:wrapcheck // says what it does
		}
		if standing.Rebuild == nil || !standing.Rebuild.IsOpen() {
			if standing.Rebuild == nil {
				return projections.RebuildState{}, projections.ErrNoRebuild
			}
			return *standing.Rebuild, nil
		}
		shown := showRebuild(*standing.Rebuild)
		p := projections.RebuildProgress{Phase: shown.Phase, Events: shown.Events}
		if shown.Total != nil {
			p.Total = *shown.Total
		}
		if shown.LeftMs != nil {
			p.PerSecond, p.Left = *shown.EventsPerSecond, time.Duration(*shown.LeftMs)*time.Millisecond
		}
		bar.show(p)
		select {
		case <-ctx.Done():
			return *standing.Rebuild, ctx.Err() //nolint:wrapcheck // asked to stop
		case <-time.After(replayPoll):
		}
	}
}

// rebuildBar shows progress: as a bar on a terminal, else as a line per phase.
type rebuildBar struct {
	out   io.Writer
	bar   *progressbar.ProgressBar
	phase string
}

func newRebuildBar(w io.Writer) *rebuildBar {
	f, ok := w.(*os.File)
	b := &rebuildBar{out: w}
	if ok && term.IsTerminal(int(f.Fd())) {
		b.bar = progress(w, 1, "folding", "events")
	}
	return b
}

func (b *rebuildBar) show(p projections.RebuildProgress) {
	if b.bar == nil {
		if p.Phase != b.phase {
			_, _ = fmt.Fprintf(b.out, "%s: %d of %d events\n", p.Phase, p.Events, p.Total)
		}
		b.phase = p.Phase
		return
	}
	b.bar.ChangeMax64(max(p.Total, p.Events+1, 1)) // a full bar would end
	b.bar.Describe(fmt.Sprintf("%s  %.0f events/s, %s left", p.Phase, p.PerSecond, p.Left.Round(time.Second)))
	_ = b.bar.Set64(p.Events)
}

func (b *rebuildBar) end() {
	if b.bar != nil {
		_ = b.bar.Clear()
	}
}

func printRebuild(w io.Writer, r projections.RebuildState) {
	differed := 0
	for _, t := range r.Tables {
		verdict := "as it was"
		if t.Differs() {
			differed++
			verdict = "DIFFERED: the live table had " + t.LiveSHA256
		}
		if t.Partial {
			verdict += " (of what retention left of the history; older rows were taken over)"
		}
		_, _ = fmt.Fprintf(w, "%-22s sha256 %s  %s\n", t.Table, t.SHA256, verdict)
	}
	_, _ = fmt.Fprintf(w, "%d events folded with version %d of the projection; the read tables are swapped, %d differed.\n", r.Events, r.Version, differed)
}
