package queries

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/Masterminds/squirrel"
)

// asOfPiece is how many messages are folded at once where not all of them will pass.
const asOfPiece = 500

// MessageThen is a message as it was, and where it began.
type MessageThen struct {
	Message

	Shard    int
	Position int64
}

// MessageAsOf is [MessageByID] as of then, or [ErrGone]. all shows every tenant's events: consumers of
// a public queue may be of several tenants, and what they did to a message that db shows
// is asked of all.
func MessageAsOf(ctx context.Context, db, all DB, tenantID, messageID string, asOf AsOf) (MessageThen, error) {
	q := sq.Select(append(messageColumns("m.payload::text"), "m.shard", "m.position")...).From("message_records m").
		Join("message_topics t ON t.id = m.topic_id").JoinClause(topicThen, asOf.Shards()).
		Where("m.message_id = ? AND m.tenant_id = ?::text::uuid AND m.position <= (?::bigint[])[m.shard + 1] AND e.kind <> 'topic.deleted'", messageID, tenantID, asOf.Shards())
	list, err := collect[MessageThen](ctx, db, "message as of then", q)
	if err != nil {
		return MessageThen{}, err
	}
	if slices.ContainsFunc(list, asOf.isGone) {
		return MessageThen{}, fmt.Errorf("message %s: %w", messageID, ErrGone)
	}
	return one(foldMessages(ctx, all, asOf, list))
}

// isGone says that a message's beginning is not kept, although its record is: by the clock
// that gave it its id, it is younger.
func (a AsOf) isGone(m MessageThen) bool { return m.Position < a.Kept }

// MessagesAsOf is [Messages] as of then. next is the key of the next page, "" for none; a
// page may be short although there is one. all is as in [MessageAsOf].
//
// Messages are found as in [Messages], and the events of each that is found are read by
// the index on them: of those of a page, or with a filter of up to asOfExamineMax.
func MessagesAsOf(ctx context.Context, db, all DB, tenantID string, f MessageFilter, asOf AsOf, page Page) (list []Message, next string, err error) {
	piece := page.Limit + 1
	if f.Status != "" || !f.From.IsZero() || !f.To.IsZero() {
		piece = max(piece, asOfPiece)
	}
	found, next, err := walk(page, piece, func(after []string, limit int) ([]MessageThen, error) {
		return messagesThen(ctx, db, tenantID, f, asOf, after, limit)
	}, func(list []MessageThen) ([]MessageThen, error) {
		folded, err := foldMessages(ctx, all, asOf, slices.DeleteFunc(slices.Clone(list), asOf.isGone))
		return slices.DeleteFunc(folded, func(m MessageThen) bool { return !f.passes(m.Message) }), err
	}, func(m MessageThen) string { return m.MessageID })
	list = make([]Message, len(found))
	for i, m := range found {
		list[i] = m.Message
	}
	return list, next, err
}

