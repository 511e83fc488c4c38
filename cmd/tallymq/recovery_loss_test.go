package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/infra/redis"
)

const (
	lossProducers = 4
	lossConsumers = 2
)

// lossRun is traffic through two instances while a store loses things.
type lossRun struct {
	*recoveryBundle

	stores    stores
	instances []*instance
	sub       string
	// stop ends the producers, and drained the consumers.
	stop, drained atomic.Bool
	producers     sync.WaitGroup
	consumers     sync.WaitGroup
	published     atomic.Int64
}

func startLossRun(t *testing.T) *lossRun {
	t.Helper()
	own := ownStores(t)
	cfg := testConfig(t)
	cfg.RedisURL, cfg.DatabaseURL = own.redis.URL(), own.postgres.URL()
	r := &lossRun{stores: own, recoveryBundle: &recoveryBundle{redis: own.redis}}
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	r.instances = []*instance{startLogging(t, cfg, "", logger), startLogging(t, cfg, "", slog.New(slog.DiscardHandler))}
	r.instance = r.instances[0]
	var err error
	r.client, err = redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.client.Close() })
	r.pool, err = postgres.Open(t.Context(), cfg.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(r.pool.Close)
	r.queue("orders", `,"partitionCount":2`)
	r.sub = r.subscription("orders", "g", `,"handlerConfig":{"ordered":true},"sessionTimeoutMs":2000,"retryDelayMs":1,"maxRetryAttempts":1000`)
	for n := range lossProducers {
		r.producers.Go(func() { r.produce(n) })
	}
	for n := range lossConsumers {
		r.consumers.Go(func() { r.consume(r.instances[n%2]) })
	}
	return r
}

// pause lets a refusal pass.
func (r *lossRun) pause() { <-time.After(5 * time.Millisecond) }

// try sends a request and reports whether it was answered with a status.
func (r *lossRun) try(i *instance, path string, body any, key string, status int, into any) bool {
	text, err := json.Marshal(body)
	if !assert.NoError(r.t, err) { //nolint:testifylint // not on the test's goroutine
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url+apiPrefix+path, bytes.NewReader(text))
	if !assert.NoError(r.t, err) { //nolint:testifylint // not on the test's goroutine
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
			assert.Fail(r.t, "unexpected answer", "%s: %d %s", path, resp.StatusCode, out)
		}
		return false
	}
	return into == nil || assert.NoError(r.t, json.Unmarshal(out, into))
}

// produce publishes messages of one key, one after the other, each until it is a 201.
func (r *lossRun) produce(n int) {
	for seq := 0; !r.stop.Load(); seq++ {
		body := map[string]any{"queue": "orders", "key": fmt.Sprint("k", n), "payload": map[string]any{"key": n, "seq": seq}}
		for try := 0; ; try++ {
			if r.try(r.instances[(n+try)%2], "/publish", body, fmt.Sprintf("%d-%d", n, seq), http.StatusCreated, nil) {
				r.published.Add(1)
				break
			}
			r.pause()
		}
	}
}

func (r *lossRun) consume(i *instance) {
	for !r.drained.Load() {
		var pulled struct {
			Messages []struct{ AckToken string }
		}
		if !r.try(i, "/subscriptions/"+r.sub+"/pull", map[string]any{"maxMessages": 20, "waitMs": 200}, "", http.StatusOK, &pulled) {
			r.pause()
			continue
		}
		if len(pulled.Messages) == 0 {
			continue
		}
		tokens := make([]string, len(pulled.Messages))
		for n, m := range pulled.Messages {
			tokens[n] = m.AckToken
		}
		r.try(i, "/subscriptions/"+r.sub+"/ack", map[string]any{"ackTokens": tokens}, "", http.StatusOK, nil)
	}
}

// more waits until so many more messages were published.
func (r *lossRun) more(n int64) {
	r.t.Helper()
	from := r.published.Load()
	eventually(r.t, "publishing goes on", func() bool { return r.published.Load() >= from+n })
}

