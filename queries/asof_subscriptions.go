package queries

import (
	"context"
	"time"

	"github.com/Masterminds/squirrel"
)

// lastConsumedExamineMax is how many events of a tenant and a shard are looked at, back
// from then, for when a subscription had last settled a message.
const lastConsumedExamineMax = 10_000

// SubscriptionThen is a subscription as it was.
type SubscriptionThen struct {
	Subscription

	Shard int
	// CreatedPosition is where it was created.
	CreatedPosition int64
	// OwnTopic says that its queue is its tenant's own.
	OwnTopic bool
	// LastConsumedUnknown says that LastConsumedAt could not be told without searching
	// history for long, or further back than it reaches.
	LastConsumedUnknown bool
}

// Group is its consumer group as deliveries have it, see [GroupOf].
func (s SubscriptionThen) Group() string {
	if s.OwnTopic {
		return s.ConsumerGroup
	}
	return s.TenantID + ":" + s.ConsumerGroup
}

// changeOf is the last of a subscription's events of some kinds, up to then.
func changeOf(columns, kinds string) string {
	return `CROSS JOIN LATERAL (SELECT ` + columns + ` FROM event_history h
    WHERE h.scope = 'admin' AND h.subscription_id = c.subscription_id AND h.position <= (?::bigint[])[c.shard + 1] ` + kinds + `
    ORDER BY h.position DESC LIMIT 1) `
}

// subscriptionsThen selects a tenant's subscriptions as they were, those of queues that
// were deleted meanwhile among them: only the queue's owner has that event.
func subscriptionsThen(tenantID string, asOf AsOf) squirrel.SelectBuilder {
	upTo := asOf.Shards()
	return sq.Select("c.subscription_id::text", "c.topic_id::text", refOf("t", "c"), "c.tenant_id::text", "g.data->>'consumerGroup'", "g.data->>'consumerName'",
		"g.data->>'subscriptionType'", "g.data->>'offsetResetPolicy'", "(g.data->>'maxPollRecords')::int", "(g.data->>'sessionTimeoutMs')::int",
		"(g.data->>'heartbeatIntervalMs')::int", "(g.data->'handlerConfig')::text", "nullif(g.data->>'deadLetterQueue', '')",
		"(g.data->>'maxRetryAttempts')::int", "(g.data->>'retryDelayMs')::int", "(g.data->'messageFilter')::text", "s.status", "c.occurred_at",
		"l.occurred_at", "NULL::timestamptz", "l.version", "c.shard", "c.position", "coalesce(t.tenant_id = c.tenant_id, false)", "false").
		From("event_history c").LeftJoin("message_topics t ON t.id = c.topic_id").
		JoinClause(changeOf("h.kind, h.occurred_at, h.version", "")+"l", upTo).
		JoinClause(changeOf("h.data::jsonb AS data", "AND h.kind IN ('subscription.created', 'subscription.updated')")+"g", upTo).
		JoinClause(changeOf(`CASE h.kind WHEN 'subscription.paused' THEN 'paused' WHEN 'subscription.resumed' THEN 'active'
        WHEN 'subscription.stopped' THEN 'stopped' ELSE h.data->>'status' END AS status`,
			"AND h.kind IN ('subscription.created', 'subscription.updated', 'subscription.paused', 'subscription.resumed', 'subscription.stopped')")+"s", upTo).
		Where("c.scope = 'admin' AND c.kind = 'subscription.created' AND c.tenant_id = ?::text::uuid AND l.kind <> 'subscription.deleted'", tenantID)
}

// SubscriptionsAsOf is [Subscriptions] as of then. next is the key of the next page, ""
// for none. all shows every tenant's events: of a page's queues it is asked whether they
// were deleted.
func SubscriptionsAsOf(ctx context.Context, db, all DB, tenantID string, f SubscriptionFilter, asOf AsOf, page Page) ([]SubscriptionThen, string, error) {
	return walk(page, page.Limit+1, func(after []string, limit int) ([]SubscriptionThen, error) {
		q := subscriptionsThen(tenantID, asOf).OrderBy("c.subscription_id").Limit(uint64(limit)) //nolint:gosec // a limit is positive
		if f.Queue != "" {
			owner, name := queueRef(tenantID, f.Queue)
			q = q.Where(`t.name COLLATE "C" = ? AND t.tenant_id::text = ?`, name, owner)
		}
		if f.ConsumerGroup != "" {
			q = q.Where("c.data->>'consumerGroup' = ?", f.ConsumerGroup)
		}
		if len(after) > 0 {
			q = q.Where("c.subscription_id > ?::text::uuid", after[0])
		}
		return collect[SubscriptionThen](ctx, db, "subscriptions as of then", q)
	}, func(list []SubscriptionThen) ([]SubscriptionThen, error) {
		return thereThen(ctx, db, all, tenantID, asOf, list)
	}, func(s SubscriptionThen) string { return s.ID })
}

