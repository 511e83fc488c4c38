package redis

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/tallymq/tallymq/events"
)

// encode turns a batch into the operations of the append script. This switch is
// the table of effects: what each event does to delivery.
func (l *Log) encode(c *call, batch []events.Append) error {
	for i := 0; i < len(batch); {
		n := 1
		if batch[i].Atomic {
			for i+n < len(batch) && batch[i+n].Atomic {
				n++
			}
			c.args = append(c.args, "A", n)
		}
		for _, a := range batch[i : i+n] {
			if err := l.encodeOne(c, a); err != nil {
				return err
			}
		}
		i += n
	}
	return nil
}

func (l *Log) encodeOne(c *call, a events.Append) error {
	frame, err := events.Encode(a.Event)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	var room [48]string // for pairs without headers, so that they need no heap
	meta := packPairs(a.Meta.AppendPairs(room[:0], a.Event.Kind(), a.TenantID, a.Version))
	c.bytes += len(frame.Head) + len(frame.Payload) + len(meta)
	if a.Atomic {
		if _, ok := a.Event.(events.MessagePublished); !ok {
			return fmt.Errorf("append: %s cannot be part of an atomic group", a.Event.Kind())
		}
	}
	switch e := a.Event.(type) {
	case events.MessagePublished:
		c.args = append(c.args, "P")
		l.encodePublished(c, a, e, 0, meta, frame)
	case events.MessageScheduled:
		return l.encodeScheduled(c, a, e, meta, frame)
	case events.MessageReleased:
		return fmt.Errorf("append: %s is appended by the log alone", e.Kind())
	case events.TopicCreated, events.TopicUpdated, events.TopicPurged, events.TopicRetained, events.TopicDeleted,
		events.SubscriptionCreated, events.SubscriptionUpdated, events.SubscriptionPaused, events.SubscriptionResumed,
		events.SubscriptionStopped, events.SubscriptionSought, events.SubscriptionDeleted,
		events.ScheduleCreated, events.SchedulePaused, events.ScheduleResumed, events.ScheduleDeleted:
		l.encodeAdmin(c, a, meta, frame)
	case events.MessageCancelled:
		c.args = append(c.args, "N", e.TopicID, e.MessageID, a.ID, meta, frame.Head)
	case events.MessageConsumed:
		l.encodeSettled(c, a, "K", e.Delivery, meta, frame)
	case events.MessageFiltered:
		l.encodeSettled(c, a, "K", e.Delivery, meta, frame)
	case events.MessageExpired:
		l.encodeSettled(c, a, "K", e.Delivery, meta, frame)
	case events.MessageDeadLettered:
		op := "K"
		if a.Forward {
			op = "Z"
		}
		l.encodeSettled(c, a, op, e.Delivery, meta, frame)
	case events.MessageFailed:
		l.encodeFailed(c, a, e, meta, frame)
	case events.MessageRedriven:
		l.encodeRedriven(c, a, e, meta, frame)
	case events.MessageErased:
		c.args = append(c.args, "E", e.TopicID, e.MessageID, strconv.Itoa(a.Erase.Partition), strconv.FormatInt(a.Erase.Offset, 10), e.Entry, a.Erase.Key,
			erasedFor.Milliseconds(), a.ID, meta, frame.Head, frame.Tail)
	}
	return nil
}

// erasedFor is for how long the log knows that a message's payload is erased: whoever has
// read it from history before and brings it back is refused.
const erasedFor = 24 * time.Hour

// encodePublished adds what publishing and scheduling have in common. Without a time
// from which the message's life counts it is its acceptance.
func (l *Log) encodePublished(c *call, a events.Append, e events.MessagePublished, fromMs int64, meta []byte, frame events.Frame) {
	if fromMs == 0 {
		fromMs = a.Meta.AcceptedAtMs
	}
	expires := int64(0)
	if e.TTLMs > 0 {
		expires = fromMs + e.TTLMs
	}
	var room [48]string
	delivery := packPairs(events.DeliveryMeta{
		TenantID: a.TenantID, Key: e.Key, ContentType: e.ContentType, CorrelationID: e.CorrelationID, TraceParent: e.TraceParent,
		ExpiresAtMs: expires, Sealed: e.Sealed, Headers: e.Headers, MaxRetryAttempts: e.MaxRetryAttempts, RetryDelayMs: e.RetryDelayMs,
	}.AppendPairs(room[:0]))
	key, fingerprint := l.idempotency(a)
	c.args = append(c.args, e.TopicID, a.Guard.TopicVersion, e.Partition, key, fingerprint, l.cfg.IdempotencyTTL.Milliseconds(),
		a.ID, meta, frame.Head, frame.Payload, frame.Tail, delivery)
}

