package projections

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A deleted topic keeps its configuration, but for its status.
const updateTopics = `
UPDATE message_topics t SET
    display_name = CASE WHEN u.archived THEN t.display_name ELSE u.display_name END,
    description = CASE WHEN u.archived THEN t.description ELSE u.description END,
    partition_count = CASE WHEN u.archived THEN t.partition_count ELSE u.partition_count END,
    replication_factor = CASE WHEN u.archived THEN t.replication_factor ELSE u.replication_factor END,
    retention_ms = CASE WHEN u.archived THEN t.retention_ms ELSE u.retention_ms END,
    message_format = CASE WHEN u.archived THEN t.message_format ELSE u.message_format END,
    schema_definition = CASE WHEN u.archived THEN t.schema_definition ELSE u.schema_definition END,
    compression_type = CASE WHEN u.archived THEN t.compression_type ELSE u.compression_type END,
    is_public = CASE WHEN u.archived THEN t.is_public ELSE u.is_public END,
    allowed_producers = CASE WHEN u.archived THEN t.allowed_producers ELSE u.allowed_producers END,
    allowed_consumers = CASE WHEN u.archived THEN t.allowed_consumers ELSE u.allowed_consumers END,
    status = u.status, updated_at = u.at, version = u.version
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[], $6::bigint[], $7::text[], $8::jsonb[], $9::text[], $10::boolean[],
    $11::jsonb[], $12::jsonb[], $13::text[], $14::timestamptz[], $15::bigint[], $16::boolean[])
  AS u(id, display_name, description, partition_count, replication_factor, retention_ms, message_format, schema_definition, compression_type,
    is_public, allowed_producers, allowed_consumers, status, at, version, archived)
WHERE t.id = u.id`

func (c *changes) updateTopics() (statement, error) {
	cols := columns{rows: len(c.changedTopics)}
	ids, displayNames, descriptions, partitions, replicas, retentions := cols.uuid(), cols.text(), cols.text(), cols.int32(), cols.int32(), cols.int64()
	formats, schemas, compressions, public, producers, consumers := cols.text(), cols.jsonb(), cols.text(), cols.boolean(), cols.jsonb(), cols.jsonb()
	statuses, at, versions, archived := cols.text(), cols.time(), cols.int64(), cols.boolean()
	for _, id := range slices.Sorted(maps.Keys(c.changedTopics)) {
		t := c.changedTopics[id]
		mayProduce, err1 := json.Marshal(t.AllowedProducers)
		mayConsume, err2 := json.Marshal(t.AllowedConsumers)
		if err := errors.Join(err1, err2, ids.uuid(t.TopicID)); err != nil {
			return statement{}, fmt.Errorf("topic %s: %w", t.TopicID, err)
		}
		displayNames.textOrNull(t.DisplayName)
		descriptions.textOrNull(t.Description)
		partitions.int32(t.PartitionCount)
		replicas.int32(t.ReplicationFactor)
		retentions.int64(t.RetentionMs)
		formats.text(t.MessageFormat)
		schemas.jsonb(t.SchemaDefinition)
		compressions.text(t.CompressionType)
		public.bool(t.IsPublic)
		producers.jsonb(mayProduce)
		consumers.jsonb(mayConsume)
		statuses.text(t.Status)
		at.time(t.changedAt)
		versions.int64(t.version)
		// A change and the deletion in one batch: the change still counts.
		archived.bool(t.archived && t.Name == "")
	}
	return cols.statement(updateTopics), nil
}

