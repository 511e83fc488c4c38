package retention

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

const tenant = "00000000-0000-0000-0000-000000000001"

// testNow is the keeper's clock.
var testNow = time.Date(2026, 3, 20, 12, 0, 0, 0, time.UTC)

// taker notes what is taken away, and takes it out of the table as a fold would.
type taker struct {
	pool *pgxpool.Pool
	got  []commands.Retain
	// unsettledFrom is when the oldest message was published that is not settled.
	unsettledFrom time.Time
	err           error
}

func (k *taker) Retain(ctx context.Context, cmd commands.Retain) (time.Time, bool, error) {
	if k.err != nil {
		return time.Time{}, false, k.err
	}
	if !k.unsettledFrom.IsZero() && k.unsettledFrom.Before(cmd.Before) {
		return k.unsettledFrom, false, nil
	}
	k.got = append(k.got, cmd)
	_, err := k.pool.Exec(ctx, `DELETE FROM message_records m WHERE topic_id = $1 AND message_id BETWEEN $2 AND $3
		AND coalesce(published_at, CASE WHEN status <> 'scheduled' THEN '-infinity'::timestamptz END) < $4`, cmd.TopicID, cmd.From, cmd.UpTo, cmd.Before)
	return time.Time{}, true, err
}

func setup(t *testing.T) (*Keeper, *taker) {
	t.Helper()
	pool, err := postgres.Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	k := &taker{pool: pool}
	return New(Config{Pool: pool, Commands: k, Now: func() time.Time { return testNow }, Logger: slog.New(slog.DiscardHandler)}), k
}

func (k *taker) topic(t *testing.T, id, status string, retention time.Duration) {
	t.Helper()
	_, err := k.pool.Exec(t.Context(), `INSERT INTO message_topics (id, name, topic_type, tenant_id, created_at, updated_at, version, shard, retention_ms, status)
		VALUES ($1, $1::uuid::text, 'redis_stream', $2, now(), now(), 3, 1, $3, $4)`, id, tenant, retention.Milliseconds(), status)
	require.NoError(t, err)
}

// messages adds n messages of a topic, a second apart, the newest of an age.
func (k *taker) messages(t *testing.T, topic string, n int, age time.Duration, status string) {
	t.Helper()
	newest := testNow.Add(-age)
	_, err := k.pool.Exec(t.Context(), `INSERT INTO message_records (message_id, id, topic_id, tenant_id, shard, position, status, published_at)
		SELECT left(x.hex, 8) || '-' || substr(x.hex, 9) || '-7000-8000-' || substr(md5($1::text || n || $5::text), 1, 12), gen_random_uuid(), $1::text::uuid, $2::text::uuid, 1, n, $5,
			CASE WHEN $5::text IN ('scheduled', 'cancelled') THEN NULL ELSE to_timestamp(x.ms / 1000.0) END
		FROM generate_series(0, $3::int - 1) n CROSS JOIN LATERAL (SELECT $4::bigint - n * 1000 AS ms) y CROSS JOIN LATERAL (SELECT y.ms, lpad(to_hex(y.ms), 12, '0') AS hex) x`,
		topic, tenant, n, newest.UnixMilli(), status)
	require.NoError(t, err)
}

func (k *taker) left(t *testing.T, topic string) (n int) {
	t.Helper()
	require.NoError(t, k.pool.QueryRow(t.Context(), `SELECT count(*) FROM message_records WHERE topic_id = $1`, topic).Scan(&n))
	return n
}

const (
	topicA = "00000000-0000-7000-8000-0000000000aa"
	topicB = "00000000-0000-7000-8000-0000000000bb"
	topicC = "00000000-0000-7000-8000-0000000000cc"
)

