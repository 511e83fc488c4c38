package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Kinds of jobs.
const (
	KindRedrive = "redrive"
	KindReplay  = "replay"
	KindSeek    = "seek"
)

// Statuses of jobs. A job waits, runs and ends as one of the others.
const (
	StatusWaiting   = "waiting"
	StatusRunning   = "running"
	StatusDone      = "done"
	StatusCancelled = "cancelled"
	StatusFailed    = "failed"
)

// Job is work and how far it is.
type Job struct {
	ID, TenantID, Kind, Status string
	Spec                       Spec
	// Done and Failed count messages; Total is how many there are, nil where that is
	// not known.
	Done, Failed int64
	Total        *int64
	Error        *string
	// CreatedBy is whose permission it works with.
	CreatedBy  string
	CreatedAt  time.Time
	UpdatedAt  time.Time
	FinishedAt *time.Time

	state state
	// leasedUntil is what the lease of whoever has the job says: nobody else's says that.
	leasedUntil *time.Time
}

// Spec is what a job is to do.
type Spec struct {
	// SubscriptionID is whose group gets messages once more.
	SubscriptionID string `json:"subscriptionId,omitempty"`
	// MessageIDs, Reason, From and To narrow a redrive: to dead letters of that reason,
	// that died within that time.
	MessageIDs []string   `json:"messageIds,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	From       *time.Time `json:"from,omitempty"`
	To         *time.Time `json:"to,omitempty"`
	// Queue is what is replayed, and TargetQueue where to, unless to a subscription.
	Queue       string `json:"queue,omitempty"`
	TargetQueue string `json:"targetQueue,omitempty"`
	// Speed is how many times as fast as they were published, 0 for as fast as possible.
	Speed float64 `json:"speed,omitempty"`
	// FromOffset is where a seek began in every partition, and Before up to which offset
	// Redis did not have a partition's messages.
	FromOffset int64   `json:"fromOffset,omitempty"`
	Before     []int64 `json:"before,omitempty"`
}

// state is what a job has to remember.
type state struct {
	// Cursor is the position up to which history is dealt with, UpTo where it ends.
	Cursor int64 `json:"cursor"`
	UpTo   int64 `json:"upTo"`
	// Attempt is reserved for the job's messages.
	Attempt int64 `json:"attempt,omitempty"`
	// StartMs is when the first message was replayed, and FirstMs when it had been
	// published.
	StartMs int64 `json:"startMs,omitempty"`
	FirstMs int64 `json:"firstMs,omitempty"`
	// Platform says that whoever asked for the job may do everything.
	Platform bool `json:"platform,omitempty"`
}

// ErrNone reports that the tenant has no such job.
var ErrNone = errors.New("no such job")

// ErrEnded reports that a job has ended already.
var ErrEnded = errors.New("the job has ended")

// errLost reports that a job was cancelled, or another instance works on it.
var errLost = errors.New("the job is not ours any more")

// errParked reports that a job was laid aside.
var errParked = errors.New("the job is parked")

const columns = `id::text, tenant_id::text, kind, status, spec, done, failed, total, error, created_by, created_at, updated_at, finished_at, state, leased_until`

func scan(row pgx.CollectableRow) (Job, error) {
	var j Job
	var spec, own []byte
	err := row.Scan(&j.ID, &j.TenantID, &j.Kind, &j.Status, &spec, &j.Done, &j.Failed, &j.Total, &j.Error, &j.CreatedBy, &j.CreatedAt, &j.UpdatedAt, &j.FinishedAt, &own, &j.leasedUntil)
	if err == nil {
		err = errors.Join(json.Unmarshal(spec, &j.Spec), json.Unmarshal(own, &j.state)) //nolint:forbidigo // ours
	}
	if err != nil {
		return j, fmt.Errorf("read job: %w", err)
	}
	return j, nil
}

// store keeps jobs.
type store struct{ pool *pgxpool.Pool }

// one runs a statement that returns a job, or none.
func (s store) one(ctx context.Context, sql string, args ...any) (Job, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return Job{}, fmt.Errorf("job: %w", err)
	}
	j, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return j, ErrNone
	}
	if err != nil {
		return j, fmt.Errorf("job: %w", err)
	}
	return j, nil
}

// insert returns ErrNone where there is a job under the key.
func (s store) insert(ctx context.Context, j Job, key string) (Job, error) {
	spec, err1 := json.Marshal(j.Spec)
	own, err2 := json.Marshal(j.state)
	if err := errors.Join(err1, err2); err != nil {
		return j, fmt.Errorf("job: %w", err)
	}
	return s.one(ctx, `INSERT INTO delivery_jobs (id, tenant_id, kind, spec, status, created_by, created_at, updated_at, idempotency_key, fingerprint, state)
		VALUES ($1, $2, $3, $4, 'waiting', $5, now(), now(), nullif($6, ''), $7, $8) ON CONFLICT DO NOTHING RETURNING `+columns,
		j.ID, j.TenantID, j.Kind, spec, j.CreatedBy, key, string(spec), own)
}

// under returns the job that was asked for under a key, and whether for the same.
func (s store) under(ctx context.Context, j Job, key string) (found Job, isSame bool, err error) {
	spec, err := json.Marshal(j.Spec)
	if err != nil {
		return j, false, fmt.Errorf("job: %w", err)
	}
	found, err = s.one(ctx, `SELECT `+columns+` FROM delivery_jobs WHERE tenant_id = $1 AND kind = $2 AND idempotency_key = $3`, j.TenantID, j.Kind, key)
	if err != nil {
		return found, false, err
	}
	err = s.pool.QueryRow(ctx, `SELECT fingerprint = $2 FROM delivery_jobs WHERE id = $1`, found.ID, string(spec)).Scan(&isSame)
	if err != nil {
		return found, false, fmt.Errorf("job: %w", err)
	}
	return found, isSame, nil
}

// open counts a tenant's jobs that have not ended.
func (s store) open(ctx context.Context, tenantID string) (int, error) {
	var n int
	err := s.pool.QueryRow(ctx, `SELECT count(*) FROM delivery_jobs WHERE status IN ('waiting', 'running') AND tenant_id = $1`, tenantID).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count jobs: %w", err)
	}
	return n, nil
}

func (s store) cancel(ctx context.Context, tenantID, id string) (Job, error) {
	j, err := s.one(ctx, `UPDATE delivery_jobs SET status = 'cancelled', updated_at = now(), finished_at = now(), leased_until = NULL
		WHERE id = $1 AND tenant_id = $2 AND status IN ('waiting', 'running') RETURNING `+columns, id, tenantID)
	if !errors.Is(err, ErrNone) {
		return j, err
	}
	if j, err = s.one(ctx, `SELECT `+columns+` FROM delivery_jobs WHERE id = $1 AND tenant_id = $2`, id, tenantID); err != nil {
		return j, err
	}
	return j, ErrEnded
}

// claim takes the job that nobody works on and nobody looked at for the longest time.
func (s store) claim(ctx context.Context) (Job, error) {
	return s.one(ctx, `UPDATE delivery_jobs SET status = 'running', updated_at = now(), leased_until = now() + $1::interval
		WHERE id = (SELECT id FROM delivery_jobs WHERE status IN ('waiting', 'running') AND (leased_until IS NULL OR leased_until < now())
			ORDER BY updated_at, id FOR UPDATE SKIP LOCKED LIMIT 1)
		RETURNING `+columns, leaseFor)
}

// park notes progress and hands a job back, for whoever comes after a while.
func (s store) park(ctx context.Context, j Job, d time.Duration) error {
	own, err := json.Marshal(j.state)
	if err != nil {
		return fmt.Errorf("job: %w", err)
	}
	tag, err := s.pool.Exec(ctx, `UPDATE delivery_jobs SET done = $3, failed = $4, total = $5, state = $6, updated_at = now(), leased_until = now() + $7::interval
		WHERE id = $1 AND status = 'running' AND leased_until = $2`, j.ID, j.leasedUntil, j.Done, j.Failed, j.Total, own, d)
	if err != nil {
		return fmt.Errorf("park job: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errLost
	}
	return nil
}

// save notes progress and renews the lease; errLost says that the job has been cancelled,
// or that another one has it since the lease was over.
func (s store) save(ctx context.Context, j *Job) error {
	own, err := json.Marshal(j.state)
	if err != nil {
		return fmt.Errorf("job: %w", err)
	}
	err = s.pool.QueryRow(ctx, `UPDATE delivery_jobs SET done = $3, failed = $4, total = $5, state = $6, updated_at = now(), leased_until = now() + $7::interval
		WHERE id = $1 AND status = 'running' AND leased_until = $2 RETURNING leased_until`,
		j.ID, j.leasedUntil, j.Done, j.Failed, j.Total, own, leaseFor).Scan(&j.leasedUntil)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	if err != nil {
		return fmt.Errorf("save job: %w", err)
	}
	return nil
}

// end notes how a job ended, unless it was cancelled before, or is another's.
func (s store) end(ctx context.Context, j Job, status, why string) error {
	_, err := s.pool.Exec(ctx, `UPDATE delivery_jobs SET status = $2, error = nullif($3, ''), done = $4, failed = $5, updated_at = now(), finished_at = now(), leased_until = NULL
		WHERE id = $1 AND status = 'running' AND leased_until = $6`, j.ID, status, why, j.Done, j.Failed, j.leasedUntil)
	if err != nil {
		return fmt.Errorf("end job: %w", err)
	}
	return nil
}
