package queries

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/squirrel"
)

// Message is a row of message_records, with its queue's name. In lists Payload is nil:
// a page of large payloads would not fit in memory.
type Message struct {
	MessageID     string
	TopicID       string
	Queue         string
	Key           *string
	CorrelationID *string
	Headers       map[string]string
	Payload       []byte
	PayloadSize   *int
	ContentType   string
	Partition     *int
	Offset        *int64
	Status        string
	RetryCount    int
	PublishedAt   *time.Time
	ScheduledAt   *time.Time
	ConsumedAt    *time.Time
	ExpiresAt     *time.Time
	ProducerID    *string
	TenantID      string
	TraceID       *string
	// Sealed says that Payload is encrypted.
	Sealed bool
	// ErasedAt is when the payload was erased, nil for never.
	ErasedAt *time.Time
}

// messageColumns are what a message is read from; payload is where its payload is.
func messageColumns(payload string) []string {
	return []string{
		"m.message_id", "m.topic_id::text", "t.name", "m.message_key", "m.correlation_id", "m.headers", payload, "m.payload_size",
		"m.content_type", "m.partition_id", "m.offset_value", "m.status", "m.retry_count", "m.published_at", "m.scheduled_at",
		"m.consumed_at", "m.expires_at", "m.producer_id", "m.tenant_id::text", "m.trace_id", "m.sealed", "m.erased_at",
	}
}

// MessageFilter narrows a list of messages; zero fields do not.
type MessageFilter struct {
	Queue  string
	Status string
	Key    string
	// From and To bound the time of publishing: From included, To not.
	From, To time.Time
	// IDFrom and IDTo are bounds of message ids that hold for From and To, so that
	// days outside them are not looked at.
	IDFrom, IDTo string
}

// Messages lists a tenant's messages, newest first, without payloads. The key of a
// page is the last message id. The index has the ids of each queue in that order, so
// at most a page of ids is read for each of the tenant's queues, and rows only for the
// page itself; a filter that hardly any message passes reads more.
func Messages(ctx context.Context, db DB, tenantID string, f MessageFilter, page Page) (list []Message, next bool, err error) {
	limit := uint64(page.Limit) + 1 //nolint:gosec // a limit is positive
	of := squirrel.Select("r.message_id").From("message_records r").
		Where("r.tenant_id = q.tenant_id AND r.topic_id = q.id").OrderBy("r.message_id DESC").Limit(limit)
	of = of.Where(f.conditions())
	if len(page.After) > 0 {
		of = of.Where("r.message_id < ?", page.After[0])
	}
	inner, args, err := of.ToSql()
	if err != nil {
		return nil, false, fmt.Errorf("query messages: %w", err)
	}
	ids := squirrel.Select("k.message_id").From("message_topics q").JoinClause("CROSS JOIN LATERAL ("+inner+") k", args...).
		Where("q.tenant_id = ?::text::uuid AND q.status <> 'archived'", tenantID).OrderBy("k.message_id DESC").Limit(limit)
	if f.Queue != "" {
		ids = ids.Where(`q.name COLLATE "C" = ?`, f.Queue)
	}
	q := sq.Select(messageColumns("NULL::text")...).FromSelect(ids, "p").
		Join("message_records m ON m.message_id = p.message_id").Join("message_topics t ON t.id = m.topic_id").OrderBy("m.message_id DESC")
	list, err = collect[Message](ctx, db, "messages", q)
	list, next = more(list, page.Limit)
	return list, next, err
}

func (f MessageFilter) conditions() squirrel.And {
	var and squirrel.And
	if f.Status != "" {
		and = append(and, squirrel.Eq{"r.status": f.Status})
	}
	if f.Key != "" {
		and = append(and, squirrel.Eq{"r.message_key": f.Key})
	}
	if !f.From.IsZero() {
		and = append(and, squirrel.GtOrEq{"r.published_at": f.From}, squirrel.GtOrEq{"r.message_id": f.IDFrom})
	}
	if !f.To.IsZero() {
		and = append(and, squirrel.Lt{"r.published_at": f.To}, squirrel.Lt{"r.message_id": f.IDTo})
	}
	return and
}

