package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// Scopes of event_history: admin events are kept for ever, message events as long
// as retention says.
const (
	scopeAdmin   = "admin"
	scopeMessage = "message"
)

// commit writes a batch in one transaction and one round trip: the checkpoint's
// move first, which fails where it does not stand at from, then history and read
// tables. A batch that is sent whole is one implicit transaction: all or nothing.
func commit(ctx context.Context, conn *pgx.Conn, shard int, from events.Position, records []events.Record, c *changes) error {
	b := &pgx.Batch{}
	b.Queue(`SELECT advance_checkpoint($1, $2, $3, $4)`, Name, shard, int64(from), int64(records[len(records)-1].Position))
	if err := queueHistory(b, shard, records); err != nil {
		return err
	}
	if err := queueReadTables(b, c); err != nil {
		return err
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("write %d events of shard %d after %d: %w", len(records), shard, from, err)
	}
	return nil
}

// historyMeta is the JSON of event_history.metadata.
type historyMeta struct {
	Actor          string `json:"actor,omitempty"`
	RequestID      string `json:"requestId,omitempty"`
	TraceParent    string `json:"traceparent,omitempty"`
	IdempotencyKey string `json:"idempotencyKey,omitempty"`
	Fingerprint    string `json:"fingerprint,omitempty"`
}

const insertHistory = `
INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, message_id, version, occurred_at, metadata, data)
SELECT $1::smallint, u.* FROM unnest($2::bigint[], $3::text[], $4::text[]::uuid[], $5::text[], $6::text[]::uuid[],
    $7::text[]::uuid[], $8::text[]::uuid[], $9::text[], $10::bigint[], $11::timestamptz[], $12::text[]::jsonb[], $13::text[]::json[]) AS u`

func queueHistory(b *pgx.Batch, shard int, records []events.Record) error {
	n := len(records)
	positions, versions, at := make([]int64, n), make([]int64, n), make([]time.Time, n)
	scopes, ids, kinds, tenants := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	topics, subscriptions, messages := make([]*string, n), make([]*string, n), make([]*string, n)
	metas, data := make([]string, n), make([]string, n)
	for i, r := range records {
		refs := events.RefsOf(r.Event)
		meta, err := json.Marshal(metaOf(r))
		if err != nil {
			return fmt.Errorf("metadata of event %s: %w", r.ID, err)
		}
		positions[i], versions[i], at[i] = int64(r.Position), r.Version, r.Position.Time()
		scopes[i], ids[i], kinds[i], tenants[i] = scopeAdmin, r.ID, string(r.Event.Kind()), r.TenantID
		if refs.MessageID != "" {
			scopes[i] = scopeMessage
		}
		topics[i], subscriptions[i], messages[i] = orNull(refs.TopicID), orNull(refs.SubscriptionID), orNull(refs.MessageID)
		metas[i], data[i] = string(meta), string(r.Data)
	}
	b.Queue(insertHistory, shard, positions, scopes, ids, kinds, tenants, topics, subscriptions, messages, versions, at, metas, data)
	return nil
}

func metaOf(r events.Record) historyMeta {
	return historyMeta{
		Actor: r.Meta.Actor, RequestID: r.Meta.RequestID, TraceParent: r.Meta.TraceParent,
		IdempotencyKey: r.Meta.IdempotencyKey, Fingerprint: r.Meta.Fingerprint,
	}
}

// queueReadTables queues the statements that apply changes. Table names are
// unqualified: [Verify] applies the same statements to tables of its own.
func queueReadTables(b *pgx.Batch, c *changes) error {
	for i := range c.topics {
		if err := queueTopic(b, &c.topics[i]); err != nil {
			return err
		}
	}
	for i := range c.subscriptions {
		queueSubscription(b, &c.subscriptions[i])
	}
	if len(c.published) > 0 {
		queuePublished(b, c.published)
	}
	if len(c.touched) > 0 {
		queueTouched(b, c.touched)
	}
	if len(c.consumptions) > 0 {
		queueConsumptions(b, c.consumptions)
	}
	if len(c.lastConsumed) > 0 {
		queueLastConsumed(b, c.lastConsumed)
	}
	return nil
}