// A change of status alone has no configuration: those columns are null.
const updateSubscriptions = `
UPDATE message_subscriptions s SET
    max_poll_records = coalesce(u.max_poll_records, s.max_poll_records), session_timeout_ms = coalesce(u.session_timeout_ms, s.session_timeout_ms),
    heartbeat_interval_ms = coalesce(u.heartbeat_interval_ms, s.heartbeat_interval_ms), handler_config = coalesce(u.handler_config, s.handler_config),
    dead_letter_queue = CASE WHEN u.whole THEN u.dead_letter_queue ELSE s.dead_letter_queue END,
    max_retry_attempts = coalesce(u.max_retry_attempts, s.max_retry_attempts), retry_delay_ms = coalesce(u.retry_delay_ms, s.retry_delay_ms),
    message_filter = CASE WHEN u.whole THEN u.message_filter ELSE s.message_filter END,
    status = coalesce(u.status, s.status), updated_at = u.at, version = u.version
FROM unnest($1::uuid[], $2::boolean[], $3::int[], $4::int[], $5::int[], $6::jsonb[], $7::text[], $8::int[], $9::int[], $10::jsonb[], $11::text[],
    $12::timestamptz[], $13::bigint[])
  AS u(id, whole, max_poll_records, session_timeout_ms, heartbeat_interval_ms, handler_config, dead_letter_queue, max_retry_attempts,
    retry_delay_ms, message_filter, status, at, version)
WHERE s.id = u.id`

func (c *changes) updateSubscriptions() (statement, error) {
	cols := columns{rows: len(c.changedSubscriptions)}
	ids, whole, polls, timeouts, heartbeats, configs := cols.uuid(), cols.boolean(), cols.int32(), cols.int32(), cols.int32(), cols.jsonb()
	deadLetters, attempts, delays, filters := cols.text(), cols.int32(), cols.int32(), cols.jsonb()
	statuses, at, versions := cols.text(), cols.time(), cols.int64()
	for _, id := range slices.Sorted(maps.Keys(c.changedSubscriptions)) {
		s := c.changedSubscriptions[id]
		if err := ids.uuid(s.id); err != nil {
			return statement{}, fmt.Errorf("subscription %s: %w", s.id, err)
		}
		whole.bool(s.config != nil)
		statuses.textOrNull(s.status)
		at.time(s.at)
		versions.int64(s.version)
		if s.config == nil {
			for _, column := range []*array{polls, timeouts, heartbeats, configs, deadLetters, attempts, delays, filters} {
				column.null()
			}
			continue
		}
		polls.int32(s.config.MaxPollRecords)
		timeouts.int32(s.config.SessionTimeoutMs)
		heartbeats.int32(s.config.HeartbeatIntervalMs)
		configs.jsonb(s.config.HandlerConfig)
		deadLetters.textOrNull(s.config.DeadLetterQueue)
		attempts.int32(s.config.MaxRetryAttempts)
		delays.int32(s.config.RetryDelayMs)
		filters.jsonb(s.config.MessageFilter)
	}
	return cols.statement(updateSubscriptions), nil
}

func (c *changes) deleteSubscriptions() (statement, error) {
	return uuidsStatement(`DELETE FROM message_subscriptions WHERE id = ANY ($1::uuid[])`, c.endedSubscriptions)
}

func (c *changes) deleteTopicSubscriptions() (statement, error) {
	return uuidsStatement(`DELETE FROM message_subscriptions WHERE topic_id = ANY ($1::uuid[])`, c.endedTopics)
}

func uuidsStatement(sql string, list []string) (statement, error) {
	cols := columns{rows: len(list)}
	ids := cols.uuid()
	for _, id := range list {
		if err := ids.uuid(id); err != nil {
			return statement{}, fmt.Errorf("id: %w", err)
		}
	}
	return cols.statement(sql), nil
}

const purgeMessages = `
UPDATE message_records SET status = 'purged'
WHERE tenant_id = $1::text::uuid AND topic_id = $2::text::uuid AND message_id >= $3::text AND position < $4::bigint
  AND message_status_rank(status) < message_status_rank('purged')`

func (p purge) statement() statement {
	return statement{sql: purgeMessages, params: [][]byte{[]byte(p.tenantID), []byte(p.topicID), []byte(p.messageIDFrom), bigint(int64(p.before))}}
}
