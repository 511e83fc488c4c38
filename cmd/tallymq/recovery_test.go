package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack"

	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
	"github.com/tallymq/tallymq/projections"
)

// recoveryBundle is a service whose Redis may lose what it has.
type recoveryBundle struct {
	*instance

	redis  *devstack.Redis
	client *goredis.Client
	pool   *pgxpool.Pool
}

func setupRecovery(t *testing.T) *recoveryBundle {
	t.Helper()
	cfg := testConfig(t)
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	cfg.RedisURL = server.URL()
	cfg.WebhookAllow = devNetworks
	b := &recoveryBundle{redis: server}
	b.instance = startLogging(t, cfg, "", slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})))
	b.client, err = redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.client.Close() })
	b.pool, err = postgres.Open(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(b.pool.Close)
	return b
}

// folded waits until Postgres has all that Redis has.
func (b *recoveryBundle) folded() {
	b.t.Helper()
	eventually(b.t, "everything is folded", func() bool {
		sight, err := redis.Look(b.t.Context(), b.client, b.cfg.RedisKeyPrefix, b.cfg.Shards)
		require.NoError(b.t, err)
		for n, end := range sight.Ends {
			var position int64
			err := b.pool.QueryRow(b.t.Context(), `SELECT position FROM projection_checkpoints WHERE shard = $1`, n).Scan(&position)
			require.NoError(b.t, err)
			if position < int64(end) {
				return false
			}
		}
		return true
	})
}

// works waits until writes are taken again.
func (b *recoveryBundle) works(queue string) {
	b.t.Helper()
	eventually(b.t, "writes are taken again", func() bool {
		a := b.post("/publish", `{"queue":"`+queue+`","payload":0}`)
		require.Contains(b.t, []int{http.StatusCreated, http.StatusServiceUnavailable}, a.status, "%s", a.body)
		return a.status == http.StatusCreated
	})
}

// verified holds the read tables against history, and the ledger against both stores.
func (b *recoveryBundle) verified() {
	b.t.Helper()
	conn, err := b.pool.Acquire(b.t.Context())
	require.NoError(b.t, err)
	own := conn.Hijack()
	defer func() { _ = own.Close(b.t.Context()) }()
	report, err := projections.Verify(b.t.Context(), own, projections.VerifyOptions{Shards: b.cfg.Shards, Batch: 5000})
	require.NoError(b.t, err)
	require.True(b.t, report.OK(), report)
	log := redis.New(redis.Config{Client: b.client, Prefix: b.cfg.RedisKeyPrefix, Shards: b.cfg.Shards, Logger: slog.New(slog.DiscardHandler)})
	defer log.Close()
	_, wrong, err := verifyLedgers(b.t.Context(), b.pool, log)
	require.NoError(b.t, err)
	require.Empty(b.t, wrong)
	held, err := verifyDelivery(b.t.Context(), b.pool, log, b.cfg.Shards, nil)
	require.NoError(b.t, err)
	require.Empty(b.t, held.faults)
	require.Empty(b.t, held.skipped)
}