func queueTopic(b *pgx.Batch, t *topicRow) error {
	producers, err := json.Marshal(t.AllowedProducers)
	if err != nil {
		return fmt.Errorf("topic %s: %w", t.TopicID, err)
	}
	consumers, err := json.Marshal(t.AllowedConsumers)
	if err != nil {
		return fmt.Errorf("topic %s: %w", t.TopicID, err)
	}
	b.Queue(`
INSERT INTO message_topics (id, name, display_name, description, topic_type, partition_count, replication_factor, retention_ms,
    message_format, schema_definition, compression_type, tenant_id, is_public, allowed_producers, allowed_consumers, status,
    created_at, updated_at, version, shard)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb, $11, $12::text::uuid, $13, $14::text::jsonb, $15::text::jsonb, $16, $17, $17, $18, $19)`,
		t.TopicID, t.Name, orNull(t.DisplayName), orNull(t.Description), t.TopicType, t.PartitionCount, t.ReplicationFactor, t.RetentionMs,
		t.MessageFormat, orNull(string(t.SchemaDefinition)), t.CompressionType, t.tenantID, t.IsPublic, string(producers), string(consumers), t.Status,
		t.at, t.version, t.shard)
	return nil
}

func queueSubscription(b *pgx.Batch, s *subscriptionRow) {
	b.Queue(`
INSERT INTO message_subscriptions (id, topic_id, consumer_group, consumer_name, subscription_type, offset_reset_policy,
    max_poll_records, session_timeout_ms, heartbeat_interval_ms, handler_config, dead_letter_queue, max_retry_attempts,
    retry_delay_ms, message_filter, status, tenant_id, created_at, updated_at, version)
VALUES ($1::text::uuid, $2::text::uuid, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb, $11, $12, $13, $14::text::jsonb, $15, $16::text::uuid, $17, $17, $18)`,
		s.SubscriptionID, s.TopicID, s.ConsumerGroup, s.ConsumerName, s.SubscriptionType, s.OffsetResetPolicy,
		s.MaxPollRecords, s.SessionTimeoutMs, s.HeartbeatIntervalMs, string(s.HandlerConfig), orNull(s.DeadLetterQueue), s.MaxRetryAttempts,
		s.RetryDelayMs, orNull(string(s.MessageFilter)), s.Status, s.tenantID, s.at, s.version)
}

const insertMessages = `
INSERT INTO message_records (message_id, id, topic_id, message_key, correlation_id, headers, payload, payload_size, content_type, partition_id,
    offset_value, status, retry_count, published_at, consumed_at, expires_at, producer_id, tenant_id, trace_id, shard, position)
SELECT u.message_id, u.message_id::uuid, u.topic_id::uuid, u.message_key, u.correlation_id, u.headers::jsonb, u.payload::jsonb, octet_length(u.payload),
    u.content_type, u.partition_id, u.offset_value, u.status, u.retry_count, u.published_at, u.consumed_at, u.expires_at, u.producer_id,
    u.tenant_id::uuid, u.trace_id, u.shard, u.position
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::bigint[], $10::text[], $11::int[],
    $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::text[], $16::text[], $17::text[], $18::smallint[], $19::bigint[])
  AS u(message_id, topic_id, message_key, correlation_id, headers, payload, content_type, partition_id, offset_value, status, retry_count,
    published_at, consumed_at, expires_at, producer_id, tenant_id, trace_id, shard, position)`

func queuePublished(b *pgx.Batch, rows []*messageRow) {
	n := len(rows)
	ids, topics, headers, payloads, types, statuses, tenants := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	keys, correlations, producers, traces := make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n)
	partitions, retries, shards := make([]int32, n), make([]int32, n), make([]int16, n)
	offsets, positions := make([]int64, n), make([]int64, n)
	published, consumed, expires := make([]time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
	for i, m := range rows {
		ids[i], topics[i], headers[i], payloads[i], types[i], statuses[i], tenants[i] = m.messageID, m.TopicID, string(m.headers), string(m.Payload), m.ContentType, m.status, m.tenantID
		keys[i], correlations[i], producers[i], traces[i] = orNull(m.Key), orNull(m.CorrelationID), orNull(m.ProducerID), orNull(traceID(m.TraceParent))
		partitions[i], retries[i], shards[i] = int32(m.Partition), int32(m.retryCount), int16(m.shard) //nolint:gosec // all far below their types' ends
		offsets[i], positions[i] = m.Offset, int64(m.position)
		published[i], consumed[i] = m.publishedAt, timeOrNull(m.consumedAt)
		if m.TTLMs > 0 {
			at := m.publishedAt.Add(time.Duration(m.TTLMs) * time.Millisecond)
			expires[i] = &at
		}
	}
	b.Queue(insertMessages, ids, topics, keys, correlations, headers, payloads, types, partitions, offsets, statuses, retries,
		published, consumed, expires, producers, tenants, traces, shards, positions)
}