// SubscriptionAsOf is [SubscriptionByID] as of then.
func SubscriptionAsOf(ctx context.Context, db, all DB, tenantID, id string, asOf AsOf) (SubscriptionThen, error) {
	list, err := collect[SubscriptionThen](ctx, db, "subscription as of then", subscriptionsThen(tenantID, asOf).Where("c.subscription_id = ?::text::uuid", id))
	if err != nil {
		return SubscriptionThen{}, err
	}
	return one(thereThen(ctx, db, all, tenantID, asOf, list))
}

// thereThen leaves those whose queue was there, and finds out when they had last settled
// a message.
func thereThen(ctx context.Context, db, all DB, tenantID string, asOf AsOf, list []SubscriptionThen) ([]SubscriptionThen, error) {
	if len(list) == 0 {
		return nil, nil
	}
	topics := make([]string, len(list))
	for i, s := range list {
		topics[i] = s.TopicID
	}
	ends, err := topicEnds(ctx, all, topics)
	if err != nil {
		return nil, err
	}
	there := make([]SubscriptionThen, 0, len(list))
	for _, s := range list {
		if end, ended := ends[s.TopicID]; !ended || end > asOf.Of(s.Shard) {
			there = append(there, s)
		}
	}
	return there, lastConsumedThen(ctx, db, tenantID, asOf, there)
}

// lastConsumedSQL finds when subscriptions had last settled a message: by their rows,
// where those have not settled any since, else among the tenant's last events before
// then. $1 to $4 are the subscriptions with their shards, positions as of which is asked
// and where they were created, $5 the tenant, $6 how many events of a shard are looked at.
const lastConsumedSQL = `
WITH asked AS (
    SELECT a.*, s.id IS NOT NULL AND coalesce(s.last_consumed_at < timestamptz 'epoch' + (a.up_to >> 20) * interval '1 ms', true) AS is_known, s.last_consumed_at
    FROM unnest($1::text[]::uuid[], $2::smallint[], $3::bigint[], $4::bigint[]) AS a(id, shard, up_to, created)
    LEFT JOIN message_subscriptions s ON s.id = a.id
), seen AS MATERIALIZED (
    SELECT h.* FROM (SELECT DISTINCT shard, up_to FROM asked WHERE NOT is_known) a CROSS JOIN LATERAL (
        SELECT h.shard, h.position, h.kind, h.subscription_id, h.occurred_at FROM event_history h
        WHERE h.scope = 'message' AND h.tenant_id = $5::text::uuid AND h.shard = a.shard AND h.position <= a.up_to
        ORDER BY h.position DESC LIMIT $6) h
), back AS (SELECT shard, min(position) AS reach, count(*) AS n FROM seen GROUP BY shard)
SELECT a.id::text, CASE WHEN a.is_known THEN a.last_consumed_at ELSE f.at END,
    NOT a.is_known AND f.at IS NULL AND coalesce(b.n = $6 AND b.reach > a.created, false), NOT a.is_known AND f.at IS NULL
FROM asked a LEFT JOIN back b ON b.shard = a.shard
LEFT JOIN LATERAL (SELECT max(h.occurred_at) AS at FROM seen h WHERE h.kind = 'message.consumed' AND h.subscription_id = a.id AND h.shard = a.shard) f ON true`

// lastConsumed is when a subscription had last settled a message; Searched says that it is
// null because history has no such event since the subscription was created.
type lastConsumed struct {
	ID                string
	At                *time.Time
	Unknown, Searched bool
}

func lastConsumedThen(ctx context.Context, db DB, tenantID string, asOf AsOf, list []SubscriptionThen) error {
	if len(list) == 0 {
		return nil
	}
	ids, shards, upTo, created, at := make([]string, len(list)), make([]int, len(list)), make([]int64, len(list)), make([]int64, len(list)), make(map[string]int, len(list))
	for i, s := range list {
		ids[i], shards[i], upTo[i], created[i], at[s.ID] = s.ID, s.Shard, asOf.Of(s.Shard), s.CreatedPosition, i
	}
	found, err := collect[lastConsumed](ctx, db, "when subscriptions last consumed",
		squirrel.Expr(lastConsumedSQL, ids, shards, upTo, created, tenantID, lastConsumedExamineMax))
	if err != nil {
		return err
	}
	for _, f := range found {
		s := &list[at[f.ID]]
		s.LastConsumedAt, s.LastConsumedUnknown = f.At, f.Unknown || (f.Searched && s.CreatedPosition < asOf.Kept)
	}
	return nil
}