// A Redis that lost everything is put back: what was not settled is delivered, once each and in
// order, what was settled is not, and nothing else is forgotten.
func TestRedisIsDisposable(t *testing.T) {
	t.Parallel()
	b := setupRecovery(t)
	b.queue("orders", `,"partitionCount":3`)
	b.queue("dead", "")
	b.queue("gone", "")
	require.Equal(t, http.StatusNoContent, b.call(http.MethodDelete, apiPrefix+"/queues/gone", nil).status)
	sub := b.subscription("orders", "billing", `,"maxPollRecords":1000,"maxRetryAttempts":5,"retryDelayMs":600000,"deadLetterQueue":"dead"`)
	letters := b.subscription("dead", "letters", "")
	var ids []string
	for n := range 60 {
		published := b.post("/publish", fmt.Sprintf(`{"queue":"orders","key":"k%d","payload":{"n":%d}}`, n%7, n), "Idempotency-Key", "p"+strconv.Itoa(n)).is(http.StatusCreated)
		ids = append(ids, text(published["messageId"]))
	}
	at := time.Now().Add(4 * time.Second).UTC().Format(time.RFC3339Nano)
	soon := text(b.post("/publish/scheduled", `{"queue":"orders","payload":"soon","scheduledAt":"`+at+`"}`).is(http.StatusCreated)["messageId"])
	later := text(b.post("/publish/delayed", `{"queue":"orders","payload":"later","delayMs":86400000}`).is(http.StatusCreated)["messageId"])
	schedule := text(b.post("/schedules", `{"queue":"dead","cron":"0 0 1 1 *","payload":1}`).is(http.StatusCreated)["id"])
	leased := list(b.post("/subscriptions/"+sub+"/pull", `{"maxMessages":40}`).is(http.StatusOK)["messages"])
	require.Len(t, leased, 40)
	byID := map[string]map[string]any{}
	for _, m := range leased {
		byID[text(m["messageId"])] = m
	}
	settled, failed, out := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for n, m := range leased {
		id := text(m["messageId"])
		switch n % 4 {
		case 0, 1:
			b.ack(sub, m)
			settled[id] = true
		case 2:
			b.post("/subscriptions/"+sub+"/nack", map[string]any{"ackTokens": []any{m["ackToken"]}, "delayMs": 1}).is(http.StatusOK)
			failed[id] = true
		default:
			out[id] = true
		}
	}
	b.folded()
	before := b.get("/subscriptions/" + sub + "/ledger").is(http.StatusOK)

	require.NoError(t, b.client.FlushAll(t.Context()).Err())
	b.works("dead")

	// nothing is forgotten
	for n, id := range ids {
		again := b.post("/publish", fmt.Sprintf(`{"queue":"orders","key":"k%d","payload":{"n":%d}}`, n%7, n), "Idempotency-Key", "p"+strconv.Itoa(n)).is(http.StatusCreated)
		require.Equal(t, []any{true, id}, []any{again["duplicate"], again["messageId"]})
	}
	b.post("/queues", `{"name":"orders"}`).refused(http.StatusConflict, "MQ_CONFLICT")
	b.queue("gone", "")
	after := b.get("/subscriptions/" + sub + "/ledger").is(http.StatusOK)
	require.Equal(t, before["published"], after["published"])
	require.Equal(t, true, after["balanced"], after)
	// whoever held a message has lost it
	var old []any
	for id := range out {
		old = append(old, byID[id]["ackToken"])
	}
	for _, r := range list(b.post("/subscriptions/"+sub+"/ack", map[string]any{"ackTokens": old}).is(http.StatusOK)["results"]) {
		require.Equal(t, "MQ_LEASE_LOST", text(r["error"].(map[string]any)["code"]), r)
	}
	// what was not settled comes once, each key's in order, with the attempts it had
	seen, last := map[string]bool{}, map[string]float64{}
	for len(seen) < 60-len(settled) {
		for _, m := range b.pull(sub) {
			id := text(m["messageId"])
			require.False(t, settled[id] || seen[id], "message %s again", id)
			if id != soon {
				require.InDelta(t, map[bool]int{false: 1, true: 2}[failed[id]], m["attempt"], 0)
				payload, _ := m["payload"].(map[string]any)
				n, _ := payload["n"].(float64)
				if key := text(m["key"]); !failed[id] {
					require.GreaterOrEqual(t, n, last[key], "key %s", key)
					last[key] = n
				}
				seen[id] = true
			}
			b.ack(sub, m)
		}
	}
	require.NotContains(t, seen, later)
	eventually(t, "the scheduled message is released", func() bool {
		return b.get("/messages/" + soon).is(http.StatusOK)["status"] != "scheduled"
	})
	b.post("/messages/"+later+"/cancel", "{}").is(http.StatusOK)
	require.NotEmpty(t, b.get("/schedules/" + schedule).is(http.StatusOK)["nextAt"])
	require.NotEmpty(t, b.pull(letters))
	b.folded()
	b.verified()
}

// standing is what Redis holds of a queue, whichever way it holds it: whoever has a message
// leased will have it again.
type standing struct {
	topic  map[string]string
	groups map[string]string
	// items are message, attempt and what attempts are counted from, by group.
	items     map[string][]string
	scheduled []string
	due       []string
}