// finish waits until all is consumed and holds what history says against what was answered.
func (r *lossRun) finish() {
	r.t.Helper()
	r.stop.Store(true)
	r.producers.Wait()
	var stored, consumed int64
	eventually(r.t, "all is consumed", func() bool {
		err := r.pool.QueryRow(r.t.Context(), `SELECT count(*), count(*) FILTER (WHERE status = 'consumed') FROM message_records`).Scan(&stored, &consumed)
		require.NoError(r.t, err)
		return stored == consumed
	})
	r.drained.Store(true)
	r.consumers.Wait()
	require.Equal(r.t, r.published.Load(), stored, "each message is there once")
	// settled once, and each key's in the order in which they were published
	rows, err := r.pool.Query(r.t.Context(), `SELECT m.payload->>'key', (m.payload->>'seq')::int FROM event_history h
		JOIN message_records m ON m.message_id = h.message_id WHERE h.kind = 'message.consumed' ORDER BY h.shard, h.position`)
	require.NoError(r.t, err)
	next := map[string]int{}
	var key string
	var seq int
	_, err = pgx.ForEachRow(rows, []any{&key, &seq}, func() error {
		if seq != next[key] {
			return fmt.Errorf("key %s: %d was settled where %d was to be", key, seq, next[key])
		}
		next[key]++
		return nil
	})
	require.NoError(r.t, err)
	r.folded()
	r.verified()
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(to))
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput() //nolint:gosec // the test's own
	require.NoError(t, err, "%s", out)
}

// Whatever Redis loses, while traffic goes on through two instances, nothing that was answered
// 201 is lost, nothing that is settled in history is delivered again, and each key's order holds.
func TestNothingIsLostWhateverRedisLoses(t *testing.T) { //nolint:paralleltest // it needs the machine's two cores
	dir := func(r *lossRun) string { return filepath.Join(r.stores.dir, "redis", "appendonlydir") }
	for _, tc := range []struct { //nolint:paralleltest // one after the other
		name string
		lose func(r *lossRun)
	}{
		{"everything", func(r *lossRun) { require.NoError(r.t, r.client.FlushAll(r.t.Context()).Err()) }},
		{"its disk", func(r *lossRun) {
			r.redis.Kill()
			require.NoError(r.t, os.RemoveAll(dir(r)))
			require.NoError(r.t, r.redis.Restart(r.t.Context()))
		}},
		{"the end of its append-only file", func(r *lossRun) {
			r.redis.Kill()
			files, err := filepath.Glob(filepath.Join(dir(r), "*.incr.aof"))
			require.NoError(r.t, err)
			require.Len(r.t, files, 1)
			info, err := os.Stat(files[0])
			require.NoError(r.t, err)
			require.NoError(r.t, os.Truncate(files[0], info.Size()*2/3))
			require.NoError(r.t, r.redis.Restart(r.t.Context()))
		}},
		{"what a replica did not have yet", func(r *lossRun) {
			replica := dir(r) + ".replica"
			copyDir(r.t, dir(r), replica)
			r.more(50)
			r.redis.Kill()
			copyDir(r.t, replica, dir(r))
			require.NoError(r.t, r.redis.Restart(r.t.Context()))
		}},
		{"one shard's epoch", func(r *lossRun) {
			require.NoError(r.t, r.client.Del(r.t.Context(), r.cfg.RedisKeyPrefix+"{1}:epoch").Err())
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startLossRun(t)
			epochs := func() (n int) {
				require.NoError(t, r.pool.QueryRow(t.Context(), `SELECT count(*) FROM log_epochs`).Scan(&n))
				return n
			}
			for n := range 2 {
				r.more(100)
				tc.lose(r)
				eventually(t, "the loss is noticed", func() bool { return epochs() > n+1 })
			}
			r.more(100)
			r.finish()
			require.Equal(t, 3, epochs(), "each loss is put back once")
		})
	}
}

