package projections

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tallymq/tallymq/events"
)

// Scopes of event_history: admin events are kept for ever, message events as long
// as retention says.
const (
	scopeAdmin   = "admin"
	scopeMessage = "message"
)

// statement is SQL with its parameters in binary format.
type statement struct {
	sql    string
	params [][]byte
	// rows is how many rows the arrays among the parameters have.
	rows int
}

// writer runs statements on a connection, prepared when first used.
type writer struct {
	conn     *pgconn.PgConn
	prepared map[string]string
	seals    sealer
	// version is that of the code that folds, and run what the log is read from, see
	// [Admit].
	version int
	logRun  string
}

func newWriter(conn *pgconn.PgConn) *writer {
	return &writer{conn: conn, prepared: map[string]string{}, version: Version}
}

var binaryFormat = []int16{1} //nolint:gochecknoglobals // constant

// run sends all statements in one round trip. Up to the sync at its end they are
// one implicit transaction, all or nothing, unless one was begun before.
func (w *writer) run(ctx context.Context, statements []statement) error {
	for _, s := range statements {
		if w.prepared[s.sql] != "" {
			continue
		}
		name := "tallymq_" + strconv.Itoa(len(w.prepared))
		if _, err := w.conn.Prepare(ctx, name, s.sql, nil); err != nil {
			return fmt.Errorf("prepare %.60s: %w", s.sql, err)
		}
		w.prepared[s.sql] = name
	}
	p := w.conn.StartPipeline(ctx)
	for _, s := range statements {
		p.SendQueryPrepared(w.prepared[s.sql], s.params, binaryFormat, nil)
	}
	err := p.Sync()
	for err == nil {
		var result any
		if result, err = p.GetResults(); err != nil {
			break
		}
		if _, ended := result.(*pgconn.PipelineSync); ended {
			break
		}
		if reader, ok := result.(*pgconn.ResultReader); ok {
			_, err = reader.Close()
		}
	}
	return errors.Join(err, p.Close())
}

// commit writes a batch in one transaction and one round trip: the checkpoint's
// move first, which fails where it does not stand at from, the tables were folded by a
// later version or the log is another run's, then history, read tables and what seals
// the history.
func (w *writer) commit(ctx context.Context, shard int, from events.Position, records []events.Record, c *changes) error {
	statements := make([]statement, 0, 6)
	statements = append(statements, statement{sql: `SELECT advance_checkpoint($1::text, $2::smallint, $3::bigint, $4::bigint, $5::int, $6::text)`, params: [][]byte{
		[]byte(Name), binary.BigEndian.AppendUint16(nil, uint16(shard)), //nolint:gosec // a shard
		bigint(int64(from)), bigint(int64(records[len(records)-1].Position)), integer(w.version), []byte(w.logRun),
	}})
	history, err := historyStatement(shard, records)
	if err != nil {
		return err
	}
	erasure, err := historyErasure(shard, records)
	if err != nil {
		return err
	}
	tables, err := c.allStatements(true)
	if err != nil {
		return err
	}
	seals, err := w.seal(ctx, shard, from, records)
	if err != nil {
		return err
	}
	statements = append(statements, history)
	if erasure.sql != "" {
		statements = append(statements, erasure)
	}
	statements = append(append(statements, tables...), seals.statements...)
	if err := w.run(ctx, statements); err != nil {
		return fmt.Errorf("write %d events of shard %d after %d: %w", len(records), shard, from, err)
	}
	w.seals.committed(seals.trees)
	return nil
}

func bigint(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) } //nolint:gosec // two's complement

func integer(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) } //nolint:gosec // two's complement

// historyMeta is the JSON of event_history.metadata.
type historyMeta struct {
	Actor          string `json:"actor,omitempty"`
	Platform       string `json:"platform,omitempty"`
	RequestID      string `json:"requestId,omitempty"`
	TraceParent    string `json:"traceparent,omitempty"`
	IdempotencyKey string `json:"idempotencyKey,omitempty"`
	Fingerprint    string `json:"fingerprint,omitempty"`
}

// platformText is how the JSON says that the platform itself asked: its values are texts.
func platformText(isPlatform bool) string {
	if isPlatform {
		return "true"
	}
	return ""
}

const insertHistory = `
INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, message_id, version, occurred_at, metadata, data)
SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::uuid[], $5::text[], $6::uuid[], $7::uuid[], $8::uuid[], $9::text[],
    $10::bigint[], $11::timestamptz[], $12::jsonb[], $13::json[])`

