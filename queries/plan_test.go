package queries

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
)

// explaining notes plans in place of answers.
type explaining struct {
	DB

	t       *testing.T
	plan    string
	queries int
}

func (e *explaining) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	e.queries++
	e.read(e.DB.Query(ctx, "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) "+sql, args...))
	return nil, errors.New("explained")
}

// fillDelivery writes what a plan needs to be worth an index: dead letters and messages
// of 20 groups, and 40,000 events of two shards, at the positions of 10 s.
func fillDelivery(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO message_topics (id, name, topic_type, tenant_id, created_at, updated_at, version, shard)
			SELECT ('00000000-0000-0000-0001-' || lpad(n::text, 12, '0'))::uuid, 'q' || n, 'redis_stream', '00000000-0000-0000-0000-000000000001', now(), now(), 1, 0 FROM generate_series(0, 1999) n`,
		`INSERT INTO message_records (message_id, id, topic_id, tenant_id, shard, position)
			SELECT '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), gen_random_uuid(), ('00000000-0000-0000-0001-' || lpad((n % 20)::text, 12, '0'))::uuid, '00000000-0000-0000-0000-000000000001', 0, n FROM generate_series(1, 20000) n`,
		`INSERT INTO dead_letters (topic_id, consumer_group, message_id, attempt, attempts_before, subscription_id, tenant_id, partition_id, offset_value, reason, dead_at, position)
			SELECT ('00000000-0000-0000-0001-' || lpad((n % 20)::text, 12, '0'))::uuid, 'g', '00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 1, 0, gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 0, n, 'nack', now(), n::bigint << 20 FROM generate_series(1, 20000) n`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
			SELECT n % 2, n::bigint << 20, 'message', gen_random_uuid(), 'message.consumed', '00000000-0000-0000-0000-000000000001', ('00000000-0000-0000-0001-' || lpad((n % 20)::text, 12, '0'))::uuid,
			'00000000-0000-7000-8000-' || lpad(n::text, 12, '0'), 1, now(), '{}', '{"consumerGroup":"g"}' FROM generate_series(1, 40000) n`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, version, occurred_at, metadata, data)
			SELECT 0, n::bigint << 20, 'admin', gen_random_uuid(), 'subscription.updated', '00000000-0000-0000-0000-000000000001', ('00000000-0000-0000-0001-' || lpad((n % 200)::text, 12, '0'))::uuid,
			('00000000-0000-0000-0002-' || lpad((n % 1000)::text, 12, '0'))::uuid, 1, now(), '{}', '{}' FROM generate_series(1, 20000) n`,
		`INSERT INTO topic_counts SELECT id, 1000, 0 FROM message_topics`,
		`INSERT INTO group_counts SELECT id, 'g' || n, 0, 0, 0, 0, 0, 0, 0 FROM message_topics, generate_series(1, 5) n`,
		`INSERT INTO message_subscriptions (id, topic_id, consumer_group, consumer_name, subscription_type, handler_config, tenant_id, created_at, updated_at, version)
			SELECT gen_random_uuid(), id, 'g1', 'c', 'redis_consumer', '{}', tenant_id, now(), now(), 1 FROM message_topics`,
		`INSERT INTO message_schedules (id, topic_id, tenant_id, name, cron, time_zone, payload, sealed, status, created_at, updated_at, version)
			SELECT gen_random_uuid(), id, md5((version + abs(hashtext(id::text)) % 50)::text)::uuid, 's', '* * * * *', 'UTC', '1', false, 'active', now(), now(), 1 FROM message_topics, generate_series(1, 3) n`,
		`INSERT INTO delivery_jobs (id, tenant_id, kind, spec, status, created_by, created_at, updated_at)
			SELECT gen_random_uuid(), md5((n % 50)::text)::uuid, 'redrive', '{}', 'done', 'x', now(), now() FROM generate_series(1, 5000) n`,
		`INSERT INTO projection_checkpoints (projection, shard, position) VALUES ('read', 0, 40000::bigint << 20), ('read', 1, 40000::bigint << 20)`,
		`ANALYZE`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// Each list is one statement that an index answers in order, whatever there is beside it.
func TestReadsOfDeliveryUseIndexes(t *testing.T) {
	t.Parallel()
	pool := setup(t)
	fillDelivery(t, pool)
	const topicID = "00000000-0000-0000-0001-000000000007"
	md5of7 := "8f14e45f-ceea-167a-5a36-dedd4bea2543"
	for name, tc := range map[string]struct {
		tenantID string
		run      func(DB) error
		indexes  []string
	}{
		"dead letters": {tenantID(1), func(db DB) error {
			_, _, err := DeadLetters(t.Context(), db, tenantID(1), topicID, "g", DeadLetterFilter{}, Page{Limit: 50})
			return err
		}, []string{"dead_letters_position", "message_records_default_pkey"}},
		"dead letters of a time, a later page": {tenantID(1), func(db DB) error {
			f := DeadLetterFilter{From: time.UnixMilli(5000), To: time.UnixMilli(15000)}
			_, _, err := DeadLetters(t.Context(), db, tenantID(1), topicID, "g", f, Page{Limit: 50, After: []string{"6000000000"}})
			return err
		}, []string{"dead_letters_position", "message_records_default_pkey"}},
		"ledger": {tenantID(1), func(db DB) error {
			_, err := AccountOf(t.Context(), db, 0, topicID, "g1", 39_900<<positionTimeBits)
			return err
		}, []string{"event_history_message_default_", "group_counts_pkey", "topic_counts_pkey"}},
		"explanation": {tenantID(1), func(db DB) error {
			_, err := explainEvents(t.Context(), db, "00000000-0000-7000-8000-000000000007", topicID, "g1", Subscription{ID: "00000000-0000-0000-0002-000000000007", TenantID: tenantID(1)})
			return err
		}, []string{"event_history_message_default_message_id_position_idx", "event_history_admin_subscription_id_position_idx", "event_history_admin_topic_id_position_idx"}},
		"schedules": {md5of7, func(db DB) error {
			_, _, err := Schedules(t.Context(), db, md5of7, "", Page{Limit: 20})
			return err
		}, []string{"message_schedules_tenant"}},
		"jobs": {md5of7, func(db DB) error {
			_, _, err := Jobs(t.Context(), db, md5of7, JobFilter{}, Page{Limit: 20})
			return err
		}, []string{"delivery_jobs_tenant"}},
	} {
		for _, db := range []DB{pool, postgres.ForTenant(pool, tc.tenantID), postgres.AllTenants(pool)} {
			p := plan(t, db, tc.run)
			for _, index := range tc.indexes {
				require.Contains(t, p, index, "%s\n%s", name, p)
			}
			for _, table := range []string{"event_history_message", "event_history_admin", "message_records", "dead_letters", "group_counts", "topic_counts", "message_schedules", "delivery_jobs"} {
				require.NotContains(t, p, "Seq Scan on "+table, "%s\n%s", name, p)
			}
		}
	}
}
