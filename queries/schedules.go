package queries

import (
	"context"
	"time"

	"github.com/Masterminds/squirrel"
)

// Schedule is a row of message_schedules, with its queue's name. In lists Payload is nil,
// as it is for messages.
type Schedule struct {
	ID            string
	TenantID      string
	TopicID       string
	Queue         string
	Name          string
	Cron          string
	TimeZone      string
	Key           *string
	Headers       map[string]string
	ContentType   *string
	CorrelationID *string
	TTLMs         *int64
	Payload       []byte
	// Sealed says that Payload is encrypted.
	Sealed    bool
	Status    string
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64
}

func selectSchedules(tenantID, payload string) squirrel.SelectBuilder {
	return sq.Select("s.id::text", "s.tenant_id::text", "s.topic_id::text", "t.name", "s.name", "s.cron", "s.time_zone", "s.message_key", "s.headers",
		"s.content_type", "s.correlation_id", "s.ttl_ms", payload, "s.sealed", "s.status", "s.created_at", "s.updated_at", "s.version").
		From("message_schedules s").Join("message_topics t ON t.id = s.topic_id").Where("s.tenant_id = ?::text::uuid AND t.status <> 'archived'", tenantID)
}

// Schedules lists a tenant's schedules by id, which is by age, without payloads; with
// queue, those of that queue. The key of a page is the last id.
func Schedules(ctx context.Context, db DB, tenantID, queue string, page Page) (list []Schedule, next bool, err error) {
	q := selectSchedules(tenantID, "NULL::text").OrderBy("s.id").Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if queue != "" {
		q = q.Where(`t.name COLLATE "C" = ?`, queue)
	}
	if len(page.After) > 0 {
		q = q.Where("s.id > ?::text::uuid", page.After[0])
	}
	list, err = collect[Schedule](ctx, db, "schedules", q)
	list, next = more(list, page.Limit)
	return list, next, err
}

// ScheduleByID returns a tenant's schedule, or ErrNotFound.
func ScheduleByID(ctx context.Context, db DB, tenantID, id string) (Schedule, error) {
	return one(collect[Schedule](ctx, db, "schedule", selectSchedules(tenantID, "s.payload::text").Where("s.id = ?::text::uuid", id)))
}
