package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
)

// A page is read from the index, in its order, from behind the offset, with as many
// partitions as there may be: no sort, no sequential scan, and no partition before the
// offset is touched.
func TestAPageIsReadFromTheIndex(t *testing.T) {
	t.Parallel()
	s := setup(t, 1)
	now := time.Now()
	for n := range 30 {
		require.NoError(t, postgres.EnsurePartitions(t.Context(), s.pool, now.AddDate(0, 0, -n)))
	}
	// 30 days, of which each has 2,000 events of two shards and of tenants of all sizes
	s.exec(`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, message_id, version, occurred_at, metadata, data)
		SELECT n / 30 % 2, (((extract(epoch FROM now()) * 1000)::bigint - (n % 30) * 86400000::bigint) << 20) + n, CASE WHEN n / 60 % 10 = 0 THEN 'admin' ELSE 'message' END, gen_random_uuid(), 'message.consumed',
			md5((ln(n + 1)::int)::text)::uuid, n::text, 0, now(), '{}', '{}' FROM generate_series(1, 60000) n`)
	s.exec(`ANALYZE event_history`)
	offset := now.AddDate(0, 0, -10).UnixMilli() << 20
	rare := "c4ca4238-a0b9-2382-0dcc-509a6f75849b" // md5('1')
	conn, err := s.open(Config{Group: "audit"}).pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for name, tc := range map[string]struct {
		reader reader
		index  string
	}{
		"all":          {reader{group: "audit", shard: 1}, "event_history_message_" + now.UTC().Format("20060102") + "_pkey"},
		"one tenant's": {reader{group: "audit", tenantID: rare, shard: 1}, "event_history_message_" + now.UTC().Format("20060102") + "_tenant_id_shard_position_idx"},
	} {
		s.place(tc.reader, offset)
		query := pageQuery(t, tc.reader, BatchEventsDefault)
		_, err := conn.Exec(t.Context(), `DEALLOCATE ALL; PREPARE page AS `+query.Query)
		require.NoError(t, err)
		// as it is planned for one offset, and for any, which is what a long-lived connection uses
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			_, err = conn.Exec(t.Context(), `SET plan_cache_mode = `+mode)
			require.NoError(t, err)
			rows, err := conn.Query(t.Context(), fmt.Sprintf(`EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE page('%s', '%s', %d)`, query.Args...))
			require.NoError(t, err)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			plan := strings.Join(lines, "\n")
			require.Contains(t, plan, "Index Scan using "+tc.index, "%s %s\n%s", name, mode, plan)
			require.NotContains(t, plan, "Seq Scan on event_history", "%s %s\n%s", name, mode, plan)
			require.NotContains(t, plan, "->  Sort", "%s %s\n%s", name, mode, plan)
			require.NotContains(t, plan, "Incremental", "%s %s\n%s", name, mode, plan)
			// what is before the offset is looked at in no plan
			for _, line := range lines {
				if strings.Contains(line, now.UTC().AddDate(0, 0, -20).Format("20060102")) {
					require.Contains(t, line, "never executed", "%s %s\n%s", name, mode, plan)
				}
			}
			t.Logf("%s, %s\n%s", name, mode, plan)
		}
	}
}
