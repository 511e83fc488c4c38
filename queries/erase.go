package queries

import (
	"context"
	"time"
)

// Accepted is where a message was accepted and where it waits, of a deleted queue too.
type Accepted struct {
	MessageID, TopicID, TenantID string
	Shard                        int
	Position                     int64
	Partition                    int
	Offset                       *int64
	Status                       string
	Key                          *string
	PayloadSize                  *int64
	ErasedAt                     *time.Time
}

// AcceptedMessage returns where a tenant's message was accepted, or [ErrNotFound].
func AcceptedMessage(ctx context.Context, db DB, tenantID, messageID string) (Accepted, error) {
	q := sq.Select("m.message_id", "m.topic_id::text", "m.tenant_id::text", "m.shard", "m.position", "m.partition_id", "m.offset_value", "m.status",
		"m.message_key", "m.payload_size", "m.erased_at").From("message_records m").
		Where("m.message_id = ? AND m.tenant_id = ?::text::uuid", messageID, tenantID)
	return one(collect[Accepted](ctx, db, "message", q))
}
