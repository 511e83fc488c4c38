package projections

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// groups returns the groups that pass, in order.
func (c *changes) groups(pass func(*groupCount) bool) []groupKey {
	var keys []groupKey
	for key, n := range c.groupCounts {
		if pass(n) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b groupKey) int {
		return cmp.Or(cmp.Compare(a.topicID, b.topicID), cmp.Compare(a.group, b.group))
	})
	return keys
}

const countTopics = `
INSERT INTO topic_counts AS t (topic_id, published, scheduled)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[])
ON CONFLICT (topic_id) DO UPDATE SET published = t.published + excluded.published, scheduled = t.scheduled + excluded.scheduled`

func (c *changes) countTopics() (statement, error) {
	cols := columns{rows: len(c.topicCounts)}
	ids, published, scheduled := cols.uuid(), cols.int64(), cols.int64()
	for _, id := range slices.Sorted(maps.Keys(c.topicCounts)) {
		n := c.topicCounts[id]
		if err := ids.uuid(id); err != nil {
			return statement{}, fmt.Errorf("topic: %w", err)
		}
		published.int64(n.published)
		scheduled.int64(n.scheduled)
	}
	return cols.statement(countTopics), nil
}

// A group that begins counts from what the topic had before the batch and what the batch
// published before it.
const beginGroups = `
INSERT INTO group_counts (topic_id, consumer_group, base, replayed, consumed, dead, filtered, expired, purged)
SELECT u.topic_id, u.consumer_group, coalesce(t.published, 0) + u.before, 0, 0, 0, 0, 0, 0
FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS u(topic_id, consumer_group, before) LEFT JOIN topic_counts t ON t.topic_id = u.topic_id
ON CONFLICT (topic_id, consumer_group) DO UPDATE SET base = excluded.base, replayed = 0, consumed = 0, dead = 0, filtered = 0, expired = 0, purged = 0`

func (c *changes) beginGroups() (statement, error) {
	keys := c.groups(func(n *groupCount) bool { return n.began })
	cols := columns{rows: len(keys)}
	topics, groups, before := cols.uuid(), cols.text(), cols.int64()
	for _, key := range keys {
		if err := topics.uuid(key.topicID); err != nil {
			return statement{}, fmt.Errorf("topic: %w", err)
		}
		groups.text(key.group)
		before.int64(c.groupCounts[key].before - c.groupCounts[key].backlog)
	}
	return cols.unlessEmpty(beginGroups), nil
}

// unlessEmpty is statement, or none where there are no rows.
func (c *columns) unlessEmpty(sql string, more ...[]byte) statement {
	if c.rows == 0 {
		return statement{}
	}
	return c.statement(sql, more...)
}

const countGroups = `
UPDATE group_counts g SET replayed = g.replayed + u.replayed, consumed = g.consumed + u.consumed, dead = g.dead + u.dead,
    filtered = g.filtered + u.filtered, expired = g.expired + u.expired, purged = g.purged + u.purged
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
  AS u(topic_id, consumer_group, replayed, consumed, dead, filtered, expired, purged)
WHERE g.topic_id = u.topic_id AND g.consumer_group = u.consumer_group`

func (c *changes) countGroups() (statement, error) {
	keys := c.groups(func(n *groupCount) bool { return !n.ended })
	cols := columns{rows: len(keys)}
	topics, groups, replayed, consumed := cols.uuid(), cols.text(), cols.int64(), cols.int64()
	dead, filtered, expired, purged := cols.int64(), cols.int64(), cols.int64(), cols.int64()
	for _, key := range keys {
		n := c.groupCounts[key]
		if err := topics.uuid(key.topicID); err != nil {
			return statement{}, fmt.Errorf("topic: %w", err)
		}
		groups.text(key.group)
		replayed.int64(n.replayed)
		consumed.int64(n.consumed)
		dead.int64(n.dead)
		filtered.int64(n.filtered)
		expired.int64(n.expired)
		purged.int64(n.purged)
	}
	return cols.unlessEmpty(countGroups), nil
}

// restarted are groups of which nothing from before the batch is left.
func (c *changes) restarted(sql string) (statement, error) {
	keys := c.groups(func(n *groupCount) bool { return n.ended || n.began })
	cols := columns{rows: len(keys)}
	topics, groups := cols.uuid(), cols.text()
	for _, key := range keys {
		if err := topics.uuid(key.topicID); err != nil {
			return statement{}, fmt.Errorf("topic: %w", err)
		}
		groups.text(key.group)
	}
	return cols.unlessEmpty(sql), nil
}

