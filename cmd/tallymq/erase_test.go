package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
)

// books are the stores of an instance, to be looked at.
type books struct {
	t      testing.TB
	cfg    config.Config
	pool   *pgxpool.Pool
	client goredis.UniversalClient
	log    *redis.Log
}

func openBooks(t testing.TB, cfg config.Config) *books {
	t.Helper()
	b := &books{t: t, cfg: cfg}
	var err error
	b.pool, err = postgres.Open(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(b.pool.Close)
	b.client, err = redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.client.Close() })
	b.log = redis.New(redis.Config{
		Client: b.client, Prefix: cfg.RedisKeyPrefix, Shards: cfg.Shards, Logger: slog.New(slog.DiscardHandler),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	t.Cleanup(b.log.Close)
	return b
}

// balanced requires that the read tables are the fold of the history, in batches of any
// size, and that every group's messages add up in both stores.
func (b *books) balanced() {
	b.t.Helper()
	groups, wrong, err := verifyLedgers(b.t.Context(), b.pool, b.log)
	require.NoError(b.t, err)
	require.Empty(b.t, wrong)
	require.Positive(b.t, groups)
	for _, batch := range []uint64{1, 7, 5000} {
		conn, err := postgres.Connect(b.t.Context(), b.cfg.DatabaseURL)
		require.NoError(b.t, err)
		report, err := projections.Verify(b.t.Context(), conn, projections.VerifyOptions{
			Shards: b.cfg.Shards, Batch: batch, HorizonSetting: postgres.HorizonSetting, MessageIDBound: postgres.MessageIDBound,
		})
		require.NoError(b.t, err)
		require.True(b.t, report.OK(), "batches of %d: %+v", batch, report)
		_ = conn.Close(context.Background())
	}
}

// inPostgres returns where a text is in the tables.
func (b *books) inPostgres(text string) (found []string) {
	b.t.Helper()
	for _, table := range []string{"event_history", "message_records", "consumption_records", "dead_letters"} {
		var n int
		require.NoError(b.t, b.pool.QueryRow(b.t.Context(), `SELECT count(*) FROM `+table+` t WHERE to_jsonb(t)::text LIKE '%' || $1 || '%'`, text).Scan(&n))
		if n > 0 {
			found = append(found, fmt.Sprint(table, " ", n))
		}
	}
	return found
}

// inRedis returns which keys hold a text.
func (b *books) inRedis(text string) (found []string) {
	b.t.Helper()
	ctx := b.t.Context()
	keys, err := b.client.Keys(ctx, b.cfg.RedisKeyPrefix+"*").Result()
	require.NoError(b.t, err)
	for _, key := range keys {
		kind, err := b.client.Type(ctx, key).Result()
		require.NoError(b.t, err)
		var value any
		switch kind {
		case "string":
			value = b.client.Get(ctx, key).Val()
		case "stream":
			value = b.client.XRange(ctx, key, "-", "+").Val()
		case "hash":
			value = b.client.HGetAll(ctx, key).Val()
		case "list":
			value = b.client.LRange(ctx, key, 0, -1).Val()
		case "set":
			value = b.client.SMembers(ctx, key).Val()
		case "zset":
			value = b.client.ZRange(ctx, key, 0, -1).Val()
		}
		if strings.Contains(fmt.Sprint(value), text) {
			found = append(found, key)
		}
	}
	return found
}

// Wherever a message is, its payload goes from everywhere, nobody gets it any more, and
// every count adds up.
func TestAMessagesPayloadIsErasedEverywhere(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	i := start(t, cfg, "")
	b := openBooks(t, cfg)
	const canary = "canary-2b8e55d1"
	i.queue("orders", "")
	ordered := `,"handlerConfig":{"ordered":true},"retryDelayMs":3600000,"maxRetryAttempts":3`
	done := i.subscription("orders", "done", "")
	leased := i.subscription("orders", "leased", "")
	waiting := i.subscription("orders", "waiting", "")
	parked := i.subscription("orders", "parked", `,"retryDelayMs":3600000,"maxRetryAttempts":3`)
	retried := i.subscription("orders", "retried", `,"retryDelayMs":0,"maxRetryAttempts":3`)
	held := i.subscription("orders", "held", ordered)
	dead := i.subscription("orders", "dead", `,"maxRetryAttempts":0`)
	publish := func(payload string) string {
		return text(i.post("/publish", `{"queue":"orders","key":"k","partition":0,"headers":{"payload":"\"payload\":1"},"payload":`+payload+`}`).is(http.StatusCreated)["messageId"])
	}
	before, id, after := publish(`"first"`), publish(`{"secret":"`+canary+`"}`), publish(`"last"`)
	of := func(messages []map[string]any, id string) map[string]any {
		for _, m := range messages {
			if m["messageId"] == id {
				return m
			}
		}
		require.Fail(t, "it did not come")
		return nil
	}
	nack := func(sub string, messages ...map[string]any) {
		tokens := make([]string, len(messages))
		for n, m := range messages {
			tokens[n] = text(m["ackToken"])
		}
		i.post("/subscriptions/"+sub+"/nack", map[string]any{"ackTokens": tokens}).is(http.StatusOK)
	}
	i.ack(done, i.pull(done)...)
	token := text(of(i.pull(leased), id)["ackToken"])
	got := i.pull(parked)
	nack(parked, of(got, id))
	i.ack(parked, of(got, before), of(got, after))
	nack(retried, i.pull(retried)...)
	first := i.pull(held) // of one key, one at a time
	require.Len(t, first, 1)
	nack(dead, i.pull(dead)...)
	require.NotEmpty(t, b.inPostgres(canary))
	require.NotEmpty(t, b.inRedis(canary))
	b.balanced()

	answer := i.post("/messages/"+id+"/erase", `{"reason":"asked for by the customer"}`).is(http.StatusOK)
	require.Equal(t, id, answer["messageId"])
	require.EqualValues(t, 5, answer["discarded"], "leased, waiting, parked, retried and held")
	require.Empty(t, b.inPostgres(canary))
	require.Empty(t, b.inRedis(canary))
	b.balanced()
	// again is the same
	again := i.post("/messages/"+id+"/erase", nil).is(http.StatusOK)
	require.Equal(t, answer["erasedAt"], again["erasedAt"])
	require.EqualValues(t, 0, again["discarded"])

	// what is left of it says so
	shown := i.get("/messages/" + id).is(http.StatusOK)
	require.Nil(t, shown["payload"])
	require.Contains(t, shown, "payload")
	require.Equal(t, answer["erasedAt"], shown["erasedAt"])
	require.EqualValues(t, len(`{"secret":"`+canary+`"}`), shown["payloadSize"])
	events := list(i.get("/messages/" + id + "/events").is(http.StatusOK)["data"])
	require.Equal(t, "message.published", events[0]["type"])
	published, _ := events[0]["data"].(map[string]any)
	require.Nil(t, published["payload"])
	require.Len(t, published["erasedSha256"], 64)
	require.Equal(t, map[string]any{"payload": `"payload":1`}, published["headers"])
	last := events[len(events)-1]
	require.Equal(t, "message.erased", last["type"])
	require.Equal(t, "asked for by the customer", last["data"].(map[string]any)["reason"])
	require.Contains(t, string(i.get("/events?messageId="+id).body), `"payload":null,"erasedSha256":"`)
	explained := i.get("/messages/" + id + "/explain?subscription=" + waiting).is(http.StatusOK)
	require.Equal(t, "purged", explained["verdict"])
	require.Contains(t, explained["reason"], "payload was erased")
	require.Equal(t, "consumed", i.get("/messages/" + id + "/explain?subscription=" + done).is(http.StatusOK)["verdict"])

	// nobody gets it, and what was before and behind it comes as ever
	lost := list(i.post("/subscriptions/"+leased+"/ack", map[string]any{"ackTokens": []string{token}}).is(http.StatusOK)["results"])
	require.NotEqual(t, "acked", lost[0]["status"])
	i.ack(held, first...)
	next := i.pull(held)
	require.Len(t, next, 1)
	require.Equal(t, after, next[0]["messageId"])
	i.ack(held, next...)
	for _, sub := range []string{waiting, retried} {
		got := i.pull(sub)
		require.Len(t, got, 2)
		require.Equal(t, []any{before, after}, []any{got[0]["messageId"], got[1]["messageId"]})
		i.ack(sub, got...)
	}
	b.balanced()
	// a group that begins now, one that goes back, and jobs leave it out
	late := i.subscription("orders", "late", "")
	require.Len(t, i.pull(late), 2)
	b.balanced()
	i.post("/subscriptions/"+done+"/seek", `{"to":"earliest"}`).is(http.StatusOK)
	b.balanced()
	require.Len(t, i.pull(done), 2)
	b.balanced()
	job := i.ended(text(i.post("/subscriptions/"+dead+"/redrive", `{}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []float64{2, 1}, []float64{job["done"].(float64), job["failed"].(float64)})
	job = i.ended(text(i.post("/queues/orders/replay", `{"subscriptionId":"`+parked+`"}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []float64{2, 1}, []float64{job["done"].(float64), job["failed"].(float64)})
	i.queue("copies", "")
	job = i.ended(text(i.post("/queues/orders/replay", `{"queue":"copies"}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []float64{2, 1}, []float64{job["done"].(float64), job["failed"].(float64)})
	b.balanced()
	require.NoError(t, i.stop())
}

// A scheduled message is not published once it is erased; one that was cancelled is erased
// where it stands.
func TestScheduledMessagesAreErased(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	i := start(t, cfg, "")
	b := openBooks(t, cfg)
	const canary = "canary-91c0aa17"
	i.queue("orders", "")
	sub := i.subscription("orders", "g", "")
	schedule := func() string {
		return text(i.post("/publish/delayed", `{"queue":"orders","delayMs":3600000,"payload":"`+canary+`"}`).is(http.StatusCreated)["messageId"])
	}
	waits, cancelled := schedule(), schedule()
	i.post("/messages/"+cancelled+"/cancel", nil).is(http.StatusOK)
	require.EqualValues(t, 1, i.post("/messages/"+waits+"/erase", nil).is(http.StatusOK)["discarded"])
	require.EqualValues(t, 0, i.post("/messages/"+cancelled+"/erase", nil).is(http.StatusOK)["discarded"])
	require.Empty(t, b.inPostgres(canary))
	require.Empty(t, b.inRedis(canary))
	require.Equal(t, "purged", i.get("/messages/" + waits).is(http.StatusOK)["status"])
	require.Equal(t, "cancelled", i.get("/messages/" + cancelled).is(http.StatusOK)["status"])
	b.balanced()
	i.post("/messages/"+waits+"/cancel", nil).refused(http.StatusConflict, "MQ_CONFLICT")
	require.Empty(t, list(i.post("/subscriptions/"+sub+"/pull", `{}`).is(http.StatusOK)["messages"]))

	// a deleted queue's messages can be erased too
	id := text(i.post("/publish", `{"queue":"orders","payload":"`+canary+`"}`).is(http.StatusCreated)["messageId"])
	require.Equal(t, http.StatusNoContent, i.call(http.MethodDelete, apiPrefix+"/queues/orders", nil).status)
	i.post("/messages/"+id+"/erase", nil).is(http.StatusOK)
	require.Empty(t, b.inPostgres(canary))
	require.Empty(t, b.inRedis(canary))
	// what cannot be
	i.post("/messages/"+newID()+"/erase", nil).refused(http.StatusNotFound, "MQ_MESSAGE_NOT_FOUND")
	field, limit := i.post("/messages/"+id+"/erase", `{"reason":"`+strings.Repeat("x", 501)+`"}`).refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
	require.Equal(t, []string{"reason", "at most 500 characters"}, []string{field, limit})
	require.NoError(t, i.stop())
}
