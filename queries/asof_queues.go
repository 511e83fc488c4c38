package queries

import (
	"context"

	"github.com/Masterminds/squirrel"
	"github.com/google/uuid"
)

// topicThen is the last event that made a topic t what it was: it is empty where there was
// no topic yet. Its placeholder is the positions of [AsOf.Shards].
const topicThen = `CROSS JOIN LATERAL (
    SELECT h.kind, h.occurred_at, h.version, h.data FROM event_history h
    WHERE h.scope = 'admin' AND h.topic_id = t.id AND h.subscription_id IS NULL AND h.position <= (?::bigint[])[t.shard + 1]
      AND h.kind IN ('topic.created', 'topic.updated', 'topic.deleted')
    ORDER BY h.position DESC LIMIT 1) e`

// queuesThen selects topics as they were.
func queuesThen(asOf AsOf) squirrel.SelectBuilder {
	return sq.Select("t.id::text", "t.tenant_id::text", "t.name", "nullif(d.data->>'displayName', '')", "nullif(d.data->>'description', '')",
		"d.data->>'topicType'", "(d.data->>'partitionCount')::int", "(d.data->>'replicationFactor')::int", "(d.data->>'retentionMs')::bigint",
		"d.data->>'messageFormat'", "(d.data->'schemaDefinition')::text", "d.data->>'compressionType'", "(d.data->>'isPublic')::boolean",
		"d.data->'allowedProducers'", "d.data->'allowedConsumers'", "d.data->>'status'", "t.created_at", "e.occurred_at", "e.version", "t.shard").
		From("message_topics t").JoinClause(topicThen, asOf.Shards()).JoinClause("CROSS JOIN LATERAL (SELECT e.data::jsonb AS data) d").
		Where("e.kind <> 'topic.deleted'")
}

// QueuesAsOf is [Queues] as of then. next is the key of the next page, "" for none.
func QueuesAsOf(ctx context.Context, db DB, tenantID string, asOf AsOf, page Page) (list []Queue, next string, err error) {
	q := queuesThen(asOf).Where("t.tenant_id = ?::text::uuid", tenantID).OrderBy(`t.name COLLATE "C"`).Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if len(page.After) > 0 {
		q = q.Where(`t.name COLLATE "C" > ?`, page.After[0])
	}
	list, err = collect[Queue](ctx, db, "queues as of then", q)
	list, hasMore := more(list, page.Limit)
	if hasMore {
		next = list[len(list)-1].Name
	}
	return list, next, err
}

// QueueAsOf is [QueueByName] as of then: a tenant's queue that had the name then, or
// another's that the tenant may see now and might see then. all shows every tenant's
// events; what it is asked for is a queue that db shows.
func QueueAsOf(ctx context.Context, db, all DB, tenantID, ref string, asOf AsOf) (Queue, error) {
	owner, name := queueRef(tenantID, ref)
	if _, err := uuid.Parse(owner); err != nil {
		return Queue{}, ErrNotFound
	}
	if owner == tenantID {
		return one(collect[Queue](ctx, db, "queue as of then",
			queuesThen(asOf).Where("t.tenant_id = ?::text::uuid", owner).Where(`t.name COLLATE "C" = ?`, name)))
	}
	now, err := QueueByName(ctx, db, tenantID, ref)
	if err != nil {
		return Queue{}, err
	}
	then, err := one(collect[Queue](ctx, all, "queue as of then", queuesThen(asOf).Where("t.id = ?::text::uuid", now.ID)))
	if err == nil && !then.IsPublic {
		return Queue{}, ErrNotFound
	}
	return then, err
}

// topicEnds returns the positions at which those of the topics that were deleted were.
// db must show their owners' events.
func topicEnds(ctx context.Context, db DB, topicIDs []string) (map[string]int64, error) {
	type end struct {
		TopicID  string
		Position int64
	}
	list, err := collect[end](ctx, db, "ends of queues", sq.Select("h.topic_id::text", "h.position").From("event_history h").
		Where("h.scope = 'admin' AND h.topic_id = ANY (?::text[]::uuid[]) AND h.subscription_id IS NULL AND h.kind = 'topic.deleted'", topicIDs))
	if err != nil {
		return nil, err
	}
	ends := make(map[string]int64, len(list))
	for _, e := range list {
		ends[e.TopicID] = e.Position
	}
	return ends, nil
}
