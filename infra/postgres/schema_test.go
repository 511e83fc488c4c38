package postgres

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
)

func TestTheSchemaGoesUpToAVersion(t *testing.T) {
	t.Parallel()
	pool, err := Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	defer pool.Close()
	newest, err := NewestMigration()
	require.NoError(t, err)
	version := func() (v int64) {
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT max(version_id) FROM goose_db_version WHERE is_applied`).Scan(&v))
		return v
	}
	for _, step := range []struct{ to, is int64 }{{2, 2}, {1, 2}, {newest, newest}, {newest + 1, newest}} {
		require.NoError(t, MigrateTo(t.Context(), pool, slog.New(slog.DiscardHandler), step.to))
		require.Equal(t, step.is, version(), "to %d", step.to)
	}
}

func TestPartitionsOfDaysThatAreOver(t *testing.T) {
	t.Parallel()
	pool, err := Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	days := []time.Time{time.Date(2025, 2, 28, 0, 0, 0, 0, time.UTC), time.Date(2025, 3, 9, 0, 0, 0, 0, time.UTC)}
	for range 2 {
		require.NoError(t, EnsureDays(t.Context(), pool, days))
	}
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(current_schema())
		AND relispartition AND relkind = 'r' AND (relname LIKE '%\_20250228' OR relname LIKE '%\_20250309')`).Scan(&n))
	require.Equal(t, 6, n, "of each day one of each table")
}
