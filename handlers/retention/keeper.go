package retention

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tallymq/tallymq/commands"
)

// Limits of keeping to what queues say.
const (
	// Every is how often it is looked for messages that a queue does not keep any longer.
	Every = time.Minute
	// MessagesMax is how many messages one event takes away: what it does is one
	// transaction.
	MessagesMax = 500
	// clockSkewMax is how far the clocks of instances and of the log may be apart: a
	// message's id is by the one, the time of its publishing by the other.
	clockSkewMax = time.Hour
	queryTimeout = 30 * time.Second
)

// Config is what a [Keeper] needs.
type Config struct {
	Pool     *pgxpool.Pool
	Commands interface {
		Retain(ctx context.Context, cmd commands.Retain) (unsettledFrom time.Time, isDone bool, err error)
	}
	Now    func() time.Time
	Logger *slog.Logger
}

// Keeper takes messages away that their queue does not keep any longer.
type Keeper struct{ cfg Config }

// New returns a keeper.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg} }

// Run looks every minute until ctx ends. Of any number that run on a store one works.
func (k *Keeper) Run(ctx context.Context) {
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	for {
		if _, err := k.Round(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Logger.Warn("retention of queues; trying again in a minute", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// topic is one that may have messages that it does not keep any longer.
type topic struct {
	ID, TenantID string
	Shard        int
	Version      int64
	RetentionMs  int64
	IsArchived   bool
}

// due are topics with a message whose id is old enough. A topic's ids are in an index, in
// order: each costs one look at its end. EXISTS would let the planner read all messages.
const due = `
SELECT t.id::text, t.tenant_id::text, t.shard, t.version, t.retention_ms, t.status = 'archived' FROM message_topics t
WHERE (SELECT true FROM message_records m WHERE m.tenant_id = t.tenant_id AND m.topic_id = t.id
    AND m.message_id < (SELECT left(h.id, 8) || '-' || substr(h.id, 9) FROM (SELECT lpad(to_hex(greatest($1::bigint - t.retention_ms, 0)), 12, '0') AS id) h) LIMIT 1)
ORDER BY t.id`

// Round takes away what queues do not keep any longer, and returns how many messages that
// were. Where another keeper is at work it does nothing.
func (k *Keeper) Round(ctx context.Context) (messages int, err error) {
	conn, err := k.cfg.Pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("retention: %w", err)
	}
	defer conn.Release()
	var isHeld bool
	const lock = `hashtextextended('tallymq:retention:' || current_schema(), 0)`
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(`+lock+`)`).Scan(&isHeld); err != nil || !isHeld {
		return 0, wrap(err)
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
		defer cancel()
		if _, err := conn.Exec(ending, `SELECT pg_advisory_unlock(`+lock+`)`); err != nil {
			_ = conn.Conn().Close(ending) // the lock goes with it
		}
	}()
	query, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := conn.Query(query, due, k.cfg.Now().UnixMilli())
	if err != nil {
		return 0, wrap(err)
	}
	topics, err := pgx.CollectRows(rows, pgx.RowToStructByPos[topic])
	if err != nil {
		return 0, wrap(err)
	}
	for _, t := range topics {
		n, err := k.topic(ctx, t)
		messages += n
		if err != nil {
			return messages, fmt.Errorf("retention of topic %s: %w", t.ID, err)
		}
	}
	return messages, nil
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("retention: %w", err)
}

// topic takes away a topic's messages, a number at a time, up to the oldest that a consumer
// group has not settled.
func (k *Keeper) topic(ctx context.Context, t topic) (messages int, err error) {
	cmd := commands.Retain{
		TopicID: t.ID, TenantID: t.TenantID, Shard: t.Shard, TopicVersion: t.Version,
		Before: k.cfg.Now().Add(-time.Duration(t.RetentionMs) * time.Millisecond).Truncate(time.Millisecond),
	}
	if t.IsArchived {
		cmd.TopicVersion = 0
	}
	for {
		n, from, upTo, err := k.next(ctx, t, cmd.Before)
		if err != nil || n == 0 {
			return messages, err
		}
		cmd.From, cmd.UpTo = from, upTo
		unsettledFrom, isDone, err := k.cfg.Commands.Retain(ctx, cmd)
		switch {
		case err != nil:
			return messages, err //nolint:wrapcheck // says what it does
		case isDone:
			messages += n
			if n < MessagesMax {
				return messages, nil
			}
		case unsettledFrom.IsZero() || !unsettledFrom.Before(cmd.Before):
			return messages, nil
		default:
			cmd.Before = unsettledFrom
		}
	}
}

// expired are a topic's next messages that were published before a time, or never were and
// never will be; the projection has the same condition.
const expired = `
SELECT count(*), coalesce(min(message_id), ''), coalesce(max(message_id), '') FROM (SELECT message_id FROM message_records m
    WHERE m.tenant_id = $1 AND m.topic_id = $2 AND m.message_id < $3
      AND coalesce(m.published_at, CASE WHEN m.status <> 'scheduled' THEN '-infinity'::timestamptz END) < $4
    ORDER BY m.message_id LIMIT $5) e`

func (k *Keeper) next(ctx context.Context, t topic, before time.Time) (n int, from, upTo string, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err = k.cfg.Pool.QueryRow(ctx, expired, t.TenantID, t.ID, leastID(before.Add(clockSkewMax)), before, MessagesMax).Scan(&n, &from, &upTo)
	if err != nil {
		return 0, "", "", fmt.Errorf("look for messages: %w", err)
	}
	return n, from, upTo, nil
}

// leastID is the least UUIDv7 of a time or later, as text (RFC 9562, section 5.7).
func leastID(t time.Time) string {
	hex := fmt.Sprintf("%012x", max(t.UnixMilli(), 0))
	return hex[:8] + "-" + hex[8:]
}
