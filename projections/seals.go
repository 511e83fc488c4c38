package projections

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/proof"
)

// treesMax is how many tenants' trees a writer keeps; a tree is below 1 KiB.
const treesMax = 4096

// sealer seals what a shard's writer writes. It knows the trees of tenants that it sealed
// events of; they are right as long as nobody else writes, which the checkpoint's move
// sees to: a writer that failed is not used again, and its sealer goes with it.
type sealer struct {
	trees map[string]proof.Tree
	// begun says that the shard's origin is noted.
	begun bool
}

// sealed is what a batch adds to the logs.
type sealed struct {
	statements []statement
	// trees are the tenants' trees once the batch is committed.
	trees map[string]proof.Tree
}

// sealKey is what events of one batch have in common that are under one seal.
type sealKey struct {
	tenantID string
	scope    string
	day      int64
}

// openSeal is a seal to which events come.
type openSeal struct {
	proof.Seal

	key    sealKey
	leaves proof.Tree
}

const dayMs = int64(24 * time.Hour / time.Millisecond)

// scopeOf is the scope of history that an event is of, by what it is about.
func scopeOf(refs events.Refs) string {
	if refs.MessageID != "" {
		return scopeMessage
	}
	return scopeAdmin
}

// sealsOf puts records under seals, in the order of the seals' first events.
func sealsOf(records []events.Record) []*openSeal {
	var seals []*openSeal
	byKey := map[sealKey]*openSeal{}
	var completed []tlog.Hash
	for _, r := range records {
		key := sealKey{tenantID: strings.ToLower(r.TenantID), scope: scopeOf(events.RefsOf(r.Event)), day: r.Position.Ms() / dayMs}
		s := byKey[key]
		if s == nil {
			s = &openSeal{Seal: proof.Seal{Scope: key.scope, First: r.Position}, key: key}
			byKey[key], seals = s, append(seals, s)
		}
		s.Last = r.Position
		s.Events++
		completed = s.leaves.Add(completed[:0], events.Leaf(r.Event.Kind(), r))
	}
	return seals
}

// seal returns what is to be written with a batch: of each tenant a seal per scope and
// day, and the hashes of the subtrees that the seals complete.
func (w *writer) seal(ctx context.Context, shard int, from events.Position, records []events.Record) (sealed, error) {
	seals := sealsOf(records)
	out := sealed{trees: map[string]proof.Tree{}}
	if err := w.loadTrees(ctx, shard, seals, out.trees); err != nil {
		return out, err
	}
	sealCols, hashCols := columns{rows: len(seals)}, columns{rows: 2 * len(seals)}
	tenants, numbers, scopes, firsts, lasts, counts, roots := sealCols.uuid(), sealCols.int64(), sealCols.text(), sealCols.int64(), sealCols.int64(), sealCols.int32(), sealCols.hash()
	owners, indexes, hashes := hashCols.uuid(), hashCols.int64(), hashCols.hash()
	var stored []tlog.Hash
	for _, s := range seals {
		tree := out.trees[s.key.tenantID]
		s.N, s.Root = tree.Size(), s.leaves.Root()
		if err := tenants.uuid(s.key.tenantID); err != nil {
			return out, fmt.Errorf("seal events of shard %d: %w", shard, err)
		}
		numbers.int64(s.N)
		scopes.text(s.Scope)
		firsts.int64(int64(s.First))
		lasts.int64(int64(s.Last))
		counts.int32(int(s.Events))
		roots.json(s.Root[:])
		index := tlog.StoredHashIndex(0, s.N)
		stored = tree.Add(stored[:0], s.RecordHash(s.key.tenantID, shard))
		for n, h := range stored {
			_ = owners.uuid(s.key.tenantID) // it is a UUID, see above
			indexes.int64(index + int64(n))
			hashes.json(h[:])
		}
		out.trees[s.key.tenantID] = tree
	}
	number := binary.BigEndian.AppendUint16(nil, uint16(shard)) //nolint:gosec // a shard
	if !w.seals.begun {
		out.statements = append(out.statements, statement{sql: insertOrigin, params: [][]byte{number, bigint(int64(from))}})
	}
	out.statements = append(out.statements, sealCols.statement(insertSeals, number), hashCols.statement(insertHashes, number))
	return out, nil
}

