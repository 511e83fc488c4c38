package queries

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/proof"
)

var proofKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// proved returns a message's proof, signed and checked.
func (a *asking) proved(messageID string, since proof.Heads, o proof.CheckOptions) proof.Document {
	a.t.Helper()
	d, err := Proof(a.t.Context(), postgres.ForTenant(a.pool, tenantID(1)), tenantID(1), messageID, since)
	require.NoError(a.t, err)
	d.Head, d.PublicKey = d.Head.Sign(proofKey), proofKey.Public().(ed25519.PublicKey)
	require.NoError(a.t, d.Check(o))
	return d
}

// heads are all heads now, signed.
func (a *asking) heads() proof.Heads {
	a.t.Helper()
	list, err := Heads(a.t.Context(), postgres.AllTenants(a.pool), "")
	require.NoError(a.t, err)
	for i := range list {
		list[i] = list[i].Sign(proofKey)
	}
	return proof.Heads{Format: proof.FormatHeads, Heads: list}
}

// A message's proof as its tenant asks for it, from its publication on through its life;
// logs of others grow beside it.
func TestAMessageIsProvedThroughItsLife(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	sub := a.subscribe(a.caller, "orders", "g")
	other := a.caller
	other.TenantID = tenantID(2)
	_, _, err := a.CreateQueue(t.Context(), other, commands.CreateQueue{ID: newID(), Name: "others"})
	require.NoError(t, err)
	var ids []string
	for n := range 20 {
		ids = append(ids, a.publish(commands.Publish{Payload: fmt.Appendf(nil, `{"n": %d}`, n)}).MessageID)
		if n%7 == 0 {
			a.foldAll(a.topicID)
		}
	}
	a.foldAll(a.topicID)
	first := a.proved(ids[0], proof.Heads{}, proof.CheckOptions{})
	require.Len(t, first.Events, 1)
	require.Contains(t, first.Events[0].Data, `"payload":{"n": 0}`)
	early := a.heads()
	require.Len(t, early.Heads, 2)
	require.Equal(t, tenantID(1), early.Heads[0].TenantID)

	_, err = a.Ack(t.Context(), a.caller, sub, []string{a.pull(sub).AckToken})
	require.NoError(t, err)
	a.foldAll(a.topicID)
	later := a.proved(ids[0], early, proof.CheckOptions{Old: early.Heads[0]})
	require.Len(t, later.Events, 2)
	require.Equal(t, early.Heads[0].Size, later.Since.Size)
	require.Greater(t, later.Head.Size, later.Since.Size)
	for _, id := range ids {
		a.proved(id, early, proof.CheckOptions{Old: early.Heads[0]})
	}
	// What was proved before is good as it was, and heads are those of the proofs.
	require.NoError(t, first.Check(proof.CheckOptions{}))
	mine, err := Heads(t.Context(), postgres.ForTenant(a.pool, tenantID(1)), tenantID(1))
	require.NoError(t, err)
	require.Equal(t, []proof.Head{later.Head}, []proof.Head{mine[0].Sign(proofKey)})

	// Others' messages are not there, nor is a log that is longer than it is.
	owner, err := MessageTenant(t.Context(), postgres.AllTenants(a.pool), ids[0])
	require.NoError(t, err)
	require.Equal(t, tenantID(1), owner)
	for _, tenant := range []string{tenantID(1), tenantID(2)} {
		_, err = Proof(t.Context(), postgres.ForTenant(a.pool, tenantID(2)), tenant, ids[0], proof.Heads{})
		require.ErrorIs(t, err, ErrNotFound)
	}
	none, err := Heads(t.Context(), postgres.ForTenant(a.pool, tenantID(3)), tenantID(1))
	require.NoError(t, err)
	require.Empty(t, none)
	long := early
	long.Heads[0].Size = 1000
	_, err = Proof(t.Context(), a.pool, tenantID(1), ids[0], long)
	require.ErrorContains(t, err, "cannot have grown from 1000")
}

func TestWhatIsNotAsSealedIsNotProved(t *testing.T) {
	t.Parallel()
	a := newAsking(t)
	ids := []string{a.publish(commands.Publish{Payload: []byte(`"mine"`)}).MessageID, a.publish(commands.Publish{}).MessageID}
	a.foldAll(a.topicID)
	exec := func(sql string, args ...any) {
		tag, err := a.pool.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
		require.Positive(t, tag.RowsAffected())
	}
	// Erased, it is proved as it was.
	exec(`UPDATE event_history SET data = replace(data::text, '"mine"', $1)::json WHERE message_id = $2`, fmt.Sprintf(`null,"erasedSha256":"%x"`, sha256.Sum256([]byte(`"mine"`))), ids[0])
	d := a.proved(ids[0], proof.Heads{}, proof.CheckOptions{})
	require.Contains(t, d.Events[0].Data, "erasedSha256")
	a.proved(ids[1], proof.Heads{}, proof.CheckOptions{})
	// Changed, neither is what stands under the same seal.
	exec(`UPDATE event_history SET data = replace(data::text, '"partition":0', '"partition":1')::json WHERE message_id = $1`, ids[0])
	_, err := Proof(t.Context(), a.pool, tenantID(1), ids[0], proof.Heads{})
	require.ErrorIs(t, err, ErrNotAsSealed)
	exec(`DELETE FROM history_hashes`)
	_, err = Heads(t.Context(), a.pool, "")
	require.ErrorIs(t, err, ErrNotAsSealed)
	exec(`DELETE FROM history_seals`)
	_, err = Proof(t.Context(), a.pool, tenantID(1), ids[0], proof.Heads{})
	require.ErrorIs(t, err, ErrUnsealed)
}

