package queries

import (
	"context"
	"errors"
	"fmt"

	"github.com/Masterminds/squirrel"
)

// ErrMoved reports that a consumer group began behind the position that was asked about,
// or that the position is not folded yet: what was there then is not known, and both
// sides are to be read again.
var ErrMoved = errors.New("the group is not what it was at that position")

// LedgerLive is what Redis knows of a consumer group at one moment.
type LedgerLive struct {
	// Position is where the shard's log ended at that moment.
	Position int64
	// InFlight is leased to consumers; Waiting is not delivered yet, messages held
	// behind another one of their key included; Retrying waits for another attempt.
	InFlight, Waiting, Retrying int64
	// Scheduled is how many messages of the topic wait to be released.
	Scheduled int64
	// Unsettled is how many messages the group has not settled as Redis counts them,
	// apart from where they are.
	Unsettled int64
}

// Account is what history knows of a consumer group at a position of its shard's log.
type Account struct {
	Group string
	// Published counts what the group was given by its topic, Scheduled included: what
	// was published since the group began, what it began with, and what waits to be
	// released.
	Published, Scheduled int64
	// Replayed is what came once more, less the dead letters that came back: those
	// are not dead any more.
	Replayed                                  int64
	Consumed, Dead, Filtered, Expired, Purged int64
}

// Ledger is a group's account and where its messages are at the same position.
type Ledger struct {
	Account

	Live LedgerLive
}

// Difference is by how much what came in exceeds what is accounted for, 0 where each
// message is somewhere, once.
func (l Ledger) Difference() int64 {
	accounted := l.Consumed + l.Live.InFlight + l.Live.Waiting + l.Live.Scheduled + l.Live.Retrying + l.Dead + l.Filtered + l.Expired + l.Purged
	return l.Published + l.Replayed - accounted
}

// Balanced reports whether each message is somewhere, once, and Redis' own count of what
// is not settled says the same.
func (l Ledger) Balanced() bool {
	return l.Difference() == 0 && l.Live.Unsettled == l.Live.InFlight+l.Live.Waiting+l.Live.Retrying && l.Live.Scheduled == l.Scheduled
}

// ledgerSQL reads the accounts of a topic's groups as they were at $2: the counts as they
// are, less what the events behind $2 counted. Counts, checkpoint and events are of one
// snapshot, and the projector commits them together, so nothing is missed or met twice.
//
// Dead letters that a redrive took back are found in the messages' own history, since the
// group began and they were last redriven: the event tells what its job expected, and
// another one may have been quicker.
const ledgerSQL = `
WITH later AS MATERIALIZED (
    SELECT h.kind, h.position, h.message_id, h.data FROM event_history h
    WHERE h.shard = $1::smallint AND h.position > $2::bigint AND h.topic_id = $3::text::uuid AND h.kind <> 'message.failed'
), effects AS (
    SELECT CASE WHEN kind IN ('message.consumed', 'message.dead_lettered', 'message.filtered', 'message.expired', 'message.redriven')
            THEN data->>'consumerGroup' END AS of_group,
        (kind IN ('message.published', 'message.released'))::int AS published,
        CASE kind WHEN 'message.scheduled' THEN 1 WHEN 'message.released' THEN -1 WHEN 'message.cancelled' THEN -1
            WHEN 'topic.purged' THEN -coalesce((data->'discarded'->>'scheduled')::bigint, 0)
            WHEN 'message.erased' THEN -coalesce((data->'discarded'->>'scheduled')::bigint, 0) ELSE 0 END AS scheduled,
        (kind = 'message.redriven')::int AS replayed, (kind = 'message.consumed')::int AS consumed, (kind = 'message.dead_lettered')::int AS dead,
        (kind = 'message.filtered')::int AS filtered, (kind = 'message.expired')::int AS expired, 0 AS purged, 0 AS restarts
    FROM later
    UNION ALL
    SELECT g.key, 0, 0, 0, 0, 0, 0, 0, g.value::bigint, 0 FROM later CROSS JOIN LATERAL json_each_text(data->'discarded'->'groups') g WHERE kind IN ('topic.purged', 'message.erased')
    UNION ALL
    SELECT data->'moved'->>'group', 0, 0, greatest((data->'moved'->>'after')::bigint - (data->'moved'->>'before')::bigint, 0), 0, 0, 0, 0,
        greatest((data->'moved'->>'before')::bigint - (data->'moved'->>'after')::bigint, 0), 0
    FROM later WHERE kind = 'subscription.sought'
    UNION ALL
    SELECT data->'joined'->>'group', 0, 0, 0, 0, 0, 0, 0, 0, 1 FROM later WHERE kind = 'subscription.created' AND (data->'joined'->>'began')::boolean
), sums AS (
    SELECT of_group, sum(published) AS published, sum(scheduled) AS scheduled, sum(replayed) AS replayed, sum(consumed) AS consumed, sum(dead) AS dead,
        sum(filtered) AS filtered, sum(expired) AS expired, sum(purged) AS purged, sum(restarts) AS restarts
    FROM effects GROUP BY of_group
), revived AS (
    SELECT r.of_group, sum(d.n) AS n FROM (
        SELECT data->>'consumerGroup' AS of_group, message_id, max(position) AS up_to FROM later
        WHERE kind = 'message.redriven' AND coalesce((data->>'deadLetters')::bigint, 0) > 0 GROUP BY 1, 2
    ) r CROSS JOIN LATERAL (
        SELECT count(*) AS n FROM event_history d
        WHERE d.scope = 'message' AND d.message_id = r.message_id AND d.position < r.up_to AND d.kind = 'message.dead_lettered'
          AND d.topic_id = $3::text::uuid AND d.data->>'consumerGroup' = r.of_group
          AND d.position > greatest((SELECT max(p.position) FROM event_history p
              WHERE p.scope = 'message' AND p.message_id = r.message_id AND p.position <= $2::bigint AND p.kind = 'message.redriven'
                AND p.data->>'consumerGroup' = r.of_group AND coalesce((p.data->>'deadLetters')::bigint, 0) > 0),
              (SELECT max(b.position) FROM event_history b
              WHERE b.scope = 'admin' AND b.topic_id = $3::text::uuid AND b.kind = 'subscription.created'
                AND b.data->'joined'->>'group' = r.of_group AND (b.data->'joined'->>'began')::boolean), 0)
    ) d GROUP BY r.of_group
)
SELECT g.consumer_group, t.published - g.base - coalesce(o.published, 0)::bigint + t.scheduled - coalesce(o.scheduled, 0)::bigint,
    t.scheduled - coalesce(o.scheduled, 0)::bigint,
    g.replayed - coalesce(s.replayed, 0)::bigint + coalesce(r.n, 0)::bigint, g.consumed - coalesce(s.consumed, 0)::bigint,
    g.dead - coalesce(s.dead, 0)::bigint + coalesce(r.n, 0)::bigint, g.filtered - coalesce(s.filtered, 0)::bigint,
    g.expired - coalesce(s.expired, 0)::bigint, g.purged - coalesce(s.purged, 0)::bigint,
    coalesce(s.restarts, 0) > 0 OR NOT EXISTS (SELECT FROM feed_heads() c WHERE c.shard = $1::smallint AND c.position >= $2::bigint)
FROM group_counts g
LEFT JOIN sums s ON s.of_group = g.consumer_group
LEFT JOIN sums o ON o.of_group IS NULL
LEFT JOIN revived r ON r.of_group = g.consumer_group
CROSS JOIN LATERAL (SELECT coalesce(max(c.published), 0) AS published, coalesce(max(c.scheduled), 0) AS scheduled FROM topic_counts c WHERE c.topic_id = g.topic_id) t
WHERE g.topic_id = $3::text::uuid AND ($4::text = '' OR g.consumer_group = $4::text)
ORDER BY g.consumer_group`

