package projections

import (
	"encoding/binary"
	"fmt"

	"github.com/tallymq/tallymq/events"
)

// The bounds are for the planner: it looks at no partition outside them.
const eraseHistory = `
UPDATE event_history h SET data = erase_payload(h.kind, h.data)
FROM unnest($1::bigint[], $2::text[]) AS u(position, message_id)
WHERE h.shard = $3::smallint AND h.scope = 'message' AND h.position = u.position AND h.position BETWEEN $4::bigint AND $5::bigint
  AND h.message_id = u.message_id AND h.kind IN ('message.published', 'message.scheduled')`

// historyErasure takes payloads out of the events that gave them to the log, of the batch
// itself too; none where the batch erases nothing.
func historyErasure(shard int, records []events.Record) (statement, error) {
	cols := columns{}
	positions, ids := cols.int64(), cols.text()
	var least, greatest events.Position
	for _, r := range records {
		e, ok := r.Event.(events.MessageErased)
		if !ok {
			continue
		}
		at, err := entryPosition(e.Entry)
		if err != nil {
			return statement{}, fmt.Errorf("event %s at %d/%d: %w", r.ID, shard, r.Position, err)
		}
		if cols.rows == 0 || at < least {
			least = at
		}
		greatest = max(greatest, at)
		positions.int64(int64(at))
		ids.text(e.MessageID)
		cols.rows++
	}
	if cols.rows == 0 {
		return statement{}, nil
	}
	return cols.statement(eraseHistory, binary.BigEndian.AppendUint16(nil, uint16(shard)), bigint(int64(least)), bigint(int64(greatest))), nil //nolint:gosec // a shard
}

const eraseMessages = `
UPDATE message_records m SET payload = NULL, erased_at = coalesce(m.erased_at, u.at), payload_size = coalesce(m.payload_size, u.size)
FROM unnest($1::text[], $2::timestamptz[], $3::int[]) AS u(message_id, at, size)
WHERE m.message_id = u.message_id AND m.message_id BETWEEN $4::text AND $5::text`

func (c *changes) eraseMessages() (statement, error) {
	cols := columns{}
	ids, at, sizes := cols.text(), cols.time(), cols.int32()
	least, greatest := "", ""
	for _, m := range c.touched {
		if m.erasedAt.IsZero() {
			continue
		}
		ids.text(m.messageID)
		at.time(m.erasedAt)
		sizes.int32(int(m.payloadBytes))
		if cols.rows == 0 || m.messageID < least {
			least = m.messageID
		}
		greatest = max(greatest, m.messageID)
		cols.rows++
	}
	return cols.unlessEmpty(eraseMessages, []byte(least), []byte(greatest)), nil
}

// isRetained are messages that their topic does not keep any longer: those that were
// published before a time, and those that never were and never will be.
const isRetained = `m.tenant_id = $1::text::uuid AND m.topic_id = $2::text::uuid AND m.message_id BETWEEN $5::text AND $3::text
  AND coalesce(m.published_at, CASE WHEN m.status <> 'scheduled' THEN '-infinity'::timestamptz END) < $4::timestamptz`

const (
	retainHistory = `
UPDATE event_history h SET data = erase_payload(h.kind, h.data) FROM message_records m
WHERE ` + isRetained + ` AND h.shard = m.shard AND h.scope = 'message' AND h.position = m.position
  AND h.message_id = m.message_id AND h.kind IN ('message.published', 'message.scheduled')`
	retainLetters = `
DELETE FROM dead_letters d USING message_records m WHERE ` + isRetained + ` AND d.topic_id = m.topic_id AND d.message_id = m.message_id`
	retainConsumptions = `
DELETE FROM consumption_records c USING message_records m WHERE ` + isRetained + ` AND c.message_id = m.message_id AND c.message_id BETWEEN $5::text AND $3::text`
	retainMessages = `DELETE FROM message_records m WHERE ` + isRetained
)

// statements of a retention; those of a fold of a history that stands leave that alone.
func (r retention) statements(withHistory bool) []statement {
	params := [][]byte{[]byte(r.tenantID), []byte(r.topicID), []byte(r.upTo), bigint(r.before.UnixMicro() - postgresEpochMicros), []byte(r.from)}
	var out []statement
	if withHistory {
		out = append(out, statement{sql: retainHistory, params: params})
	}
	for _, sql := range []string{retainLetters, retainConsumptions, retainMessages} {
		out = append(out, statement{sql: sql, params: params})
	}
	return out
}
