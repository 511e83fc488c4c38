package command_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/command"
)

// batchAnswer is the answer to a batch.
type batchAnswer struct {
	Results []struct {
		MessageID string   `json:"messageId"`
		Offset    int64    `json:"offset"`
		Duplicate bool     `json:"duplicate"`
		Error     *problem `json:"error"`
	} `json:"results"`
	Accepted int `json:"accepted"`
	Rejected int `json:"rejected"`
}

func decode[T any](t testing.TB, rec *httptest.ResponseRecorder, status int) T {
	t.Helper()
	require.Equal(t, status, rec.Code, rec.Body)
	var v T
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &v), rec.Body)
	return v
}

func TestTheMainJob(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fold(t)
	post := func(status int, path, body string, header ...string) *httptest.ResponseRecorder {
		t.Helper()
		rec := b.post(path, body, append(header, "Prefer", "")...)
		require.Equal(t, status, rec.Code, rec.Body)
		require.Equal(t, "application/json", rec.Header().Get("Content-Type"))
		return rec
	}
	// create a queue
	rec := post(http.StatusCreated, "/queues", `{"name":"orders","schemaDefinition":{ "a" : 1 }}`)
	require.Equal(t, `"1"`, rec.Header().Get("ETag"))
	require.Equal(t, "/api/v1/mq/queues/orders", rec.Header().Get("Location"))
	require.Contains(t, rec.Body.String(), `"schemaDefinition":{ "a" : 1 }`)
	// publish, by both ways
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	payload := "{ \"total\" : 1.0,\n\"text\":\"<\\u00e9>\" }"
	rec = post(http.StatusCreated, "/publish", `{"queue":"orders","key":"k","headers":{"h":"v"},"correlationId":"c","payload": `+payload+` }`, "Traceparent", trace)
	var published struct {
		MessageID   string `json:"messageId"`
		Queue       string `json:"queue"`
		Offset      *int64 `json:"offset"`
		Status      string `json:"status"`
		PublishedAt string `json:"publishedAt"`
	}
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &published))
	require.Equal(t, "orders", published.Queue)
	require.Equal(t, int64(0), *published.Offset)
	require.Equal(t, "published", published.Status)
	post(http.StatusCreated, "/topics/orders/publish", `{"payload":null}`)
	// subscribe
	rec = post(http.StatusCreated, "/subscriptions", `{"queue":"orders","consumerGroup":"billing","offsetResetPolicy":"earliest"}`)
	id := decode[created](t, rec, http.StatusCreated).ID
	require.Equal(t, "/api/v1/mq/subscriptions/"+id, rec.Header().Get("Location"))
	// pull: the payload is the producer's, byte for byte
	rec = post(http.StatusOK, "/subscriptions/"+id+"/pull", `{}`)
	require.Contains(t, rec.Body.String(), `"payload":`+payload)
	var raw struct {
		Messages []map[string]any `json:"messages"`
	}
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &raw))
	require.Len(t, raw.Messages, 2)
	m := raw.Messages[0]
	for field, want := range map[string]any{
		"messageId": published.MessageID, "key": "k", "headers": map[string]any{"h": "v"}, "contentType": "application/json", "partition": 0.0,
		"offset": 0.0, "attempt": 1.0, "publishedAt": published.PublishedAt, "correlationId": "c", "traceId": trace[3:35], "traceparent": trace,
	} {
		require.Equal(t, want, m[field], field)
	}
	expires, err := time.Parse(time.RFC3339, m["leaseExpiresAt"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(30*time.Second), expires, 5*time.Second)
	// extend, nack, ack: an answer per token, in order
	first, second := m["ackToken"].(string), raw.Messages[1]["ackToken"].(string)
	body := func(fields string, tokens ...string) string {
		return `{"ackTokens":["` + strings.Join(tokens, `","`) + `"]` + fields + `}`
	}
	rec = post(http.StatusOK, "/subscriptions/"+id+"/extend", body(`,"leaseMs":60000`, first, second))
	require.Equal(t, 2, strings.Count(rec.Body.String(), `"status":"extended"`))
	require.Equal(t, 2, strings.Count(rec.Body.String(), `"leaseExpiresAt":"`))
	rec = post(http.StatusOK, "/subscriptions/"+id+"/nack", body(`,"delayMs":60000,"error":"no"`, second))
	require.JSONEq(t, `{"results":[{"ackToken":"`+second+`","status":"retrying"}]}`, rec.Body.String())
	answer := decode[settled](t, post(http.StatusOK, "/subscriptions/"+id+"/ack", body("", "forged", first, second)), http.StatusOK)
	require.Equal(t, []string{"forged", first, second}, []string{answer.Results[0].AckToken, answer.Results[1].AckToken, answer.Results[2].AckToken})
	require.Equal(t, []string{"", "acked", ""}, []string{answer.Results[0].Status, answer.Results[1].Status, answer.Results[2].Status})
	require.Equal(t, invalid, answer.Results[0].Error.Code)
	require.Equal(t, "ackTokens[0]", answer.Results[0].Error.Details[0].Field)
	require.Equal(t, tokenLimit, answer.Results[0].Error.Details[0].Limit)
	require.Equal(t, "MQ_LEASE_LOST", answer.Results[2].Error.Code)
}