// messagesThen returns the next messages that were there, newest first, as their records
// have them now.
func messagesThen(ctx context.Context, db DB, tenantID string, f MessageFilter, asOf AsOf, after []string, limit int) ([]MessageThen, error) {
	n := uint64(limit) //nolint:gosec // a limit is positive
	upTo := asOf.Shards()
	of := squirrel.Select("r.message_id").From("message_records r").
		Where("r.tenant_id = t.tenant_id AND r.topic_id = t.id AND r.position <= (?::bigint[])[t.shard + 1]", upTo).
		OrderBy("r.message_id DESC").Limit(n)
	if f.Key != "" {
		of = of.Where(squirrel.Eq{"r.message_key": f.Key})
	}
	if !f.From.IsZero() {
		of = of.Where(squirrel.GtOrEq{"r.message_id": f.IDFrom})
	}
	if !f.To.IsZero() {
		of = of.Where(squirrel.Lt{"r.message_id": f.IDTo})
	}
	if len(after) > 0 {
		of = of.Where("r.message_id < ?", after[0])
	}
	inner, args, err := of.ToSql()
	if err != nil {
		return nil, fmt.Errorf("query messages as of then: %w", err)
	}
	ids := squirrel.Select("k.message_id").From("message_topics t").JoinClause(topicThen, upTo).JoinClause("CROSS JOIN LATERAL ("+inner+") k", args...).
		Where("t.tenant_id = ?::text::uuid AND e.kind <> 'topic.deleted'", tenantID).OrderBy("k.message_id DESC").Limit(n)
	if f.Queue != "" {
		ids = ids.Where(`t.name COLLATE "C" = ?`, f.Queue)
	}
	// One by one by their primary key: a join that is free to choose may read every record.
	q := sq.Select(append(messageColumns("NULL::text"), "m.shard", "m.position")...).FromSelect(ids, "p").
		JoinClause("CROSS JOIN LATERAL (SELECT * FROM message_records r WHERE r.message_id = p.message_id OFFSET 0) m").Join("message_topics t ON t.id = m.topic_id").OrderBy("m.message_id DESC")
	return collect[MessageThen](ctx, db, "messages as of then", q)
}

// passes is [MessageFilter.conditions] of what changes about a message.
func (f MessageFilter) passes(m Message) bool {
	switch {
	case f.Status != "" && m.Status != f.Status:
		return false
	case !f.From.IsZero() && (m.PublishedAt == nil || m.PublishedAt.Before(f.From)):
		return false
	case !f.To.IsZero() && (m.PublishedAt == nil || !m.PublishedAt.Before(f.To)):
		return false
	default:
		return true
	}
}

// foldMessagesSQL folds messages from their events, as the projections do: a message's
// status rises in the order of message_status_rank until it is redriven, and purges take
// what is not settled. $1 to $4 are the messages with their topics, the positions at which
// they begin and those up to which they are folded, $5 the topics.
const foldMessagesSQL = `
WITH purges AS MATERIALIZED (
    SELECT p.topic_id, p.position, CASE WHEN p.ms <= 0 THEN '' ELSE lpad(to_hex(p.ms >> 16), 8, '0') || '-' || lpad(to_hex(p.ms & 65535), 4, '0') END AS id_from
    FROM (SELECT h.topic_id, h.position, split_part(h.data->'discarded'->>'from', '-', 1)::bigint - $6::bigint AS ms FROM event_history h
        WHERE h.scope = 'admin' AND h.topic_id = ANY ($5::text[]::uuid[]) AND h.subscription_id IS NULL AND h.kind = 'topic.purged'
          AND coalesce(h.data->'discarded'->>'from', '') <> '') p
)
SELECT a.message_id,
    CASE WHEN message_status_rank(e.status) < message_status_rank('purged') AND EXISTS (
        SELECT FROM purges p WHERE p.topic_id = a.topic_id AND p.position > greatest(a.since, e.restarted) AND p.position <= a.up_to
          AND a.message_id COLLATE "C" >= p.id_from)
        THEN 'purged' ELSE e.status END,
    e.retries, e.consumed_at, e.released_at, e.released_offset
FROM unnest($1::text[], $2::text[]::uuid[], $3::bigint[], $4::bigint[]) AS a(message_id, topic_id, since, up_to)
CROSS JOIN LATERAL (
    SELECT max(s.restarted) AS restarted,
        coalesce((array_agg(s.status ORDER BY message_status_rank(s.status) DESC) FILTER (WHERE s.position >= s.restarted))[1], '') AS status,
        coalesce(max(s.retries), 0) AS retries, min(s.occurred_at) FILTER (WHERE s.kind = 'message.consumed') AS consumed_at,
        min(s.occurred_at) FILTER (WHERE s.kind = 'message.released') AS released_at, min(s.released_offset) AS released_offset
    FROM (
        SELECT h.kind, h.position, h.occurred_at,
            CASE h.kind WHEN 'message.scheduled' THEN 'scheduled' WHEN 'message.published' THEN 'published' WHEN 'message.released' THEN 'published'
                WHEN 'message.cancelled' THEN 'cancelled' WHEN 'message.failed' THEN 'failed' WHEN 'message.redriven' THEN 'failed'
                WHEN 'message.expired' THEN 'expired' WHEN 'message.consumed' THEN 'consumed' WHEN 'message.dead_lettered' THEN 'dead_letter'
                WHEN 'message.erased' THEN CASE WHEN h.data->'discarded'->'groups' IS NOT NULL OR h.data->'discarded'->'scheduled' IS NOT NULL THEN 'purged' END
                END AS status,
            CASE h.kind WHEN 'message.failed' THEN (h.data->>'attempt')::int WHEN 'message.consumed' THEN (h.data->>'attempt')::int - 1
                WHEN 'message.dead_lettered' THEN (h.data->>'attempt')::int - 1 END AS retries,
            CASE h.kind WHEN 'message.released' THEN (h.data->>'offset')::bigint END AS released_offset,
            coalesce(max(h.position) FILTER (WHERE h.kind = 'message.redriven') OVER (), 0) AS restarted
        FROM event_history h WHERE h.scope = 'message' AND h.message_id = a.message_id AND h.position >= a.since AND h.position <= a.up_to
    ) s
) e`