func (c *changes) deleteGroups() (statement, error) {
	return c.restarted(`DELETE FROM group_counts g USING unnest($1::uuid[], $2::text[]) AS u(topic_id, consumer_group)
WHERE g.topic_id = u.topic_id AND g.consumer_group = u.consumer_group`)
}

func (c *changes) deleteGroupLetters() (statement, error) {
	return c.restarted(`DELETE FROM dead_letters d USING unnest($1::uuid[], $2::text[]) AS u(topic_id, consumer_group)
WHERE d.topic_id = u.topic_id AND d.consumer_group = u.consumer_group`)
}

func (c *changes) deleteTopicCounts() (statement, error) {
	return uuidsStatement(`DELETE FROM topic_counts WHERE topic_id = ANY ($1::uuid[])`, c.endedTopics)
}

func (c *changes) deleteTopicOffsets() (statement, error) {
	return uuidsStatement(`DELETE FROM topic_offsets WHERE topic_id = ANY ($1::uuid[])`, c.endedTopics)
}

const moveOffsets = `
INSERT INTO topic_offsets AS t (topic_id, partition_id, next_offset)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::bigint[])
ON CONFLICT (topic_id, partition_id) DO UPDATE SET next_offset = greatest(t.next_offset, excluded.next_offset)`

func (c *changes) moveOffsets() (statement, error) {
	cols := columns{rows: len(c.nextOffsets)}
	ids, partitions, offsets := cols.uuid(), cols.int32(), cols.int64()
	keys := slices.SortedFunc(maps.Keys(c.nextOffsets), func(a, b partitionKey) int {
		return cmp.Or(cmp.Compare(a.topicID, b.topicID), cmp.Compare(a.partition, b.partition))
	})
	for _, key := range keys {
		if err := ids.uuid(key.topicID); err != nil {
			return statement{}, fmt.Errorf("topic: %w", err)
		}
		partitions.int32(key.partition)
		offsets.int64(c.nextOffsets[key])
	}
	return cols.statement(moveOffsets), nil
}

func (c *changes) deleteTopicGroups() (statement, error) {
	return uuidsStatement(`DELETE FROM group_counts WHERE topic_id = ANY ($1::uuid[])`, c.endedTopics)
}

func (c *changes) deleteTopicLetters() (statement, error) {
	return uuidsStatement(`DELETE FROM dead_letters WHERE topic_id = ANY ($1::uuid[])`, c.endedTopics)
}

func (c *changes) deleteTopicSchedules() (statement, error) {
	return uuidsStatement(`DELETE FROM message_schedules WHERE topic_id = ANY ($1::uuid[])`, c.endedTopics)
}

const insertDeadLetters = `
INSERT INTO dead_letters (topic_id, consumer_group, message_id, attempt, attempts_before, subscription_id, tenant_id, partition_id, offset_value,
    reason, error_message, status_code, dead_at, position)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::int[], $6::uuid[], $7::uuid[], $8::int[], $9::bigint[],
    $10::text[], $11::text[], $12::int[], $13::timestamptz[], $14::bigint[])`

func (c *changes) insertDeadLetters() (statement, error) {
	cols := columns{rows: len(c.deadLetters)}
	topics, groups, messages, attempts, before := cols.uuid(), cols.text(), cols.text(), cols.int32(), cols.int32()
	subscriptions, tenants, partitions, offsets := cols.uuid(), cols.uuid(), cols.int32(), cols.int64()
	reasons, errorTexts, codes, at, positions := cols.text(), cols.text(), cols.int32(), cols.time(), cols.int64()
	for _, l := range c.deadLetters {
		if err := errors.Join(topics.uuid(l.TopicID), subscriptions.uuid(l.SubscriptionID), tenants.uuid(l.tenantID)); err != nil {
			return statement{}, fmt.Errorf("dead letter %s: %w", l.MessageID, err)
		}
		groups.text(l.ConsumerGroup)
		messages.text(l.MessageID)
		attempts.int32(l.Attempt)
		before.int32(l.AttemptsBefore)
		partitions.int32(l.Partition)
		offsets.int64(l.Offset)
		reasons.text(l.Reason)
		errorTexts.textOrNull(l.Error)
		codes.int32OrNull(l.StatusCode)
		at.time(l.at)
		positions.int64(int64(l.position))
	}
	return cols.statement(insertDeadLetters), nil
}

