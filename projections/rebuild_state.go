package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tallymq/tallymq/events"
)

// Statuses of a rebuild.
const (
	RebuildWaiting = "waiting"
	RebuildRunning = "running"
	RebuildDone    = "done"
	// RebuildDropped is one that a later one took the place of.
	RebuildDropped = "dropped"
)

// Phases of a rebuild, in order.
const (
	PhaseFold    = "folding"
	PhaseIndex   = "indexing"
	PhaseCompare = "comparing"
	PhaseSwap    = "swapping"
	PhaseDone    = "done"
)

// Reasons of a rebuild.
const (
	ReasonRequest = "request"
	ReasonVersion = "version"
)

// ErrNoRebuild reports that no rebuild waits or is under way.
var ErrNoRebuild = errors.New("no rebuild waits or is under way")

// ErrRebuildUnderWay reports that another process works on the rebuild.
var ErrRebuildUnderWay = errors.New("another process is rebuilding")

// DB is a connection, a transaction or a pool.
type DB interface {
	Querier
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Standing is how far a projection is, and its last rebuild.
type Standing struct {
	// Version is what the read tables were folded with, Code that of this program.
	Version, Code int
	Checkpoints   []Checkpoint
	// Rebuild is nil where there was none.
	Rebuild *RebuildState
}

// Checkpoint is how far a shard is folded.
type Checkpoint struct {
	Shard     int
	Position  events.Position
	UpdatedAt time.Time
}

// RebuildState is a rebuild and how far it is.
type RebuildState struct {
	ID      string
	Version int
	Reason  string
	Status  string
	Phase   string
	// Events are folded; Total is how many there were when it began, nil before that.
	Events int64
	Total  *int64
	// Error is what it last stopped at; it goes on from there.
	Error *string
	// Tables is what came out, once it is compared.
	Tables      []RebuiltTable
	RequestedAt time.Time
	StartedAt   *time.Time
	UpdatedAt   time.Time
	FinishedAt  *time.Time

	definition string
}

// IsOpen reports whether it is not over.
func (s RebuildState) IsOpen() bool { return s.Status == RebuildWaiting || s.Status == RebuildRunning }

// RebuiltTable is a table that was folded anew, held against the live one at the same
// positions.
type RebuiltTable struct {
	Table string `json:"table"`
	// SHA256 is of the new table's rows, LiveSHA256 of the live one's: see [TableHash].
	SHA256     string `json:"sha256"`
	LiveSHA256 string `json:"liveSha256"`
	// Partial says that retention has dropped history: the hashes are of what the rest
	// tells, and what is older was taken over.
	Partial bool `json:"partial,omitempty"`
}

// Differs reports whether the live table was not what its history says, or what an
// earlier version of the code made of it.
func (t RebuiltTable) Differs() bool { return t.SHA256 != t.LiveSHA256 }

const rebuildColumns = `r.id::text, r.version, r.reason, r.status, r.phase,
	(SELECT coalesce(sum(p.events), 0)::bigint FROM projection_rebuild_positions p WHERE p.rebuild_id = r.id),
	r.total, r.error, coalesce(r.tables::text, 'null'), r.requested_at, r.started_at,
	greatest(r.updated_at, (SELECT max(p.updated_at) FROM projection_rebuild_positions p WHERE p.rebuild_id = r.id)), r.finished_at, coalesce(r.definition, '')`

func scanRebuild(row pgx.CollectableRow) (RebuildState, error) {
	var s RebuildState
	var tables string
	err := row.Scan(&s.ID, &s.Version, &s.Reason, &s.Status, &s.Phase, &s.Events, &s.Total, &s.Error, &tables,
		&s.RequestedAt, &s.StartedAt, &s.UpdatedAt, &s.FinishedAt, &s.definition)
	if err == nil {
		err = json.Unmarshal([]byte(tables), &s.Tables)
	}
	if err != nil {
		return s, fmt.Errorf("read rebuild: %w", err)
	}
	return s, nil
}

func oneRebuild(ctx context.Context, q Querier, sql string, args ...any) (RebuildState, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return RebuildState{}, fmt.Errorf("rebuild: %w", err)
	}
	s, err := pgx.CollectExactlyOneRow(rows, scanRebuild)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, ErrNoRebuild
	}
	if err != nil {
		return s, fmt.Errorf("rebuild: %w", err)
	}
	return s, nil
}

