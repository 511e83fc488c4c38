package commands

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Limits of a message. Sizes are in bytes, lengths in characters.
const (
	MessageKeyMax     = 500
	CorrelationIDMax  = 200
	ContentTypeMax    = 100
	HeadersMax        = 64
	HeadersBytesMax   = 16 << 10
	MessageTTLMsMax   = 31_536_000_000 // 365 days
	BatchMessagesMax  = 1000
	IdempotencyKeyMax = 255
	DelayMsMax        = MessageTTLMsMax
	appendChunkMax    = 256
)

// Publish asks for one message to be published.
type Publish struct {
	// ID is the message's id, a UUIDv7 minted by the caller.
	ID            string
	Queue         string
	Payload       json.RawMessage
	Key           string
	Headers       map[string]string
	CorrelationID string
	ContentType   string
	Partition     *int
	TTLMs         *int64
	ExpiresAt     *time.Time
	// DelayMs or ScheduledAt say when it is to be published; neither is at once.
	DelayMs     *int64
	ScheduledAt *time.Time
	// MaxRetryAttempts and RetryDelayMs override those of subscriptions.
	MaxRetryAttempts *int
	RetryDelayMs     *int
	// ScheduleID is the recurring schedule that publishes it.
	ScheduleID string `json:"-"`
	// TraceParent is the message's own trace context; the caller's stands in.
	TraceParent string `json:"-"`
	// EventKey identifies the message, like an idempotency key that comes with it:
	// whatever else differs, the same key is the same message.
	EventKey string `json:"-"`
	// Refused is what the edge found wrong with the message: it keeps its place
	// in the batch, and is refused with that.
	Refused *Refusal `json:"-"`
}

// decidePublish checks a message against its topic and gives it its partition:
// the one asked for, else the key's, else the next in turn.
func decidePublish(t Topic, c Publish, now time.Time, cfg Config, turn uint32) (events.MessagePublished, error) {
	if t.Config.Status != StatusActive {
		return events.MessagePublished{}, refuse(CodePublishFailed, "queue %q is %s", c.Queue, t.Config.Status)
	}
	if len(c.Payload) > cfg.PayloadBytesMax {
		return events.MessagePublished{}, &Refusal{
			Code: CodePayloadTooLarge, Reason: fmt.Sprintf("payload has %d bytes; allowed: %d", len(c.Payload), cfg.PayloadBytesMax),
			Problems: []Problem{{Field: "payload", Limit: fmt.Sprintf("at most %d bytes", cfg.PayloadBytesMax), Text: fmt.Sprintf("has %d bytes", len(c.Payload))}},
		}
	}
	var v check
	v.that(len(c.Payload) > 0, "payload", "any JSON value", "is missing")
	v.short(c.Key, "key", MessageKeyMax)
	v.short(c.CorrelationID, "correlationId", CorrelationIDMax)
	v.short(c.ContentType, "contentType", ContentTypeMax)
	v.headers(c.Headers)
	partitions := t.Config.PartitionCount
	partition := int(turn % uint32(partitions)) //nolint:gosec // 1 to 64
	switch {
	case c.Partition != nil:
		partition = *c.Partition
		v.between(int64(partition), 0, int64(partitions-1), "partition")
	case c.Key != "":
		partition = partitionOf(c.Key, partitions)
	}
	if c.MaxRetryAttempts != nil {
		v.between(int64(*c.MaxRetryAttempts), 0, RetryAttemptsMax, "maxRetryAttempts")
	}
	if c.RetryDelayMs != nil {
		v.between(int64(*c.RetryDelayMs), 0, RetryDelayMsMax, "retryDelayMs")
	}
	release := v.release(c, now)
	ttl := v.ttl(c, release, cfg.MessageTTL)
	return events.MessagePublished{
		MessageID: c.ID, TopicID: t.Config.TopicID, Partition: partition, Key: c.Key, Headers: c.Headers,
		ContentType: or(c.ContentType, "application/json"), CorrelationID: c.CorrelationID, TTLMs: ttl, Payload: c.Payload,
		MaxRetryAttempts: c.MaxRetryAttempts, RetryDelayMs: c.RetryDelayMs, ScheduleID: c.ScheduleID,
	}, v.refusal()
}

// scheduledSkewMax is how far in the past scheduledAt may be, as clocks differ.
const scheduledSkewMax = time.Minute

// release returns when a message is to be published, now where that is at once.
func (c *check) release(p Publish, now time.Time) time.Time {
	at := now
	if p.DelayMs != nil {
		c.between(*p.DelayMs, 0, DelayMsMax, "delayMs")
		at = now.Add(time.Duration(*p.DelayMs) * time.Millisecond)
	}
	if p.ScheduledAt != nil {
		c.that(p.ScheduledAt.After(now.Add(-scheduledSkewMax)) && !p.ScheduledAt.After(now.Add(DelayMsMax*time.Millisecond)), "scheduledAt",
			"in the future, within 365 days", "is "+p.ScheduledAt.UTC().Format(time.RFC3339))
		at = *p.ScheduledAt
	}
	return at
}

// isLater reports whether a message is to be published later than now.
func (p Publish) isLater(now time.Time) bool {
	return (p.DelayMs != nil && *p.DelayMs > 0) || (p.ScheduledAt != nil && p.ScheduledAt.After(now))
}

func (c *check) headers(headers map[string]string) {
	c.that(len(headers) <= HeadersMax, "headers", fmt.Sprintf("at most %d", HeadersMax), fmt.Sprintf("has %d", len(headers)))
	size := 0
	names := make([]string, 0, len(headers))
	for name, value := range headers {
		size += len(name) + len(value)
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		field := "headers." + brief(name)
		c.that(name != "", field, "a name of 1 character or more", "has no name")
		c.that(!strings.HasPrefix(name, events.HeaderReservedPrefix) && !strings.HasPrefix(name, "_watermill"), field,
			"names not starting with "+events.HeaderReservedPrefix+" or _watermill", "is reserved")
	}
	c.that(size <= HeadersBytesMax, "headers", fmt.Sprintf("at most %d bytes", HeadersBytesMax), fmt.Sprintf("have %d bytes", size))
}

func (c *check) ttl(p Publish, now time.Time, fallback time.Duration) int64 {
	switch {
	case p.TTLMs != nil && p.ExpiresAt != nil:
		c.that(false, "expiresAt", "ttlMs or expiresAt, not both", "is given beside ttlMs")
		return 0
	case p.TTLMs != nil:
		c.between(*p.TTLMs, 1, MessageTTLMsMax, "ttlMs")
		return *p.TTLMs
	case p.ExpiresAt != nil:
		ttl := p.ExpiresAt.Sub(now).Milliseconds()
		c.that(ttl >= 1 && ttl <= MessageTTLMsMax, "expiresAt", "in the future, within 365 days", "is "+p.ExpiresAt.UTC().Format(time.RFC3339))
		return ttl
	default:
		return fallback.Milliseconds()
	}
}

// partitionOf places a key: FNV-1a (64 bit) modulo partitions. It is permanent,
// as the order of a key's messages depends on it.
func partitionOf(key string, partitions int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum64() % uint64(partitions)) //nolint:gosec // 1 to 64
}

// rounds deals messages without a key out to partitions, queue by queue.
type rounds struct{ next sync.Map }

func (r *rounds) turn(topicID string) uint32 {
	n, ok := r.next.Load(topicID)
	if !ok {
		n, _ = r.next.LoadOrStore(topicID, new(atomic.Uint32))
	}
	return n.(*atomic.Uint32).Add(1) - 1 //nolint:forcetypeassert // ours alone
}
