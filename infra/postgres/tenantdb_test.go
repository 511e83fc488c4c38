package postgres

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/queries"
)

// fenced are the tables that tenants read. What is not listed is closed to them.
var fenced = []string{
	"message_topics", "message_subscriptions", "message_records", "consumption_records", "event_history",
	"dead_letters", "message_schedules", "delivery_jobs", "history_seals", "history_hashes",
}

// counts are of topics and groups, which are tenants' by their subscriptions: they have no
// tenant of their own.
var counts = []string{"topic_counts", "group_counts"}

const (
	tenantA = "00000000-0000-0000-0000-00000000000a"
	tenantB = "00000000-0000-0000-0000-00000000000b"
)

// SQLSTATEs (PostgreSQL manual, appendix A).
const (
	invalidText       = "22P02"
	divisionByZero    = "22012"
	canceled          = "57014"
	syntaxError       = "42601"
	readOnly          = "25006"
	insufficientRight = "42501"
)

// addTenant gives a tenant a row in each table, of today, and a public topic beside.
func addTenant(t testing.TB, pool *pgxpool.Pool, tenantID string) {
	t.Helper()
	id := MessageIDBound(time.Now()) + "-7000-8000-" + tenantID[24:]
	position := time.Now().UnixMilli() << 20
	batch := &pgx.Batch{}
	for _, topic := range []struct {
		name, status string
		public       bool
	}{{"private", "active", false}, {"public", "active", true}, {"archived", "archived", true}} {
		batch.Queue(`INSERT INTO message_topics (id, name, topic_type, tenant_id, is_public, status, created_at, updated_at, version, shard)
			VALUES (gen_random_uuid(), $1, 'redis_stream', $2, $3, $4, now(), now(), 1, 0)`, topic.name, tenantID, topic.public, topic.status)
	}
	batch.Queue(`INSERT INTO message_subscriptions (id, topic_id, consumer_group, consumer_name, subscription_type, handler_config, tenant_id, created_at, updated_at, version)
		SELECT gen_random_uuid(), id, 'g', 'c', 'redis_consumer', '{}', tenant_id, now(), now(), 1 FROM message_topics WHERE tenant_id = $1`, tenantID)
	batch.Queue(`INSERT INTO message_records (message_id, id, topic_id, tenant_id, shard, position)
		SELECT $1::text, $1::text::uuid, id, tenant_id, 0, $2::bigint FROM message_topics WHERE tenant_id = $3 AND name = 'public'`, id, position, tenantID)
	batch.Queue(`INSERT INTO consumption_records (message_id, id, subscription_id, consumer_instance, status, tenant_id, attempt)
		VALUES ($1::text, $1::text::uuid, gen_random_uuid(), 'c', 'success', $2, 1)`, id, tenantID)
	batch.Queue(`INSERT INTO dead_letters (topic_id, consumer_group, message_id, attempt, attempts_before, subscription_id, tenant_id, partition_id, offset_value, reason, dead_at, position)
		VALUES (gen_random_uuid(), 'g', $1, 1, 0, gen_random_uuid(), $2, 0, 0, 'nack', now(), $3)`, id, tenantID, position)
	batch.Queue(`INSERT INTO message_schedules (id, topic_id, tenant_id, name, cron, time_zone, payload, sealed, status, created_at, updated_at, version)
		SELECT gen_random_uuid(), id, tenant_id, 's', '* * * * *', 'UTC', '1', false, 'active', now(), now(), 1 FROM message_topics WHERE tenant_id = $1 AND name = 'public'`, tenantID)
	batch.Queue(`INSERT INTO delivery_jobs (id, tenant_id, kind, spec, status, created_by, created_at, updated_at)
		VALUES (gen_random_uuid(), $1, 'redrive', '{}', 'done', 'x', now(), now())`, tenantID)
	batch.Queue(`INSERT INTO topic_counts (topic_id, published, scheduled) SELECT id, 1, 0 FROM message_topics WHERE tenant_id = $1`, tenantID)
	batch.Queue(`INSERT INTO group_counts (topic_id, consumer_group, base, replayed, consumed, dead, filtered, expired, purged)
		SELECT id, 'g', 0, 0, 0, 0, 0, 0, 0 FROM message_topics WHERE tenant_id = $1`, tenantID)
	batch.Queue(`INSERT INTO history_seals (tenant_id, shard, n, scope, first_position, last_position, events, root) VALUES ($1, 0, 0, 'message', $2, $2, 1, '')`, tenantID, position)
	batch.Queue(`INSERT INTO history_hashes (tenant_id, shard, idx, hash) VALUES ($1, 0, 0, '')`, tenantID)
	for _, scope := range []string{"admin", "message"} {
		batch.Queue(`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, version, occurred_at, metadata, data)
			VALUES (0, $1::bigint + $2::int, $3, gen_random_uuid(), 'k', $4, 1, now(), '{}', '{}')`, position, tenantID[35], scope, tenantID)
	}
	require.NoError(t, pool.SendBatch(t.Context(), batch).Close())
}

