package queries

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/Masterminds/squirrel"
	"github.com/google/uuid"
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

// queueRef parts a queue's name from its owner: another tenant's is <tenant id>:<name>.
func queueRef(tenantID, ref string) (owner, name string) {
	if other, rest, found := strings.Cut(ref, ":"); found {
		return other, rest
	}
	return tenantID, ref
}

// refOf is the SQL of a queue's name as a tenant names it: topic and own are aliases of
// message_topics and of a table that has the tenant. Of a queue that the tenant may not
// see any more the name is empty.
func refOf(topic, own string) string {
	return fmt.Sprintf("CASE WHEN %[1]s.tenant_id = %[2]s.tenant_id THEN %[1]s.name ELSE coalesce(%[1]s.tenant_id::text || ':' || %[1]s.name, '') END", topic, own)
}

func selectQueues() squirrel.SelectBuilder {
	return sq.Select("id::text", "tenant_id::text", "name", "display_name", "description", "topic_type", "partition_count",
		"replication_factor", "retention_ms", "message_format", "schema_definition::text", "compression_type", "is_public",
		"allowed_producers", "allowed_consumers", "status", "created_at", "updated_at", "version", "shard").
		From("message_topics").Where(squirrel.NotEq{"status": "archived"})
}

// Queues lists a tenant's queues by name. The key of a page is the last name.
func Queues(ctx context.Context, db DB, tenantID string, page Page) (list []Queue, next bool, err error) {
	q := selectQueues().Where("tenant_id = ?::text::uuid", tenantID).OrderBy(`name COLLATE "C"`).Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if len(page.After) > 0 {
		q = q.Where(`name COLLATE "C" > ?`, page.After[0])
	}
	list, err = collect[Queue](ctx, db, "queues", q)
	list, next = more(list, page.Limit)
	return list, next, err
}

// QueueByName returns a queue that a tenant can see, or ErrNotFound: its own, or
// another's public one under <tenant id>:<name>.
func QueueByName(ctx context.Context, db DB, tenantID, ref string) (Queue, error) {
	owner, name := queueRef(tenantID, ref)
	if _, err := uuid.Parse(owner); err != nil {
		return Queue{}, ErrNotFound
	}
	q := selectQueues().Where("tenant_id = ?::text::uuid", owner).Where(`name COLLATE "C" = ?`, name)
	if owner != tenantID {
		q = q.Where("is_public")
	}
	return one(collect[Queue](ctx, db, "queue", q))
}

// QueueRef is what is needed to ask Redis about a queue.
type QueueRef struct {
	ID             string
	TenantID       string
	Name           string
	PartitionCount int
	Shard          int
}

// QueueRefs returns up to limit queues, the oldest first: a tenant's, or with "" those
// of every tenant that db may see.
func QueueRefs(ctx context.Context, db DB, tenantID string, limit uint64) ([]QueueRef, error) {
	q := sq.Select("id::text", "tenant_id::text", "name", "partition_count", "shard").From("message_topics").
		Where(squirrel.NotEq{"status": "archived"}).OrderBy("id").Limit(limit)
	if tenantID != "" {
		q = q.Where("tenant_id = ?::text::uuid", tenantID)
	}
	return collect[QueueRef](ctx, db, "queues", q)
}