// What is taken back is counted here: another job may have been quicker.
const deleteRevived = `
WITH gone AS (
    DELETE FROM dead_letters d USING unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) AS u(topic_id, consumer_group, message_id, position)
    WHERE d.topic_id = u.topic_id AND d.consumer_group = u.consumer_group AND d.message_id = u.message_id AND d.position < u.position
    RETURNING d.topic_id, d.consumer_group
), counted AS (SELECT topic_id, consumer_group, count(*) AS n FROM gone GROUP BY topic_id, consumer_group)
UPDATE group_counts g SET dead = g.dead - c.n, replayed = g.replayed - c.n
FROM counted c WHERE g.topic_id = c.topic_id AND g.consumer_group = c.consumer_group`

func (c *changes) deleteRevived() (statement, error) {
	cols := columns{rows: len(c.revivals)}
	topics, groups, messages, positions := cols.uuid(), cols.text(), cols.text(), cols.int64()
	for _, r := range c.revivals {
		if err := topics.uuid(r.topicID); err != nil {
			return statement{}, fmt.Errorf("topic: %w", err)
		}
		groups.text(r.group)
		messages.text(r.messageID)
		positions.int64(int64(r.position))
	}
	return cols.statement(deleteRevived), nil
}

const insertSchedules = `
INSERT INTO message_schedules (id, topic_id, tenant_id, name, cron, time_zone, message_key, headers, content_type, correlation_id, ttl_ms, payload,
    sealed, status, created_at, updated_at, version)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[], $9::text[], $10::text[], $11::bigint[],
    $12::jsonb[], $13::boolean[], $14::text[], $15::timestamptz[], $16::timestamptz[], $17::bigint[])`

func (c *changes) insertSchedules() (statement, error) {
	cols := columns{rows: len(c.schedules)}
	ids, topics, tenants, names, crons, zones := cols.uuid(), cols.uuid(), cols.uuid(), cols.text(), cols.text(), cols.text()
	keys, headers, types, correlations, ttls, payloads := cols.text(), cols.jsonb(), cols.text(), cols.text(), cols.int64(), cols.payload()
	sealed, statuses, at, changedAt, versions := cols.boolean(), cols.text(), cols.time(), cols.time(), cols.int64()
	for _, s := range c.schedules {
		given := s.Headers
		if given == nil {
			given = map[string]string{}
		}
		text, err := json.Marshal(given)
		if err := errors.Join(err, ids.uuid(s.ScheduleID), topics.uuid(s.TopicID), tenants.uuid(s.tenantID)); err != nil {
			return statement{}, fmt.Errorf("schedule %s: %w", s.ScheduleID, err)
		}
		names.text(s.Name)
		crons.text(s.Cron)
		zones.text(s.TimeZone)
		keys.textOrNull(s.Key)
		headers.jsonb(text)
		types.textOrNull(s.ContentType)
		correlations.textOrNull(s.CorrelationID)
		if s.TTLMs == nil {
			ttls.null()
		} else {
			ttls.int64(*s.TTLMs)
		}
		payloads.jsonb(s.Payload)
		sealed.bool(s.Sealed)
		statuses.text(s.Status)
		at.time(s.at)
		changedAt.time(s.changedAt)
		versions.int64(s.version)
	}
	return cols.statement(insertSchedules), nil
}

const updateSchedules = `
UPDATE message_schedules s SET status = u.status, updated_at = u.at, version = u.version
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[]) AS u(id, status, at, version) WHERE s.id = u.id`

func (c *changes) updateSchedules() (statement, error) {
	cols := columns{rows: len(c.changedSchedules)}
	ids, statuses, at, versions := cols.uuid(), cols.text(), cols.time(), cols.int64()
	for _, id := range slices.Sorted(maps.Keys(c.changedSchedules)) {
		s := c.changedSchedules[id]
		if err := ids.uuid(id); err != nil {
			return statement{}, fmt.Errorf("schedule: %w", err)
		}
		statuses.text(s.status)
		at.time(s.at)
		versions.int64(s.version)
	}
	return cols.statement(updateSchedules), nil
}

func (c *changes) deleteSchedules() (statement, error) {
	return uuidsStatement(`DELETE FROM message_schedules WHERE id = ANY ($1::uuid[])`, c.endedSchedules)
}