// setupTenants is a schema with two tenants.
func setupTenants(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := setup(t)
	require.NoError(t, EnsurePartitions(t.Context(), pool, time.Now()))
	addTenant(t, pool, tenantA)
	addTenant(t, pool, tenantB)
	return pool
}

func texts(t testing.TB, db queries.DB, sql string, args ...any) []string {
	t.Helper()
	list, err := tryTexts(t.Context(), db, sql, args...)
	require.NoError(t, err)
	return list
}

func tryTexts(ctx context.Context, db queries.DB, sql string, args ...any) ([]string, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func requireState(t testing.TB, err error, state ...string) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, state, refused.Code, refused.Message)
}

func TestAQueryThatForgetsTheTenantSeesItsRowsOnly(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	for _, table := range fenced {
		sql := `SELECT DISTINCT tenant_id::text FROM ` + table + ` ORDER BY 1`
		mine := sql
		if table == "message_topics" {
			mine = `SELECT DISTINCT tenant_id::text FROM message_topics WHERE NOT is_public OR status = 'archived'`
		}
		require.Equal(t, []string{tenantA}, texts(t, ForTenant(pool, tenantA), mine), table)
		require.Equal(t, []string{tenantB}, texts(t, ForTenant(pool, tenantB), mine), table)
		require.Equal(t, []string{tenantA, tenantB}, texts(t, AllTenants(pool), sql), table)
		require.Empty(t, texts(t, ForTenant(pool, "00000000-0000-0000-0000-00000000000c"), mine), table)
		require.Equal(t, []string{tenantA, tenantB}, texts(t, pool, sql), "the owner is not fenced in: %s", table)
	}
	// and the queries' own condition, with a tenant that is not the caller's, finds nothing
	_, err := queries.QueueByName(t.Context(), ForTenant(pool, tenantA), tenantA, "private")
	require.NoError(t, err)
	_, err = queries.QueueByName(t.Context(), ForTenant(pool, tenantA), tenantB, "private")
	require.ErrorIs(t, err, queries.ErrNotFound)
}

func TestPublicTopicsAreShownToEveryTenantWithoutTheirMessages(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	sql := `SELECT name FROM message_topics WHERE tenant_id = $1 ORDER BY 1`
	require.Equal(t, []string{"public"}, texts(t, ForTenant(pool, tenantA), sql, tenantB))
	require.Equal(t, []string{"archived", "private", "public"}, texts(t, ForTenant(pool, tenantB), sql, tenantB))
	require.Empty(t, texts(t, ForTenant(pool, tenantA), `SELECT message_id FROM message_records WHERE tenant_id = $1`, tenantB))
}

