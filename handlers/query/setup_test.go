package query

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/queries"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// Ids of what fill writes.
const (
	tenant  = "00000000-0000-0000-0000-000000000001"
	other   = "00000000-0000-0000-0000-000000000002"
	topicID = "00000000-0000-0000-0001-000000000001"
	subID   = "00000000-0000-0000-0002-000000000001"
	// foreignID is the other tenant's subscription of the queue.
	foreignID  = "00000000-0000-0000-0002-000000000002"
	scheduleID = "00000000-0000-0000-0003-000000000001"
	jobID      = "00000000-0000-0000-0004-000000000001"
	// messageID and its successors died.
	messageID = "019aba3c-4f00-7000-8000-000000000001"
	waitingID = "019aba3c-4f00-7000-8000-000000000009"
)

// second is the position of a second since the messages' ids were made.
const second = int64(1000) << 20

// base is the position at which the messages were published.
var base = time.Date(2025, 11, 25, 12, 0, 0, 0, time.UTC).UnixMilli() << 20

// testBundle is the query API on rows behind the fence.
type testBundle struct {
	t    testing.TB
	pool *pgxpool.Pool
	deps Deps
	who  web.Identity
}

func setup(t testing.TB) *testBundle {
	t.Helper()
	pool, err := postgres.Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	b := &testBundle{t: t, pool: pool, who: web.Identity{TenantID: tenant, Scopes: []string{web.ScopeRead}}}
	b.deps = Deps{
		DB:      func(tenantID string) queries.DB { return postgres.ForTenant(pool, tenantID) },
		Cursors: web.Cursors{Key: []byte("key")}, MessageIDBound: postgres.MessageIDBound, Logger: slog.New(slog.DiscardHandler),
		AllTenants: func() queries.DB { return postgres.AllTenants(pool) },
		Open: func(_ context.Context, tenantID, topic, id string, payload []byte) ([]byte, error) {
			if tenantID != tenant || topic != topicID || id != scheduleID {
				return nil, errors.New("sealed for another")
			}
			return bytes.Trim(payload, `"`), nil
		},
		LedgerLive: func(context.Context, queries.QueueRef, string) (LedgerLive, error) {
			return LedgerLive{Position: base + 100*second}, nil
		},
		WaitFolded: func(context.Context, int, int64) error { return nil },
		NextTick:   func(string, string, time.Time) (time.Time, error) { return time.UnixMilli(1_800_000_000_000), nil },
	}
	b.fill()
	return b
}