func historyStatement(shard int, records []events.Record) (statement, error) {
	cols := columns{rows: len(records)}
	shards, positions, scopes, ids, kinds, tenants := cols.int16(), cols.int64(), cols.text(), cols.uuid(), cols.text(), cols.uuid()
	topics, subscriptions, messages, versions, at := cols.uuid(), cols.uuid(), cols.text(), cols.int64(), cols.time()
	metas, data := cols.jsonb(), cols.json()
	for _, r := range records {
		refs := events.RefsOf(r.Event)
		meta, err := json.Marshal(historyMeta{
			Actor: r.Meta.Actor, Platform: platformText(r.Meta.Platform), RequestID: r.Meta.RequestID, TraceParent: r.Meta.TraceParent,
			IdempotencyKey: r.Meta.IdempotencyKey, Fingerprint: r.Meta.Fingerprint,
		})
		err = errors.Join(err, ids.uuid(r.ID), tenants.uuid(r.TenantID), topics.uuid(refs.TopicID), subscriptions.uuid(refs.SubscriptionID))
		if err != nil {
			return statement{}, fmt.Errorf("event %s at %d/%d: %w", r.ID, shard, r.Position, err)
		}
		scope := scopeOf(refs)
		shards.int16(shard)
		positions.int64(int64(r.Position))
		scopes.text(scope)
		kinds.text(string(r.Event.Kind()))
		messages.textOrNull(refs.MessageID)
		versions.int64(r.Version)
		at.time(r.Position.Time())
		metas.jsonb(meta)
		data.json(r.Data)
	}
	return cols.statement(insertHistory), nil
}

// statements apply the changes to the read tables. Table names are unqualified:
// [Verify] applies the same statements to tables of its own.
func (c *changes) statements() ([]statement, error) { return c.allStatements(false) }

// allStatements are statements, and what retention does to history where that is asked
// for: it has to come before the rows go that say which events are meant.
func (c *changes) allStatements(withHistory bool) ([]statement, error) {
	var out []statement
	for ; c != nil; c = c.next {
		own, err := c.ownStatements()
		if err != nil {
			return nil, err
		}
		out = append(out, own...)
		if c.retained != nil {
			out = append(out, c.retained.statements(withHistory)...)
		}
	}
	return out, nil
}

func (c *changes) ownStatements() ([]statement, error) {
	var out []statement
	// Purges are of earlier messages: what the batch says of them comes on top.
	for _, p := range c.purges {
		out = append(out, p.statement())
	}
	for _, part := range []struct {
		rows int
		make func() (statement, error)
	}{
		// What ends and changes comes first: new rows may take names that it leaves.
		{len(c.changedTopics), c.updateTopics},
		{len(c.endedTopics), c.deleteTopicSubscriptions},
		{len(c.endedTopics), c.deleteTopicCounts},
		{len(c.endedTopics), c.deleteTopicOffsets},
		{len(c.endedTopics), c.deleteTopicGroups},
		{len(c.endedTopics), c.deleteTopicLetters},
		{len(c.endedTopics), c.deleteTopicSchedules},
		{len(c.endedSubscriptions), c.deleteSubscriptions},
		{len(c.endedSchedules), c.deleteSchedules},
		{len(c.changedSchedules), c.updateSchedules},
		{len(c.changedSubscriptions), c.updateSubscriptions},
		{len(c.topics), c.insertTopics},
		{len(c.subscriptions), c.insertSubscriptions},
		{len(c.published), c.insertMessages},
		{len(c.touched), c.updateMessages},
		{len(c.touched), c.eraseMessages},
		{len(c.consumptions), c.insertConsumptions},
		{len(c.lastConsumed), c.updateLastConsumed},
		{len(c.schedules), c.insertSchedules},
		// The batch's own dead letters are of groups as they began anew.
		{len(c.revivals), c.deleteRevived},
		{len(c.groupCounts), c.deleteGroupLetters},
		{len(c.deadLetters), c.insertDeadLetters},
		// Groups begin from what the batch found.
		{len(c.groupCounts), c.deleteGroups},
		{len(c.groupCounts), c.beginGroups},
		{len(c.topicCounts), c.countTopics},
		{len(c.groupCounts), c.countGroups},
		{len(c.nextOffsets), c.moveOffsets},
	} {
		if part.rows == 0 {
			continue
		}
		s, err := part.make()
		if err != nil {
			return nil, err
		}
		if s.sql != "" {
			out = append(out, s)
		}
	}
	return out, nil
}