// A tenant sees the counts of the topics that it subscribes to, another tenant's too, and
// of no others.
func TestCountsAreShownToWhoSubscribes(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	named := func(table string) string {
		return `SELECT t.tenant_id || ' ' || t.name FROM ` + table + ` c JOIN message_topics t ON t.id = c.topic_id ORDER BY 1`
	}
	all := texts(t, pool, named("topic_counts"))
	require.Len(t, all, 6)
	exec(t, pool, `DELETE FROM message_subscriptions s USING message_topics t WHERE t.id = s.topic_id AND t.name = 'private'`,
		`INSERT INTO message_subscriptions (id, topic_id, consumer_group, consumer_name, subscription_type, handler_config, tenant_id, created_at, updated_at, version)
		 SELECT gen_random_uuid(), id, 'f', 'c', 'redis_consumer', '{}', '`+tenantA+`', now(), now(), 1 FROM message_topics WHERE tenant_id = '`+tenantB+`' AND name = 'public'`)
	for _, table := range counts {
		require.Equal(t, []string{tenantA + " archived", tenantA + " public", tenantB + " public"}, texts(t, ForTenant(pool, tenantA), named(table)), table)
		require.Equal(t, []string{tenantB + " archived", tenantB + " public"}, texts(t, ForTenant(pool, tenantB), named(table)), table)
		require.Equal(t, all, texts(t, AllTenants(pool), named(table)), table)
		require.Empty(t, texts(t, ForTenant(pool, "00000000-0000-0000-0000-00000000000c"), `SELECT topic_id::text FROM `+table), table)
	}
}

func TestWithoutATenantTheReaderSeesNothing(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SET LOCAL ROLE tallymq_reader`)
	require.NoError(t, err)
	for _, table := range fenced {
		require.Empty(t, texts(t, tx, `SELECT tenant_id::text FROM `+table), table)
	}
	for _, table := range counts {
		require.Empty(t, texts(t, tx, `SELECT topic_id::text FROM `+table), table)
	}
}

func TestATenantIsAUUIDAndNothingElse(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	for _, tenantID := range []string{
		"", "*", "'", "tenant", tenantA + " ", "' OR true --", tenantA + "' OR '1'='1", `'); RESET ROLE; --`, "\\", "{" + tenantA, tenantA + "," + tenantB,
	} {
		_, err := tryTexts(t.Context(), ForTenant(pool, tenantID), `SELECT tenant_id::text FROM message_records`)
		requireState(t, err, invalidText)
	}
	require.Zero(t, pool.Stat().AcquiredConns())
}

func TestTheReaderCannotWrite(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	for _, table := range slices.Concat(fenced, counts) {
		column := "tenant_id"
		if slices.Contains(counts, table) {
			column = "topic_id"
		}
		for _, sql := range []string{
			`INSERT INTO TABLE_ (COLUMN_) VALUES (gen_random_uuid()) RETURNING COLUMN_::text`, `UPDATE TABLE_ SET COLUMN_ = COLUMN_ RETURNING COLUMN_::text`,
			`DELETE FROM TABLE_ RETURNING COLUMN_::text`, `TRUNCATE TABLE_ CASCADE`, `SELECT COLUMN_::text FROM TABLE_ FOR UPDATE`, `DROP TABLE TABLE_`,
		} {
			sql = strings.NewReplacer("TABLE_", table, "COLUMN_", column).Replace(sql)
			for _, db := range []TenantDB{ForTenant(pool, tenantA), AllTenants(pool)} {
				_, err := tryTexts(t.Context(), db, sql)
				requireState(t, err, readOnly, insufficientRight)
			}
			// nor where the transaction may write
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), `SELECT set_config('role', 'tallymq_reader', true), set_config('tallymq.tenant', $1, true)`, tenantA)
				require.NoError(t, err)
				_, err = tx.Exec(t.Context(), sql)
				return err
			})
			requireState(t, err, insufficientRight)
		}
	}
}

func TestWhatTenantsDoNotReadIsClosedToThem(t *testing.T) {
	t.Parallel()
	pool := setupTenants(t)
	closed := texts(t, pool, `SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
		AND relkind IN ('r', 'p') AND relname <> ALL ($1::text[])`, slices.Concat(fenced, counts))
	today := "_" + time.Now().UTC().Format(nameLayout)
	require.Subset(t, closed, []string{
		"service_keys", "store_settings", "projection_checkpoints", "history_seal_origins", "event_history_admin", "event_history_message", "event_history_message" + today,
		"message_records_default", "message_records" + today, "consumption_records_default", "consumption_records" + today,
	})
	for _, table := range closed {
		for _, db := range []TenantDB{ForTenant(pool, tenantA), AllTenants(pool)} {
			_, err := tryTexts(t.Context(), db, `SELECT count(*)::text FROM `+table)
			requireState(t, err, insufficientRight)
		}
	}
}