const (
	insertOrigin = `INSERT INTO history_seal_origins (shard, position) VALUES ($1::smallint, $2::bigint) ON CONFLICT DO NOTHING`

	insertSeals = `
INSERT INTO history_seals (tenant_id, shard, n, scope, first_position, last_position, events, root)
SELECT u.tenant_id, $8::smallint, u.n, u.scope, u.first_position, u.last_position, u.events, u.root
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::bytea[])
  AS u(tenant_id, n, scope, first_position, last_position, events, root)`

	insertHashes = `
INSERT INTO history_hashes (tenant_id, shard, idx, hash)
SELECT u.tenant_id, $4::smallint, u.idx, u.hash FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS u(tenant_id, idx, hash)`

	selectTrees = `
SELECT t.tenant_id::text, s.n + 1, e.hash FROM unnest($1::uuid[]) AS t(tenant_id)
 CROSS JOIN LATERAL (SELECT n FROM history_seals h WHERE h.tenant_id = t.tenant_id AND h.shard = $2::smallint ORDER BY n DESC LIMIT 1) s
  LEFT JOIN LATERAL history_edge(t.tenant_id, $2::smallint, s.n + 1) e ON true
 ORDER BY t.tenant_id, e.level DESC`
)

// hash is a column of hashes, which are added as json is: as they are.
func (c *columns) hash() *array { return c.add(pgtype.ByteaOID, 32) }

// loadTrees puts the trees of the seals' tenants into trees, to grow there. Those that
// the writer does not know are read in one query.
func (w *writer) loadTrees(ctx context.Context, shard int, seals []*openSeal, trees map[string]proof.Tree) error {
	var missing columns
	ids := missing.uuid()
	for _, s := range seals {
		if _, has := trees[s.key.tenantID]; has {
			continue
		}
		known, has := w.seals.trees[s.key.tenantID]
		trees[s.key.tenantID] = known.Clone()
		if has {
			continue
		}
		if err := ids.uuid(s.key.tenantID); err != nil {
			return fmt.Errorf("seal events of shard %d: %w", shard, err)
		}
	}
	if ids.n == 0 {
		return nil
	}
	number := binary.BigEndian.AppendUint16(nil, uint16(shard)) //nolint:gosec // a shard
	result := w.conn.ExecParams(ctx, selectTrees, [][]byte{ids.param(), number}, []uint32{pgtype.UUIDArrayOID, pgtype.Int2OID}, binaryFormat, binaryFormat).Read()
	if result.Err != nil {
		return fmt.Errorf("load logs of shard %d: %w", shard, result.Err)
	}
	if err := parseTrees(result, trees); err != nil {
		return fmt.Errorf("load logs of shard %d: %w", shard, err)
	}
	return nil
}

// parseTrees reads rows of a tenant, its log's size, and a subtree's hash, of one tenant
// after another and largest subtrees first.
func parseTrees(result *pgconn.Result, trees map[string]proof.Tree) error {
	sizes, edges := map[string]int64{}, map[string][]tlog.Hash{}
	for _, row := range result.Rows {
		tenantID := string(row[0])
		sizes[tenantID] = int64(binary.BigEndian.Uint64(row[1])) //nolint:gosec // two's complement
		if len(row[2]) == tlog.HashSize {
			edges[tenantID] = append(edges[tenantID], tlog.Hash(row[2]))
		}
	}
	for tenantID, size := range sizes {
		tree, err := proof.LoadTree(size, edges[tenantID])
		if err != nil {
			return fmt.Errorf("tenant %s: hashes are missing: %w", tenantID, err)
		}
		trees[tenantID] = tree
	}
	return nil
}

// committed has the writer go on from a batch that was written.
func (s *sealer) committed(trees map[string]proof.Tree) {
	s.begun = true
	if s.trees == nil || len(s.trees)+len(trees) > treesMax {
		s.trees = make(map[string]proof.Tree, len(trees))
	}
	maps.Copy(s.trees, trees)
}
