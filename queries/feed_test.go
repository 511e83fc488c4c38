package queries

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

func setup(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	return pool
}

func tenantID(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }

// fill writes n message events a shard, of tenants in turn, and the checkpoints: event
// g of a shard is at position 10*g. Every rareth is a dead letter.
func fill(t testing.TB, pool *pgxpool.Pool, shards, n, tenants, rare, bytes int) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `
		INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
		SELECT s, 10*g, 'message', gen_random_uuid(), CASE WHEN g % $4 = 0 THEN 'message.dead_lettered' ELSE 'message.published' END,
		       ('00000000-0000-0000-0000-' || lpad((g % $3)::text, 12, '0'))::uuid, '00000000-0000-0000-0000-000000000099', gen_random_uuid()::text, 0, now(), '{}',
		       ('"' || repeat('x', $5 - 2) || '"')::json
		FROM generate_series(0, $1::int - 1) s, generate_series(1, $2::int) g`, shards, n, tenants, rare, bytes)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `INSERT INTO projection_checkpoints (projection, shard, position) SELECT 'read', s, 10*$2::bigint FROM generate_series(0, $1::int - 1) s`, shards, n)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `ANALYZE event_history`)
	require.NoError(t, err)
}

func feed(t testing.TB, pool *pgxpool.Pool, f FeedFilter, from []int64, limits FeedLimits) FeedPage {
	t.Helper()
	page, err := Feed(t.Context(), pool, f, from, limits)
	require.NoError(t, err)
	return page
}

var roomy = FeedLimits{Events: 500, Bytes: 1 << 20}