// foldedMessage is what had become of a message.
type foldedMessage struct {
	MessageID      string
	Status         string
	RetryCount     int
	ConsumedAt     *time.Time
	ReleasedAt     *time.Time
	ReleasedOffset *int64
}

// foldMessages puts into records what had become of the messages, in one statement.
func foldMessages(ctx context.Context, db DB, asOf AsOf, list []MessageThen) ([]MessageThen, error) {
	if len(list) == 0 {
		return nil, nil
	}
	ids, topics, since, upTo := make([]string, len(list)), make([]string, len(list)), make([]int64, len(list)), make([]int64, len(list))
	at := make(map[string]int, len(list))
	for i, m := range list {
		ids[i], topics[i], since[i], upTo[i], at[m.MessageID] = m.MessageID, m.TopicID, m.Position, asOf.Of(m.Shard), i
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(topics)))
	folded, err := collect[foldedMessage](ctx, db, "what had become of messages",
		squirrel.Expr(foldMessagesSQL, ids, topics, since, upTo, distinct, clockSkewMax.Milliseconds()))
	if err != nil {
		return nil, err
	}
	for _, f := range folded {
		m := &list[at[f.MessageID]].Message
		m.Status, m.RetryCount, m.ConsumedAt = f.Status, f.RetryCount, f.ConsumedAt
		if m.ScheduledAt != nil {
			m.PublishedAt, m.Offset = f.ReleasedAt, f.ReleasedOffset
		}
	}
	return list, nil
}

// AttemptsAsOf is [Attempts] as of then: a record's time has the milliseconds of its
// event's position, so history is asked about those of the last millisecond alone.
func AttemptsAsOf(ctx context.Context, db DB, tenantID, messageID string, upTo int64) ([]Attempt, error) {
	at := PositionTime(upTo)
	newest := squirrel.Select("*").From("consumption_records c").
		Where("c.message_id = ? AND c.tenant_id = ?::text::uuid", messageID, tenantID).
		Where(`(c.processed_at < ? OR c.processed_at = ? AND EXISTS (SELECT FROM event_history h
            WHERE h.scope = 'message' AND h.message_id = c.message_id AND h.position >= ? AND h.position <= ?
              AND h.subscription_id = c.subscription_id AND (h.data->>'attempt')::int = c.attempt
              AND h.kind IN ('message.consumed', 'message.failed', 'message.dead_lettered')))`, at, at, positionAt(at), upTo).
		OrderBy("c.processed_at DESC", "c.attempt DESC", "c.id DESC").Limit(AttemptsMax)
	return collect[Attempt](ctx, db, "attempts as of then", selectAttempts(newest))
}
