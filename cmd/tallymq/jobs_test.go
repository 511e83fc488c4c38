package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
)

// ended waits for a job's end and returns it.
func (i *instance) ended(id string) map[string]any {
	i.t.Helper()
	var job map[string]any
	eventually(i.t, "the job does not end", func() bool {
		job = i.get("/jobs/" + id).is(http.StatusOK)
		return job["status"] != "waiting" && job["status"] != "running"
	})
	return job
}

// publishNumbers publishes 0 … n-1 with keys in turn.
func (i *instance) publishNumbers(queue string, n, keys int) {
	i.t.Helper()
	for from := 0; from < n; from += 100 {
		var batch []map[string]any
		for k := from; k < min(from+100, n); k++ {
			batch = append(batch, map[string]any{"queue": queue, "payload": k, "key": fmt.Sprint("k", k%keys)})
		}
		i.post("/publish/batch", map[string]any{"messages": batch}).is(http.StatusCreated)
	}
}

// drain pulls and acks until there is nothing and returns payloads by key, in order.
func (i *instance) drain(subscription string, want int) map[string][]int {
	i.t.Helper()
	got := map[string][]int{}
	for n := 0; n < want; {
		messages := i.pull(subscription)
		require.NotEmpty(i.t, messages, "%d of %d came", n, want)
		for _, m := range messages {
			payload, _ := m["payload"].(float64)
			got[text(m["key"])] = append(got[text(m["key"])], int(payload))
		}
		i.ack(subscription, messages...)
		n += len(messages)
	}
	return got
}

func (i *instance) deadLetters(subscription string, n int) {
	i.t.Helper()
	for k := 0; k < n; {
		var tokens []string
		for _, m := range i.pull(subscription) {
			tokens = append(tokens, text(m["ackToken"]))
		}
		for _, r := range list(i.post("/subscriptions/"+subscription+"/nack", map[string]any{"ackTokens": tokens, "error": "no"}).is(http.StatusOK)["results"]) {
			require.Equal(i.t, "dead_letter", r["status"])
		}
		k += len(tokens)
	}
}

