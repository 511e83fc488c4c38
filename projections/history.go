package projections

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/Masterminds/squirrel"
	"github.com/jackc/pgx/v5"

	"github.com/tallymq/tallymq/events"
)

// Querier is a connection, a transaction or a pool.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// ReadHistory returns up to limit events of a shard that stand after a position, in
// order, and no more after [BatchBytesMax] of them.
func ReadHistory(ctx context.Context, q Querier, shard int, after events.Position, limit uint64) ([]events.Record, error) {
	page := squirrel.Select("position", "event_id", "kind", "tenant_id", "version", "metadata", "data::text AS data").
		From("event_history").Where(squirrel.Eq{"shard": shard}).Where(squirrel.Gt{"position": int64(after)}).OrderBy("position").Limit(limit)
	weighed := squirrel.Select("*", "sum(octet_length(data)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS weight").FromSelect(page, "h")
	sql, args, err := squirrel.Select("position", "event_id::text", "kind", "tenant_id::text", "version", "metadata::text", "data").
		FromSelect(weighed, "w").Where("weight - octet_length(data) < ?", BatchBytesMax).
		OrderBy("position").PlaceholderFormat(squirrel.Dollar).ToSql()
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	records, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (events.Record, error) { return scanRecord(row, shard) })
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return records, nil
}

func scanRecord(row pgx.CollectableRow, shard int) (events.Record, error) {
	r := events.Record{Shard: shard}
	var position int64
	var kind, meta, data string
	if err := row.Scan(&position, &r.ID, &kind, &r.TenantID, &r.Version, &meta, &data); err != nil {
		return r, fmt.Errorf("scan: %w", err)
	}
	r.Position, r.Data = events.Position(position), []byte(data)
	var m historyMeta
	if err := json.Unmarshal([]byte(meta), &m); err != nil {
		return r, fmt.Errorf("metadata of event %s: %w", r.ID, err)
	}
	r.Meta = events.Meta{
		Actor: m.Actor, Platform: m.Platform == platformText(true), RequestID: m.RequestID, TraceParent: m.TraceParent,
		IdempotencyKey: m.IdempotencyKey, Fingerprint: m.Fingerprint,
	}
	var err error
	r.Event, err = events.Decode(events.Kind(kind), r.Data)
	if err != nil {
		return r, fmt.Errorf("event %s at %d/%d: %w", r.ID, shard, position, err)
	}
	return r, nil
}

// Folded reports whether anything of the log was ever folded into this database.
func Folded(ctx context.Context, q Querier) (bool, error) {
	rows, err := q.Query(ctx, `SELECT EXISTS (SELECT FROM projection_checkpoints WHERE position > 0)`)
	if err != nil {
		return false, fmt.Errorf("look for checkpoints: %w", err)
	}
	folded, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool])
	if err != nil {
		return false, fmt.Errorf("look for checkpoints: %w", err)
	}
	return folded, nil
}
