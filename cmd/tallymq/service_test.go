package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/redis"
)

// The README's walk, as written there.
func TestFromPublishToItsHistory(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	created := i.post("/queues", `{"name":"orders"}`)
	require.Equal(t, "orders", created.is(http.StatusCreated)["name"])
	require.Equal(t, `"1"`, created.header.Get("ETag"))
	require.Equal(t, apiPrefix+"/queues/orders", created.header.Get("Location"))

	published := i.post("/publish", `{"queue":"orders","key":"customer-7","payload":{"order":42}}`,
		"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is(http.StatusCreated)
	id := text(published["messageId"])
	// 201 means visible to the next GET
	require.Equal(t, "published", i.get("/messages/" + id).is(http.StatusOK)["status"])

	sub := i.subscription("orders", "billing", "")
	messages := i.pull(sub)
	require.Len(t, messages, 1)
	require.Equal(t, id, messages[0]["messageId"])
	require.Equal(t, map[string]any{"order": 42.0}, messages[0]["payload"])
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", messages[0]["traceId"])
	i.ack(sub, messages...)

	eventually(t, "consumed in the read tables", func() bool { return i.get("/messages/" + id).is(http.StatusOK)["status"] == "consumed" })
	record := i.get("/messages/" + id).is(http.StatusOK)
	attempts := list(record["consumption"])
	require.Len(t, attempts, 1)
	require.Equal(t, []any{"success", sub, 1.0}, []any{attempts[0]["status"], attempts[0]["subscriptionId"], attempts[0]["attempt"]})
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", record["traceId"])

	events := list(i.get("/messages/" + id + "/events").is(http.StatusOK)["data"])
	require.Len(t, events, 2)
	require.Equal(t, []any{"message.published", "message.consumed"}, []any{events[0]["type"], events[1]["type"]})
}

func TestRespondAsyncAnswersBeforeTheFold(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("orders", "")
	id := text(i.post("/publish", `{"queue":"orders","payload":1}`, "Prefer", "respond-async").is(http.StatusAccepted)["messageId"])
	eventually(t, "folded in the end", func() bool { return i.get("/messages/"+id).status == http.StatusOK })
}

func TestPayloadsGoThroughByteForByte(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("raw", "")
	sub := i.subscription("raw", "g", "")
	payload := "{ \"b\" : 1.00 ,\n\t\"a\":[ 1e2,\"\\u00e9\\/\", \"<&>\" ], \"big\":12345678901234567890 }"
	i.post("/publish", `{"queue":"raw","payload":`+payload+`}`).is(http.StatusCreated)
	got := i.post("/subscriptions/"+sub+"/pull", `{"waitMs":10000}`)
	require.Equal(t, http.StatusOK, got.status)
	require.Contains(t, string(got.body), `"payload":`+payload+`,`)
}

func TestNackRetriesAndDeadLettersWithOneRecordPerAttempt(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("jobs", "")
	sub := i.subscription("jobs", "g", `,"maxRetryAttempts":1,"retryDelayMs":0`)
	id := text(i.post("/publish", `{"queue":"jobs","payload":1}`).is(http.StatusCreated)["messageId"])
	for attempt, want := range []string{"retrying", "dead_letter"} {
		m := i.pull(sub)
		require.Len(t, m, 1)
		require.InEpsilon(t, float64(attempt+1), m[0]["attempt"], 0)
		results := list(i.post("/subscriptions/"+sub+"/nack", map[string]any{"ackTokens": []any{m[0]["ackToken"]}, "error": "no"}).is(http.StatusOK)["results"])
		require.Equal(t, want, results[0]["status"])
	}
	eventually(t, "dead letter in the read tables", func() bool { return i.get("/messages/" + id).is(http.StatusOK)["status"] == "dead_letter" })
	record := i.get("/messages/" + id).is(http.StatusOK)
	attempts := list(record["consumption"])
	require.Len(t, attempts, 2)
	require.Equal(t, []any{"retrying", "failed"}, []any{attempts[0]["status"], attempts[1]["status"]})
	require.Equal(t, "no", attempts[0]["errorMessage"])
	require.InEpsilon(t, 1.0, record["retryCount"], 0)
}

func TestALeaseThatRunsOutGoesToTheNextAttempt(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("jobs", "")
	sub := i.subscription("jobs", "g", `,"sessionTimeoutMs":1000,"retryDelayMs":0`)
	i.post("/publish", `{"queue":"jobs","payload":1}`).is(http.StatusCreated)
	first := i.pull(sub)
	require.Len(t, first, 1)
	second := i.pull(sub)
	require.Len(t, second, 1)
	require.InEpsilon(t, 2.0, second[0]["attempt"], 0)
	// the token of the lost lease settles nothing
	results := list(i.post("/subscriptions/"+sub+"/ack", map[string]any{"ackTokens": []any{first[0]["ackToken"]}}).is(http.StatusOK)["results"])
	refusal, _ := results[0]["error"].(map[string]any)
	require.Equal(t, "MQ_LEASE_LOST", refusal["code"])
	i.ack(sub, second...)
}

func TestListsAreReadByCursorAndBoundToTheTenant(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	for n := range 5 {
		i.queue(fmt.Sprint("q", n), "")
		i.subscription(fmt.Sprint("q", n), "g", "")
	}
	for n := range 7 {
		i.post("/publish", fmt.Sprintf(`{"queue":"q%d","key":"k%d","payload":%d}`, n%2, n%3, n)).is(http.StatusCreated)
	}
	collect := func(path, field string) []string {
		var all []string
		cursor := ""
		for range 20 {
			page := i.get(path + "limit=2" + cursor).is(http.StatusOK)
			for _, item := range list(page["data"]) {
				all = append(all, text(item[field]))
			}
			if page["nextCursor"] == nil {
				return all
			}
			cursor = "&cursor=" + url.QueryEscape(text(page["nextCursor"]))
		}
		require.FailNow(t, "the list does not end")
		return nil
	}
	require.Equal(t, []string{"q0", "q1", "q2", "q3", "q4"}, collect("/queues?", "name"))
	require.Equal(t, []string{"q0", "q1", "q2", "q3", "q4"}, collect("/subscriptions?", "queue"))
	ids := collect("/messages?", "messageId")
	require.Len(t, ids, 7)
	require.IsDecreasing(t, ids)
	require.Len(t, collect("/messages?queue=q0&", "messageId"), 4)
	require.Len(t, collect("/messages?key=k0&", "messageId"), 3)
	require.Len(t, collect("/messages?queue=q0&key=k0&status=published&", "messageId"), 2)
	require.Empty(t, collect("/messages?status=consumed&", "messageId"))
	now := time.Now().UTC()
	require.Len(t, collect("/messages?from="+now.Add(-time.Hour).Format(time.RFC3339)+"&", "messageId"), 7)
	require.Empty(t, collect("/messages?to="+now.Add(-time.Hour).Format(time.RFC3339)+"&", "messageId"))
	require.Len(t, collect("/messages/"+ids[0]+"/events?", "id"), 1)

	// another tenant sees none of it, and cannot use the cursor
	other := []string{headerTenant, "00000000-0000-0000-0000-0000000000ff"}
	cursor := text(i.get("/queues?limit=2").is(http.StatusOK)["nextCursor"])
	field, _ := i.get("/queues?limit=2&cursor="+url.QueryEscape(cursor), other...).refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
	require.Equal(t, "cursor", field)
	for _, path := range []string{"/queues", "/subscriptions", "/messages"} {
		require.Empty(t, list(i.get(path, other...).is(http.StatusOK)["data"]), path)
	}
	i.get("/queues/q0", other...).refused(http.StatusNotFound, "MQ_QUEUE_NOT_FOUND")
	i.get("/messages/"+ids[0], other...).refused(http.StatusNotFound, "MQ_MESSAGE_NOT_FOUND")
	i.get("/messages/"+ids[0]+"/events", other...).refused(http.StatusNotFound, "MQ_MESSAGE_NOT_FOUND")
}

func TestQueueStateCountsWhatIsThere(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("orders", `,"partitionCount":2`)
	sub := i.subscription("orders", "g", `,"retryDelayMs":60000`)
	for range 10 {
		i.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)
	}
	messages := list(i.post("/subscriptions/"+sub+"/pull", `{"maxMessages":4}`).is(http.StatusOK)["messages"])
	require.Len(t, messages, 4)
	i.ack(sub, messages[0])
	i.post("/subscriptions/"+sub+"/nack", map[string]any{"ackTokens": []any{messages[1]["ackToken"]}, "delayMs": 60000}).is(http.StatusOK)
	state, _ := i.get("/queues/orders").is(http.StatusOK)["state"].(map[string]any)
	require.Equal(t, []any{9.0, 2.0, 6.0, 1.0}, []any{state["depth"], state["pending"], state["lag"], state["subscriptions"]})
	require.NotNil(t, state["oldestUnackedMs"])
	group := list(state["groups"])[0]
	require.Equal(t, []any{"g", 6.0, 2.0, 1.0}, []any{group["consumerGroup"], group["lag"], group["pending"], group["retrying"]})
	require.Len(t, list(state["partitions"]), 2)
}

func TestTheReadSideRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	for _, tc := range []struct{ path, field string }{
		{"/queues?limit=0", "limit"},
		{"/queues?limit=501", "limit"},
		{"/queues?cursor=x", "cursor"},
		{"/queues?page=2", "page"},
		{"/messages?status=lost", "status"},
		{"/messages?from=yesterday", "from"},
		{"/messages?to=0001-01-01T00:00:00Z", "to"},
		{"/messages?queue=a&queue=b", "queue"},
		{"/messages?key=%00", "key"},
		{"/messages/1", "id"},
		{"/messages/1/events", "id"},
		{"/subscriptions/x", "id"},
		{"/messages/" + devTenant + "?x=1", "x"},
		{"/subscriptions/" + devTenant + "?x=1", "x"},
		{"/queues/q?x=1", "x"},
		{"/messages?from=99999-01-01T00:00:00Z", "from"},
	} {
		field, limit := i.get(tc.path).refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
		require.Equal(t, tc.field, field, tc.path)
		require.NotEmpty(t, limit, tc.path)
	}
	i.get("/messages?queue=none").refused(http.StatusNotFound, "MQ_QUEUE_NOT_FOUND")
	i.get("/queues/%00").refused(http.StatusNotFound, "MQ_QUEUE_NOT_FOUND")
	i.get("/queues/%ff").refused(http.StatusNotFound, "MQ_QUEUE_NOT_FOUND")
	i.get("/messages?key=%ff").refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
	i.get("/nowhere").refused(http.StatusNotFound, "MQ_NOT_FOUND")
	i.call(http.MethodDelete, apiPrefix+"/queues", nil).refused(http.StatusMethodNotAllowed, "MQ_METHOD_NOT_ALLOWED")
}

