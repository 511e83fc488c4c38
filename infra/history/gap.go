package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tallymq/tallymq/events"
)

// horizonSetting is where retention notes since when message events are kept.
const horizonSetting = "message_horizon"

const (
	// foldLagMax is how late an event may be folded: a reader that had everything then
	// has what is older than that. Retention keeps a day at least.
	foldLagMax = 12 * time.Hour
	// noteInterval is how often that is noted of a reader to which nothing comes.
	noteInterval = time.Hour
)

// GapError says that retention dropped message events before a group had read them. It is
// the error of a reader that stops there.
type GapError struct {
	Group string
	Shard int
	// From and To bound the time of the events that may be missing.
	From, To time.Time
}

// Error implements error.
func (g GapError) Error() string {
	return fmt.Sprintf("gap: retention dropped message events of shard %d from %s to %s before group %q had read them",
		g.Shard, g.From.UTC().Format(time.RFC3339), g.To.UTC().Format(time.RFC3339), g.Group)
}

const (
	stateOfReader = `
SELECT position, complete_since, coalesce((SELECT value FROM store_settings WHERE name = '` + horizonSetting + `')::timestamptz, 'epoch'), now()
FROM history_readers` + whereReader
	noteComplete = `UPDATE history_readers SET complete_since = $4, updated_at = now()` + whereReader
)

// complete makes sure that nothing was dropped between the offset and the page that
// follows it. It looks after the page was read: retention notes its horizon in the
// transaction that drops, so a page that lacks events is never older than the horizon
// that says so.
func (t *tx) complete(ctx context.Context, conn *pgxpool.Conn, caughtUp bool) error {
	var position events.Position
	var since, horizon, now time.Time
	err := conn.QueryRow(ctx, stateOfReader, t.reader.args()...).Scan(&position, &since, &horizon, &now)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("group %q has lost its offset of shard %d: subscribe again", t.reader.group, t.reader.shard)
	}
	if err != nil {
		return fmt.Errorf("look for gaps: %w", err)
	}
	read := since
	if at := position.Time(); at.After(read) {
		read = at
	}
	switch {
	case horizon.After(read):
		gap := GapError{Group: t.reader.group, Shard: t.reader.shard, From: read, To: horizon}
		if err := t.onGap(gap); err != nil {
			return err
		}
		t.logger.Warn("going on behind a gap", "gap", gap)
		since = horizon
	case caughtUp && now.Add(-foldLagMax-noteInterval).After(read):
		// Else a shard in which nothing happens for long would look like a gap later.
		since = now.Add(-foldLagMax)
	default:
		return nil
	}
	if _, err := conn.Exec(ctx, noteComplete, append(t.reader.args(), since)...); err != nil {
		return fmt.Errorf("note what is complete: %w", err)
	}
	return nil
}