const insertTopics = `
INSERT INTO message_topics (id, tenant_id, name, display_name, description, topic_type, partition_count, replication_factor, retention_ms,
    message_format, schema_definition, compression_type, is_public, allowed_producers, allowed_consumers, status, created_at, updated_at, version, shard)
SELECT u.id, u.tenant_id, u.name, u.display_name, u.description, u.topic_type, u.partition_count, u.replication_factor, u.retention_ms,
    u.message_format, u.schema_definition, u.compression_type, u.is_public, u.allowed_producers, u.allowed_consumers, u.status, u.at, u.changed_at, u.version, u.shard
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::int[], $9::bigint[], $10::text[], $11::jsonb[],
    $12::text[], $13::boolean[], $14::jsonb[], $15::jsonb[], $16::text[], $17::timestamptz[], $18::timestamptz[], $19::bigint[], $20::smallint[])
  AS u(id, tenant_id, name, display_name, description, topic_type, partition_count, replication_factor, retention_ms, message_format,
    schema_definition, compression_type, is_public, allowed_producers, allowed_consumers, status, at, changed_at, version, shard)`

func (c *changes) insertTopics() (statement, error) {
	cols := columns{rows: len(c.topics)}
	ids, tenants, names, displayNames, descriptions, types := cols.uuid(), cols.uuid(), cols.text(), cols.text(), cols.text(), cols.text()
	partitions, replicas, retentions, formats, schemas, compressions := cols.int32(), cols.int32(), cols.int64(), cols.text(), cols.jsonb(), cols.text()
	public, producers, consumers, statuses := cols.boolean(), cols.jsonb(), cols.jsonb(), cols.text()
	at, changedAt, versions, shards := cols.time(), cols.time(), cols.int64(), cols.int16()
	for _, t := range c.topics {
		mayProduce, err1 := json.Marshal(t.AllowedProducers)
		mayConsume, err2 := json.Marshal(t.AllowedConsumers)
		if err := errors.Join(err1, err2, ids.uuid(t.TopicID), tenants.uuid(t.tenantID)); err != nil {
			return statement{}, fmt.Errorf("topic %s: %w", t.TopicID, err)
		}
		names.text(t.Name)
		displayNames.textOrNull(t.DisplayName)
		descriptions.textOrNull(t.Description)
		types.text(t.TopicType)
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
		at.time(t.at)
		changedAt.time(t.changedAt)
		versions.int64(t.version)
		shards.int16(t.shard)
	}
	return cols.statement(insertTopics), nil
}

const insertSubscriptions = `
INSERT INTO message_subscriptions (id, tenant_id, topic_id, consumer_group, consumer_name, subscription_type, offset_reset_policy,
    max_poll_records, session_timeout_ms, heartbeat_interval_ms, handler_config, dead_letter_queue, max_retry_attempts,
    retry_delay_ms, message_filter, status, created_at, updated_at, version)
SELECT u.id, u.tenant_id, u.topic_id, u.consumer_group, u.consumer_name, u.subscription_type, u.offset_reset_policy, u.max_poll_records,
    u.session_timeout_ms, u.heartbeat_interval_ms, u.handler_config, u.dead_letter_queue, u.max_retry_attempts, u.retry_delay_ms,
    u.message_filter, u.status, u.at, u.changed_at, u.version
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::int[], $10::int[], $11::jsonb[],
    $12::text[], $13::int[], $14::int[], $15::jsonb[], $16::text[], $17::timestamptz[], $18::timestamptz[], $19::bigint[])
  AS u(id, tenant_id, topic_id, consumer_group, consumer_name, subscription_type, offset_reset_policy, max_poll_records, session_timeout_ms,
    heartbeat_interval_ms, handler_config, dead_letter_queue, max_retry_attempts, retry_delay_ms, message_filter, status, at, changed_at, version)`

