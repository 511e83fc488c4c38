package projections

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/Masterminds/squirrel"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/proof"
)

// sealFindingsMax is how many findings a report has in words.
const sealFindingsMax = 50

// Pages of a verification of seals.
const (
	sealRowsPage = 2000
	sealsPage    = 1000
)

// SealReport is what [VerifySeals] found.
type SealReport struct {
	// Seals is how many were compared with history, and Events what they seal.
	Seals, Events int64
	// Dropped is how many seals were not: retention dropped what they seal.
	Dropped int64
	// Unsealed is how many events were written before there were seals.
	Unsealed int64
	// Wrong is how many seals, hashes and events are not as they should be, and Findings
	// names the first of them.
	Wrong    int64
	Findings []string
}

// OK reports whether history is what was sealed.
func (r SealReport) OK() bool { return r.Wrong == 0 }

// notef notes what is not as it should be.
func notef(r *SealReport, format string, args ...any) {
	r.Wrong++
	if len(r.Findings) < sealFindingsMax {
		r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
	}
}

// VerifySeals holds history against its seals: every event is under one seal and is what
// was sealed there, and every log has the seals and hashes that its records make. It works
// on one snapshot, so it may run while the service does; partitions are not dropped
// meanwhile. Events of o.Shards are read once, in order.
func VerifySeals(ctx context.Context, conn *pgx.Conn, o VerifyOptions) (SealReport, error) {
	var report SealReport
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Before the snapshot is taken: what retention drops and its horizon go together.
		if _, err := tx.Exec(ctx, `LOCK TABLE event_history IN ACCESS SHARE MODE`); err != nil {
			return fmt.Errorf("verify seals: %w", err)
		}
		horizon, err := sealHorizon(ctx, tx, o.HorizonSetting)
		if err != nil {
			return err
		}
		if err := verifyLogs(ctx, tx, &report); err != nil {
			return err
		}
		for shard := range o.Shards {
			v := sealCheck{tx: tx, shard: shard, horizon: horizon, report: &report, progress: o.Progress, open: map[sealOwner]*checkedSeal{}}
			if err := v.run(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return report, fmt.Errorf("verify seals: %w", err)
	}
	return report, nil
}

// sealHorizon is the position before which retention dropped messages' events, 0 for none.
// It is a day's first, and no seal is of two days.
func sealHorizon(ctx context.Context, tx pgx.Tx, setting string) (events.Position, error) {
	var value string
	err := tx.QueryRow(ctx, `SELECT coalesce((SELECT value FROM store_settings WHERE name = $1), '')`, setting).Scan(&value)
	if err != nil || value == "" {
		return 0, err //nolint:wrapcheck // the caller's own transaction
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return 0, fmt.Errorf("setting %s: %w", setting, err)
	}
	return events.MakePosition(at.UnixMilli(), 0), nil
}

// verifyLogs recomputes every log from its seals and compares the hashes that are stored
// of it, with which proofs are made.
func verifyLogs(ctx context.Context, tx pgx.Tx, report *SealReport) error {
	rows, err := tx.Query(ctx, `
SELECT s.tenant_id::text, s.shard, s.n, s.scope, s.first_position, s.last_position, s.events, s.root,
    (SELECT array_agg(h.hash ORDER BY h.idx) FROM history_hashes h WHERE h.tenant_id = s.tenant_id AND h.shard = s.shard
        AND h.idx >= stored_hash_index(0, s.n) AND h.idx < stored_hash_index(0, s.n + 1))
FROM history_seals s ORDER BY s.tenant_id, s.shard, s.n`)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	var tenantID, of string
	var shard, ofShard int
	var s proof.Seal
	var root []byte
	var stored [][]byte
	var tree proof.Tree
	var want []tlog.Hash
	_, err = pgx.ForEachRow(rows, []any{&tenantID, &shard, &s.N, &s.Scope, &s.First, &s.Last, &s.Events, &root, &stored}, func() error {
		if tenantID != of || shard != ofShard {
			tree, of, ofShard = proof.Tree{}, tenantID, shard
		}
		if s.N != tree.Size() {
			notef(report, "tenant %s, shard %d: seal %d follows where seal %d is missing", tenantID, shard, s.N, tree.Size())
		}
		if len(root) == tlog.HashSize {
			s.Root = tlog.Hash(root)
		}
		want = tree.Add(want[:0], s.RecordHash(tenantID, shard))
		if !sameHashes(want, stored) {
			notef(report, "tenant %s, shard %d: the hashes that are stored of seal %d are not its own: the seal or the hashes were changed", tenantID, shard, s.N)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	return verifyNoMoreHashes(ctx, tx, report)
}

func sameHashes(want []tlog.Hash, stored [][]byte) bool {
	if len(want) != len(stored) {
		return false
	}
	for i, h := range want {
		if !bytes.Equal(h[:], stored[i]) {
			return false
		}
	}
	return true
}

// verifyNoMoreHashes looks for hashes that stand after a log's last seal: its seals were
// taken away.
func verifyNoMoreHashes(ctx context.Context, tx pgx.Tx, report *SealReport) error {
	rows, err := tx.Query(ctx, `
SELECT h.tenant_id::text, h.shard, coalesce(s.n + 1, 0), count(*) FROM history_hashes h
  LEFT JOIN (SELECT tenant_id, shard, max(n) AS n FROM history_seals GROUP BY tenant_id, shard) s USING (tenant_id, shard)
 WHERE h.idx >= stored_hash_index(0, coalesce(s.n + 1, 0)) GROUP BY h.tenant_id, h.shard, s.n ORDER BY 1, 2`)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	var tenantID string
	var shard int
	var size, hashes int64
	_, err = pgx.ForEachRow(rows, []any{&tenantID, &shard, &size, &hashes}, func() error {
		notef(report, "tenant %s, shard %d: the log has %d seals, and %d hashes of more: seals were taken away", tenantID, shard, size, hashes)
		return nil
	})
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	return nil
}

// sealOwner is whose seals do not overlap one another.
type sealOwner struct{ tenantID, scope string }

// checkedSeal is a seal within whose positions the verification is.
type checkedSeal struct {
	proof.Seal

	tenantID string
	leaves   proof.Tree
}

// sealCheck goes through a shard's history and its seals at once, both in order.
type sealCheck struct {
	tx       pgx.Tx
	shard    int
	horizon  events.Position
	report   *SealReport
	progress func(int64)

	// origin is where seals begin, folded up to where history is written, last where the
	// last seal ends.
	origin, folded, last events.Position
	hasOrigin            bool
	open                 map[sealOwner]*checkedSeal
	// next are the seals to come, of a cursor that has no more once ended.
	next    []*checkedSeal
	ended   bool
	scratch []tlog.Hash
}

func (v *sealCheck) run(ctx context.Context) error {
	err := v.tx.QueryRow(ctx, `
SELECT coalesce(o.position, 0), o.position IS NOT NULL, coalesce((SELECT c.position FROM projection_checkpoints c WHERE c.projection = $2 AND c.shard = s.shard), 0)
FROM (SELECT $1::smallint AS shard) s LEFT JOIN history_seal_origins o USING (shard)`, v.shard, Name).Scan(&v.origin, &v.hasOrigin, &v.folded)
	if err != nil {
		return fmt.Errorf("shard %d: %w", v.shard, err)
	}
	_, err = v.tx.Exec(ctx, fmt.Sprintf(`DECLARE seals_%d CURSOR FOR
		SELECT tenant_id::text, n, scope, first_position, last_position, events, root FROM history_seals WHERE shard = %d ORDER BY first_position, tenant_id, n`, v.shard, v.shard))
	if err != nil {
		return fmt.Errorf("seals of shard %d: %w", v.shard, err)
	}
	var after historyPlace
	limit := uint64(verifyFirstPage)
	for {
		rows, err := readRows(ctx, v.tx, v.shard, after, limit)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		// Postgres weighs all that it is asked for: not much more than fits is asked for.
		limit = min(sealRowsPage, max(verifyFirstPage, 2*uint64(len(rows))))
		for i := range rows {
			if err := v.row(ctx, &rows[i]); err != nil {
				return err
			}
		}
		after = rows[len(rows)-1].place()
		if v.progress != nil {
			v.progress(v.report.Events)
		}
	}
	if err := v.openUpTo(ctx, 1<<63-1); err != nil {
		return err
	}
	for owner := range v.open {
		v.close(owner)
	}
	if ends := max(v.origin, v.last); v.hasOrigin && ends != v.folded {
		notef(v.report, "shard %d: its seals end at %d, and history was written up to %d: seals were taken away, or the checkpoint was moved", v.shard, ends, v.folded)
	}
	return nil
}

// row puts a row of history under its seal.
func (v *sealCheck) row(ctx context.Context, r *historyRow) error {
	at := events.Position(r.Position)
	if err := v.openUpTo(ctx, at); err != nil {
		return err
	}
	owner := sealOwner{r.TenantID, r.Scope}
	if s := v.open[owner]; s != nil && s.Last < at {
		v.close(owner)
	}
	if s := v.open[owner]; s != nil {
		v.scratch = s.leaves.Add(v.scratch[:0], events.Leaf(events.Kind(r.Kind), r.record(v.shard)))
		v.report.Events++
	} else if v.hasOrigin && at > v.origin {
		notef(v.report, "tenant %s, shard %d: event %s at %d (%s) is under no seal: it was put there, or written by an older program",
			r.TenantID, v.shard, r.EventID, r.Position, r.Kind)
	} else {
		v.report.Unsealed++
	}
	if problem := r.problem(); problem != "" {
		notef(v.report, "tenant %s, shard %d: event %s at %d (%s): %s", r.TenantID, v.shard, r.EventID, r.Position, r.Kind, problem)
	}
	return nil
}

// openUpTo opens the seals that begin at a position or before it.
func (v *sealCheck) openUpTo(ctx context.Context, at events.Position) error {
	for {
		if len(v.next) == 0 && !v.ended {
			if err := v.fetch(ctx); err != nil {
				return err
			}
		}
		if len(v.next) == 0 || v.next[0].First > at {
			return nil
		}
		s := v.next[0]
		v.next = v.next[1:]
		v.checkOrigin(s)
		v.last = max(v.last, s.Last)
		if s.Scope == scopeMessage && s.Last < v.horizon {
			v.report.Dropped++
			continue
		}
		owner := sealOwner{s.tenantID, s.Scope}
		if before := v.open[owner]; before != nil {
			if before.Last >= s.First {
				notef(v.report, "tenant %s, shard %d: seals %d and %d are both of position %d", s.tenantID, v.shard, before.N, s.N, s.First)
			}
			v.close(owner)
		}
		v.open[owner] = s
	}
}

// checkOrigin reports seals that begin where none can be. Where it is not known where they
// may, it is with the first.
func (v *sealCheck) checkOrigin(s *checkedSeal) {
	switch {
	case !v.hasOrigin:
		notef(v.report, "shard %d: it is not known any more where its seals begin: history_seal_origins was changed", v.shard)
		v.hasOrigin, v.origin = true, s.First-1
	case s.First <= v.origin:
		notef(v.report, "tenant %s, shard %d: seal %d is of position %d, and seals begin after %d: history_seal_origins was changed", s.tenantID, v.shard, s.N, s.First, v.origin)
	}
}

func (v *sealCheck) fetch(ctx context.Context) error {
	rows, err := v.tx.Query(ctx, fmt.Sprintf(`FETCH %d FROM seals_%d`, sealsPage, v.shard))
	if err != nil {
		return fmt.Errorf("seals of shard %d: %w", v.shard, err)
	}
	v.next, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*checkedSeal, error) {
		s := &checkedSeal{}
		var root []byte
		if err := row.Scan(&s.tenantID, &s.N, &s.Scope, &s.First, &s.Last, &s.Events, &root); err != nil {
			return nil, err //nolint:wrapcheck // wrapped below
		}
		if len(root) == tlog.HashSize {
			s.Root = tlog.Hash(root)
		}
		return s, nil
	})
	if err != nil {
		return fmt.Errorf("seals of shard %d: %w", v.shard, err)
	}
	v.ended = len(v.next) < sealsPage
	return nil
}

// close compares a seal with what was found of it.
func (v *sealCheck) close(owner sealOwner) {
	s := v.open[owner]
	delete(v.open, owner)
	v.report.Seals++
	if s.leaves.Size() == s.Events && s.leaves.Root() == s.Root {
		return
	}
	notef(v.report, "tenant %s, shard %d, seal %d (%s events at %d to %d): history is not what was sealed: %d events were, and %d are there%s",
		s.tenantID, v.shard, s.N, s.Scope, s.First, s.Last, s.Events, s.leaves.Size(), changedWords(s.leaves.Size() == s.Events))
}

func changedWords(sameCount bool) string {
	if sameCount {
		return ", of which some were changed"
	}
	return ""
}

// historyRow is a row of event_history as it stands there, whatever was done to it.
type historyRow struct {
	Position       int64
	Scope          string
	EventID        string
	Kind           string
	TenantID       string
	TopicID        string
	SubscriptionID string
	MessageID      string
	Version        int64
	OccurredAt     time.Time
	Metadata       string
	Data           string
}

// historyPlace is the key of a shard's history.
type historyPlace struct {
	position int64
	scope    string
}

func (r *historyRow) place() historyPlace { return historyPlace{r.Position, r.Scope} }

// record is the row as a record, as far as its leaf is made of it.
func (r *historyRow) record(shard int) events.Record {
	var m historyMeta
	_ = json.Unmarshal([]byte(r.Metadata), &m) // problem tells
	return events.Record{
		Shard: shard, Position: events.Position(r.Position), ID: r.EventID, TenantID: r.TenantID, Version: r.Version, Data: []byte(r.Data),
		Meta: events.Meta{Actor: m.Actor, Platform: m.Platform == platformText(true), RequestID: m.RequestID, TraceParent: m.TraceParent, IdempotencyKey: m.IdempotencyKey, Fingerprint: m.Fingerprint},
	}
}

// problem says what of a row is not what its event makes it, "" for nothing. A leaf is not
// made of these columns, but queries go by them.
func (r *historyRow) problem() string {
	decoder := json.NewDecoder(bytes.NewReader([]byte(r.Metadata)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&historyMeta{}); err != nil {
		return "its metadata are not an event's"
	}
	e, err := events.Decode(events.Kind(r.Kind), []byte(r.Data))
	if err != nil {
		return "its data are not such an event's"
	}
	refs := events.RefsOf(e)
	for _, column := range []struct{ name, has, want string }{
		{"scope", r.Scope, scopeOf(refs)},
		{"topic_id", r.TopicID, refs.TopicID},
		{"subscription_id", r.SubscriptionID, refs.SubscriptionID},
		{"message_id", r.MessageID, refs.MessageID},
	} {
		if column.has != column.want {
			return fmt.Sprintf("column %s is %q, and the event says %q", column.name, column.has, column.want)
		}
	}
	if at := events.Position(r.Position).Time(); !r.OccurredAt.Equal(at) {
		return "column occurred_at is not the position's time"
	}
	return ""
}

// readRows reads a page of a shard's history.
func readRows(ctx context.Context, tx pgx.Tx, shard int, after historyPlace, limit uint64) ([]historyRow, error) {
	page := squirrel.Select("*", "sum(octet_length(h.data::text)) OVER (ORDER BY position, scope ROWS UNBOUNDED PRECEDING) AS weight").
		FromSelect(squirrel.Select("*").From("event_history").Where(squirrel.Eq{"shard": shard}).
			Where("position >= ? AND (position, scope) > (?, ?)", after.position, after.position, after.scope).OrderBy("position", "scope").Limit(limit), "h")
	sql, args, err := squirrel.Select("position", "scope", "event_id::text", "kind", "tenant_id::text", "coalesce(topic_id::text, '')",
		"coalesce(subscription_id::text, '')", "coalesce(message_id, '')", "version", "occurred_at", "metadata::text", "data::text").
		FromSelect(page, "w").Where("weight - octet_length(data::text) < ?", BatchBytesMax).
		OrderBy("position", "scope").PlaceholderFormat(squirrel.Dollar).ToSql()
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[historyRow])
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return list, nil
}
