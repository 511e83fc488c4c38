package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

var silent = slog.New(slog.DiscardHandler)

func setup(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, Migrate(t.Context(), pool, silent))
	return pool
}

func partitions(t testing.TB, pool *pgxpool.Pool, table string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = to_regclass($1) ORDER BY 1`, table)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}

func TestMigrationsRunOnceHoweverManyInstancesStart(t *testing.T) {
	t.Parallel()
	url := devstack.TestPostgres(t)
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for range 4 {
		wg.Go(func() {
			pool, err := Open(context.Background(), url)
			if err == nil {
				defer pool.Close()
				err = Migrate(context.Background(), pool, silent)
			}
			if err == nil {
				err = EnsurePartitions(context.Background(), pool, time.Now())
			}
			errs <- err
		})
	}
	wg.Wait()
	for range 4 {
		require.NoError(t, <-errs)
	}
}

func TestADaysPartitionIsThereBeforeItBegins(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	now := time.Date(2026, 3, 31, 23, 59, 0, 0, time.UTC)
	require.NoError(t, EnsurePartitions(t.Context(), pool, now))
	want := []string{"20260330", "20260331", "20260401", "20260402", "20260403", "default"}
	for _, p := range partitioned {
		var names []string
		for _, day := range want {
			names = append(names, p.table+"_"+day)
		}
		require.Equal(t, names, partitions(t, pool, p.table))
	}
	// a day later one more is made, and those that are there are left alone
	require.NoError(t, EnsurePartitions(t.Context(), pool, now.Add(day)))
	require.Len(t, partitions(t, pool, "message_records"), len(want)+1)
}

// insert writes a message, its consumption and its event, as of a time.
func insert(t *testing.T, pool *pgxpool.Pool, at time.Time) string {
	t.Helper()
	id := MessageIDBound(at) + "-7000-8000-000000000001"
	position := at.UnixMilli() << 20
	for _, sql := range []string{
		`INSERT INTO message_records (message_id, id, topic_id, tenant_id, shard, position) VALUES ($1::text, $1::text::uuid, gen_random_uuid(), gen_random_uuid(), 0, $2::bigint)`,
		`INSERT INTO consumption_records (message_id, id, subscription_id, consumer_instance, status, tenant_id, attempt, offset_value) VALUES ($1::text, $1::text::uuid, gen_random_uuid(), 'c', 'success', gen_random_uuid(), 1, $2::bigint)`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, message_id, version, occurred_at, metadata, data)
		 VALUES (0, $2::bigint, 'message', $1::text::uuid, 'message.published', gen_random_uuid(), $1::text, 0, now(), '{}', '{}')`,
	} {
		_, err := pool.Exec(t.Context(), sql, id, position)
		require.NoError(t, err)
	}
	return id
}

func TestRetentionDropsWholeDays(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	today := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	for back := 6; back >= 0; back-- {
		require.NoError(t, EnsurePartitions(t.Context(), pool, today.Add(-time.Duration(back)*day)))
	}
	stray := insert(t, pool, today.Add(-100*day)) // older than any partition: in the default one
	var ids []string
	for back := 6; back >= 0; back-- {
		ids = append(ids, insert(t, pool, today.Add(-time.Duration(back)*day)))
	}
	var inDefault string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT message_id FROM message_records_default`).Scan(&inDefault))
	require.Equal(t, stray, inDefault)
	require.NoError(t, DropExpired(t.Context(), pool, today, 3*day, silent))
	for _, p := range partitioned {
		rows, err := pool.Query(t.Context(), fmt.Sprintf(`SELECT message_id FROM %s ORDER BY 1`, p.table))
		require.NoError(t, err)
		left, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Equal(t, ids[3:], left, p.table)
		require.NotContains(t, partitions(t, pool, p.table), p.table+"_20260327")
		require.Contains(t, partitions(t, pool, p.table), p.table+"_20260328")
	}
	// and the horizon says since when everything is kept, and never goes back
	horizon, err := Setting(t.Context(), pool, HorizonSetting)
	require.NoError(t, err)
	require.Equal(t, "2026-03-28T00:00:00Z", horizon)
	require.NoError(t, DropExpired(t.Context(), pool, today, 30*day, silent))
	horizon, err = Setting(t.Context(), pool, HorizonSetting)
	require.NoError(t, err)
	require.Equal(t, "2026-03-28T00:00:00Z", horizon)
}

func TestMessageIDBoundSortsWithIDs(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(0x0190_1234_5678)
	require.Equal(t, "01901234-5678", MessageIDBound(at))
	require.Less(t, MessageIDBound(at), "01901234-5678-7000-8000-000000000000")
	require.Greater(t, MessageIDBound(at), "01901234-5677-7fff-bfff-ffffffffffff")
}

func TestSettingsAndKeysAreFixedByWhoeverIsFirst(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	var wg sync.WaitGroup
	values, keys := make(chan string, 8), make(chan string, 8)
	for n := range 8 {
		wg.Go(func() {
			v, err := FixSetting(context.Background(), pool, "s", fmt.Sprint(n))
			if err != nil {
				v = err.Error()
			}
			k, err := ServiceKey(context.Background(), pool, "k")
			if err != nil {
				k = []byte(err.Error())
			}
			values <- v
			keys <- string(k)
		})
	}
	wg.Wait()
	value, key := <-values, <-keys
	require.Len(t, key, serviceKeyBytes)
	for range 7 {
		require.Equal(t, value, <-values)
		require.Equal(t, key, <-keys)
	}
	none, err := Setting(t.Context(), pool, "none")
	require.NoError(t, err)
	require.Empty(t, none)
}