// fill writes a public queue with a subscription of each of two tenants: three dead
// letters of the one, one of the other, and what an account and an explanation need.
func (b *testBundle) fill() {
	b.t.Helper()
	for _, sql := range []string{
		`INSERT INTO message_topics (id, name, topic_type, is_public, tenant_id, created_at, updated_at, version, shard) VALUES ('` + topicID + `', 'orders', 'redis_stream', true, '` + tenant + `', now(), now(), 1, 0)`,
		`INSERT INTO message_subscriptions (id, topic_id, consumer_group, consumer_name, subscription_type, handler_config, tenant_id, created_at, updated_at, version)
			VALUES ('` + subID + `', '` + topicID + `', 'g', 'c', 'redis_consumer', '{}', '` + tenant + `', now(), now(), 1), ('` + foreignID + `', '` + topicID + `', 'g', 'c', 'redis_consumer', '{}', '` + other + `', now(), now(), 1)`,
		`INSERT INTO message_records (message_id, id, topic_id, message_key, headers, payload, payload_size, partition_id, offset_value, published_at, tenant_id, shard, position)
			SELECT '019aba3c-4f00-7000-8000-' || lpad(n::text, 12, '0'), gen_random_uuid(), '` + topicID + `', 'k' || n, '{"h":"v"}', '"secret"', 8, 0, n, '2025-11-25T12:00:00Z', '` + tenant + `', 0, n FROM generate_series(1, 9) n`,
		`INSERT INTO dead_letters (topic_id, consumer_group, message_id, attempt, attempts_before, subscription_id, tenant_id, partition_id, offset_value, reason, error_message, status_code, dead_at, position)
			SELECT '` + topicID + `', CASE n WHEN 4 THEN '` + other + `:g' ELSE 'g' END, '019aba3c-4f00-7000-8000-' || lpad(n::text, 12, '0'), 4, 1, '` + subID + `', CASE n WHEN 4 THEN '` + other + `' ELSE '` + tenant + `' END::uuid,
			0, n, CASE n WHEN 2 THEN 'webhook' ELSE 'nack' END, 'no', CASE n WHEN 2 THEN 503 END, '2025-11-25T12:00:00Z'::timestamptz + n * interval '1 s', ` + num(base) + ` + n::bigint * ` + num(second) + ` FROM generate_series(1, 4) n`,
		`INSERT INTO topic_counts VALUES ('` + topicID + `', 10, 1)`,
		`INSERT INTO group_counts VALUES ('` + topicID + `', 'g', 2, 1, 3, 3, 0, 0, 1), ('` + topicID + `', '` + other + `:g', 0, 0, 8, 1, 0, 0, 0)`,
		`INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, message_id, version, occurred_at, metadata, data) VALUES
			(0, ` + num(base) + `, 'message', gen_random_uuid(), 'message.published', '` + tenant + `', '` + topicID + `', NULL, '` + waitingID + `', 0, '2025-11-25T12:00:00Z', '{"actor":"a"}', '{"payload":"secret","partition":0,"offset":9}'),
			(0, ` + num(base+101*second) + `, 'message', gen_random_uuid(), 'message.published', '` + tenant + `', '` + topicID + `', NULL, gen_random_uuid(), 0, now(), '{}', '{}')`,
		`INSERT INTO projection_checkpoints (projection, shard, position) VALUES ('read', 0, ` + num(base+101*second) + `)`,
		`INSERT INTO message_schedules (id, topic_id, tenant_id, name, cron, time_zone, payload, sealed, status, created_at, updated_at, version, ttl_ms)
			VALUES ('` + scheduleID + `', '` + topicID + `', '` + tenant + `', 'daily', '0 8 * * *', 'UTC', '"1"', true, 'active', now(), now(), 3, 1000),
			('00000000-0000-0000-0003-000000000002', '` + topicID + `', '` + tenant + `', 'plain', '0 8 * * *', 'UTC', '{"a":1}', false, 'paused', now(), now(), 1, NULL)`,
		`INSERT INTO delivery_jobs (id, tenant_id, kind, spec, status, created_by, created_at, updated_at) VALUES ('` + jobID + `', '` + tenant + `', 'redrive', '{"subscriptionId":"` + subID + `"}', 'waiting', 'me', now(), now()),
			('00000000-0000-0000-0004-000000000002', '` + tenant + `', 'replay', '{}', 'done', 'me', now(), now())`,
	} {
		_, err := b.pool.Exec(b.t.Context(), sql)
		require.NoError(b.t, err, sql)
	}
}

func num(n int64) string { return strconv.FormatInt(n, 10) }

// answer is a response as a client sees it.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

func (b *testBundle) get(path string) answer {
	b.t.Helper()
	e := echo.New()
	e.HTTPErrorHandler = web.ErrorHandler(slog.New(slog.DiscardHandler))
	e.Use(web.RequestIDs, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			web.SetIdentity(c, b.who)
			return next(c)
		}
	})
	New(b.deps).Register(e.Group(""))
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	a := answer{status: rec.Code, header: rec.Header(), text: rec.Body.String()}
	require.NoError(b.t, json.Unmarshal(rec.Body.Bytes(), &a.body), a.text)
	return a
}

// requireGet returns a 200's body.
func (b *testBundle) requireGet(path string) answer {
	b.t.Helper()
	a := b.get(path)
	require.Equal(b.t, http.StatusOK, a.status, a.text)
	return a
}

// items returns a field of a list's items, and the next page's cursor.
func (a answer) items(field string) (values []any, cursor string) {
	for _, item := range a.body["data"].([]any) {
		values = append(values, item.(map[string]any)[field])
	}
	cursor, _ = a.body["nextCursor"].(string)
	return values, cursor
}
