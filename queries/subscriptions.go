package queries

import (
	"context"
	"time"

	"github.com/Masterminds/squirrel"
)

// Subscription is a row of message_subscriptions, with its queue's name.
type Subscription struct {
	ID                  string
	TopicID             string
	Queue               string
	TenantID            string
	ConsumerGroup       string
	ConsumerName        string
	SubscriptionType    string
	OffsetResetPolicy   string
	MaxPollRecords      int
	SessionTimeoutMs    int
	HeartbeatIntervalMs int
	HandlerConfig       []byte
	DeadLetterQueue     *string
	MaxRetryAttempts    int
	RetryDelayMs        int
	MessageFilter       []byte
	Status              string
	CreatedAt           time.Time
	UpdatedAt           time.Time
	LastConsumedAt      *time.Time
	Version             int64
}

func selectSubscriptions(tenantID string) squirrel.SelectBuilder {
	return sq.Select("s.id::text", "s.topic_id::text", refOf("t", "s"), "s.tenant_id::text", "s.consumer_group", "s.consumer_name",
		"s.subscription_type", "s.offset_reset_policy", "s.max_poll_records", "s.session_timeout_ms", "s.heartbeat_interval_ms",
		"s.handler_config::text", "s.dead_letter_queue", "s.max_retry_attempts", "s.retry_delay_ms", "s.message_filter::text",
		"s.status", "s.created_at", "s.updated_at", "s.last_consumed_at", "s.version").
		From("message_subscriptions s").LeftJoin("message_topics t ON t.id = s.topic_id").
		Where("s.tenant_id = ?::text::uuid", tenantID)
}

// SubscriptionFilter narrows a list of subscriptions; empty fields do not.
type SubscriptionFilter struct {
	Queue         string
	ConsumerGroup string
}

// Subscriptions lists a tenant's subscriptions by id, which is by age. The key of
// a page is the last id.
func Subscriptions(ctx context.Context, db DB, tenantID string, f SubscriptionFilter, page Page) (list []Subscription, next bool, err error) {
	q := selectSubscriptions(tenantID).OrderBy("s.id").Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if f.Queue != "" {
		owner, name := queueRef(tenantID, f.Queue)
		q = q.Where(`t.name COLLATE "C" = ? AND t.tenant_id::text = ?`, name, owner)
	}
	if f.ConsumerGroup != "" {
		q = q.Where(squirrel.Eq{"s.consumer_group": f.ConsumerGroup})
	}
	if len(page.After) > 0 {
		q = q.Where("s.id > ?::text::uuid", page.After[0])
	}
	list, err = collect[Subscription](ctx, db, "subscriptions", q)
	list, next = more(list, page.Limit)
	return list, next, err
}

// SubscriptionByID returns a tenant's subscription, or ErrNotFound.
func SubscriptionByID(ctx context.Context, db DB, tenantID, id string) (Subscription, error) {
	return one(collect[Subscription](ctx, db, "subscription", selectSubscriptions(tenantID).Where("s.id = ?::text::uuid", id)))
}

// CountSubscriptions returns how many subscriptions a tenant has on a queue.
func CountSubscriptions(ctx context.Context, db DB, tenantID, topicID string) (int64, error) {
	type count struct{ N int64 }
	c, err := one(collect[count](ctx, db, "count of subscriptions",
		sq.Select("count(*)").From("message_subscriptions").Where("topic_id = ?::text::uuid AND tenant_id = ?::text::uuid", topicID, tenantID)))
	return c.N, err
}