func TestAProofHasOnlySoManyEvents(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	id := newID()
	_, err := pool.Exec(t.Context(), `
		INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
		SELECT 0, (extract(epoch FROM now()) * 1000)::bigint * 1048576 + g, 'message', gen_random_uuid(), 'message.consumed', $1, gen_random_uuid(), $2, 0, now(), '{}', '{}' FROM generate_series(1, $3) g`,
		tenantID(1), id, ProofEventsMax+1)
	require.NoError(t, err)
	_, err = Proof(t.Context(), pool, tenantID(1), id, proof.Heads{})
	require.ErrorIs(t, err, ErrProofTooLong)
}

// Each read for a proof is answered by an index, however many logs there are beside it.
func TestProofsUseIndexes(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	for _, sql := range []string{
		`INSERT INTO history_seals SELECT ('00000000-0000-0000-0000-' || lpad((g % 50)::text, 12, '0'))::uuid, s, g / 50, 'message', g * 1000, g * 1000 + 999, 1, sha256('x') FROM generate_series(0, 3) s, generate_series(0, 9999) g`,
		`INSERT INTO history_hashes SELECT ('00000000-0000-0000-0000-' || lpad((g % 50)::text, 12, '0'))::uuid, s, g / 50, sha256('x') FROM generate_series(0, 3) s, generate_series(0, 19999) g`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
			SELECT g % 4, g, 'message', gen_random_uuid(), 'message.consumed', ('00000000-0000-0000-0000-' || lpad((g % 50)::text, 12, '0'))::uuid, gen_random_uuid(), gen_random_uuid()::text, 1, now(), '{}', '{}' FROM generate_series(1, 40000) g`,
		`ANALYZE`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	for name, tc := range map[string]struct {
		run   func(l sealedLog) error
		index string
	}{
		"seals": {func(l sealedLog) error {
			_, err := l.sealsOf(t.Context(), []proof.Event{{Position: 5_000_000}, {Position: 6_000_000}})
			return err
		}, "history_seals_position"},
		"events": {func(l sealedLog) error {
			_, _, err := l.leavesOf(t.Context(), proof.Seal{Scope: "message", First: 2000, Last: 2999})
			return err
		}, "event_history_message_default_"},
		"head":   {func(l sealedLog) error { _, err := l.head(t.Context()); return err }, "history_seals_pkey"},
		"heads":  {func(l sealedLog) error { _, err := Heads(t.Context(), l.db, l.tenantID); return err }, "history_hashes_pkey"},
		"hashes": {func(l sealedLog) error { _, err := l.reader(t.Context())([]int64{1, 2, 300}); return err }, "history_hashes_pkey"},
	} {
		for _, db := range []DB{pool, postgres.ForTenant(pool, tenantID(7)), postgres.AllTenants(pool)} {
			p := plan(t, db, func(db DB) error { return tc.run(sealedLog{db: db, tenantID: tenantID(7), shard: 2}) })
			require.Contains(t, p, tc.index, "%s\n%s", name, p)
			for line := range strings.SplitSeq(p, "\n") {
				require.NotContains(t, line, "Seq Scan on history_", "%s\n%s", name, p)
				require.NotContains(t, line, "Seq Scan on event_history", "%s\n%s", name, p)
				var filtered int
				if _, err := fmt.Sscanf(strings.TrimSpace(line), "Rows Removed by Filter: %d", &filtered); err == nil {
					require.Less(t, filtered, 1000, "%s\n%s", name, p)
				}
			}
		}
	}
}

// The store's arithmetic of hashes is tlog's.
func TestTheStoreKnowsWhereHashesStand(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	rows, err := pool.Query(t.Context(), `SELECT level, n, stored_hash_index(level, n) FROM generate_series(0, 40) level, unnest(ARRAY[0, 1, 2, 3, 7, 8, 100, 12345, 1048575]::bigint[]) n`)
	require.NoError(t, err)
	var level int
	var n, index int64
	_, err = pgx.ForEachRow(rows, []any{&level, &n, &index}, func() error {
		if got := tlog.StoredHashIndex(level, n); got != index {
			return fmt.Errorf("level %d, %d: %d, not %d", level, n, index, got)
		}
		return nil
	})
	require.NoError(t, err)
}