// encodeScheduled gives the log the event of the message's release too, which it appends
// when its time has come.
func (l *Log) encodeScheduled(c *call, a events.Append, e events.MessageScheduled, meta []byte, frame events.Frame) error {
	released := events.MessageReleased{MessageID: e.MessageID, TopicID: e.TopicID, Partition: e.Partition}
	release, err := events.Encode(released)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	from := e.ReleaseAtMs
	if from == 0 {
		from = a.Meta.AcceptedAtMs + a.DelayMs
	}
	c.args = append(c.args, "H")
	l.encodePublished(c, a, e.MessagePublished, from, meta, frame)
	releaseMeta := packPairs(events.Meta{Actor: "system", TraceParent: e.TraceParent}.AppendPairs(nil, released.Kind(), a.TenantID, 0))
	c.args = append(c.args, e.ReleaseAtMs, a.DelayMs, a.ReleaseID, releaseMeta, release.Head, release.Tail)
	return nil
}

// encodeFailed parks a message for its next attempt.
func (l *Log) encodeFailed(c *call, a events.Append, e events.MessageFailed, meta []byte, frame events.Frame) {
	lease := a.Guard.Lease
	if delay := time.Duration(e.RetryDelayMs) * time.Millisecond; delay > 0 && (c.dueIn == 0 || delay < c.dueIn) {
		c.dueIn = delay
	}
	unseen := a.Unseen
	if e.Reason == events.ReasonReleased {
		unseen++
	}
	c.args = append(c.args, "F", e.TopicID, e.ConsumerGroup, strconv.Itoa(lease.Stream), c.life.entryOf(lease),
		e.SubscriptionID, e.RetryDelayMs, strconv.Itoa(e.Attempt+1), strconv.Itoa(e.AttemptsBefore), e.MessageID, a.ID, meta, frame.Head, strconv.Itoa(unseen))
}

func (l *Log) encodeRedriven(c *call, a events.Append, e events.MessageRedriven, meta []byte, frame events.Frame) {
	key, fingerprint := l.idempotency(a)
	c.bytes += len(a.Redrive.Payload)
	c.args = append(c.args, "R", e.TopicID, e.ConsumerGroup, e.SubscriptionID, a.Guard.SubscriptionVersion, key, fingerprint,
		l.cfg.IdempotencyTTL.Milliseconds(), strconv.Itoa(e.Attempt), strconv.Itoa(a.Redrive.AttemptsBefore), e.MessageID,
		packPairs(a.Redrive.Meta.AppendPairs(nil)), a.Redrive.Payload, entryID(a.Redrive.Position), strconv.FormatInt(e.Offset, 10),
		strconv.Itoa(e.Partition), a.ID, meta, frame.Head)
}

