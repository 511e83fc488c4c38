package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// Limits of loading messages.
const (
	// LoadMessagesMax is how many messages one query reads, and LoadBytesMax after how many
	// bytes of them it stops.
	LoadMessagesMax = 500
	LoadBytesMax    = 8 << 20
)

// Querier is a connection, a transaction or a pool.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Message is a message as history has it.
type Message struct {
	events.MessagePublished

	TenantID string
	// Position is where the event stands that has the message, and ReleaseAtMs when it was
	// to be released, 0 where it was published at once.
	Position    events.Position
	ReleaseAtMs int64
	// Data is the event's JSON.
	Data []byte
}

// Meta is what consumers see of the message beside its payload. Redriven messages do not
// expire.
func (m Message) Meta(isRedriven bool) events.DeliveryMeta {
	meta := events.DeliveryMeta{
		TenantID: m.TenantID, Key: m.Key, ContentType: m.ContentType, CorrelationID: m.CorrelationID, TraceParent: m.TraceParent,
		Sealed: m.Sealed, Headers: m.Headers, MaxRetryAttempts: m.MaxRetryAttempts, RetryDelayMs: m.RetryDelayMs,
	}
	if m.TTLMs > 0 && !isRedriven {
		meta.ExpiresAtMs = max(m.Position.Ms(), m.ReleaseAtMs) + m.TTLMs
	}
	return meta
}

// Rows in the order that is asked for, as many as weigh so much. n is how many there are.
const loadSQL = `
SELECT ord, position, kind, tenant_id, data, n FROM (
    SELECT o.ord, h.position, h.kind, h.tenant_id::text AS tenant_id, h.data::text AS data, octet_length(h.data::text) AS weight, count(*) OVER () AS n,
        sum(octet_length(h.data::text)) OVER (ORDER BY o.ord ROWS UNBOUNDED PRECEDING) AS upto
    FROM unnest($2::bigint[]) WITH ORDINALITY AS o(position, ord)
    JOIN event_history h ON h.position = o.position AND h.shard = $1 AND h.scope = 'message' AND h.position BETWEEN $3 AND $4
    WHERE h.kind IN ('message.published', 'message.scheduled')
) w WHERE upto - weight < $5 ORDER BY ord`

// Load reads messages of a shard by the positions of the events that have them, and hands
// them to each with their index, in order. Those that history has no more are left out.
func Load(ctx context.Context, q Querier, shard int, sources []events.Position, each func(i int, m Message) error) error {
	for from := 0; from < len(sources); {
		chunk := make([]int64, 0, LoadMessagesMax)
		least, greatest := sources[from], sources[from]
		for _, p := range sources[from:min(from+LoadMessagesMax, len(sources))] {
			chunk = append(chunk, int64(p))
			least, greatest = min(least, p), max(greatest, p)
		}
		read, err := loadChunk(ctx, q, shard, chunk, least, greatest, func(ord int, m Message) error { return each(from+ord, m) })
		if err != nil {
			return err
		}
		from += read
	}
	return nil
}

// loadChunk returns of how many positions it has told.
func loadChunk(ctx context.Context, q Querier, shard int, chunk []int64, least, greatest events.Position, each func(int, Message) error) (int, error) {
	rows, err := q.Query(ctx, loadSQL, shard, chunk, int64(least), int64(greatest), LoadBytesMax)
	if err != nil {
		return 0, fmt.Errorf("load messages: %w", err)
	}
	var ord, position, all int64
	var kind, tenantID string
	var data []byte
	told := int64(0)
	_, err = pgx.ForEachRow(rows, []any{&ord, &position, &kind, &tenantID, &data, &all}, func() error {
		m := Message{TenantID: tenantID, Position: events.Position(position), Data: append([]byte(nil), data...)}
		e, err := events.Decode(events.Kind(kind), m.Data)
		if err != nil {
			return fmt.Errorf("message at %d/%d: %w", shard, position, err)
		}
		if published, ok := e.(events.MessagePublished); ok {
			m.MessagePublished = published
		}
		if scheduled, ok := e.(events.MessageScheduled); ok {
			m.MessagePublished, m.ReleaseAtMs = scheduled.MessagePublished, scheduled.ReleaseAtMs
		}
		told++
		return each(int(ord-1), m)
	})
	if err != nil {
		return 0, fmt.Errorf("load messages: %w", err)
	}
	if told < all {
		return int(ord), nil // the rest did not fit
	}
	return len(chunk), nil
}