func TestDeadLettersAreRedriven(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("orders", "")
	sub := i.subscription("orders", "g", `,"maxRetryAttempts":0`)
	i.publishNumbers("orders", 1200, 3)
	i.deadLetters(sub, 1200)
	letters := list(i.get("/subscriptions/" + sub + "/dead-letters?limit=3").is(http.StatusOK)["data"])
	require.Len(t, letters, 3)
	// two by their ids, what is not there is no failure
	ids := []string{text(letters[0]["messageId"]), text(letters[2]["messageId"]), newID()}
	job := i.ended(text(i.post("/subscriptions/"+sub+"/redrive", map[string]any{"messageIds": ids}).is(http.StatusAccepted)["id"]))
	require.Equal(t, []any{"done", 2.0, 2.0, 0.0}, []any{job["status"], job["done"], job["total"], job["failed"]}, job)
	again := i.pull(sub)
	require.Len(t, again, 2)
	require.EqualValues(t, 2, again[0]["attempt"])
	i.ack(sub, again...)
	// none of another reason
	job = i.ended(text(i.post("/subscriptions/"+sub+"/redrive", `{"reason":"webhook"}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []any{"done", 0.0}, []any{job["status"], job["done"]}, job)
	// and all that are left, in more than one part and in order
	job = i.ended(text(i.post("/subscriptions/"+sub+"/redrive", `{}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []any{"done", 1198.0}, []any{job["status"], job["done"]}, job)
	for key, numbers := range i.drain(sub, 1198) {
		require.True(t, slices.IsSorted(numbers), key)
	}
	eventually(t, "dead letters are left", func() bool {
		return len(list(i.get("/subscriptions/" + sub + "/dead-letters").is(http.StatusOK)["data"])) == 0
	})
	ledger := i.get("/subscriptions/" + sub + "/ledger").is(http.StatusOK)
	require.Equal(t, []any{true, 1200.0, 1200.0, 0.0}, []any{ledger["balanced"], ledger["published"], ledger["consumed"], ledger["dead"]}, ledger)
}

func TestAQueueIsReplayed(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.EncryptionKeys = masterKey(t, "a")
	i := start(t, cfg, "")
	i.queue("orders", `,"partitionCount":3`)
	i.queue("copy", "")
	sub := i.subscription("orders", "g", "")
	i.publishNumbers("orders", 700, 5)
	i.post("/publish/delayed", `{"queue":"orders","payload":700,"key":"k0","delayMs":1}`).is(http.StatusCreated)
	i.drain(sub, 701)
	target := i.subscription("copy", "g", "")
	job := i.ended(text(i.post("/queues/orders/replay", `{"queue":"copy"}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []any{"done", 701.0, 0.0}, []any{job["status"], job["done"], job["failed"]}, job)
	for key, numbers := range i.drain(target, 701) {
		require.True(t, slices.IsSorted(numbers), key)
	}
	// into a subscription of its own, a second time for its group
	job = i.ended(text(i.post("/queues/orders/replay", `{"subscriptionId":"`+sub+`"}`).is(http.StatusAccepted)["id"]))
	require.Equal(t, []any{"done", 701.0}, []any{job["status"], job["done"]}, job)
	for key, numbers := range i.drain(sub, 701) {
		require.True(t, slices.IsSorted(numbers), key)
	}
	ledger := i.get("/subscriptions/" + sub + "/ledger").is(http.StatusOK)
	require.Equal(t, []any{true, 701.0, 701.0, 1402.0}, []any{ledger["balanced"], ledger["published"], ledger["replayed"], ledger["consumed"]}, ledger)
	// another queue's subscription is none of it
	field, _ := i.post("/queues/orders/replay", `{"subscriptionId":"`+target+`"}`).refused(http.StatusBadRequest, "MQ_VALIDATION_FAILED")
	require.Equal(t, "subscriptionId", field)
}

func TestAReplayKeepsItsPaceAndIsCancelled(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	i.queue("orders", "")
	i.queue("copy", "")
	target := i.subscription("copy", "g", "")
	began := time.Now()
	i.post("/publish", `{"queue":"orders","payload":0}`).is(http.StatusCreated)
	<-time.After(700 * time.Millisecond)
	i.post("/publish", `{"queue":"orders","payload":1}`).is(http.StatusCreated)
	apart := time.Since(began) - 100*time.Millisecond
	began = time.Now()
	id := text(i.post("/queues/orders/replay", `{"queue":"copy","speed":1}`).is(http.StatusAccepted)["id"])
	i.drain(target, 2)
	require.GreaterOrEqual(t, time.Since(began), min(apart, 600*time.Millisecond))
	i.ended(id)
	i.post("/jobs/"+id+"/cancel", nil).refused(http.StatusConflict, "MQ_CONFLICT")
	// a thousandth of the pace takes minutes: it is cancelled
	id = text(i.post("/queues/orders/replay", `{"queue":"copy","speed":0.001}`).is(http.StatusAccepted)["id"])
	i.drain(target, 1)
	require.Equal(t, "cancelled", i.post("/jobs/"+id+"/cancel", nil).is(http.StatusOK)["status"])
	i.post("/jobs/"+newID()+"/cancel", nil).refused(http.StatusNotFound, "MQ_JOB_NOT_FOUND")
}

// Who may not publish to a queue does not get there by a replay.
func TestAReplayAsksForPermission(t *testing.T) {
	t.Parallel()
	i, auth := guarded(t)
	admin := auth.bearer(devTenant, "boss", everyScope...)
	i.post("/queues", `{"name":"orders"}`, admin...).is(http.StatusCreated)
	i.post("/queues", `{"name":"copy","allowedProducers":["boss","worker"]}`, admin...).is(http.StatusCreated)
	i.post("/publish", `{"queue":"orders","payload":1}`, admin...).is(http.StatusCreated)
	i.post("/queues/orders/replay", `{"queue":"copy"}`, auth.bearer(devTenant, "other", everyScope...)...).refused(http.StatusForbidden, "MQ_FORBIDDEN")
	state := func(id string) map[string]any {
		return i.call(http.MethodGet, apiPrefix+"/jobs/"+id, nil, admin...).is(http.StatusOK)
	}
	replay := func(who string) map[string]any {
		id := text(i.post("/queues/orders/replay", `{"queue":"copy","speed":1}`, auth.bearer(devTenant, who, everyScope...)...).is(http.StatusAccepted)["id"])
		eventually(t, "the job ends", func() bool { return state(id)["finishedAt"] != nil })
		return state(id)
	}
	require.Equal(t, "done", replay("worker")["status"])
}

// What Redis does not hold any more comes from history.
func TestASeekGoesBackBehindWhatRedisHolds(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	i := start(t, cfg, "")
	i.queue("orders", `,"partitionCount":2`)
	sub := i.subscription("orders", "g", `,"handlerConfig":{"ordered":true}`)
	i.publishNumbers("orders", 300, 4)
	i.drain(sub, 300)
	client, err := redis.Open(cfg.RedisURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	topic := text(i.get("/queues/orders").is(http.StatusOK)["id"])
	for partition := range 2 {
		key := redis.QueueStream(cfg.RedisKeyPrefix, events.ShardOf(devTenant, "orders", cfg.Shards), topic, partition)
		require.NoError(t, client.XTrimMinID(t.Context(), key, "0-"+strconv.Itoa(51)).Err())
	}
	sought := i.post("/subscriptions/"+sub+"/seek", `{"to":"earliest"}`).is(http.StatusOK)
	require.Equal(t, true, sought["older"], sought)
	job := i.ended(text(sought["jobId"]))
	require.Equal(t, []any{"done", "seek", 0.0}, []any{job["status"], job["kind"], job["failed"]}, job)
	got := map[int]bool{}
	for _, numbers := range i.drain(sub, 300) {
		for _, n := range numbers {
			require.False(t, got[n], n)
			got[n] = true
		}
	}
	require.Len(t, got, 300)
	ledger := i.get("/subscriptions/" + sub + "/ledger").is(http.StatusOK)
	require.Equal(t, []any{true, 600.0}, []any{ledger["balanced"], ledger["consumed"]}, ledger)
	// from an offset that it has
	sought = i.post("/subscriptions/"+sub+"/seek", `{"to":"60"}`).is(http.StatusOK)
	require.Equal(t, false, sought["older"], sought)
	require.NotContains(t, sought, "jobId")
}