func TestServeWantsTheTokenAndATenant(t *testing.T) {
	t.Parallel()
	const token = "a-token-of-sixteen-characters"
	i := start(t, testConfig(t), token)
	i.get("/queues").refused(http.StatusUnauthorized, "MQ_UNAUTHORIZED")
	i.get("/queues", headerToken, token+"x").refused(http.StatusUnauthorized, "MQ_UNAUTHORIZED")
	field, _ := i.get("/queues", headerToken, token).refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
	require.Equal(t, headerTenant, field)
	i.get("/queues", headerToken, token, headerTenant, devTenant).is(http.StatusOK)
	require.Equal(t, http.StatusOK, i.call(http.MethodGet, "/livez", nil).status)
	require.Equal(t, http.StatusOK, i.call(http.MethodGet, "/readyz", nil).status)
}

func TestAnotherNumberOfShardsAndAForeignRedisAreRefused(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	i := start(t, cfg, "")
	i.queue("orders", "")
	require.NoError(t, i.stop())
	run := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return runService(ctx, cfg, slog.New(slog.DiscardHandler), options{host: "127.0.0.1", onReady: func(string) { cancel() }})
	}
	cfg.Shards++
	require.ErrorContains(t, run(), "SHARDS: is 5, but this store was first used with 4")
	cfg.Shards--
	prefix := cfg.RedisKeyPrefix
	cfg.RedisKeyPrefix += "other:"
	require.ErrorContains(t, run(), "REDIS_KEY_PREFIX: is "+strconv.Quote(cfg.RedisKeyPrefix)+", but this store was first used with "+strconv.Quote(prefix))
	cfg.RedisKeyPrefix = prefix
	client, err := redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Set(t.Context(), prefix+"{2}:epoch", "another's", 0).Err())
	require.ErrorContains(t, run(), "this Redis holds another store's log: it has epoch another's")
}

func TestTwoInstancesAreOneService(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	a := start(t, cfg, "")
	b := start(t, cfg, "")
	a.queue("orders", "")
	sub := b.subscription("orders", "g", "")
	// a publish on one instance is a 201 on it, whoever folds, and visible on the other at once
	for n := range 20 {
		from, to := a, b
		if n%2 == 0 {
			from, to = b, a
		}
		id := text(from.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)["messageId"])
		to.get("/messages/" + id).is(http.StatusOK)
	}
	// and a token of one settles on the other, also after it stopped
	first := a.pull(sub)
	require.NoError(t, a.stop())
	b.ack(sub, first...)
	// and the other folds on
	id := text(b.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)["messageId"])
	b.get("/messages/" + id).is(http.StatusOK)
}

func TestStoppingFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("orders", "")
	i.queue("idle", "")
	idle := i.subscription("idle", "g", "")
	// given a long poll that waits for nothing
	var wg sync.WaitGroup
	polled := make(chan answer, 1)
	sent := make(chan struct{})
	wg.Go(func() {
		polled <- i.post("/subscriptions/"+idle+"/pull", `{"waitMs":20000}`)
	})
	go func() {
		// the poll was sent before these, each of which takes a round trip
		for range 20 {
			i.get("/queues").is(http.StatusOK)
		}
		close(sent)
	}()
	<-sent
	// and publishers that never stop
	published := make(chan struct{}, 1000)
	for range 8 {
		wg.Go(func() {
			for {
				resp, err := http.Post(i.url+apiPrefix+"/publish", "application/json", strings.NewReader(`{"queue":"orders","payload":1}`))
				if err != nil {
					return // no longer listening: nothing was taken
				}
				_ = resp.Body.Close()
				assert.Equal(t, http.StatusCreated, resp.StatusCode, "what was taken is answered to the end")
				select {
				case published <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 100 {
		<-published
	}
	// when it is asked to stop, then the poll comes back empty and it ends well
	began := time.Now()
	require.NoError(t, i.stop())
	require.Equal(t, http.StatusOK, (<-polled).status)
	require.Less(t, time.Since(began), drainTimeout)
	wg.Wait()
}

// stores are a Redis and a Postgres that the test may kill.
type stores struct {
	dir      string
	redis    *devstack.Redis
	postgres *devstack.Postgres
}

func ownStores(t testing.TB) stores {
	t.Helper()
	dir := devstack.TestDir(t)
	r, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{Dir: filepath.Join(dir, "redis")})
	require.NoError(t, err)
	t.Cleanup(r.Kill)
	p, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{Dir: filepath.Join(dir, "postgres")})
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	return stores{redis: r, postgres: p, dir: dir}
}

func TestStoresThatAreAwayAreWaitedFor(t *testing.T) {
	t.Parallel()
	own := ownStores(t)
	cfg := testConfig(t)
	cfg.RedisURL, cfg.DatabaseURL, cfg.AckTimeoutMs = own.redis.URL(), own.postgres.URL(), 1000
	// given neither store is there at the start
	own.redis.Kill()
	own.postgres.Kill()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg.Port = port.Addr().(*net.TCPAddr).Port
	require.NoError(t, port.Close())
	i := &instance{t: t, cfg: cfg, url: fmt.Sprintf("http://127.0.0.1:%d", cfg.Port)}
	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- runService(ctx, cfg, slog.New(slog.DiscardHandler), options{host: "127.0.0.1", onReady: func(addr string) { ready <- addr }})
	}()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	// then it says so
	eventually(t, "it listens", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(i.url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	a := i.post("/publish", `{"queue":"orders","payload":1}`)
	a.refused(http.StatusServiceUnavailable, "MQ_UNAVAILABLE")
	require.Equal(t, "1", a.header.Get("Retry-After"))
	require.Equal(t, http.StatusServiceUnavailable, i.call(http.MethodGet, "/readyz", nil).status)
	// when they come, it is ready
	require.NoError(t, own.redis.Restart(t.Context()))
	require.NoError(t, own.postgres.Restart(t.Context()))
	<-ready
	i.queue("orders", "")
	sub := i.subscription("orders", "g", "")

	publish := func() int { return i.post("/publish", `{"queue":"orders","payload":1}`).status }
	for _, tc := range []struct {
		name    string
		kill    func()
		restart func(context.Context) error
	}{{"Redis", own.redis.Kill, own.redis.Restart}, {"Postgres", own.postgres.Kill, own.postgres.Restart}} {
		// when one goes away later
		tc.kill()
		out := i.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusServiceUnavailable)
		require.Equal(t, []any{"MQ_UNAVAILABLE", 1.0}, []any{out["code"], out["retryAfter"]}, tc.name)
		i.call(http.MethodGet, "/readyz", nil).refused(http.StatusServiceUnavailable, "MQ_UNAVAILABLE")
		if tc.name == "Postgres" {
			// Redis alone takes what may be folded later
			i.post("/publish", `{"queue":"orders","payload":2}`, "Prefer", "respond-async").is(http.StatusAccepted)
			i.get("/messages").refused(http.StatusServiceUnavailable, "MQ_UNAVAILABLE")
			require.NotEmpty(t, i.pull(sub))
		}
		// then it recovers by itself once it is back
		require.NoError(t, tc.restart(t.Context()))
		eventually(t, tc.name+" is back", func() bool { return publish() == http.StatusCreated })
		eventually(t, "ready again", func() bool { return i.call(http.MethodGet, "/readyz", nil).status == http.StatusOK })
	}
}