// standings reads what every queue holds, straight from Redis.
func (b *recoveryBundle) standings() map[string]standing {
	b.t.Helper()
	ctx, out := b.t.Context(), map[string]standing{}
	for shard := range b.cfg.Shards {
		prefix := strings.TrimSuffix(redis.LogStream(b.cfg.RedisKeyPrefix, shard), "log")
		names, err := b.client.HGetAll(ctx, prefix+"names").Result()
		require.NoError(b.t, err)
		for name, id := range names {
			hash, err := b.client.HGetAll(ctx, prefix+"topic:"+id).Result()
			require.NoError(b.t, err)
			s := standing{topic: map[string]string{}, items: map[string][]string{}}
			for field, value := range hash {
				// The other ones are bounds, or reserved.
				if kind, _, _ := strings.Cut(field, ":"); value != "0" && slices.Contains([]string{"v", "s", "c", "u", "p", "n", "o", "sc", "ab"}, kind) {
					s.topic[field] = value
				}
			}
			s.groups, err = b.client.HGetAll(ctx, prefix+"groups:"+id).Result()
			require.NoError(b.t, err)
			partitions, err := strconv.Atoi(hash["p"])
			require.NoError(b.t, err)
			for group := range s.groups {
				s.items[group] = b.held(prefix, id, group, partitions, hash["ab:"+group])
			}
			scheduled, err := b.client.HKeys(ctx, prefix+"scheduled:"+id).Result()
			require.NoError(b.t, err)
			for _, message := range scheduled {
				at, err := b.client.ZScore(ctx, prefix+"due", "s|"+id+"|"+message).Result()
				require.NoError(b.t, err)
				s.scheduled = append(s.scheduled, fmt.Sprintf("%s at %.0f", message, at))
			}
			slices.Sort(s.scheduled)
			for p := range partitions {
				low := int64(0)
				for _, e := range b.client.XRangeN(ctx, prefix+"q:"+id+":"+strconv.Itoa(p), "-", "+", 1).Val() {
					low, err = strconv.ParseInt(strings.TrimPrefix(e.ID, "0-"), 10, 64)
					require.NoError(b.t, err)
				}
				holes, err := b.client.ZRangeArgs(ctx, goredis.ZRangeArgs{Key: prefix + "holes:" + id + ":" + strconv.Itoa(p), Start: low, Stop: "+inf", ByScore: true}).Result()
				require.NoError(b.t, err)
				s.due = append(s.due, fmt.Sprint("holes ", p, holes))
			}
			subs, err := b.client.HGetAll(ctx, prefix+"subs:"+id).Result()
			require.NoError(b.t, err)
			for member, sub := range subs {
				state, err := b.client.HGetAll(ctx, prefix+"sub:"+sub).Result()
				require.NoError(b.t, err)
				s.due = append(s.due, fmt.Sprint("subscription ", member, state, b.client.SIsMember(ctx, prefix+"push", sub).Val()))
			}
			schedules, err := b.client.SMembers(ctx, prefix+"schedules:"+id).Result()
			require.NoError(b.t, err)
			for _, schedule := range schedules {
				state, err := b.client.HGetAll(ctx, prefix+"schedule:"+schedule).Result()
				require.NoError(b.t, err)
				s.due = append(s.due, fmt.Sprint("schedule ", state, b.client.ZScore(ctx, prefix+"due", "c|"+schedule).Val()))
			}
			slices.Sort(s.due)
			out[name] = s
		}
	}
	return out
}

// held is what a group has not settled.
func (b *recoveryBundle) held(prefix, id, group string, partitions int, base string) (items []string) {
	b.t.Helper()
	ctx := b.t.Context()
	if base == "" {
		base = "0"
	}
	n, err := strconv.Atoi(base)
	require.NoError(b.t, err)
	fresh := func(entries []goredis.XMessage) {
		for _, e := range entries {
			items = append(items, fmt.Sprintf("%s attempt %d base %d", e.Values["_watermill_message_uuid"], n+1, n))
		}
	}
	for p := range partitions {
		key := prefix + "q:" + id + ":" + strconv.Itoa(p)
		for _, g := range b.client.XInfoGroups(ctx, key).Val() {
			if g.Name == group {
				fresh(b.client.XRange(ctx, key, "("+g.LastDeliveredID, "+").Val())
			}
		}
		for _, pending := range b.client.XPendingExt(ctx, &goredis.XPendingExtArgs{Stream: key, Group: group, Start: "-", End: "+", Count: 10000}).Val() {
			fresh(b.client.XRange(ctx, key, pending.ID, pending.ID).Val())
		}
	}
	retried := func(fields map[string]string) {
		items = append(items, fmt.Sprintf("%s attempt %s base %s", fields["_watermill_message_uuid"], fields["att"], fields["base"]))
	}
	for _, e := range b.client.XRange(ctx, prefix+"retry:"+id+":"+group, "-", "+").Val() {
		fields := map[string]string{}
		for name, value := range e.Values {
			fields[name], _ = value.(string)
		}
		retried(fields)
	}
	unpacked := func(packed string) {
		var list []string
		require.NoError(b.t, msgpack.Unmarshal([]byte(packed), &list))
		fields := map[string]string{}
		for n := 0; n+1 < len(list); n += 2 {
			fields[list[n]] = list[n+1]
		}
		retried(fields)
	}
	for _, packed := range b.client.HVals(ctx, prefix+"parked:"+id+":"+group).Val() {
		unpacked(packed)
	}
	for _, key := range b.client.HKeys(ctx, prefix+"busy:"+id+":"+group).Val() {
		for _, packed := range b.client.LRange(ctx, prefix+"held:"+id+":"+group+":"+key, 0, -1).Val() {
			unpacked(packed)
		}
	}
	slices.Sort(items)
	return items
}

