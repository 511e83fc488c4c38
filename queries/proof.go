package queries

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/proof"
)

// ProofEventsMax is how many events of a message one proof may be of: each may cost the
// reading of a whole batch.
const ProofEventsMax = 1000

// Why there is no proof.
var (
	// ErrProofTooLong reports a message with more events than a proof may have.
	ErrProofTooLong = fmt.Errorf("the message has more than %d events", ProofEventsMax)
	// ErrUnsealed reports events that were written before history was sealed.
	ErrUnsealed = errors.New("an event of the message was written before history was sealed")
	// ErrNotAsSealed reports that history is not any more what was sealed.
	ErrNotAsSealed = errors.New("history is not what was sealed: run `tallymq verify`")
)

// MessageTenant is whose a message is.
func MessageTenant(ctx context.Context, db DB, messageID string) (string, error) {
	q := sq.Select("tenant_id::text").From("event_history").Where("scope = 'message' AND message_id = ?", messageID).OrderBy("position").Limit(1)
	if floor, ok := eventsFloor(messageID); ok {
		q = q.Where("position >= ?", floor)
	}
	rows, err := collect[struct{ TenantID string }](ctx, db, "message's tenant", q)
	row, err := one(rows, err)
	return row.TenantID, err
}

// Proof returns what proves a message's events, but for the signatures: the head's is for
// the caller to make. since are earlier heads, of which one may be the log's: it is then
// proved that the log grew from there.
func Proof(ctx context.Context, db DB, tenantID, messageID string, since proof.Heads) (proof.Document, error) {
	d := proof.Document{Format: proof.FormatProof, MessageID: messageID}
	var err error
	if d.Events, err = provedEvents(ctx, db, tenantID, messageID); err != nil {
		return d, err
	}
	if len(d.Events) == 0 {
		return d, ErrNotFound
	}
	if len(d.Events) > ProofEventsMax {
		return d, ErrProofTooLong
	}
	log := sealedLog{db: db, tenantID: tenantID, shard: d.Events[0].Shard} // a message's events all stand in its shard's log
	if d.Seals, err = log.sealsOf(ctx, d.Events); err != nil {
		return d, err
	}
	if err := log.addPaths(ctx, &d); err != nil {
		return d, err
	}
	if d.Head, err = log.head(ctx); err != nil {
		return d, err
	}
	for i, s := range d.Seals {
		if d.Seals[i].Proof, err = tlog.ProveRecord(d.Head.Size, s.N, log.reader(ctx)); err != nil {
			return d, fmt.Errorf("prove seal %d: %w", s.N, err)
		}
	}
	old, has := since.Of(tenantID, log.shard)
	if !has {
		return d, nil
	}
	if old.Size < 1 || old.Size > d.Head.Size {
		return d, fmt.Errorf("the log of tenant %s and shard %d has %d seals, and cannot have grown from %d", tenantID, log.shard, d.Head.Size, old.Size)
	}
	d.Since = &proof.Since{Size: old.Size, Root: old.Root, Signature: old.Signature}
	if d.Since.Proof, err = tlog.ProveTree(d.Head.Size, old.Size, log.reader(ctx)); err != nil {
		return d, fmt.Errorf("prove growth from %d: %w", old.Size, err)
	}
	return d, nil
}

// provedEvents reads a message's events whole and in order, one more than may be.
func provedEvents(ctx context.Context, db DB, tenantID, messageID string) ([]proof.Event, error) {
	q := sq.Select(eventColumns...).From("event_history").
		Where("scope = 'message' AND message_id = ? AND tenant_id = ?::text::uuid", messageID, tenantID).OrderBy("position").Limit(ProofEventsMax + 1)
	if floor, ok := eventsFloor(messageID); ok {
		q = q.Where("position >= ?", floor)
	}
	rows, err := collect[historyEvent](ctx, db, "events of a message", q)
	out := make([]proof.Event, len(rows))
	for i, r := range rows {
		out[i] = r.event()
	}
	return out, err
}

// historyEvent is a row of event_history, all that a leaf is made of.
type historyEvent struct {
	Shard    int
	Position int64
	ID       string
	Kind     string
	TenantID string
	Version  int64
	Metadata proof.Metadata
	Data     string
}

var eventColumns = []string{"shard", "position", "event_id::text", "kind", "tenant_id::text", "version", "metadata", "data::text"} //nolint:gochecknoglobals // constant