// Whatever becomes of Postgres, nothing that was answered 201 is lost, and what was taken
// meanwhile is folded when it is back.
func TestNothingIsLostWhateverBecomesOfPostgres(t *testing.T) { //nolint:paralleltest // it needs the machine's two cores
	for _, tc := range []struct { //nolint:paralleltest // one after the other
		name  string
		begin func(r *lossRun) (end func())
	}{
		{"it goes away", func(r *lossRun) func() {
			r.stores.postgres.Kill()
			return func() { require.NoError(r.t, r.stores.postgres.Restart(r.t.Context())) }
		}},
		{"it fails over to a primary that was behind", func(r *lossRun) func() {
			data := filepath.Join(r.stores.dir, "postgres", "data")
			r.stores.postgres.Kill()
			copyDir(r.t, data, data+".replica")
			require.NoError(r.t, r.stores.postgres.Restart(r.t.Context()))
			r.more(50)
			r.stores.postgres.Kill()
			return func() {
				copyDir(r.t, data+".replica", data)
				require.NoError(r.t, r.stores.postgres.Restart(r.t.Context()))
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			throughOutage(t, tc.begin)
		})
	}
}

// throughOutage goes on while Postgres takes nothing, from begin to its end.
func throughOutage(t *testing.T, begin func(r *lossRun) (end func())) {
	t.Helper()
	r := startLossRun(t)
	r.more(100)
	end := begin(r)
	// without it, 201s are refused; 202s and deliveries go on
	eventually(t, "201s are refused", func() bool {
		return r.post("/publish", `{"queue":"orders","payload":{"key":"alone","seq":0}}`, "Idempotency-Key", "alone").status == http.StatusServiceUnavailable
	})
	const accepted = 300
	for n := range accepted {
		body := fmt.Sprintf(`{"queue":"orders","key":"async","payload":{"key":"async","seq":%d}}`, n)
		require.Equal(t, http.StatusAccepted, r.post("/publish", body, "Prefer", "respond-async").status)
	}
	eventually(t, "deliveries go on", func() bool {
		return r.unsettled() == 0
	})
	end()
	eventually(t, "201s are given again", func() bool {
		return r.post("/publish", `{"queue":"orders","payload":{"key":"alone","seq":0}}`, "Idempotency-Key", "alone").status == http.StatusCreated
	})
	r.published.Add(accepted + 1)
	r.more(50)
	r.finish()
}

// unsettled is how many messages the group has not settled, as Redis counts them.
func (r *lossRun) unsettled() int64 {
	total := int64(0)
	for shard := range r.cfg.Shards {
		log := redis.New(redis.Config{Client: r.client, Prefix: r.cfg.RedisKeyPrefix, Shards: r.cfg.Shards, Logger: slog.New(slog.DiscardHandler)})
		ids, err := r.client.HVals(r.t.Context(), fmt.Sprintf("%s{%d}:names", r.cfg.RedisKeyPrefix, shard)).Result()
		require.NoError(r.t, err)
		for _, id := range ids {
			state, err := log.TopicState(r.t.Context(), shard, id, 2)
			require.NoError(r.t, err)
			total += state.Unsettled["g"]
		}
		log.Close()
	}
	return total
}

// A store of an earlier version, whose Redis has one name for all its logs, goes on as it is.
func TestAStoreOfAnEarlierVersionGoesOn(t *testing.T) {
	t.Parallel()
	b := setupRecovery(t)
	b.queue("q", "")
	sub := b.subscription("q", "g", "")
	b.post("/publish", `{"queue":"q","payload":1}`).is(http.StatusCreated)
	b.folded()
	require.NoError(t, b.stop())
	i := startRoles(t, b.cfg, roles{roleCommand})
	i.post("/publish", `{"queue":"q","payload":2}`, "Prefer", "respond-async").is(http.StatusAccepted)
	require.NoError(t, i.stop())
	// given that it is as an earlier version left it, with something that is not folded
	var epoch string
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT value FROM store_settings WHERE name = 'log_epoch'`).Scan(&epoch))
	for shard := range b.cfg.Shards {
		require.NoError(t, b.client.Del(t.Context(), fmt.Sprintf("%s{%d}:epoch", b.cfg.RedisKeyPrefix, shard)).Err())
	}
	require.NoError(t, b.client.Set(t.Context(), b.cfg.RedisKeyPrefix+"epoch", epoch, 0).Err())
	// when this one starts, nothing is put back and nothing lost
	b.instance = start(t, b.cfg, "")
	seen := 0
	for seen < 2 {
		messages := b.pull(sub)
		b.ack(sub, messages...)
		seen += len(messages)
	}
	b.folded()
	b.verified()
	var epochs int
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT count(*) FROM log_epochs`).Scan(&epochs))
	require.Equal(t, 1, epochs)
}

// An instance whose REDIS_URL names another Redis does nobody harm: it waits, as others see the
// log where it is.
func TestAnInstanceWithAnotherRedisWaits(t *testing.T) {
	t.Parallel()
	b := setupRecovery(t)
	b.queue("q", "")
	eventually(t, "the log is seen", func() bool {
		last, _, err := postgres.LastSeen(t.Context(), b.pool)
		require.NoError(t, err)
		return last != ""
	})
	cfg := b.cfg
	other := ownStores(t)
	cfg.RedisURL = other.redis.URL()
	ctx, cancel := context.WithTimeout(t.Context(), logSeenFor+2*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- runService(ctx, cfg, slog.New(slog.DiscardHandler), options{host: "127.0.0.1", onReady: func(string) { assert.Fail(t, "it serves") }})
	}()
	for ctx.Err() == nil {
		b.post("/publish", `{"queue":"q","payload":1}`).is(http.StatusCreated)
		<-time.After(20 * time.Millisecond)
	}
	require.NoError(t, <-ended)
	var epochs int
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT count(*) FROM log_epochs`).Scan(&epochs))
	require.Equal(t, 1, epochs)
	// where nobody sees it elsewhere any more, it is put back there
	require.NoError(t, b.stop())
	b.instance = start(t, cfg, "")
	b.post("/publish", `{"queue":"q","payload":1}`).is(http.StatusCreated)
}
