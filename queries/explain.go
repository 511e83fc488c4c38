package queries

import (
	"context"
	"time"

	"github.com/Masterminds/squirrel"
)

// explainEventsMax is how many events of a kind of source an explanation looks at, the
// newest ones: a message's deliveries to a group, a subscription's changes, a topic's.
const explainEventsMax = 1000

// explainSQL reads what happened to a message and to who may have got it, in order and
// without payloads: the message's publication; its deliveries to the group; the
// subscription's changes since; and of the topic, purges and what moved, began or ended
// the group. $1 is the message, $2 the tenant, $3 the position before which the message
// was not, $4 the topic, $5 the group and $6 the subscription.
const explainSQL = `
SELECT e.event_id::text, e.kind, e.shard, e.position, e.tenant_id::text, e.occurred_at, e.metadata, (e.data::jsonb - 'payload')::text FROM (
    (SELECT h.* FROM event_history h WHERE h.scope = 'message' AND h.message_id = $1 AND h.tenant_id = $2::text::uuid AND h.position >= $3
       AND h.kind IN ('message.published', 'message.scheduled', 'message.released', 'message.cancelled', 'message.erased'))
    UNION ALL
    (SELECT h.* FROM event_history h WHERE h.scope = 'message' AND h.message_id = $1 AND h.tenant_id = $2::text::uuid AND h.position >= $3
       AND h.kind NOT IN ('message.published', 'message.scheduled', 'message.released', 'message.cancelled', 'message.erased')
       AND h.topic_id = $4::text::uuid AND h.data->>'consumerGroup' = $5::text ORDER BY h.position DESC LIMIT $7)
    UNION ALL
    (SELECT h.* FROM event_history h WHERE h.scope = 'admin' AND h.tenant_id = $2::text::uuid AND h.subscription_id = $6::text::uuid
       AND (h.position >= $3 OR h.kind = 'subscription.created') ORDER BY h.position DESC LIMIT $7)
    UNION ALL
    (SELECT h.* FROM event_history h WHERE h.scope = 'admin' AND h.tenant_id = $2::text::uuid AND h.topic_id = $4::text::uuid
       AND h.subscription_id IS DISTINCT FROM $6::text::uuid
       AND CASE h.kind
           WHEN 'topic.purged' THEN h.position >= $3
           WHEN 'subscription.sought' THEN h.position >= $3 AND h.data->'moved'->>'group' = $5::text
           WHEN 'subscription.created' THEN h.data->'joined'->>'group' = $5::text AND (h.data->'joined'->>'began')::boolean
           WHEN 'subscription.deleted' THEN h.data->'discarded'->'groups'->>$5::text IS NOT NULL
           ELSE false END
     ORDER BY h.position DESC LIMIT $7)
) e ORDER BY e.position`

// explainEvents returns the events that an explanation is made from. What the tenant may
// not see is not among them: of another tenant's queue, publications and purges.
func explainEvents(ctx context.Context, db DB, messageID, topicID, group string, s Subscription) ([]Event, error) {
	floor, _ := eventsFloor(messageID)
	return collect[Event](ctx, db, "explanation",
		squirrel.Expr(explainSQL, messageID, s.TenantID, floor, topicID, group, s.ID, explainEventsMax))
}

// Verdicts of an [Explanation].
const (
	VerdictConsumed      = "consumed"
	VerdictInFlight      = "in_flight"
	VerdictRetrying      = "retrying"
	VerdictDeadLetter    = "dead_letter"
	VerdictFiltered      = "filtered"
	VerdictExpired       = "expired"
	VerdictPurged        = "purged"
	VerdictCancelled     = "cancelled"
	VerdictScheduled     = "scheduled"
	VerdictWaiting       = "waiting"
	VerdictNotSubscribed = "not_subscribed"
	VerdictSkippedBySeek = "skipped_by_seek"
	VerdictUnknown       = "unknown"
)