// randomCalls does at random what callers do.
type randomCalls struct {
	*recoveryBundle

	rand   *rand.Rand
	queues []string
	subs   map[string]string // queue of a subscription
	leased map[string][]map[string]any
	// sent counts calls that publish, and subscribed those that subscribe.
	sent, subscribed int
	ids              []string
}

func (l *randomCalls) step() {
	queue := l.queues[l.rand.IntN(len(l.queues))]
	switch dice := l.rand.IntN(100); {
	case dice < 35:
		l.sent++
		messages := make([]string, 1+l.rand.IntN(5))
		for n := range messages {
			messages[n] = fmt.Sprintf(`{"queue":%q,"key":"k%d","payload":{"n":%d}}`, queue, l.rand.IntN(6), l.sent)
		}
		out := l.post("/publish/batch", `{"messages":[`+strings.Join(messages, ",")+`]}`, "Idempotency-Key", strconv.Itoa(l.sent)).is(http.StatusCreated)
		for _, r := range list(out["results"]) {
			l.ids = append(l.ids, text(r["messageId"]))
		}
	case dice < 40:
		l.ids = append(l.ids, text(l.post("/publish/delayed", fmt.Sprintf(`{"queue":%q,"key":"k1","payload":1,"delayMs":%d}`, queue, 1+l.rand.IntN(2)*10_000_000)).is(http.StatusCreated)["messageId"]))
	case dice < 43:
		l.post("/messages/"+l.ids[l.rand.IntN(len(l.ids))]+"/cancel", "{}")
	case dice < 45:
		l.subscribed++
		id := text(l.post("/subscriptions", fmt.Sprintf(`{"queue":%q,"consumerGroup":"g%d","consumerName":"c%d","offsetResetPolicy":%q,"maxPollRecords":1000,"handlerConfig":{"ordered":%t},"retryDelayMs":%d,"maxRetryAttempts":2}`,
			queue, l.rand.IntN(4), l.subscribed, []string{"earliest", "latest"}[l.rand.IntN(2)], l.rand.IntN(2) == 0, l.rand.IntN(2)*1_000_000)).is(http.StatusCreated)["id"])
		l.subs[id] = queue
	case dice < 46 && len(l.subs) > 3:
		sub := l.anySub()
		l.call(http.MethodDelete, apiPrefix+"/subscriptions/"+sub, nil)
		delete(l.subs, sub)
		delete(l.leased, sub)
	case dice < 48:
		l.post("/subscriptions/"+l.anySub()+"/seek", fmt.Sprintf(`{"to":%q}`, []string{"earliest", "latest", strconv.Itoa(l.rand.IntN(20))}[l.rand.IntN(3)]))
	case dice < 49:
		l.post("/queues/"+queue+"/purge", "{}")
	case dice < 51:
		l.post("/subscriptions/"+l.anySub()+"/redrive", "{}")
	case dice < 52:
		l.post("/subscriptions/"+l.anySub()+[]string{"/pause", "/resume"}[l.rand.IntN(2)], "{}")
	case dice < 53:
		l.call(http.MethodPut, apiPrefix+"/queues/"+queue, fmt.Sprintf(`{"partitionCount":%d}`, 1+l.rand.IntN(6)))
	case dice < 54:
		l.post("/schedules", fmt.Sprintf(`{"queue":%q,"cron":"0 0 1 1 *","payload":%d}`, queue, l.sent))
	case dice < 58:
		l.post("/messages/"+l.ids[l.rand.IntN(len(l.ids))]+"/erase", "{}")
	case dice < 75:
		sub := l.anySub()
		out := l.post("/subscriptions/"+sub+"/pull", fmt.Sprintf(`{"maxMessages":%d}`, 1+l.rand.IntN(12)))
		if out.status == http.StatusOK {
			l.leased[sub] = append(l.leased[sub], list(out.is(http.StatusOK)["messages"])...)
		}
	default:
		sub := l.anySub()
		if len(l.leased[sub]) == 0 {
			return
		}
		n := l.rand.IntN(len(l.leased[sub]))
		m := l.leased[sub][n]
		l.leased[sub] = slices.Delete(l.leased[sub], n, n+1)
		if l.rand.IntN(3) > 0 {
			l.post("/subscriptions/"+sub+"/ack", map[string]any{"ackTokens": []any{m["ackToken"]}})
		} else {
			l.post("/subscriptions/"+sub+"/nack", map[string]any{"ackTokens": []any{m["ackToken"]}, "delayMs": l.rand.IntN(2) * 10_000_000})
		}
	}
}