func (r historyEvent) event() proof.Event {
	return proof.Event{
		Shard: r.Shard, Position: events.Position(r.Position), ID: r.ID, Kind: events.Kind(r.Kind), TenantID: r.TenantID, Version: r.Version,
		Metadata: r.Metadata, Data: r.Data,
	}
}

// sealedLog is the log of a tenant and a shard. It only grows, so what is read of it at
// different moments fits together.
type sealedLog struct {
	db       DB
	tenantID string
	shard    int
}

// sealsOf returns the seals that events are under, and notes them with the events.
func (l sealedLog) sealsOf(ctx context.Context, list []proof.Event) ([]proof.ProvedSeal, error) {
	positions := make([]int64, len(list))
	for i, e := range list {
		positions[i] = int64(e.Position)
	}
	rows, err := query[proof.Seal](ctx, l.db, "seals", func(row pgx.CollectableRow, s *proof.Seal) error {
		var root []byte
		if err := row.Scan(&s.N, &s.Scope, &s.First, &s.Last, &s.Events, &root); err != nil {
			return err //nolint:wrapcheck // wrapped by query
		}
		return hashOf(root, &s.Root)
	}, `SELECT s.n, s.scope, s.first_position, s.last_position, s.events, s.root
FROM unnest($3::bigint[]) WITH ORDINALITY AS p(position, i) CROSS JOIN LATERAL (
    SELECT * FROM history_seals h WHERE h.tenant_id = $1::text::uuid AND h.shard = $2::smallint AND h.scope = 'message' AND h.first_position <= p.position
    ORDER BY h.first_position DESC LIMIT 1) s
WHERE s.last_position >= p.position ORDER BY p.i`, l.tenantID, l.shard, positions)
	if err != nil {
		return nil, err
	}
	if len(rows) < len(list) {
		return nil, ErrUnsealed
	}
	var seals []proof.ProvedSeal
	for i, s := range rows {
		if len(seals) == 0 || seals[len(seals)-1].N != s.N {
			seals = append(seals, proof.ProvedSeal{Seal: s})
		}
		list[i].Seal = s.N
	}
	return seals, nil
}

// addPaths adds to each event its place within its seal and the path from there, for
// which all that the seal seals is read.
func (l sealedLog) addPaths(ctx context.Context, d *proof.Document) error {
	next := 0
	for _, s := range d.Seals {
		leaves, places, err := l.leavesOf(ctx, s.Seal)
		if err != nil {
			return err
		}
		for ; next < len(d.Events) && d.Events[next].Seal == s.N; next++ {
			e := &d.Events[next]
			at, has := places[e.Position]
			if !has {
				return fmt.Errorf("seal %d of tenant %s and shard %d: %w", s.N, l.tenantID, l.shard, ErrNotAsSealed)
			}
			root, path, err := proof.Path(leaves, at)
			if err != nil {
				return err //nolint:wrapcheck // says what it does
			}
			if root != s.Root || int64(len(leaves)) != s.Events {
				return fmt.Errorf("seal %d of tenant %s and shard %d: %w", s.N, l.tenantID, l.shard, ErrNotAsSealed)
			}
			e.Index, e.Path = at, path
		}
	}
	return nil
}

// leavesOf returns the leaves of a seal's events as they are now, and which of them stands
// at a position.
func (l sealedLog) leavesOf(ctx context.Context, s proof.Seal) (leaves []tlog.Hash, places map[events.Position]int64, err error) {
	places = map[events.Position]int64{}
	leaves, err = query[tlog.Hash](ctx, l.db, "sealed events", func(row pgx.CollectableRow, h *tlog.Hash) error {
		r, err := pgx.RowToStructByPos[historyEvent](row)
		if err != nil {
			return err
		}
		places[events.Position(r.Position)] = int64(len(places))
		*h = r.event().Leaf()
		return nil
	}, `SELECT shard, position, event_id::text, kind, tenant_id::text, version, metadata, data::text FROM event_history
WHERE scope = $3 AND tenant_id = $1::text::uuid AND shard = $2::smallint AND position BETWEEN $4 AND $5 ORDER BY position`,
		l.tenantID, l.shard, s.Scope, int64(s.First), int64(s.Last))
	return leaves, places, err
}

// head is the log's head as it is now, not signed.
func (l sealedLog) head(ctx context.Context) (proof.Head, error) {
	return one(heads(ctx, l.db, "s.tenant_id = $1::text::uuid AND s.shard = $2::smallint", l.tenantID, l.shard))
}