// MessageByID returns a tenant's message, or ErrNotFound.
func MessageByID(ctx context.Context, db DB, tenantID, messageID string) (Message, error) {
	q := sq.Select(messageColumns("m.payload::text")...).From("message_records m").Join("message_topics t ON t.id = m.topic_id").
		Where("m.message_id = ? AND m.tenant_id = ?::text::uuid AND t.status <> 'archived'", messageID, tenantID)
	return one(collect[Message](ctx, db, "message", q))
}

// Attempt is a row of consumption_records.
type Attempt struct {
	ID               string
	SubscriptionID   string
	ConsumerInstance string
	Partition        *int
	Offset           *int64
	Status           string
	ProcessingTimeMs *int
	ErrorMessage     *string
	RetryCount       int
	ConsumedAt       *time.Time
	ProcessedAt      *time.Time
	NextRetryAt      *time.Time
	Attempt          int
	Reason           *string
	// StatusCode is what a webhook answered.
	StatusCode *int
}

// AttemptsMax is how many of a message's attempts are shown, the newest ones.
const AttemptsMax = 1000

// Attempts returns a message's attempts in the order in which they were settled.
func Attempts(ctx context.Context, db DB, tenantID, messageID string) ([]Attempt, error) {
	newest := squirrel.Select("*").From("consumption_records").
		Where("message_id = ? AND tenant_id = ?::text::uuid", messageID, tenantID).
		OrderBy("processed_at DESC", "attempt DESC", "id DESC").Limit(AttemptsMax)
	return collect[Attempt](ctx, db, "attempts", selectAttempts(newest))
}

// selectAttempts reads consumption records in the order in which they were settled.
func selectAttempts(from squirrel.SelectBuilder) squirrel.SelectBuilder {
	return sq.Select("id::text", "subscription_id::text", "consumer_instance", "partition_id", "offset_value", "status", "processing_time_ms",
		"error_message", "retry_count", "consumed_at", "processed_at", "next_retry_at", "attempt", "reason", "status_code").
		FromSelect(from, "a").OrderBy("processed_at", "attempt", "id")
}

// Event is a row of event_history.
type Event struct {
	ID         string
	Kind       string
	Shard      int
	Position   int64
	TenantID   string
	OccurredAt time.Time
	Metadata   map[string]string
	Data       json.RawMessage
}

// MessageEvents returns a message's history in order. The key of a page is the
// last position. A message's events all stand in its shard's log.
func MessageEvents(ctx context.Context, db DB, tenantID, messageID string, page Page) (list []Event, next bool, err error) {
	q := sq.Select("event_id::text", "kind", "shard", "position", "tenant_id::text", "occurred_at", "metadata", "data::text").
		From("event_history").Where("scope = 'message' AND message_id = ? AND tenant_id = ?::text::uuid", messageID, tenantID).
		OrderBy("position").Limit(uint64(page.Limit) + 1) //nolint:gosec // a limit is positive
	if floor, ok := eventsFloor(messageID); ok {
		q = q.Where(squirrel.GtOrEq{"position": floor})
	}
	if len(page.After) > 0 {
		after, err := strconv.ParseInt(page.After[0], 10, 64)
		if err != nil {
			return nil, false, fmt.Errorf("query message events: %w", err)
		}
		q = q.Where(squirrel.Gt{"position": after})
	}
	list, err = collect[Event](ctx, db, "message events", q)
	list, next = more(list, page.Limit)
	return list, next, err
}

// clockSkewMax is how far the clocks of instances and of the log may be apart for
// a message's events to be found.
const clockSkewMax = time.Hour

// eventsFloor is a position before which a message has no events: its id has the
// time at which it was minted (UUIDv7), and a position is ms<<20 | seq. The days
// before it are not looked at.
func eventsFloor(messageID string) (int64, bool) {
	ms, err := strconv.ParseInt(strings.ReplaceAll(messageID, "-", "")[:12], 16, 64)
	if err != nil {
		return 0, false
	}
	return (ms - clockSkewMax.Milliseconds()) << 20, true
}