func (l *randomCalls) anySub() string {
	all := make([]string, 0, len(l.subs))
	for id := range l.subs {
		all = append(all, id)
	}
	slices.Sort(all)
	return all[l.rand.IntN(len(all))]
}

// What history amounts to is what Redis holds, message by message, after anything that callers
// may do, in any order.
func TestWhatIsPutBackIsWhatWasThere(t *testing.T) {
	t.Parallel()
	b := setupRecovery(t)
	seed := rand.Uint64() //nolint:gosec // a test
	t.Log("seed", seed)
	l := &randomCalls{recoveryBundle: b, rand: rand.New(rand.NewPCG(seed, 1)), queues: []string{"a", "b", "c"}, subs: map[string]string{}, leased: map[string][]map[string]any{}} //nolint:gosec // a test
	for n, queue := range l.queues {
		b.queue(queue, fmt.Sprintf(`,"partitionCount":%d`, 1+n*2))
		l.subs[b.subscription(queue, "g0", `,"maxPollRecords":1000`)] = queue
		l.ids = append(l.ids, text(b.post("/publish", `{"queue":"`+queue+`","payload":0}`).is(http.StatusCreated)["messageId"]))
	}
	for round := range 6 {
		for range 150 {
			l.step()
		}
		l.quiet()
		before := b.standings()
		if round%2 == 0 {
			require.NoError(t, b.client.FlushAll(t.Context()).Err())
		} else {
			b.repairByHand()
		}
		b.reads()
		after := b.standings()
		require.Equal(t, before, after, "round %d", round)
		clear(l.leased)
		b.verified()
	}
}

// quiet waits until nothing moves by itself: jobs are done, what is due was moved, all is
// folded.
func (l *randomCalls) quiet() {
	l.t.Helper()
	eventually(l.t, "nothing is under way", func() bool {
		for _, job := range list(l.get("/jobs?limit=500").is(http.StatusOK)["data"]) {
			if s := text(job["status"]); s == "waiting" || s == "running" {
				return false
			}
		}
		for shard := range l.cfg.Shards {
			prefix := strings.TrimSuffix(redis.LogStream(l.cfg.RedisKeyPrefix, shard), "log")
			due, err := l.client.ZCount(l.t.Context(), prefix+"due", "-inf", strconv.FormatInt(time.Now().UnixMilli(), 10)).Result()
			require.NoError(l.t, err)
			if due > 0 {
				return false
			}
		}
		return true
	})
	l.folded()
}

func (b *recoveryBundle) repairByHand() {
	b.t.Helper()
	client, err := redis.OpenOne(b.cfg.RedisURL)
	require.NoError(b.t, err)
	defer func() { _ = client.Close() }()
	store := &logStore{pool: b.pool, databaseURL: b.cfg.DatabaseURL, redisURL: b.cfg.RedisURL, prefix: b.cfg.RedisKeyPrefix, shards: b.cfg.Shards, logger: slog.New(slog.DiscardHandler)}
	_, err = store.repair(b.t.Context(), client, true)
	require.NoError(b.t, err)
}

// reads waits until reads of what Redis holds are answered again.
func (b *recoveryBundle) reads() {
	b.t.Helper()
	eventually(b.t, "the log is used again", func() bool {
		return b.get("/queues/a").status == http.StatusOK && b.get("/queues/b").status == http.StatusOK && b.get("/queues/c").status == http.StatusOK
	})
}
