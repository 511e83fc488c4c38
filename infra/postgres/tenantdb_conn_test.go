package postgres

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/queries"
)

// oneConnection is a pool of the same database whose every user has the same connection.
func oneConnection(t testing.TB, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	cfg.MaxConns = 1
	single, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(single.Close)
	return single
}

// Whatever becomes of a query, the connection's next user is the owner again.
func TestTheFenceEndsWithItsQuery(t *testing.T) {
	t.Parallel()
	pool := oneConnection(t, setupTenants(t))
	const who = `SELECT concat_ws(' ', current_user, current_setting('tallymq.tenant', true), current_setting('transaction_read_only'))`
	want := texts(t, pool, `SELECT concat_ws(' ', session_user, '', 'off')`)
	db := ForTenant(pool, tenantA)
	require.Equal(t, []string{"tallymq_reader " + tenantA + " on"}, texts(t, db, who))
	for name, use := range map[string]func(ctx context.Context, t *testing.T){
		"rows are read": func(_ context.Context, t *testing.T) { texts(t, db, `SELECT tenant_id::text FROM message_records`) },
		"no statement": func(ctx context.Context, t *testing.T) {
			_, err := tryTexts(ctx, db, `SELEC`)
			requireState(t, err, syntaxError)
		},
		"an error at once": func(ctx context.Context, t *testing.T) {
			_, err := tryTexts(ctx, db, `SELECT secret::text FROM service_keys`)
			requireState(t, err, insufficientRight)
		},
		"an error among rows": func(ctx context.Context, t *testing.T) {
			list, err := tryTexts(ctx, db, `SELECT (1 / (5000 - n))::text FROM generate_series(1, 10000) n`)
			requireState(t, err, divisionByZero)
			require.Empty(t, list)
		},
		"rows are left": func(ctx context.Context, t *testing.T) {
			rows, err := db.Query(ctx, `SELECT n FROM generate_series(1, 100000) n`)
			require.NoError(t, err)
			require.True(t, rows.Next())
			rows.Close()
			rows.Close()
			require.NoError(t, rows.Err())
			require.False(t, rows.Next())
		},
		"a row does not fit": func(ctx context.Context, t *testing.T) {
			rows, err := db.Query(ctx, `SELECT 'text' FROM generate_series(1, 3)`)
			require.NoError(t, err)
			_, err = pgx.CollectRows(rows, pgx.RowTo[int])
			var unfit pgx.ScanArgError
			require.ErrorAs(t, err, &unfit)
		},
		"the caller leaves": func(ctx context.Context, t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			_, err := tryTexts(ctx, db, `SELECT pg_sleep(60)::text`)
			requireState(t, err, canceled)
		},
		"the caller had left": func(ctx context.Context, t *testing.T) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, err := tryTexts(ctx, db, `SELECT 'x'`)
			require.ErrorIs(t, err, context.Canceled)
		},
	} {
		backend := texts(t, pool, `SELECT pg_backend_pid()::text`)
		use(t.Context(), t)
		require.Zero(t, pool.Stat().AcquiredConns(), name)
		require.Equal(t, want, texts(t, pool, who), name)
		require.Equal(t, backend, texts(t, pool, `SELECT pg_backend_pid()::text`), "the connection is kept: %s", name)
		exec(t, pool, `UPDATE message_records SET retry_count = 0`)
	}
}

// That is a fault of the program, and may cost a connection.
func TestWrongArgumentsAreAnError(t *testing.T) {
	t.Parallel()
	pool := oneConnection(t, setup(t))
	for range 3 {
		_, err := tryTexts(t.Context(), ForTenant(pool, tenantA), `SELECT $1::text`)
		require.ErrorContains(t, err, "argument")
	}
	require.Equal(t, []string{"x"}, texts(t, ForTenant(pool, tenantA), `SELECT $1::text`, "x"))
}

// A statement is prepared once on a connection, whoever runs it.
func TestAPreparedStatementIsFencedForEachOfItsUsers(t *testing.T) {
	t.Parallel()
	pool := oneConnection(t, setupTenants(t))
	const sql = `SELECT tenant_id::text FROM consumption_records ORDER BY 1`
	for range 8 { // often enough for a generic plan
		require.Equal(t, []string{tenantA, tenantB}, texts(t, pool, sql))
		require.Equal(t, []string{tenantA}, texts(t, ForTenant(pool, tenantA), sql))
		require.Equal(t, []string{tenantB}, texts(t, ForTenant(pool, tenantB), sql))
		require.Equal(t, []string{tenantA, tenantB}, texts(t, AllTenants(pool), sql))
	}
	require.Equal(t, []string{"1"}, texts(t, pool, `SELECT count(*)::text FROM pg_prepared_statements WHERE statement = $1`, sql))
}

// countingConn counts what is sent.
type countingConn struct {
	net.Conn

	writes *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestAQueryBehindTheFenceIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	cfg := setupTenants(t).Config()
	cfg.MaxConns = 1
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return countingConn{conn, &writes}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	const sql = `SELECT message_id FROM message_records`
	texts(t, ForTenant(pool, tenantA), sql) // prepares
	before := writes.Load()
	require.Len(t, texts(t, ForTenant(pool, tenantA), sql), 1)
	require.Equal(t, int64(1), writes.Load()-before)
}

func TestAPoolThatIsClosedIsAnError(t *testing.T) {
	t.Parallel()
	pool, err := Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	pool.Close()
	rows, err := ForTenant(pool, tenantA).Query(t.Context(), `SELECT 1`)
	require.Error(t, err)
	require.False(t, rows.Next())
	require.Equal(t, err, rows.Err())
}

// The queries tell what passes by itself from a fault, as they do on a pool.
func TestErrorsAreToldApartBehindTheFence(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := queries.QueueByName(ctx, ForTenant(pool, tenantA), tenantA, "private")
	require.ErrorIs(t, err, queries.ErrUnavailable)
	_, err = queries.QueueByName(t.Context(), ForTenant(pool, "*"), tenantA, "private")
	requireState(t, err, invalidText)
	require.NotErrorIs(t, err, queries.ErrUnavailable)
}

func BenchmarkTenantQuery(b *testing.B) {
	pool := setupTenants(b)
	for _, bench := range []struct {
		name string
		db   queries.DB
	}{{"owner", pool}, {"tenant", ForTenant(pool, tenantA)}} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				_, err := queries.QueueByName(b.Context(), bench.db, tenantA, "private")
				require.NoError(b, err)
			}
		})
	}
}