type settled struct {
	Results []struct {
		AckToken string   `json:"ackToken"`
		Status   string   `json:"status"`
		Error    *problem `json:"error"`
	} `json:"results"`
}

func TestWhoDoesNotWaitIsTold202(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, prefer := range []string{"respond-async", "Respond-Async", "wait=5, respond-async"} {
		rec := b.post("/queues", fmt.Sprintf(`{"name":"q%d"}`, len(prefer)), "Prefer", prefer)
		require.Contains(t, []int{http.StatusAccepted, http.StatusConflict}, rec.Code, prefer)
	}
	require.Equal(t, http.StatusAccepted, b.post("/publish/batch", `{"messages":[{"queue":"q13","payload":1}]}`).Code)
}

func TestIdempotencyKeysOverHTTP(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.subscribed(t)
	publish := func(body string) *httptest.ResponseRecorder {
		return b.post("/publish", body, "Idempotency-Key", "order-17")
	}
	type answer struct {
		MessageID string `json:"messageId"`
		Duplicate bool   `json:"duplicate"`
	}
	first := decode[answer](t, publish(`{"queue":"orders","payload":{"a":1}}`), http.StatusAccepted)
	again := decode[answer](t, publish(`{"payload":{"a":1}, "queue":"orders"}`), http.StatusAccepted)
	require.Equal(t, answer{MessageID: first.MessageID, Duplicate: true}, again)
	require.Equal(t, "MQ_IDEMPOTENCY_KEY_REUSED", decode[problem](t, publish(`{"queue":"orders","payload":{"a":2}}`), http.StatusUnprocessableEntity).Code)
	require.Equal(t, "MQ_CONFLICT", decode[problem](t, b.post("/queues", `{"name":"orders"}`), http.StatusConflict).Code)
}

// badPayloads are payloads that are JSON and that we do not take.
func badPayloads() map[string][3]string {
	return map[string][3]string{
		`"payload":"` + strings.Repeat("x", payloadMax-1) + `"`: {tooLarge, "payload", "at most 2000 bytes"},
		`"payload":` + nested("[", "]", 33):                     {invalid, "payload", depthLimit},
		`"payload":` + nested("[", "]", 300):                    {invalid, "payload", depthLimit},
		`"payload":{"a":"\u0000"}`:                              {invalid, "payload", nulLimit},
		`"payload":[1e400]`:                                     {invalid, "payload", "numbers within the range of a double (about ±1.8e308)"},
		`"key":"k"`:                                             {invalid, "payload", "any JSON value"},
	}
}

