package queries

import (
	"context"
	"fmt"
	"time"

	"github.com/Masterminds/squirrel"
)

// groupLifeSQL reads what began and ended a topic and one of its consumer groups, in
// order. $1 is the topic and $2 the group.
const groupLifeSQL = `
SELECT h.position, h.kind, coalesce((h.data->'joined'->>'backlog')::bigint, 0), coalesce((h.data->'discarded'->>'scheduled')::bigint, 0)
FROM event_history h
WHERE h.scope = 'admin' AND h.topic_id = $1::text::uuid AND CASE h.kind
    WHEN 'topic.created' THEN true
    WHEN 'topic.deleted' THEN true
    WHEN 'subscription.created' THEN h.data->'joined'->>'group' = $2 AND (h.data->'joined'->>'began')::boolean
    WHEN 'subscription.deleted' THEN h.data->'discarded'->'groups'->>$2 IS NOT NULL
    ELSE false END
ORDER BY h.position`

type groupEvent struct {
	Position           int64
	Kind               string
	Backlog, Scheduled int64
}

// groupLife is a consumer group as it was at a position: positions are 0 for never.
type groupLife struct {
	created, began, backlog int64
	// ended and deleted are when the group and its topic ended after the position, and
	// scheduled is how many messages were then waiting to be released.
	ended, deleted, scheduled int64
}

func groupLifeAt(list []groupEvent, position int64) groupLife {
	var l groupLife
	for _, e := range list {
		isPast := e.Position <= position
		switch e.Kind {
		case "topic.created":
			l.created = e.Position
		case "subscription.created":
			if isPast {
				l.began, l.backlog = e.Position, e.Backlog
			}
		case "subscription.deleted", "topic.deleted":
			if isPast {
				l.began = 0
			} else if l.ended == 0 {
				l.ended = e.Position
			}
			if e.Kind == "topic.deleted" {
				l.deleted, l.scheduled = e.Position, e.Scheduled
			}
		}
	}
	return l
}

// Unsettled is what the group had not settled.
func (a Account) Unsettled() int64 {
	return a.Published + a.Replayed - a.Scheduled - a.Consumed - a.Dead - a.Filtered - a.Expired - a.Purged
}

// AccountAsOf is [AccountOf] of a subscription's group for any position, also of one that
// has ended or begun anew since: [ErrNotFound] says that there was none, and [ErrGone] that
// its account would be made of events that retention has dropped.
//
// It counts from where the group began, or back from the counts as they are, whichever is
// nearer; either reads the events of the shard between. db must show all events of the
// topic and the group.
func AccountAsOf(ctx context.Context, db DB, s SubscriptionThen, asOf AsOf) (Account, error) {
	group, position := s.Group(), asOf.Of(s.Shard)
	events, err := collect[groupEvent](ctx, db, "life of a consumer group", squirrel.Expr(groupLifeSQL, s.TopicID, group))
	if err != nil {
		return Account{}, err
	}
	l := groupLifeAt(events, position)
	if l.began == 0 {
		return Account{}, ErrNotFound
	}
	c := counting{db: db, shard: s.Shard, topicID: s.TopicID, group: group, position: position, kept: asOf.Kept, life: l}
	reachesBack := l.began >= asOf.Kept
	switch {
	case l.ended == 0 && (!reachesBack || asOf.Folded[s.Shard]-position < position-l.began):
		return c.back(ctx)
	case !reachesBack:
		return Account{}, fmt.Errorf("count group %s from %d: %w", group, l.began, ErrGone)
	default:
		return c.forward(ctx)
	}
}

// countedSQL counts what the events of a topic behind $2 and up to $3 say of the group $5.
// A redrive takes back the group's dead letters of its message that stand before it.
const countedSQL = `
WITH range AS MATERIALIZED (
    SELECT h.kind, h.position, h.message_id, h.data FROM event_history h
    WHERE h.shard = $1::smallint AND h.position > $2::bigint AND h.position <= $3::bigint AND h.topic_id = $4::text::uuid AND h.kind <> 'message.failed'
), settled AS (
    SELECT r.kind, r.position, max(r.position) FILTER (WHERE r.kind = 'message.redriven' AND coalesce((r.data->>'deadLetters')::bigint, 0) > 0)
            OVER (PARTITION BY r.message_id) AS revived
    FROM range r WHERE r.kind IN ('message.consumed', 'message.dead_lettered', 'message.filtered', 'message.expired', 'message.redriven')
      AND r.data->>'consumerGroup' = $5::text
), settlements AS (
    SELECT count(*) FILTER (WHERE kind = 'message.redriven') AS redriven, count(*) FILTER (WHERE kind = 'message.consumed') AS consumed,
        count(*) FILTER (WHERE kind = 'message.dead_lettered') AS dead, count(*) FILTER (WHERE kind = 'message.filtered') AS filtered,
        count(*) FILTER (WHERE kind = 'message.expired') AS expired, count(*) FILTER (WHERE kind = 'message.dead_lettered' AND position < revived) AS revived
    FROM settled
), moves AS (
    SELECT coalesce(sum(greatest(m.n, 0)), 0)::bigint AS forth, coalesce(sum(greatest(-m.n, 0)), 0)::bigint AS back FROM (
        SELECT (data->'moved'->>'after')::bigint - (data->'moved'->>'before')::bigint AS n FROM range
        WHERE kind = 'subscription.sought' AND data->'moved'->>'group' = $5::text) m
), topic AS (
    SELECT count(*) FILTER (WHERE kind IN ('message.published', 'message.released')) AS published,
        coalesce(sum(CASE kind WHEN 'message.scheduled' THEN 1 WHEN 'message.released' THEN -1 WHEN 'message.cancelled' THEN -1
            WHEN 'topic.purged' THEN -coalesce((data->'discarded'->>'scheduled')::bigint, 0)
            WHEN 'message.erased' THEN -coalesce((data->'discarded'->>'scheduled')::bigint, 0) ELSE 0 END), 0)::bigint AS scheduled,
        coalesce(sum((data->'discarded'->'groups'->>$5::text)::bigint) FILTER (WHERE kind IN ('topic.purged', 'message.erased')), 0)::bigint AS purged
    FROM range
)
SELECT $5::text, t.published, t.scheduled, s.redriven + m.forth - s.revived, s.consumed, s.dead - s.revived, s.filtered, s.expired, t.purged + m.back
FROM topic t, settlements s, moves m`