func (c *changes) insertSubscriptions() (statement, error) {
	cols := columns{rows: len(c.subscriptions)}
	ids, tenants, topics, groups, names, types, policies := cols.uuid(), cols.uuid(), cols.uuid(), cols.text(), cols.text(), cols.text(), cols.text()
	polls, timeouts, heartbeats, configs, deadLetters, attempts := cols.int32(), cols.int32(), cols.int32(), cols.jsonb(), cols.text(), cols.int32()
	delays, filters, statuses, at, changedAt, versions := cols.int32(), cols.jsonb(), cols.text(), cols.time(), cols.time(), cols.int64()
	for _, s := range c.subscriptions {
		if err := errors.Join(ids.uuid(s.SubscriptionID), tenants.uuid(s.tenantID), topics.uuid(s.TopicID)); err != nil {
			return statement{}, fmt.Errorf("subscription %s: %w", s.SubscriptionID, err)
		}
		groups.text(s.ConsumerGroup)
		names.text(s.ConsumerName)
		types.text(s.SubscriptionType)
		policies.text(s.OffsetResetPolicy)
		polls.int32(s.MaxPollRecords)
		timeouts.int32(s.SessionTimeoutMs)
		heartbeats.int32(s.HeartbeatIntervalMs)
		configs.jsonb(s.HandlerConfig)
		deadLetters.textOrNull(s.DeadLetterQueue)
		attempts.int32(s.MaxRetryAttempts)
		delays.int32(s.RetryDelayMs)
		filters.jsonb(s.MessageFilter)
		statuses.text(s.Status)
		at.time(s.at)
		changedAt.time(s.changedAt)
		versions.int64(s.version)
	}
	return cols.statement(insertSubscriptions), nil
}

const insertMessages = `
INSERT INTO message_records (message_id, id, topic_id, tenant_id, message_key, correlation_id, headers, payload, payload_size, content_type, partition_id,
    offset_value, status, retry_count, published_at, consumed_at, expires_at, producer_id, trace_id, shard, position, sealed, scheduled_at, erased_at)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::jsonb[], $9::int[], $10::text[], $11::int[],
    $12::bigint[], $13::text[], $14::int[], $15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::text[], $19::text[], $20::smallint[], $21::bigint[], $22::boolean[], $23::timestamptz[], $24::timestamptz[])`

func (c *changes) insertMessages() (statement, error) {
	cols := columns{rows: len(c.published)}
	messageIDs, ids, topics, tenants, keys, correlations := cols.text(), cols.uuid(), cols.uuid(), cols.uuid(), cols.text(), cols.text()
	headers, payloads, sizes, types, partitions, offsets := cols.jsonb(), cols.payload(), cols.int32(), cols.text(), cols.int32(), cols.int64()
	statuses, retries, published, consumed, expires := cols.text(), cols.int32(), cols.time(), cols.time(), cols.time()
	producers, traces, shards, positions, sealed := cols.text(), cols.text(), cols.int16(), cols.int64(), cols.boolean()
	scheduled, erased := cols.time(), cols.time()
	for _, m := range c.published {
		if err := errors.Join(ids.uuid(m.messageID), topics.uuid(m.TopicID), tenants.uuid(m.tenantID)); err != nil {
			return statement{}, fmt.Errorf("message %s: %w", m.messageID, err)
		}
		messageIDs.text(m.messageID)
		keys.textOrNull(m.Key)
		correlations.textOrNull(m.CorrelationID)
		headers.jsonb(m.headers)
		if m.ErasedSHA256 != "" || !m.erasedAt.IsZero() {
			payloads.null()
		} else {
			payloads.jsonb(m.Payload)
		}
		if size, known := m.payloadSize(); known {
			sizes.int32(size)
		} else {
			sizes.null()
		}
		erased.time(m.erasedAt)
		types.text(m.ContentType)
		partitions.int32(m.Partition)
		if m.isScheduled && m.releasedAt.IsZero() {
			offsets.null()
		} else {
			offsets.int64(max(m.Offset, m.offset)) // one of them is not given
		}
		statuses.text(m.status)
		retries.int32(m.retryCount)
		published.time(later(m.publishedAt, m.releasedAt))
		consumed.time(m.consumedAt)
		if m.TTLMs > 0 {
			expires.time(later(m.publishedAt, m.scheduledAt).Add(time.Duration(m.TTLMs) * time.Millisecond))
		} else {
			expires.null()
		}
		scheduled.time(m.scheduledAt)
		producers.textOrNull(m.ProducerID)
		traces.textOrNull(traceID(m.TraceParent))
		shards.int16(m.shard)
		positions.int64(int64(m.position))
		sealed.bool(m.Sealed)
	}
	return cols.statement(insertMessages), nil
}