// OpenRebuild returns the rebuild that waits or is under way, or [ErrNoRebuild].
func OpenRebuild(ctx context.Context, q Querier) (RebuildState, error) {
	return oneRebuild(ctx, q, `SELECT `+rebuildColumns+` FROM projection_rebuilds r WHERE r.projection = $1 AND r.status IN ('waiting', 'running')`, Name)
}

// RequestRebuild returns the rebuild that waits or is under way, or asks for one. Whoever
// runs [Rebuild] works on it.
func RequestRebuild(ctx context.Context, db DB, reason string, version int) (s RebuildState, isNew bool, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return s, false, fmt.Errorf("ask for a rebuild: %w", err)
	}
	tag, err := db.Exec(ctx, `INSERT INTO projection_rebuilds (id, projection, version, reason) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, id.String(), Name, version, reason)
	if err != nil {
		return s, false, fmt.Errorf("ask for a rebuild: %w", err)
	}
	s, err = OpenRebuild(ctx, db)
	return s, tag.RowsAffected() == 1, err
}

// StandingOf reads how far the projection is.
func StandingOf(ctx context.Context, q Querier) (Standing, error) {
	out := Standing{Code: Version}
	var err error
	if out.Version, err = storedVersion(ctx, q); err != nil {
		return out, err
	}
	rows, err := q.Query(ctx, `SELECT shard, position, updated_at FROM projection_checkpoints WHERE projection = $1 ORDER BY shard`, Name)
	if err != nil {
		return out, fmt.Errorf("read checkpoints: %w", err)
	}
	if out.Checkpoints, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Checkpoint]); err != nil {
		return out, fmt.Errorf("read checkpoints: %w", err)
	}
	last, err := oneRebuild(ctx, q, `SELECT `+rebuildColumns+` FROM projection_rebuilds r WHERE r.projection = $1 ORDER BY r.requested_at DESC, r.id DESC LIMIT 1`, Name)
	if errors.Is(err, ErrNoRebuild) {
		return out, nil
	}
	out.Rebuild = &last
	return out, err
}

func storedVersion(ctx context.Context, q Querier) (int, error) {
	rows, err := q.Query(ctx, `SELECT coalesce((SELECT version FROM projection_versions WHERE projection = $1), 0)`, Name)
	if err != nil {
		return 0, fmt.Errorf("version of the projection: %w", err)
	}
	version, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	if err != nil {
		return 0, fmt.Errorf("version of the projection: %w", err)
	}
	return version, nil
}

// RequestIfOutdated asks for a rebuild where the read tables were folded by an earlier
// version of the code. Where nothing was folded yet they are of this version.
func RequestIfOutdated(ctx context.Context, db DB, version int) (isNew bool, err error) {
	stored, err := storedVersion(ctx, db)
	if err != nil || stored >= version {
		return false, err
	}
	folded, err := Folded(ctx, db)
	if err != nil {
		return false, err
	}
	if !folded {
		_, err := db.Exec(ctx, `INSERT INTO projection_versions (projection, version) VALUES ($1, $2)
			ON CONFLICT (projection) DO UPDATE SET version = greatest(projection_versions.version, excluded.version), updated_at = now()`, Name, version)
		if err != nil {
			return false, fmt.Errorf("note the projection's version: %w", err)
		}
		return false, nil
	}
	_, isNew, err = RequestRebuild(ctx, db, ReasonVersion, version)
	return isNew, err
}
