package queries

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/squirrel"
)

// feedSQL has how far a shard is looked at in place of the first %s, its events behind
// the place for the second, and what a page holds at most for the others.
const feedSQL = `
WITH looked AS (
    SELECT p.shard, p.after, coalesce(c.position, 0) AS head, %[1]s AS up_to
    FROM unnest(?::smallint[], ?::bigint[]) AS p(shard, after)
    LEFT JOIN feed_heads() c ON c.shard = p.shard
), found AS (
    SELECT h.* FROM looked p CROSS JOIN LATERAL (%[2]s ORDER BY h.position LIMIT %[3]d) h ORDER BY h.position, h.shard LIMIT %[3]d
), weighed AS (
    SELECT *, octet_length(data::text) AS bytes,
        sum(octet_length(data::text)) OVER (ORDER BY position, shard ROWS UNBOUNDED PRECEDING) AS weight
    FROM found
)
SELECT shard, up_to, '', '', '', NULL, NULL, NULL, 'epoch'::timestamptz, '', '', 'null', true, head, (SELECT count(*) FROM found) FROM looked
UNION ALL
SELECT shard, position, event_id::text, kind, tenant_id::text, topic_id::text, subscription_id::text, message_id, occurred_at,
    coalesce(metadata->>'actor', ''), coalesce(metadata->>'traceparent', ''), data::text, false, 0, 0
FROM weighed WHERE weight - bytes < %[4]d`

// Where to look. Each has one bound of the position and an order that an index has:
// with two bounds Postgres expects few events, and sorts them instead.
const (
	feedEvents = `SELECT h.shard, h.position, h.event_id, h.kind, h.tenant_id, h.topic_id, h.subscription_id, h.message_id,
        h.occurred_at, h.metadata, h.data
    FROM event_history h WHERE h.shard = p.shard AND h.position > p.after AND %s`
	// feedWindow is the first events of feedEvents, and of those what a filter leaves.
	feedWindow = `SELECT * FROM (%s ORDER BY h.position LIMIT %d) h WHERE %s`
	// feedWindowEnd is where that window ends.
	feedWindowEnd = `least(coalesce(c.position, 0), (SELECT h.position FROM event_history h
        WHERE h.shard = p.shard AND h.position > p.after AND %s ORDER BY h.position OFFSET %d LIMIT 1))`
)

// query is one statement for a page.
func (f FeedFilter) query(from []int64, limits FeedLimits) (squirrel.Sqlizer, error) {
	var floor int64
	if f.MessageID != "" {
		floor, _ = eventsFloor(f.MessageID)
	}
	var shards []int
	var places []int64
	for shard, after := range from {
		if f.TopicID == "" || shard == f.TopicShard {
			shards, places = append(shards, shard), append(places, max(after, floor-1))
		}
	}
	indexed, narrowed := f.conditions()
	sql, args, err := indexed.ToSql()
	if err != nil {
		return nil, fmt.Errorf("conditions: %w", err)
	}
	upTo, behind := "coalesce(c.position, 0)", fmt.Sprintf(feedEvents, sql)
	var all []any
	if len(narrowed) > 0 {
		filter, filterArgs, err := narrowed.ToSql()
		if err != nil {
			return nil, fmt.Errorf("conditions: %w", err)
		}
		upTo, all = fmt.Sprintf(feedWindowEnd, sql, feedExamineMax-1), slices.Clone(args)
		behind, args = fmt.Sprintf(feedWindow, behind, feedExamineMax, filter), append(args, filterArgs...)
	}
	all = append(append(all, shards, places), args...)
	sql, err = squirrel.Dollar.ReplacePlaceholders(fmt.Sprintf(feedSQL, upTo, behind, limits.Events, limits.Bytes))
	if err != nil {
		return nil, fmt.Errorf("number placeholders: %w", err)
	}
	return squirrel.Expr(sql, all...), nil
}

// conditions are those that an index answers in order, and those that it does not.
func (f FeedFilter) conditions() (indexed, narrowed squirrel.And) {
	indexed = squirrel.And{squirrel.Expr("true")}
	if !f.AllTenants {
		indexed = append(indexed, squirrel.Expr("h.tenant_id = ?::text::uuid", f.TenantID))
	}
	message := f.MessageID != ""
	if message {
		indexed = append(indexed, squirrel.Expr("h.message_id = ?", f.MessageID))
	}
	if len(f.Kinds) > 0 {
		narrowed = append(narrowed, squirrel.Expr("h.kind = ANY(?::text[])", f.Kinds))
		ofMessage := func(kind string) bool { return strings.HasPrefix(kind, "message.") }
		message = message || !slices.ContainsFunc(f.Kinds, func(kind string) bool { return !ofMessage(kind) })
		if !slices.ContainsFunc(f.Kinds, ofMessage) {
			indexed = append(indexed, squirrel.Expr("h.scope = 'admin'"))
		}
	}
	if message {
		indexed = append(indexed, squirrel.Expr("h.scope = 'message'"))
	}
	if f.TopicID != "" {
		narrowed = append(narrowed, squirrel.Expr("h.topic_id = ?::text::uuid", f.TopicID))
	}
	return indexed, narrowed
}
