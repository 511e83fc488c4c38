package main

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

// benchHistory are messages of one queue, of which all but a tenth are consumed: $1 the shard,
// $2 and $3 topic and subscription, $4 the first position, $5 how many, $6 the tenant.
const benchHistory = `
WITH m AS (
    SELECT i, $4::bigint + i AS position, lpad(to_hex(($4::bigint + i) >> 20), 12, '0') AS ms, lpad(to_hex(i), 12, '0') AS n, i % 2 AS partition
    FROM generate_series(0, $5::bigint - 1) i
), ids AS (SELECT *, substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7000-8' || lpad(to_hex($1::int), 3, '0') || '-' || n AS id FROM m
), written AS (
    INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
    SELECT $1, position, 'message', id::uuid, 'message.published', $6::uuid, $2::uuid, id, 0, to_timestamp((position >> 20) / 1000.0), '{"actor":"bench"}',
        format('{"messageId":"%s","topicId":"%s","partition":%s,"key":"customer-%s","contentType":"application/json","producerId":"bench","payload":{"order":%s,"text":"%s"},"offset":%s}',
            id, $2::uuid, partition, i % 1000, i, repeat(md5(id), 4), i / 2)::json
    FROM ids
)
INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, subscription_id, message_id, version, occurred_at, metadata, data)
SELECT $1, $4::bigint + $5::bigint + i, 'message', gen_random_uuid(), 'message.consumed', $6::uuid, $2::uuid, $3::uuid, id, 0, now(), '{"actor":"bench"}',
    format('{"messageId":"%s","topicId":"%s","subscriptionId":"%s","consumerGroup":"g","consumer":"g","partition":%s,"offset":%s,"attempt":1,"leasedAtMs":%s}',
        id, $2::uuid, $3::uuid, partition, i / 2, ($4::bigint >> 20))::json
FROM ids WHERE i % 10 > 0`

// BenchmarkPutRedisBack measures what it takes to put an empty Redis back: messages per
// second of history, and the most memory that the process had. TALLYMQ_BENCH_MESSAGES says how
// many there are, of which a tenth is not settled.
func BenchmarkPutRedisBack(b *testing.B) {
	messages := 100_000
	if text := os.Getenv("TALLYMQ_BENCH_MESSAGES"); text != "" {
		var err error
		messages, err = strconv.Atoi(text)
		require.NoError(b, err)
	}
	cfg := testConfig(b)
	own := ownStores(b)
	cfg.RedisURL, cfg.DatabaseURL = own.redis.URL(), own.postgres.URL()
	i := start(b, cfg, "")
	pool, err := postgres.Open(b.Context(), cfg.DatabaseURL)
	require.NoError(b, err)
	defer pool.Close()
	client, err := redis.Open(cfg.RedisURL)
	require.NoError(b, err)
	defer func() { _ = client.Close() }()
	// a queue in every shard
	shards := map[int][2]string{}
	for n := 0; len(shards) < cfg.Shards; n++ {
		name := "orders" + strconv.Itoa(n)
		if shard := events.ShardOf(devTenant, name, cfg.Shards); shards[shard][0] == "" {
			i.queue(name, `,"partitionCount":2`)
			sub := i.subscription(name, "g", "")
			shards[shard] = [2]string{text(i.get("/queues/" + name).is(200)["id"]), sub}
		}
	}
	require.NoError(b, i.stop())
	each := int64(messages / cfg.Shards)
	for shard, ids := range shards {
		first := int64(events.MakePosition(time.Now().UnixMilli()+1000, 0))
		_, err = pool.Exec(b.Context(), benchHistory, shard, ids[0], ids[1], first, each, devTenant)
		require.NoError(b, err)
		for _, sql := range []string{
			`UPDATE projection_checkpoints SET position = (SELECT max(position) FROM event_history WHERE shard = $1) WHERE shard = $1`,
			`INSERT INTO topic_counts SELECT $2::uuid, $3, 0 WHERE $1::int >= 0 ON CONFLICT (topic_id) DO UPDATE SET published = excluded.published`,
			`INSERT INTO topic_offsets SELECT $2::uuid, p, $3 / 2 FROM generate_series(0, 1) p WHERE $1::int >= 0 ON CONFLICT (topic_id, partition_id) DO UPDATE SET next_offset = excluded.next_offset`,
		} {
			args := []any{shard, ids[0], each}
			if sql[:6] == "UPDATE" {
				args = args[:1]
			}
			_, err = pool.Exec(b.Context(), sql, args...)
			require.NoError(b, err)
		}
	}
	_, err = pool.Exec(b.Context(), `VACUUM ANALYZE`)
	require.NoError(b, err)
	program := b.TempDir() + "/tallymq"
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput() //nolint:gosec // a path of ours
	require.NoError(b, err, "%s", out)
	b.ResetTimer()
	var peak int64
	for range b.N {
		require.NoError(b, client.FlushAll(b.Context()).Err())
		cmd := exec.Command(program, "repair") //nolint:gosec // built here
		cmd.Env = append(os.Environ(), "DATABASE_URL="+cfg.DatabaseURL, "REDIS_URL="+cfg.RedisURL)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		peak = max(peak, runMeasured(b, cmd))
		b.Log(said.String())
	}
	b.ReportMetric(float64(messages)*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(peak>>20), "MiB-peak")
}