// accountRow is an account, or says that it cannot be told.
type accountRow struct {
	Account

	Moved bool
}

// Accounts returns the accounts of all consumer groups of a topic as they were at a
// position of its shard's log, by name, in one statement. It returns [ErrMoved] where a
// group began since, or where the position is not folded: then read both sides again. A
// group that ended since, or whose topic did, is not among them. Seeks and purges since are
// no obstacle.
//
// It reads the events of the shard behind the position, so the position should be a
// recent one. db must show all events of the topic and its groups.
func Accounts(ctx context.Context, db DB, shard int, topicID string, position int64) ([]Account, error) {
	return accounts(ctx, db, shard, topicID, "", position)
}

// AccountOf is [Accounts] for one group, or [ErrNotFound]. The group is named as in
// deliveries: see [GroupOf].
func AccountOf(ctx context.Context, db DB, shard int, topicID, group string, position int64) (Account, error) {
	return one(accounts(ctx, db, shard, topicID, group, position))
}

func accounts(ctx context.Context, db DB, shard int, topicID, group string, position int64) ([]Account, error) {
	rows, err := collect[accountRow](ctx, db, "ledger", squirrel.Expr(ledgerSQL, shard, position, topicID, group))
	if err != nil {
		return nil, err
	}
	list := make([]Account, len(rows))
	for i, r := range rows {
		if r.Moved {
			return nil, fmt.Errorf("query ledger of %s at %d: %w", r.Group, position, ErrMoved)
		}
		list[i] = r.Account
	}
	return list, nil
}

// GroupOf is a subscription's consumer group as deliveries have it: on another tenant's
// queue, a tenant's groups are its own, whatever they are called.
func GroupOf(s Subscription, topic QueueRef) string {
	if topic.TenantID == s.TenantID {
		return s.ConsumerGroup
	}
	return s.TenantID + ":" + s.ConsumerGroup
}

// TopicByID returns what is needed to ask Redis about a topic that db may see, or
// ErrNotFound.
func TopicByID(ctx context.Context, db DB, topicID string) (QueueRef, error) {
	return one(collect[QueueRef](ctx, db, "queue", sq.Select("id::text", "tenant_id::text", "name", "partition_count", "shard").From("message_topics").
		Where("id = ?::text::uuid AND status <> 'archived'", topicID)))
}