// reader reads hashes of the log.
func (l sealedLog) reader(ctx context.Context) tlog.HashReaderFunc {
	return func(indexes []int64) ([]tlog.Hash, error) {
		hashes, err := query[tlog.Hash](ctx, l.db, "hashes", scanHash, `
SELECT h.hash FROM unnest($3::bigint[]) WITH ORDINALITY AS w(idx, i)
  JOIN history_hashes h ON h.tenant_id = $1::text::uuid AND h.shard = $2::smallint AND h.idx = w.idx ORDER BY w.i`, l.tenantID, l.shard, indexes)
		if err == nil && len(hashes) != len(indexes) {
			err = fmt.Errorf("hashes of tenant %s and shard %d are missing: %w", l.tenantID, l.shard, ErrNotAsSealed)
		}
		return hashes, err
	}
}

func scanHash(row pgx.CollectableRow, h *tlog.Hash) error {
	var raw []byte
	if err := row.Scan(&raw); err != nil {
		return err //nolint:wrapcheck // wrapped by query
	}
	return hashOf(raw, h)
}

func hashOf(raw []byte, h *tlog.Hash) error {
	if len(raw) != tlog.HashSize {
		return fmt.Errorf("a hash of %d bytes: %w", len(raw), ErrNotAsSealed)
	}
	*h = tlog.Hash(raw)
	return nil
}

// headsSQL skips from log to log by the seals' key, and reads of each the subtrees that it
// consists of. Its verb is a condition on seals s.
const headsSQL = `
WITH RECURSIVE logs AS (
    (SELECT s.tenant_id, s.shard, s.n FROM history_seals s WHERE %[1]s ORDER BY s.tenant_id DESC, s.shard DESC, s.n DESC LIMIT 1)
    UNION ALL
    SELECT s.* FROM logs l CROSS JOIN LATERAL (
        SELECT s.tenant_id, s.shard, s.n FROM history_seals s WHERE (s.tenant_id, s.shard) < (l.tenant_id, l.shard) AND %[1]s
         ORDER BY s.tenant_id DESC, s.shard DESC, s.n DESC LIMIT 1) s)
SELECT l.tenant_id::text, l.shard, l.n + 1, e.hash FROM logs l LEFT JOIN LATERAL history_edge(l.tenant_id, l.shard, l.n + 1) e ON true
 ORDER BY l.tenant_id, l.shard, e.level DESC`

// Heads returns the heads of a tenant's logs, or of all for no tenant, by tenant and
// shard, not signed.
func Heads(ctx context.Context, db DB, tenantID string) ([]proof.Head, error) {
	if tenantID == "" {
		return heads(ctx, db, "true")
	}
	return heads(ctx, db, "s.tenant_id = $1::text::uuid", tenantID)
}

// subtree is one that a log consists of.
type subtree struct {
	proof.Head

	hash tlog.Hash
}

func heads(ctx context.Context, db DB, condition string, args ...any) ([]proof.Head, error) {
	rows, err := query[subtree](ctx, db, "heads", func(row pgx.CollectableRow, s *subtree) error {
		var raw []byte
		if err := row.Scan(&s.TenantID, &s.Shard, &s.Size, &raw); err != nil {
			return err //nolint:wrapcheck // wrapped by query
		}
		return hashOf(raw, &s.hash)
	}, fmt.Sprintf(headsSQL, condition), args...)
	if err != nil {
		return nil, err
	}
	var list []proof.Head
	for from := 0; from < len(rows); {
		head := rows[from].Head
		var edge []tlog.Hash
		for ; from < len(rows) && rows[from].TenantID == head.TenantID && rows[from].Shard == head.Shard; from++ {
			edge = append(edge, rows[from].hash)
		}
		tree, err := proof.LoadTree(head.Size, edge)
		if err != nil {
			return nil, fmt.Errorf("tenant %s, shard %d: %w: %w", head.TenantID, head.Shard, ErrNotAsSealed, err)
		}
		head.Root = tree.Root()
		list = append(list, head)
	}
	return list, nil
}

// query runs SQL and reads its rows with scan.
func query[T any](ctx context.Context, db DB, what string, scan func(pgx.CollectableRow, *T) error, sql string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", what, classify(err))
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (T, error) {
		var v T
		err := scan(row, &v)
		return v, err
	})
	if errors.Is(err, ErrNotAsSealed) {
		return nil, err //nolint:wrapcheck // ours
	}
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", what, classify(err))
	}
	return list, nil
}