// counting counts a group's messages at a position.
type counting struct {
	db             DB
	shard          int
	topicID, group string
	position, kept int64
	life           groupLife
}

func (c counting) between(ctx context.Context, after, upTo int64) (Account, error) {
	return one(collect[Account](ctx, c.db, "ledger as of then", squirrel.Expr(countedSQL, c.shard, after, upTo, c.topicID, c.group)))
}

// revivedSQL asks whether dead letters of the group may have come back since that are of
// messages before $5.
const revivedSQL = `
SELECT EXISTS (SELECT FROM event_history h WHERE h.scope = 'message' AND h.shard = $1::smallint AND h.position > $2::bigint AND h.topic_id = $3::text::uuid
    AND h.kind = 'message.redriven' AND h.data->>'consumerGroup' = $4::text AND coalesce((h.data->>'deadLetters')::bigint, 0) > 0 AND h.message_id < $5::text)`

// back counts back from now. When a message died that came back since is found in its own
// history: where that is not kept, neither is the account.
func (c counting) back(ctx context.Context) (Account, error) {
	if c.kept > 0 {
		type revived struct{ Any bool }
		before := messageIDFrom(PositionTime(c.kept).Add(clockSkewMax))
		r, err := one(collect[revived](ctx, c.db, "dead letters that came back", squirrel.Expr(revivedSQL, c.shard, c.position, c.topicID, c.group, before)))
		if err != nil {
			return Account{}, err
		}
		if r.Any {
			return Account{}, fmt.Errorf("count group %s back to %d: %w", c.group, c.position, ErrGone)
		}
	}
	return AccountOf(ctx, c.db, c.shard, c.topicID, c.group, c.position)
}

// messageIDFrom is the least UUIDv7 of a time or later, as text (RFC 9562, section 5.7).
func messageIDFrom(t time.Time) string {
	hex := fmt.Sprintf("%012x", t.UnixMilli())
	return hex[:8] + "-" + hex[8:]
}

// forward counts from where the group began.
func (c counting) forward(ctx context.Context) (Account, error) {
	a, err := c.between(ctx, c.life.began, c.position)
	if err != nil {
		return a, err
	}
	if a.Scheduled, err = c.scheduled(ctx); err != nil {
		return a, err
	}
	a.Published += c.life.backlog + a.Scheduled
	return a, nil
}

// scheduled counts what waited to be released: from the topic's beginning, or back from its
// end.
func (c counting) scheduled(ctx context.Context) (int64, error) {
	switch {
	case c.life.created >= c.kept:
		a, err := c.between(ctx, c.life.created, c.position)
		return a.Scheduled, err
	case c.life.deleted > 0:
		a, err := c.between(ctx, c.position, c.life.deleted-1)
		return c.life.scheduled - a.Scheduled, err
	}
	type scheduled struct{ N int64 }
	n, err := one(collect[scheduled](ctx, c.db, "scheduled as of then", squirrel.Expr(scheduledSQL, c.shard, c.position, c.topicID)))
	return n.N, err
}

// scheduledSQL counts back from now: counts and events are of one snapshot, and the
// projector commits them together.
const scheduledSQL = `
SELECT coalesce((SELECT c.scheduled FROM topic_counts c WHERE c.topic_id = $3::text::uuid), 0)
    - coalesce(sum(CASE h.kind WHEN 'message.scheduled' THEN 1 WHEN 'message.released' THEN -1 WHEN 'message.cancelled' THEN -1
        WHEN 'topic.purged' THEN -coalesce((h.data->'discarded'->>'scheduled')::bigint, 0)
        WHEN 'message.erased' THEN -coalesce((h.data->'discarded'->>'scheduled')::bigint, 0) END), 0)::bigint
FROM event_history h WHERE h.shard = $1::smallint AND h.position > $2::bigint AND h.topic_id = $3::text::uuid
  AND h.kind IN ('message.scheduled', 'message.released', 'message.cancelled', 'topic.purged', 'message.erased')`