func TestABadPayloadIsRefusedAlone(t *testing.T) {
	t.Parallel()
	for bad, want := range badPayloads() {
		t.Run(fmt.Sprintf("%.30s", bad), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			id := b.subscribed(t)
			body := func(bad, atomic string) string {
				return `{"messages":[{"queue":"orders","payload":"a","partition":0},{"queue":"orders",` + bad + `},{"queue":"orders","payload":"c","partition":0}]` + atomic + `}`
			}
			requireProblem := func(p *problem) {
				t.Helper()
				require.NotNil(t, p)
				require.Equal(t, want[0], p.Code)
				require.Equal(t, "messages[1]."+want[1], p.Details[0].Field)
				require.Equal(t, want[2], p.Details[0].Limit)
			}
			// atomic: the batch is refused as a whole
			status := map[string]int{tooLarge: http.StatusRequestEntityTooLarge, invalid: http.StatusBadRequest}[want[0]]
			p := decode[problem](t, b.post("/publish/batch", body(bad, `,"atomic":true`)), status)
			requireProblem(&p)
			var got pulled
			b.must(t, &got, "/subscriptions/"+id+"/pull", `{}`)
			require.Empty(t, got.Messages)
			// else that message is refused, in its place, and the others are taken
			answer := decode[batchAnswer](t, b.post("/publish/batch", body(bad, ""), "Idempotency-Key", "k"), http.StatusMultiStatus)
			require.Equal(t, [2]int{2, 1}, [2]int{answer.Accepted, answer.Rejected})
			requireProblem(answer.Results[1].Error)
			require.Empty(t, answer.Results[1].MessageID)
			require.Equal(t, [2]int64{0, 1}, [2]int64{answer.Results[0].Offset, answer.Results[2].Offset})
			b.must(t, &got, "/subscriptions/"+id+"/pull", `{}`)
			require.Equal(t, []string{`"a"`, `"c"`}, []string{string(got.Messages[0].Payload), string(got.Messages[1].Payload)})
			// and when the batch is mended and repeated, only that one is new
			again := decode[batchAnswer](t, b.post("/publish/batch", body(`"payload":"b"`, ""), "Idempotency-Key", "k"), http.StatusAccepted)
			for n, r := range again.Results {
				require.Equal(t, n != 1, r.Duplicate, n)
				require.NotEmpty(t, r.MessageID)
				if n != 1 {
					require.Equal(t, answer.Results[n].MessageID, r.MessageID)
				}
			}
		})
	}
}

func TestAnAtomicBatchIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.subscribed(t)
	for body, want := range map[string]problem{
		`{"messages":[{"queue":"nowhere","payload":1},{"queue":"nowhere","payload":1}],"atomic":true}`:                    {Code: noQueue},
		`{"messages":[{"queue":"orders","payload":1},{"queue":"orders","payload":1,"key":"k","ttlMs":0}],"atomic":true}`:  {Code: invalid},
		`{"messages":[{"queue":"orders","payload":1},{"queue":"orders","payload":1,"partition":9}],"atomic":true}`:        {Code: invalid},
		`{"messages":[{"queue":"orders","payload":1},{"queue":"orders","payload":1,"partition":9},{}],"atomic":true}`:     {Code: invalid},
		`{"messages":[{"queue":"orders"},{"queue":"orders","payload":1,"partition":9},{"queue":"orders"}],"atomic":true}`: {Code: invalid},
	} {
		rec := b.post("/publish/batch", body)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, rec.Code, rec.Body)
		require.Equal(t, want.Code, decode[problem](t, rec, rec.Code).Code)
		if want.Code == invalid {
			require.Contains(t, rec.Body.String(), `"field":"messages`)
		}
	}
}

// scriptHook counts the scripts that Redis has run for a client.
type scriptHook struct{ run atomic.Int64 }

func (*scriptHook) DialHook(next goredis.DialHook) goredis.DialHook { return next }

func (*scriptHook) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

func (h *scriptHook) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		err := next(ctx, cmd)
		if strings.HasPrefix(cmd.Name(), "eval") && err == nil {
			h.run.Add(1)
		}
		return err
	}
}