// payloadSize is how long a message's payload is, or was. Of an erased one the event that
// gave it to the log does not say.
func (m *messageRow) payloadSize() (bytes int, known bool) {
	switch {
	case m.Sealed:
		return int(m.PlainBytes), true
	case m.ErasedSHA256 == "":
		return len(m.Payload), true
	}
	return int(m.payloadBytes), !m.erasedAt.IsZero()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// The bounds are for the planner: it looks at no partition outside them.
const updateMessages = `
UPDATE message_records m SET
    status = CASE WHEN u.restarted OR message_status_rank(u.status) > message_status_rank(m.status) THEN u.status ELSE m.status END,
    retry_count = greatest(m.retry_count, u.retry_count), consumed_at = coalesce(m.consumed_at, u.consumed_at),
    published_at = coalesce(m.published_at, u.released_at), offset_value = CASE WHEN u.released_at IS NULL THEN m.offset_value ELSE u.offset_value END
FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[], $5::boolean[], $6::timestamptz[], $7::bigint[])
  AS u(message_id, status, retry_count, consumed_at, restarted, released_at, offset_value)
WHERE m.message_id = u.message_id AND m.message_id BETWEEN $8::text AND $9::text`

func (c *changes) updateMessages() (statement, error) {
	cols := columns{rows: len(c.touched)}
	ids, statuses, retries, consumed := cols.text(), cols.text(), cols.int32(), cols.time()
	restarted, released, offsets := cols.boolean(), cols.time(), cols.int64()
	least, greatest := c.touched[0].messageID, c.touched[0].messageID
	for _, m := range c.touched {
		ids.text(m.messageID)
		statuses.text(m.status)
		retries.int32(m.retryCount)
		consumed.time(m.consumedAt)
		restarted.bool(m.restarted)
		released.time(m.releasedAt)
		offsets.int64(m.offset)
		least, greatest = min(least, m.messageID), max(greatest, m.messageID)
	}
	return cols.statement(updateMessages, []byte(least), []byte(greatest)), nil
}

const insertConsumptions = `
INSERT INTO consumption_records (message_id, id, subscription_id, tenant_id, consumer_instance, partition_id, offset_value, status, processing_time_ms,
    error_message, retry_count, consumed_at, processed_at, next_retry_at, attempt, reason, status_code)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::int[], $7::bigint[], $8::text[], $9::int[], $10::text[], $11::int[],
    $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::int[], $16::text[], $17::int[])`

func (c *changes) insertConsumptions() (statement, error) {
	cols := columns{rows: len(c.consumptions)}
	messages, ids, subscriptions, tenants, consumers, partitions := cols.text(), cols.uuid(), cols.uuid(), cols.uuid(), cols.text(), cols.int32()
	offsets, statuses, took, errorTexts, retries := cols.int64(), cols.text(), cols.int32(), cols.text(), cols.int32()
	consumed, processed, retryAt, attempts, reasons, codes := cols.time(), cols.time(), cols.time(), cols.int32(), cols.text(), cols.int32()
	for _, r := range c.consumptions {
		if err := errors.Join(ids.uuid(r.id), subscriptions.uuid(r.SubscriptionID), tenants.uuid(r.tenantID)); err != nil {
			return statement{}, fmt.Errorf("attempt %s: %w", r.id, err)
		}
		messages.text(r.MessageID)
		consumers.text(r.Consumer)
		partitions.int32(r.Partition)
		offsets.int64(r.Offset)
		statuses.text(r.status)
		took.int32(int(min(max(r.at.UnixMilli()-r.LeasedAtMs, 0), 1<<31-1)))
		errorTexts.textOrNull(r.errorText)
		retries.int32(r.Attempt - 1)
		consumed.time(time.UnixMilli(r.LeasedAtMs))
		processed.time(r.at)
		retryAt.time(r.retryAt)
		attempts.int32(r.Attempt)
		reasons.textOrNull(r.reason)
		codes.int32OrNull(r.statusCode)
	}
	return cols.statement(insertConsumptions), nil
}

const updateLastConsumed = `
UPDATE message_subscriptions s SET last_consumed_at = u.at FROM unnest($1::uuid[], $2::timestamptz[]) AS u(id, at) WHERE s.id = u.id`

func (c *changes) updateLastConsumed() (statement, error) {
	cols := columns{rows: len(c.lastConsumed)}
	ids, at := cols.uuid(), cols.time()
	for _, r := range c.lastConsumed {
		if err := ids.uuid(r.subscriptionID); err != nil {
			return statement{}, fmt.Errorf("subscription: %w", err)
		}
		at.time(r.at)
	}
	return cols.statement(updateLastConsumed), nil
}
