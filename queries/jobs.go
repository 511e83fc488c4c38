package queries

import (
	"context"
	"time"

	"github.com/Masterminds/squirrel"
)

// Job is a row of delivery_jobs, as far as callers see it.
type Job struct {
	ID         string
	Kind       string
	Status     string
	Spec       []byte
	Done       int64
	Failed     int64
	Total      *int64
	Error      *string
	CreatedBy  string
	CreatedAt  time.Time
	UpdatedAt  time.Time
	FinishedAt *time.Time
}

func selectJobs(tenantID string) squirrel.SelectBuilder {
	return sq.Select("id::text", "kind", "status", "spec::text", "done", "failed", "total", "error", "created_by", "created_at", "updated_at", "finished_at").
		From("delivery_jobs").Where("tenant_id = ?::text::uuid", tenantID)
}

// JobFilter narrows a list of jobs; empty fields do not.
type JobFilter struct{ Kind, Status string }

// Jobs lists a tenant's jobs, the newest first. The key of a page is the last id.
func Jobs(ctx context.Context, db DB, tenantID string, f JobFilter, page Page) (list []Job, next bool, err error) {
	q := selectJobs(tenantID).OrderBy("id DESC").Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if f.Kind != "" {
		q = q.Where(squirrel.Eq{"kind": f.Kind})
	}
	if f.Status != "" {
		q = q.Where(squirrel.Eq{"status": f.Status})
	}
	if len(page.After) > 0 {
		q = q.Where("id < ?::text::uuid", page.After[0])
	}
	list, err = collect[Job](ctx, db, "jobs", q)
	list, next = more(list, page.Limit)
	return list, next, err
}

// JobByID returns a tenant's job, or ErrNotFound.
func JobByID(ctx context.Context, db DB, tenantID, id string) (Job, error) {
	return one(collect[Job](ctx, db, "job", selectJobs(tenantID).Where("id = ?::text::uuid", id)))
}
