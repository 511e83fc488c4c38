package queries

import (
	"context"
	"time"

	"github.com/Masterminds/squirrel"
)

// Queue is a row of message_topics.
type Queue struct {
	ID                string
	TenantID          string
	Name              string
	DisplayName       *string
	Description       *string
	TopicType         string
	PartitionCount    int
	ReplicationFactor int
	RetentionMs       int64
	MessageFormat     string
	SchemaDefinition  []byte
	CompressionType   string
	IsPublic          bool
	AllowedProducers  []string
	AllowedConsumers  []string
	Status            string
	CreatedAt         time.Time
	UpdatedAt         time.Time
	Version           int64
	Shard             int
}

func selectQueues(tenantID string) squirrel.SelectBuilder {
	return sq.Select("id::text", "tenant_id::text", "name", "display_name", "description", "topic_type", "partition_count",
		"replication_factor", "retention_ms", "message_format", "schema_definition::text", "compression_type", "is_public",
		"allowed_producers", "allowed_consumers", "status", "created_at", "updated_at", "version", "shard").
		From("message_topics").
		Where("tenant_id = ?::text::uuid", tenantID).Where(squirrel.NotEq{"status": "archived"})
}

// Queues lists a tenant's queues by name. The key of a page is the last name.
func Queues(ctx context.Context, db DB, tenantID string, page Page) (list []Queue, next bool, err error) {
	q := selectQueues(tenantID).OrderBy(`name COLLATE "C"`).Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if len(page.After) > 0 {
		q = q.Where(`name COLLATE "C" > ?`, page.After[0])
	}
	list, err = collect[Queue](ctx, db, "queues", q)
	list, next = more(list, page.Limit)
	return list, next, err
}

// QueueByName returns a tenant's queue, or ErrNotFound.
func QueueByName(ctx context.Context, db DB, tenantID, name string) (Queue, error) {
	return one(collect[Queue](ctx, db, "queue", selectQueues(tenantID).Where(`name COLLATE "C" = ?`, name)))
}