// Explanation says whether a message was delivered to a subscription's consumer group,
// and why or why not.
type Explanation struct {
	// Verdict is one of the Verdict constants, Reason a sentence that says it in full.
	Verdict, Reason string
	// Events are what it follows from, in order, without payloads.
	Events []Event
	// Message is the message's record, without its payload, nil where the tenant may
	// not see it. Partition and Offset are known all the same once it was delivered.
	Message   *Message
	Partition *int
	Offset    *int64
	// DeadLetter is the last time that the group gave it up, nil for never.
	DeadLetter *DeadLetterNote
	// Attempts are the group's attempts.
	Attempts []Attempt
	// Live is what the log knows of it now, nil where that was not asked or is nothing.
	Live *LiveMessage
}

// DeadLetterNote is a dead letter, as history tells it.
type DeadLetterNote struct {
	Attempt, Attempts int
	Reason            string
	Error             string
	StatusCode        int
	DeadAt            time.Time
	// RedrivenAt is when it got another chance, zero for never.
	RedrivenAt time.Time
}

// States of a [LiveMessage].
const (
	LiveWaiting  = "waiting"
	LiveInFlight = "in_flight"
	LiveRetrying = "retrying"
	LiveHeld     = "held"
	// LiveNone is a message that the group does not have: it is done with it, or never
	// had it.
	LiveNone = ""
)

// LiveMessage is where a message is for a consumer group at one moment.
type LiveMessage struct {
	// Position is where the shard's log ended at that moment.
	Position int64
	// State is one of the Live constants.
	State string
	// LeaseExpiresAt is set in flight and NextRetryAt while retrying, where known.
	LeaseExpiresAt, NextRetryAt *time.Time
	// Ahead is how many messages of its partition are delivered before it, where known.
	Ahead *int64
	// Behind is the message of the same key that it is held behind, empty where that is
	// not known.
	Behind string
}

// Question is what an explanation asks the log: where a message is for a group.
type Question struct {
	Topic     QueueRef
	Group     string
	MessageID string
	Partition int
	Offset    int64
}

// Explain says whether a message was delivered to a subscription, from history alone, or
// with what live answers. live is asked only where history leaves the matter open, and
// has to answer with a moment up to which history is folded; it may be nil, and answer
// nil, for not known. It returns [ErrNotFound] where the tenant can see neither the
// message nor what became of it. The payload is not read.
//
// A message's events are read by the index on them, a topic's admin events by theirs.
func Explain(ctx context.Context, db DB, s Subscription, topic QueueRef, messageID string, now time.Time, live func(context.Context, Question) *LiveMessage) (Explanation, error) {
	m, known, err := explainedMessage(ctx, db, s.TenantID, messageID)
	if err != nil {
		return Explanation{}, err
	}
	group := GroupOf(s, topic)
	c := &explained{s: s, group: group, now: now}
	if known {
		c.message = &m
	}
	read := func() error {
		list, err := explainEvents(ctx, db, messageID, topic.ID, group, s)
		if err != nil {
			return err
		}
		return c.fold(list)
	}
	if err := read(); err != nil {
		return Explanation{}, err
	}
	if !known && !c.isDelivered {
		return Explanation{}, ErrNotFound
	}
	if live != nil && c.isOpen() && c.isPlaced {
		found := live(ctx, Question{Topic: topic, Group: group, MessageID: messageID, Partition: c.partition, Offset: c.offset})
		// What history said may have been old news.
		if err := read(); err != nil {
			return Explanation{}, err
		}
		c.hear(found)
	}
	attempts, err := Attempts(ctx, db, s.TenantID, messageID)
	if err != nil {
		return Explanation{}, err
	}
	return c.explanation(attempts), nil
}

func explainedMessage(ctx context.Context, db DB, tenantID, messageID string) (m Message, known bool, err error) {
	q := sq.Select(messageColumns("NULL::text")...).From("message_records m").Join("message_topics t ON t.id = m.topic_id").
		Where("m.message_id = ? AND m.tenant_id = ?::text::uuid AND t.status <> 'archived'", messageID, tenantID)
	list, err := collect[Message](ctx, db, "message", q)
	if err != nil || len(list) == 0 {
		return m, false, err
	}
	return list[0], true, nil
}