func TestARoundTakesWhatIsOldABoundedNumberAtATime(t *testing.T) {
	t.Parallel()
	k, taken := setup(t)
	taken.topic(t, topicA, "active", time.Hour)
	taken.topic(t, topicB, "active", 24*time.Hour)
	taken.topic(t, topicC, "archived", time.Minute)
	taken.messages(t, topicA, 1200, time.Hour+time.Second, "consumed")
	taken.messages(t, topicA, 10, 10*time.Minute, "consumed")
	taken.messages(t, topicA, 7, 2*time.Hour, "scheduled")
	taken.messages(t, topicA, 3, 2*time.Hour, "cancelled")
	taken.messages(t, topicB, 5, 2*time.Hour, "consumed")
	taken.messages(t, topicC, 5, 2*time.Hour, "purged")
	n, err := k.Round(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1208, n)
	require.Equal(t, []int{17, 5, 0}, []int{taken.left(t, topicA), taken.left(t, topicB), taken.left(t, topicC)})
	require.Len(t, taken.got, 4)
	for i, cmd := range taken.got {
		require.LessOrEqual(t, cmd.From, cmd.UpTo)
		require.Equal(t, 1, cmd.Shard)
		require.Equal(t, tenant, cmd.TenantID)
		if i < 3 {
			require.Equal(t, topicA, cmd.TopicID)
			require.Equal(t, int64(3), cmd.TopicVersion)
			require.Equal(t, testNow.Add(-time.Hour), cmd.Before)
		}
	}
	require.Zero(t, taken.got[3].TopicVersion, "the log has nothing of a deleted queue")
	n, err = k.Round(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestWhatIsNotSettledStopsARound(t *testing.T) {
	t.Parallel()
	k, taken := setup(t)
	taken.topic(t, topicA, "active", time.Hour)
	taken.messages(t, topicA, 100, 2*time.Hour, "consumed")
	taken.unsettledFrom = testNow.Add(-2*time.Hour - 30*time.Second)
	n, err := k.Round(t.Context())
	require.NoError(t, err)
	require.Equal(t, 69, n, "those from before")
	require.Equal(t, taken.unsettledFrom, taken.got[0].Before)
	n, err = k.Round(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	// and so does a log that does not answer
	taken.unsettledFrom, taken.err = time.Time{}, errors.New("away")
	_, err = k.Round(t.Context())
	require.ErrorContains(t, err, "away")
}

func TestOneKeeperWorksAtATime(t *testing.T) {
	t.Parallel()
	k, taken := setup(t)
	taken.topic(t, topicA, "active", time.Hour)
	taken.messages(t, topicA, 3, 2*time.Hour, "consumed")
	conn, err := taken.pool.Acquire(t.Context())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `SELECT pg_advisory_lock(hashtextextended('tallymq:retention:' || current_schema(), 0))`)
	require.NoError(t, err)
	n, err := k.Round(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, conn.Hijack().Close(t.Context()))
	require.Eventually(t, func() bool {
		n, err = k.Round(t.Context())
		return err == nil && n == 3
	}, 10*time.Second, 10*time.Millisecond)
}

// Looking for what is old costs index look-ups, whatever the table holds.
func TestARoundReadsIndexes(t *testing.T) {
	t.Parallel()
	_, taken := setup(t)
	for n := range 200 {
		taken.topic(t, "00000000-0000-7000-8000-"+strings.Repeat("0", 9)+string(rune('a'+n/100))+string(rune('0'+n/10%10))+string(rune('0'+n%10)), "active", time.Hour)
	}
	_, err := taken.pool.Exec(t.Context(), `INSERT INTO message_records (message_id, id, topic_id, tenant_id, shard, position, published_at)
		SELECT '019d0000-' || lpad(n::text, 4, '0') || '-7000-8000-' || lpad(m::text, 12, '0'), gen_random_uuid(), t.id, t.tenant_id, 1, n, $1
		FROM (SELECT row_number() OVER () AS m, * FROM message_topics) t, generate_series(1, 200) n`, testNow)
	require.NoError(t, err)
	_, err = taken.pool.Exec(t.Context(), `ANALYZE`)
	require.NoError(t, err)
	for name, plan := range map[string]string{
		"due":     explain(t, taken.pool, due, testNow.UnixMilli()),
		"expired": explain(t, taken.pool, expired, tenant, "00000000-0000-7000-8000-000000000a00", leastID(testNow), testNow, MessagesMax),
	} {
		require.NotRegexp(t, `Seq Scan on message_records`, plan, name)
		require.Contains(t, plan, "Index", name)
	}
}

func explain(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) "+sql, args...)
	require.NoError(t, err)
	var lines []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		lines = append(lines, line)
	}
	require.NoError(t, rows.Err())
	return strings.Join(lines, "\n")
}