// The bounds are for the planner: it looks at no partition outside them.
const updateMessages = `
UPDATE message_records m SET
    status = CASE WHEN message_status_rank(u.status) > message_status_rank(m.status) THEN u.status ELSE m.status END,
    retry_count = greatest(m.retry_count, u.retry_count), consumed_at = coalesce(m.consumed_at, u.consumed_at)
FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[]) AS u(message_id, status, retry_count, consumed_at)
WHERE m.message_id = u.message_id AND m.message_id BETWEEN $5 AND $6`

func queueTouched(b *pgx.Batch, rows []*messageChange) {
	n := len(rows)
	ids, statuses, retries, consumed := make([]string, n), make([]string, n), make([]int32, n), make([]*time.Time, n)
	least, greatest := rows[0].messageID, rows[0].messageID
	for i, m := range rows {
		ids[i], statuses[i], retries[i], consumed[i] = m.messageID, m.status, int32(m.retryCount), timeOrNull(m.consumedAt) //nolint:gosec // attempts are few
		least, greatest = min(least, m.messageID), max(greatest, m.messageID)
	}
	b.Queue(updateMessages, ids, statuses, retries, consumed, least, greatest)
}

const insertConsumptions = `
INSERT INTO consumption_records (message_id, id, subscription_id, consumer_instance, partition_id, offset_value, status, processing_time_ms,
    error_message, retry_count, consumed_at, processed_at, next_retry_at, tenant_id, attempt, reason)
SELECT u.message_id, u.id::uuid, u.subscription_id::uuid, u.consumer, u.partition_id, u.offset_value, u.status, u.took_ms,
    u.error_message, u.attempt - 1, u.consumed_at, u.processed_at, u.next_retry_at, u.tenant_id::uuid, u.attempt, u.reason
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[], $7::text[], $8::int[], $9::text[],
    $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::text[], $14::int[], $15::text[])
  AS u(message_id, id, subscription_id, consumer, partition_id, offset_value, status, took_ms, error_message,
    consumed_at, processed_at, next_retry_at, tenant_id, attempt, reason)`

func queueConsumptions(b *pgx.Batch, rows []consumptionRow) {
	n := len(rows)
	messages, ids, subscriptions, consumers, statuses, tenants := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	partitions, took, attempts, offsets := make([]int32, n), make([]int32, n), make([]int32, n), make([]int64, n)
	errorTexts, reasons := make([]*string, n), make([]*string, n)
	consumed, processed, retries := make([]time.Time, n), make([]time.Time, n), make([]*time.Time, n)
	for i, r := range rows {
		messages[i], ids[i], subscriptions[i], consumers[i], statuses[i], tenants[i] = r.MessageID, r.id, r.SubscriptionID, r.Consumer, r.status, r.tenantID
		partitions[i], attempts[i], offsets[i] = int32(r.Partition), int32(r.Attempt), r.Offset //nolint:gosec // both few
		took[i] = int32(min(max(r.at.UnixMilli()-r.LeasedAtMs, 0), 1<<31-1))
		errorTexts[i], reasons[i] = orNull(r.errorText), orNull(r.reason)
		consumed[i], processed[i], retries[i] = time.UnixMilli(r.LeasedAtMs).UTC(), r.at, timeOrNull(r.retryAt)
	}
	b.Queue(insertConsumptions, messages, ids, subscriptions, consumers, partitions, offsets, statuses, took, errorTexts,
		consumed, processed, retries, tenants, attempts, reasons)
}

func queueLastConsumed(b *pgx.Batch, rows []lastConsumed) {
	ids, at := make([]string, len(rows)), make([]time.Time, len(rows))
	for i, r := range rows {
		ids[i], at[i] = r.subscriptionID, r.at
	}
	b.Queue(`UPDATE message_subscriptions s SET last_consumed_at = u.at
FROM unnest($1::text[]::uuid[], $2::timestamptz[]) AS u(id, at) WHERE s.id = u.id`, ids, at)
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
