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
	key, fingerprint := l.idempotency(a)
	ttl := l.cfg.IdempotencyTTL.Milliseconds()
	c.bytes += len(frame.Head) + len(frame.Payload) + len(meta)
	if a.Atomic {
		if _, ok := a.Event.(events.MessagePublished); !ok {
			return fmt.Errorf("append: %s cannot be part of an atomic group", a.Event.Kind())
		}
	}
	switch e := a.Event.(type) {
	case events.MessagePublished:
		expires := int64(0)
		if e.TTLMs > 0 {
			expires = a.Meta.AcceptedAtMs + e.TTLMs
		}
		delivery := packPairs(events.DeliveryMeta{
			TenantID: a.TenantID, Key: e.Key, ContentType: e.ContentType, CorrelationID: e.CorrelationID,
			TraceParent: e.TraceParent, ExpiresAtMs: expires, Sealed: e.Sealed, Headers: e.Headers,
		}.AppendPairs(room[:0]))
		c.args = append(c.args, "P", e.TopicID, a.Guard.TopicVersion, e.Partition, key, fingerprint, ttl,
			a.ID, meta, frame.Head, frame.Payload, frame.Tail, delivery)
	case events.TopicCreated, events.TopicUpdated, events.TopicPurged, events.TopicDeleted,
		events.SubscriptionCreated, events.SubscriptionUpdated, events.SubscriptionPaused, events.SubscriptionResumed, events.SubscriptionDeleted:
		l.encodeAdmin(c, a, meta, frame)
	case events.MessageConsumed:
		l.encodeSettled(c, a, e.Delivery, meta, frame)
	case events.MessageDeadLettered:
		l.encodeSettled(c, a, e.Delivery, meta, frame)
	case events.MessageFailed:
		lease := a.Guard.Lease
		if delay := time.Duration(e.RetryDelayMs) * time.Millisecond; delay > 0 && (c.dueIn == 0 || delay < c.dueIn) {
			c.dueIn = delay
		}
		c.args = append(c.args, "F", e.TopicID, e.ConsumerGroup, strconv.Itoa(lease.Stream), lease.EntryID,
			e.SubscriptionID, e.RetryDelayMs, strconv.Itoa(e.Attempt+1), e.MessageID, a.ID, meta, frame.Head)
	}
	return nil
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
	case events.TopicDeleted:
		c.args = append(c.args, "D", e.TopicID, a.Guard.TopicVersion, uniqueTopic(a.TenantID, e.Name), a.ID, meta, frame.Head, frame.Tail)
	case events.SubscriptionCreated:
		start := "$"
		if e.OffsetResetPolicy == "earliest" {
			start = "0"
		}
		c.args = append(c.args, "S", e.SubscriptionID, a.Version, a.State, e.TopicID, a.Guard.TopicVersion,
			a.Group, uniqueSubscription(a.Group, e.ConsumerName), start, key, fingerprint, l.cfg.IdempotencyTTL.Milliseconds(), a.ID, meta, frame.Head)
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
	case events.MessagePublished, events.MessageConsumed, events.MessageFailed, events.MessageDeadLettered:
	}
}

// encodeChanged is for events that leave a subscription in another state.
func (l *Log) encodeChanged(c *call, a events.Append, id, topicID string, meta []byte, frame events.Frame) {
	c.args = append(c.args, "V", id, a.Guard.SubscriptionVersion, a.Version, a.State, topicID, a.Group, a.ID, meta, frame.Head)
}

// encodeSettled is for events that end a message's life in a group.
func (l *Log) encodeSettled(c *call, a events.Append, d events.Delivery, meta []byte, frame events.Frame) {
	lease := a.Guard.Lease
	c.args = append(c.args, "K", d.TopicID, d.ConsumerGroup, strconv.Itoa(lease.Stream), lease.EntryID,
		d.SubscriptionID, a.ID, meta, frame.Head)
}

// idempotency returns the name under which an append is remembered, empty where the
// caller gave no key. A key is good for one queue, whose shard remembers it: the same
// key on another queue is another request wherever that one's shard is. The name is a
// hash: what a caller writes is no part of ours.
func (l *Log) idempotency(a events.Append) (key, fingerprint string) {
	if a.Meta.IdempotencyKey == "" {
		return "", ""
	}
	queue := events.RefsOf(a.Event).TopicID
	if e, creates := a.Event.(events.TopicCreated); creates {
		queue = e.Name
	}
	sum := sha256.Sum256([]byte(a.TenantID + "\x00" + string(a.Event.Kind()) + "\x00" + queue + "\x00" + a.Meta.IdempotencyKey))
	return hex.EncodeToString(sum[:]), a.Meta.Fingerprint
}

func uniqueSubscription(group, consumer string) string { return group + "/" + consumer }

func uniqueTopic(tenantID, name string) string { return tenantID + "/" + name }