// encodeAdmin is encodeOne for the events of topics and subscriptions.
func (l *Log) encodeAdmin(c *call, a events.Append, meta []byte, frame events.Frame) {
	key, fingerprint := l.idempotency(a)
	switch e := a.Event.(type) {
	case events.TopicCreated:
		c.args = append(c.args, "T", e.TopicID, a.Version, a.State, uniqueTopic(a.TenantID, e.Name), e.PartitionCount,
			key, fingerprint, l.cfg.IdempotencyTTL.Milliseconds(), a.ID, meta, frame.Head)
	case events.TopicUpdated:
		c.args = append(c.args, "U", e.TopicID, a.Guard.TopicVersion, a.Version, a.State, e.PartitionCount, a.ID, meta, frame.Head)
	case events.TopicPurged:
		c.args = append(c.args, "X", e.TopicID, a.Guard.TopicVersion, a.ID, meta, frame.Head, frame.Tail)
	case events.TopicRetained:
		c.args = append(c.args, "Q", e.TopicID, a.Guard.TopicVersion, e.BeforeMs, a.ID, meta, frame.Head)
	case events.TopicDeleted:
		c.args = append(c.args, "D", e.TopicID, a.Guard.TopicVersion, uniqueTopic(a.TenantID, e.Name), a.ID, meta, frame.Head, frame.Tail)
	case events.SubscriptionCreated:
		start := "$"
		if e.OffsetResetPolicy == "earliest" {
			start = "0"
		}
		c.args = append(c.args, "S", e.SubscriptionID, a.Version, a.State, e.TopicID, a.Guard.TopicVersion,
			a.Group, uniqueSubscription(a.Group, e.ConsumerName), start, key, fingerprint, l.cfg.IdempotencyTTL.Milliseconds(),
			flag(a.Push), a.ID, meta, frame.Head, frame.Tail)
	case events.SubscriptionUpdated:
		l.encodeChanged(c, a, e.SubscriptionID, e.TopicID, meta, frame)
	case events.SubscriptionPaused:
		l.encodeChanged(c, a, e.SubscriptionID, e.TopicID, meta, frame)
	case events.SubscriptionResumed:
		l.encodeChanged(c, a, e.SubscriptionID, e.TopicID, meta, frame)
	case events.SubscriptionDeleted:
		c.dueIn = time.Millisecond // what it held is due at once
		c.args = append(c.args, "W", e.SubscriptionID, a.Guard.SubscriptionVersion, e.TopicID, a.Group,
			uniqueSubscription(a.Group, e.ConsumerName), a.ID, meta, frame.Head, frame.Tail)
	case events.SubscriptionStopped:
		l.encodeChanged(c, a, e.SubscriptionID, e.TopicID, meta, frame)
	case events.SubscriptionSought:
		to, value := seekTo(e.To)
		c.args = append(c.args, "G", e.SubscriptionID, a.Guard.SubscriptionVersion, e.TopicID, a.Group, to, value, a.ID, meta, frame.Head, frame.Tail)
	case events.ScheduleCreated:
		c.args = append(c.args, "J", e.ScheduleID, a.Version, a.State, e.TopicID, a.Guard.TopicVersion, a.NextMs,
			key, fingerprint, l.cfg.IdempotencyTTL.Milliseconds(), schedulesMax, a.ID, meta, frame.Head)
	case events.SchedulePaused, events.ScheduleResumed:
		c.args = append(c.args, "M", a.Guard.ScheduleID, a.Guard.ScheduleVersion, a.Version, a.State, a.NextMs, a.ID, meta, frame.Head)
	case events.ScheduleDeleted:
		c.args = append(c.args, "L", e.ScheduleID, a.Guard.ScheduleVersion, e.TopicID, a.ID, meta, frame.Head)
	case events.MessagePublished, events.MessageScheduled, events.MessageReleased, events.MessageCancelled, events.MessageConsumed,
		events.MessageFailed, events.MessageDeadLettered, events.MessageFiltered, events.MessageExpired, events.MessageRedriven, events.MessageErased:
	}
}

// schedulesMax is how many recurring schedules a queue has at most.
const schedulesMax = 1000

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// seekTo is where a group is to go on, for the script: what it says, and for a time the
// ms since 1970, for an offset itself.
func seekTo(to string) (kind string, value int64) {
	if n, err := strconv.ParseInt(to, 10, 64); err == nil {
		return "offset", n
	}
	if t, err := time.Parse(time.RFC3339Nano, to); err == nil {
		return "time", t.UnixMilli()
	}
	return to, 0
}

// encodeChanged is for events that leave a subscription in another state.
func (l *Log) encodeChanged(c *call, a events.Append, id, topicID string, meta []byte, frame events.Frame) {
	c.args = append(c.args, "V", id, a.Guard.SubscriptionVersion, a.Version, a.State, topicID, a.Group, a.ID, meta, frame.Head)
}

// encodeSettled is for events that end a message's life in a group.
func (l *Log) encodeSettled(c *call, a events.Append, op string, d events.Delivery, meta []byte, frame events.Frame) {
	lease := a.Guard.Lease
	c.args = append(c.args, op, d.TopicID, d.ConsumerGroup, strconv.Itoa(lease.Stream), c.life.entryOf(lease),
		d.SubscriptionID, strconv.Itoa(d.AttemptsBefore), a.ID, meta, frame.Head)
}

// idempotency returns the name under which an append is remembered, empty where the
// caller gave no key. A key is good for one queue, whose shard remembers it: the same
// key on another queue is another request wherever that one's shard is. The name is a
// hash: what a caller writes is no part of ours.
func (l *Log) idempotency(a events.Append) (key, fingerprint string) {
	if a.Meta.IdempotencyKey == "" {
		return "", ""
	}
	return idempotencyName(a.TenantID, a.Event, a.Meta.IdempotencyKey), a.Meta.Fingerprint
}

func idempotencyName(tenantID string, e events.Event, key string) string {
	queue, kind := events.RefsOf(e).TopicID, e.Kind()
	if created, creates := e.(events.TopicCreated); creates {
		queue = created.Name
	}
	if kind == events.KindMessageScheduled {
		kind = events.KindMessagePublished // a message whose time came meanwhile is the same message
	}
	sum := sha256.Sum256([]byte(tenantID + "\x00" + string(kind) + "\x00" + queue + "\x00" + key))
	return hex.EncodeToString(sum[:])
}

func uniqueSubscription(group, consumer string) string { return group + "/" + consumer }

func uniqueTopic(tenantID, name string) string { return tenantID + "/" + name }