func TestFeedReadsAPageFromAnIndex(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	fill(t, pool, 4, 20_000, 10, 1000, 100)
	limits := FeedLimits{Events: 50, Bytes: 1 << 20}
	for name, tc := range map[string]struct {
		filter FeedFilter
		index  string
	}{
		"tenant":      {FeedFilter{TenantID: tenantID(7)}, "event_history_message_default_tenant_id_shard_position_idx"},
		"all tenants": {FeedFilter{AllTenants: true}, "event_history_message_default_pkey"},
		"kinds":       {FeedFilter{TenantID: tenantID(7), Kinds: []string{"message.failed"}}, "event_history_message_default_tenant_id_shard_position_idx"},
		"queue":       {FeedFilter{TenantID: tenantID(7), TopicID: tenantID(99), TopicShard: 2}, "event_history_message_default_tenant_id_shard_position_idx"},
		"message":     {FeedFilter{TenantID: tenantID(7), MessageID: "00000000-0001-7000-8000-000000000001"}, "event_history_message_default_message_id_position_idx"},
	} {
		q, err := tc.filter.query([]int64{50, 50, 50, 50}, limits)
		require.NoError(t, err)
		sql, args, err := q.ToSql()
		require.NoError(t, err)
		// behind the fence, where row-level security has a word in it
		fenced := postgres.AllTenants(pool)
		if !tc.filter.AllTenants {
			fenced = postgres.ForTenant(pool, tc.filter.TenantID)
		}
		rows, err := fenced.Query(t.Context(), "EXPLAIN (ANALYZE, TIMING OFF) "+sql, args...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		require.Contains(t, plan, tc.index, plan)
		require.NotContains(t, plan, "Seq Scan on event_history_message", plan)
		// of what is behind the place, a page's worth is read
		for _, line := range lines {
			if _, read, ok := strings.Cut(line, "actual rows="); ok && len(tc.filter.Kinds) == 0 && strings.Contains(line, "Scan using") {
				n, err := strconv.Atoi(read[:strings.IndexByte(read, ' ')])
				require.NoError(t, err)
				require.LessOrEqual(t, n, limits.Events+1, "%s:\n%s", name, plan)
			}
		}
	}
	var history, index int64
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT pg_table_size('event_history_message_default'), pg_relation_size('event_history_message_default_tenant_id_shard_position_idx')`).Scan(&history, &index))
	t.Logf("80,000 events of 100 bytes: table %d bytes, index %d", history, index)
}

func TestFeedIndexIsOnEveryPartition(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE event_history_message_20260331 PARTITION OF event_history_message FOR VALUES FROM (0) TO (1000)`)
	require.NoError(t, err)
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_indexes WHERE schemaname = current_schema()
		AND indexdef LIKE '%(tenant_id, shard, "position")' AND tablename IN ('event_history_admin', 'event_history_message_default', 'event_history_message_20260331')`).Scan(&n))
	require.Equal(t, 3, n)
}

// A filter that hardly any event passes: every query looks at so many and gets on.
func TestFeedGetsOnWhereNothingPasses(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	total := 2*feedExamineMax + 500
	fill(t, pool, 1, total, 1, total, 10)
	f := FeedFilter{TenantID: tenantID(0), Kinds: []string{"message.dead_lettered"}}
	page := feed(t, pool, f, []int64{0}, roomy)
	require.Empty(t, page.Events)
	require.False(t, page.CaughtUp)
	require.Equal(t, []int64{10 * feedExamineMax}, page.End())
	page = feed(t, pool, f, page.End(), roomy)
	require.Empty(t, page.Events)
	require.Equal(t, []int64{20 * feedExamineMax}, page.End())
	page = feed(t, pool, f, page.End(), roomy)
	require.Len(t, page.Events, 1)
	require.True(t, page.CaughtUp)
	require.Equal(t, []int64{int64(10 * total)}, page.End())
	// and a place beyond what is folded is never taken back
	require.Equal(t, []int64{int64(10*total) + 5}, feed(t, pool, f, []int64{int64(10*total) + 5}, roomy).End())
}

func TestFeedPagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	fill(t, pool, 2, 50, 1, 1000, 1000)
	all := feed(t, pool, FeedFilter{AllTenants: true}, []int64{0, 0}, roomy)
	require.Len(t, all.Events, 100)
	require.True(t, all.CaughtUp)
	var got []FeedEvent
	place, pages := []int64{0, 0}, 0
	for {
		page := feed(t, pool, FeedFilter{AllTenants: true}, place, FeedLimits{Events: 500, Bytes: 2500})
		got = append(got, page.Events...)
		place = page.End()
		if page.CaughtUp {
			break
		}
		require.Len(t, page.Events, 3) // the third begins within the limit
		pages++
	}
	require.Equal(t, 33, pages)
	require.Equal(t, all.Events, got)
	// one event that is larger than the limit goes alone
	require.Len(t, feed(t, pool, FeedFilter{AllTenants: true}, []int64{0, 0}, FeedLimits{Events: 500, Bytes: 1}).Events, 1)
}

// A shard that is behind is not passed over: its place stays at what it has folded.
func TestFeedWaitsForShardsThatAreBehind(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	fill(t, pool, 2, 20, 1, 1000, 10)
	_, err := pool.Exec(t.Context(), `DELETE FROM event_history WHERE shard = 1 AND position > 50`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `UPDATE projection_checkpoints SET position = 50 WHERE shard = 1`)
	require.NoError(t, err)
	page := feed(t, pool, FeedFilter{TenantID: tenantID(0)}, []int64{0, 0}, FeedLimits{Events: 15, Bytes: 1 << 20})
	require.Len(t, page.Events, 15)
	require.Equal(t, []int64{100, 50}, page.End())
	require.Equal(t, []int64{10, 9}, page.Place(0))
	require.Equal(t, []int64{10, 10}, page.Place(1))
	head, err := FeedHead(t.Context(), pool, 2)
	require.NoError(t, err)
	require.Equal(t, []int64{200, 50}, head)
}

func TestFeedIsTheTenantsOwn(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	fill(t, pool, 1, 30, 3, 1000, 10)
	for n := range 3 {
		page := feed(t, pool, FeedFilter{TenantID: tenantID(n)}, []int64{0}, roomy)
		require.Len(t, page.Events, 10)
		for _, e := range page.Events {
			require.Equal(t, tenantID(n), e.TenantID)
		}
	}
	_, err := Feed(t.Context(), pool, FeedFilter{}, []int64{0}, roomy)
	require.Error(t, err, "no tenant is not all of them")
}