func TestWaitingPullsEndWhenTheServiceStops(t *testing.T) {
	t.Parallel()
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	b := setup(t, func(d *command.Deps) { d.Stopping = stopping })
	id := b.subscribed(t)
	var scripts scriptHook
	b.client.AddHook(&scripts)
	began := time.Now()
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- b.post("/subscriptions/"+id+"/pull", `{"waitMs":20000}`) }()
	// given a pull that found nothing and waits
	require.Eventually(t, func() bool { return scripts.run.Load() > 0 }, 10*time.Second, time.Millisecond)
	select {
	case rec := <-done:
		t.Fatalf("the pull did not wait: %s", rec.Body)
	default:
	}
	// when the service stops, the pull answers at once, with nothing
	stop()
	rec := <-done
	require.Equal(t, http.StatusOK, rec.Code)
	require.JSONEq(t, `{"messages":[]}`, rec.Body.String())
	require.Less(t, time.Since(began), 15*time.Second)
	// and everything else goes on: a publish, and a pull of what is there
	require.Equal(t, http.StatusAccepted, b.post("/publish", `{"queue":"orders","payload":1}`).Code)
	b.log.Forget(id)
	var got pulled
	b.must(t, &got, "/subscriptions/"+id+"/pull", `{"waitMs":20000}`)
	require.Len(t, got.Messages, 1)
	require.Equal(t, 1, got.Messages[0].Attempt)
}

func TestMessagesOfAConsumerWhoLeftAreHandedBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.subscribed(t)
	require.Equal(t, http.StatusAccepted, b.post("/publish", `{"queue":"orders","payload":1}`).Code)
	// given a consumer who leaves while its pull is under way
	gone, leave := context.WithCancel(t.Context())
	leave()
	rec := httptest.NewRecorder()
	b.ServeHTTP(rec, newRequest("/subscriptions/"+id+"/pull", `{}`).WithContext(gone))
	require.Empty(t, rec.Body.String())
	// then the next one gets the message without waiting for the lease to run out
	var got pulled
	b.must(t, &got, "/subscriptions/"+id+"/pull", `{}`)
	require.Len(t, got.Messages, 1)
	require.Equal(t, 2, got.Messages[0].Attempt)
}

func TestAStoreThatDoesNotAnswerIs503(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.subscribed(t)
	require.NoError(t, b.client.Close())
	for path, body := range map[string]string{
		"/queues":                        `{"name":"q"}`,
		"/publish":                       `{"queue":"orders","payload":1}`,
		"/publish/batch":                 `{"messages":[{"queue":"orders","payload":1},{"queue":"orders","payload":2}]}`,
		"/subscriptions":                 `{"queue":"orders","consumerGroup":"h"}`,
		"/subscriptions/" + id + "/pull": `{}`,
		"/publish/delayed":               `{"queue":"orders","payload":1,"delayMs":1000}`,
		"/messages/" + id + "/cancel":    `{}`,
		"/schedules":                     `{"queue":"orders","payload":1,"cron":"@daily"}`,
		"/schedules/" + id + "/pause":    `{}`,
		"/subscriptions/" + id + "/seek": `{"to":"latest"}`,
	} {
		rec := b.post(path, body)
		p := decode[problem](t, rec, http.StatusServiceUnavailable)
		require.Equal(t, "MQ_UNAVAILABLE", p.Code)
		require.Equal(t, 1, p.RetryAfter)
		require.Equal(t, "1", rec.Header().Get("Retry-After"))
		require.NotContains(t, rec.Body.String(), "redis", "internals are for the log")
	}
}

func TestAFoldThatDoesNotComeIs503(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.subscribed(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	req := newRequest("/publish", `{"queue":"orders","payload":1}`, "Idempotency-Key", "k").WithContext(ctx)
	rec := httptest.NewRecorder()
	b.ServeHTTP(rec, req)
	p := decode[problem](t, rec, http.StatusServiceUnavailable)
	require.Contains(t, p.Message, "Idempotency-Key")
	// and the retry that is told to use the key finds the message
	rec = b.post("/publish", `{"queue":"orders","payload":1}`, "Idempotency-Key", "k")
	require.Contains(t, rec.Body.String(), `"duplicate":true`)
	// folded, it answers in full
	b.log.Announce(events.ShardOf(tenant, "orders", shards), 1<<62)
	require.Equal(t, http.StatusCreated, b.post("/publish", `{"queue":"orders","payload":1}`, "Idempotency-Key", "k", "Prefer", "").Code)
}
