package history

import (
	stdsql "database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tallymq/tallymq/events"
)

// reader is who reads a shard: its row in history_readers.
type reader struct {
	group, tenantID string
	shard           int
}

func (r reader) args() []any { return []any{r.group, r.tenantID, r.shard} }

// createReaders makes the table of offsets. Message events up to complete_since are
// either read or known to be gone. Whoever may not make tables can have it made.
const createReaders = `
DO $$ BEGIN
    IF to_regclass('history_readers') IS NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('tallymq:history_readers:' || current_schema(), 0));
        CREATE TABLE IF NOT EXISTS history_readers (
            consumer_group VARCHAR(200) NOT NULL,
            tenant_id      TEXT NOT NULL,
            shard          SMALLINT NOT NULL,
            position       BIGINT NOT NULL,
            complete_since TIMESTAMPTZ NOT NULL,
            updated_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
            PRIMARY KEY (consumer_group, tenant_id, shard)
        ) WITH (fillfactor = 50);
    END IF;
END $$`

// Statements about a reader: $1 to $3 are [reader.args].
const (
	whereReader = ` WHERE consumer_group = $1 AND tenant_id = $2 AND shard = $3`
	// A new group begins with what there is: what was before is no gap, and neither is
	// what retention has not dropped because it never was. $4 is [foldLagMax] in seconds.
	beginReader = `
INSERT INTO history_readers (consumer_group, tenant_id, shard, position, complete_since)
VALUES ($1, $2, $3, 0, greatest((SELECT value FROM store_settings WHERE name = '` + horizonSetting + `')::timestamptz,
    coalesce((SELECT h.occurred_at FROM event_history h WHERE h.shard = $3 ORDER BY h.position LIMIT 1), now() - make_interval(secs => $4))))
ON CONFLICT DO NOTHING`
	offsetOfReader = `SELECT r.position FROM history_readers r WHERE r.consumer_group = $1 AND r.tenant_id = $2 AND r.shard = $3`
	// It never goes back, whoever comes late.
	advanceReader = `UPDATE history_readers SET position = $4, updated_at = now()` + whereReader + ` AND position < $4`
)

// selectPage reads on by keyset: from the index, in its order, one place in each
// partition that is behind the offset, however much history there is. See package doc
// for why no event can turn up behind it later. One bound of the position: with two,
// Postgres expects few events and sorts them.
const selectPage = `
SELECT w.position, w.event_id::text, w.kind, w.tenant_id::text, w.version, coalesce(w.metadata->>'actor', ''), coalesce(w.metadata->>'requestId', ''),
    coalesce(w.metadata->>'traceparent', ''), coalesce(w.metadata->>'idempotencyKey', ''), coalesce(w.metadata->>'fingerprint', ''), w.data
FROM (
    SELECT page.*, sum(octet_length(page.data)) OVER (ORDER BY page.position ROWS UNBOUNDED PRECEDING) AS weight
    FROM (
        SELECT h.position, h.event_id, h.kind, h.tenant_id, h.version, h.metadata, h.data::text AS data FROM event_history h
        WHERE h.shard = $3 AND h.position > (%s)%s ORDER BY h.position LIMIT %d
    ) page
) w
WHERE w.weight - octet_length(w.data) < %d ORDER BY w.position`

// ofTenant narrows it, by an index of the same order.
const ofTenant = ` AND h.tenant_id = $2::text::uuid`

// schema reads event_history: a [sql.SchemaAdapter].
type schema struct {
	reader

	eventsMax int
}

// errReadOnly is what publishing gets.
var errReadOnly = errors.New("history is written by the projector only")

func (schema) InsertQuery(sql.InsertQueryParams) (sql.Query, error) {
	return sql.Query{}, errReadOnly
}

func (s schema) SelectQuery(p sql.SelectQueryParams) (sql.Query, error) {
	after, err := p.OffsetsAdapter.NextOffsetQuery(sql.NextOffsetQueryParams{Topic: p.Topic, ConsumerGroup: p.ConsumerGroup})
	if err != nil {
		return sql.Query{}, fmt.Errorf("offset: %w", err)
	}
	narrowed := ""
	if s.tenantID != "" {
		narrowed = ofTenant
	}
	return sql.Query{Query: fmt.Sprintf(selectPage, after.Query, narrowed, s.eventsMax, BatchBytesMax), Args: after.Args}, nil
}

func (s schema) UnmarshalMessage(p sql.UnmarshalMessageParams) (sql.Row, error) {
	var position, version int64
	var id, kind, tenantID string
	var meta events.Meta
	var data []byte
	err := p.Row.Scan(&position, &id, &kind, &tenantID, &version, &meta.Actor, &meta.RequestID, &meta.TraceParent, &meta.IdempotencyKey, &meta.Fingerprint, &data)
	if err != nil {
		return sql.Row{}, fmt.Errorf("scan event: %w", err)
	}
	m := message.NewMessage(id, data)
	m.Metadata = meta.Metadata(events.Kind(kind), tenantID, version)
	m.Metadata[events.MetaShard] = strconv.Itoa(s.shard)
	m.Metadata[events.MetaPosition] = strconv.FormatInt(position, 10)
	return sql.Row{Offset: position, Msg: m}, nil
}

func (schema) SchemaInitializingQueries(sql.SchemaInitializingQueriesParams) ([]sql.Query, error) {
	return nil, nil // migrations do
}

// SubscribeIsolationLevel is for what a handler does in the offset's transaction: the
// page itself is one statement and stands outside.
func (schema) SubscribeIsolationLevel() stdsql.IsolationLevel { return stdsql.LevelReadCommitted }

// offsets keeps a reader's offset in history_readers: a [sql.OffsetsAdapter]. The stock
// one makes a table for each topic and locks its row in a transaction while handlers
// work; ours is locked by the session.
type offsets struct{ reader }

func (o offsets) NextOffsetQuery(sql.NextOffsetQueryParams) (sql.Query, error) {
	return sql.Query{Query: offsetOfReader, Args: o.args()}, nil
}

func (o offsets) AckMessageQuery(p sql.AckMessageQueryParams) (sql.Query, error) {
	return sql.Query{Query: advanceReader, Args: append(o.args(), p.LastRow.Offset)}, nil
}

func (offsets) ConsumedMessageQuery(sql.ConsumedMessageQueryParams) (sql.Query, error) {
	return sql.Query{}, nil
}

func (offsets) SchemaInitializingQueries(sql.OffsetsSchemaInitializingQueriesParams) ([]sql.Query, error) {
	return []sql.Query{{Query: createReaders}}, nil
}

func (o offsets) BeforeSubscribingQueries(sql.BeforeSubscribingQueriesParams) ([]sql.Query, error) {
	return []sql.Query{{Query: beginReader, Args: append(o.args(), foldLagMax.Seconds())}}, nil
}
