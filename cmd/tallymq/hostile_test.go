package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hostile is a request that must be refused, and how.
type hostile struct {
	method, path, body string
	headers            []string
	status             int
	code, field        string
}

const (
	badRequest = "MQ_VALIDATION_FAILED"
	jsonType   = "application/json"
	eventType  = "application/cloudevents+json"
	batchType  = "application/cloudevents-batch+json"
)

// hostiles are requests over the whole surface that nobody with good intentions sends.
// {id} and {sub} are a message and a subscription.
func hostiles() []hostile {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	long := strings.Repeat("a", 300)
	put, post, get, del := http.MethodPut, http.MethodPost, http.MethodGet, http.MethodDelete
	typed := func(contentType string, more ...string) []string {
		return append([]string{"Content-Type", contentType}, more...)
	}
	return []hostile{
		// bodies that are no JSON of ours
		{post, "/queues", ``, nil, 400, badRequest, "body"},
		{post, "/queues", `{`, nil, 400, badRequest, "body"},
		{post, "/queues", `[]`, nil, 400, badRequest, "body"},
		{post, "/queues", `null`, nil, 400, badRequest, "name"},
		{post, "/queues", `{"name":"a"} {"name":"b"}`, nil, 400, badRequest, "body"},
		{post, "/queues", `{"name":"a","name":"b"}`, nil, 400, badRequest, "name"},
		{post, "/queues", `{"Name":"a"}`, nil, 400, badRequest, "Name"},
		{post, "/queues", "{\"name\":\"\xff\"}", nil, 400, badRequest, "body"},
		{post, "/queues", `{"name":"a\u0000"}`, nil, 400, badRequest, "name"},
		{post, "/queues", `{"name":"a","schemaDefinition":` + deep + `}`, nil, 400, badRequest, "schemaDefinition"},
		{post, "/queues", `{"name":7}`, nil, 400, badRequest, "name"},
		{post, "/queues", `name=a`, typed("application/x-www-form-urlencoded"), 415, "MQ_UNSUPPORTED_MEDIA_TYPE", "Content-Type"},
		{post, "/queues", `{"name":"a"}`, typed("application/json; charset=latin1"), 415, "MQ_UNSUPPORTED_MEDIA_TYPE", "Content-Type"},
		// configuration out of bounds
		{post, "/queues", `{"name":"../../etc"}`, nil, 400, badRequest, "name"},
		{post, "/queues", `{"name":"a","partitionCount":65}`, nil, 400, badRequest, "partitionCount"},
		{post, "/queues", `{"name":"a","partitionCount":1e99}`, nil, 400, badRequest, "partitionCount"},
		{post, "/queues", `{"name":"a","topicType":"kafka"}`, nil, 400, badRequest, "topicType"},
		{post, "/queues", `{"name":"a","status":"archived"}`, nil, 400, badRequest, "status"},
		{post, "/queues", `{"name":"a","retentionMs":-1}`, nil, 400, badRequest, "retentionMs"},
		{post, "/queues", `{"name":"a","tenantId":"x"}`, nil, 400, badRequest, "tenantId"},
		{post, "/queues", `{"name":"a"}`, []string{"Idempotency-Key", "has space"}, 400, badRequest, "Idempotency-Key"},
		{post, "/queues", `{"name":"a"}`, []string{"Idempotency-Key", long}, 400, badRequest, "Idempotency-Key"},
		{put, "/queues/q", `{"name":"b"}`, nil, 400, badRequest, "name"},
		{put, "/queues/q", `{"topicType":"kafka"}`, nil, 400, badRequest, "topicType"},
		{put, "/queues/q", `{"partitionCount":1}`, nil, 400, badRequest, "partitionCount"},
		{put, "/queues/q", `{"version":9}`, nil, 400, badRequest, "version"},
		{put, "/queues/q", `{"allowedProducers":[""]}`, nil, 400, badRequest, "allowedProducers[0]"},
		{put, "/queues/q", `{}`, []string{"If-Match", "1"}, 400, badRequest, "If-Match"},
		{put, "/queues/q", `{}`, []string{"If-Match", `W/"1"`}, 400, badRequest, "If-Match"},
		{put, "/queues/q", `{}`, []string{"If-Match", `"99"`}, 412, "MQ_VERSION_MISMATCH", "If-Match"},
		{put, "/queues/q?x=1", `{}`, nil, 400, badRequest, "x"},
		{put, "/queues/nothing", `{}`, nil, 404, "MQ_QUEUE_NOT_FOUND", ""},
		{put, "/queues/Q%00", `{}`, nil, 400, badRequest, "queue"},
		{post, "/queues/q/purge", `{"x":1}`, nil, 400, badRequest, "x"},
		{del, "/queues/q", `{"x":1}`, nil, 400, badRequest, "x"},
		{del, "/queues/nothing", ``, nil, 404, "MQ_QUEUE_NOT_FOUND", ""},
		{http.MethodPatch, "/queues/q", `{}`, nil, 405, "MQ_METHOD_NOT_ALLOWED", ""},
		{get, "/nowhere", ``, nil, 404, "MQ_NOT_FOUND", ""},
		{get, "/queues/%2e%2e", ``, nil, 404, "", ""},
		// messages
		{post, "/publish", `{"queue":"q"}`, nil, 400, badRequest, "payload"},
		{post, "/publish", `{"queue":"q","payload":` + deep + `}`, nil, 400, badRequest, "payload"},
		{post, "/publish", `{"queue":"q","payload":1e999}`, nil, 400, badRequest, "payload"},
		{post, "/publish", `{"queue":"q","payload":1,"key":"` + strings.Repeat("k", 501) + `"}`, nil, 400, badRequest, "key"},
		{post, "/publish", `{"queue":"q","payload":1,"partition":2}`, nil, 400, badRequest, "partition"},
		{post, "/publish", `{"queue":"q","payload":1,"ttlMs":0}`, nil, 400, badRequest, "ttlMs"},
		{post, "/publish", `{"queue":"q","payload":1,"headers":{"tallymq-tenant":"x"}}`, nil, 400, badRequest, "headers.tallymq-tenant"},
		{post, "/publish", `{"queue":"q","payload":"` + strings.Repeat("a", 1<<20) + `"}`, nil, 413, "MQ_PAYLOAD_TOO_LARGE", "payload"},
		{post, "/publish", `{"queue":"q","payload":"` + strings.Repeat("a", 2<<20) + `"}`, nil, 413, "MQ_PAYLOAD_TOO_LARGE", "body"},
		{post, "/publish", `{"queue":"other:q","payload":1}`, nil, 404, "MQ_QUEUE_NOT_FOUND", ""},
		{post, "/publish/batch", `{"messages":[]}`, nil, 400, badRequest, "messages"},
		{post, "/publish/batch", `{"messages":[` + strings.Repeat(`{},`, 1000) + `{}]}`, nil, 400, badRequest, "messages"},
		{post, "/publish/batch", `{"atomic":true,"messages":[{"queue":"q","payload":1},{"queue":"p","payload":1}]}`, nil, 400, badRequest, "messages[1].queue"},
		{post, "/topics/q/publish", `{"queue":"q","payload":1}`, nil, 400, badRequest, "queue"},
		// CloudEvents
		{post, "/publish?queue=q", `{"specversion":"1.0","id":"1","source":"/s"}`, typed(eventType), 400, badRequest, "type"},
		{post, "/publish?queue=q", `{"specversion":"0.3","id":"1","source":"/s","type":"t"}`, typed(eventType), 400, badRequest, "specversion"},
		{post, "/publish", `{"specversion":"1.0","id":"1","source":"/s","type":"t"}`, typed(eventType), 400, badRequest, "queue"},
		{post, "/topics/q/publish", `{"specversion":"1.0","id":"1","source":"/s","type":"t","Bad":1}`, typed(eventType), 400, badRequest, "Bad"},
		{post, "/topics/q/publish", `{"a":`, typed(jsonType, "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "t"), 400, badRequest, "data"},
		{post, "/topics/q/publish", `{}`, typed(batchType), 400, badRequest, "body"},
		// subscriptions
		{post, "/subscriptions", `{"queue":"q"}`, nil, 400, badRequest, "consumerGroup"},
		{post, "/subscriptions", `{"queue":"q","topicId":"01890a5d-ac96-774b-bcce-b302099a8057","consumerGroup":"g"}`, nil, 400, badRequest, "topicId"},
		{post, "/subscriptions", `{"topicId":"01890a5d-ac96-774b-bcce-b302099a8057","consumerGroup":"g"}`, nil, 404, "MQ_QUEUE_NOT_FOUND", ""},
		{post, "/publish?queue=q", `{"queue":"q","payload":1}`, nil, 400, badRequest, "queue"},
		{post, "/subscriptions/{sub}/pull?x=1", `{}`, nil, 400, badRequest, "x"},
		{post, "/subscriptions", `{"queue":"q","consumerGroup":"a|b"}`, nil, 400, badRequest, "consumerGroup"},
		{post, "/subscriptions", `{"queue":"q","consumerGroup":"g","subscriptionType":"webhook"}`, nil, 400, badRequest, "handlerConfig.url"},
		{post, "/subscriptions", `{"queue":"q","consumerGroup":"g","subscriptionType":"webhook","handlerConfig":{"url":"file:///etc/passwd"}}`, nil, 400, badRequest, "handlerConfig.url"},
		{post, "/subscriptions", `{"queue":"q","consumerGroup":"g","messageFilter":"all"}`, nil, 400, badRequest, "messageFilter"},
		{put, "/subscriptions/{sub}", `{"consumerGroup":"other"}`, nil, 400, badRequest, "consumerGroup"},
		{put, "/subscriptions/{sub}", `{"maxPollRecords":0}`, nil, 400, badRequest, "maxPollRecords"},
		{put, "/subscriptions/not-an-id", `{}`, nil, 400, badRequest, "id"},
		{post, "/subscriptions/{sub}/pause", `[]`, nil, 400, badRequest, "body"},
		{post, "/subscriptions/{sub}/pull", `{"waitMs":20001}`, nil, 400, badRequest, "waitMs"},
		{post, "/subscriptions/{sub}/pull", `{"maxMessages":-1}`, nil, 400, badRequest, "maxMessages"},
		{post, "/subscriptions/{sub}/ack", `{"ackTokens":[]}`, nil, 400, badRequest, "ackTokens"},
		{post, "/subscriptions/{sub}/nack", `{"ackTokens":["x"],"delayMs":-1}`, nil, 400, badRequest, "delayMs"},
		{post, "/subscriptions/{sub}/extend", `{"ackTokens":["x"],"leaseMs":1}`, nil, 400, badRequest, "leaseMs"},
		{post, "/subscriptions/01890a5d-ac96-774b-bcce-b302099a8057/pull", `{}`, nil, 404, "MQ_SUBSCRIPTION_NOT_FOUND", ""},
		// questions
		{get, "/queues?limit=501", ``, nil, 400, badRequest, "limit"},
		{get, "/queues?limit=1&limit=2", ``, nil, 400, badRequest, "limit"},
		{get, "/queues?cursor=AAAA", ``, nil, 400, badRequest, "cursor"},
		{get, "/messages?status=lost", ``, nil, 400, badRequest, "status"},
		{get, "/messages?from=yesterday", ``, nil, 400, badRequest, "from"},
		{get, "/messages?key=%ff", ``, nil, 400, badRequest, "key"},
		{get, "/messages/' OR 1=1 --", ``, nil, 400, badRequest, "id"},
		{get, "/events?type=message.exploded", ``, nil, 400, badRequest, "type"},
		{get, "/events?from=tomorrow", ``, nil, 400, badRequest, "from"},
		{get, "/events?cursor=%00", ``, nil, 400, badRequest, "cursor"},
		{get, "/events?messageId=1", ``, nil, 400, badRequest, "messageId"},
		{get, "/events", ``, []string{"Accept", "text/event-stream", "Last-Event-ID", "17"}, 400, badRequest, "Last-Event-ID"},
		{get, "/metrics?all=1", ``, nil, 400, badRequest, "all"},
		{get, "/health?deep=1", ``, nil, 400, badRequest, "deep"},
		{get, "/queues", ``, []string{headerTenant, "1"}, 400, badRequest, headerTenant},
	}
}

// hostileDeliveries are likewise, about what is delivered when and to whom.
func hostileDeliveries() []hostile {
	const none = "01890a5d-ac96-774b-bcce-b302099a8057"
	post, get, del := http.MethodPost, http.MethodGet, http.MethodDelete
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	webhook := func(config string) string {
		return `{"queue":"q","consumerGroup":"w","subscriptionType":"webhook","handlerConfig":{"url":"https://example.com/",` + config + `}}`
	}
	filter := func(filter string) string { return `{"queue":"q","consumerGroup":"f","messageFilter":` + filter + `}` }
	out := []hostile{
		// later
		{post, "/publish/delayed", `{"queue":"q","payload":1}`, nil, 400, badRequest, "delayMs"},
		{post, "/publish/delayed", `{"queue":"q","payload":1,"delayMs":-1}`, nil, 400, badRequest, "delayMs"},
		{post, "/publish/delayed", `{"queue":"q","payload":1,"delayMs":1e99}`, nil, 400, badRequest, "delayMs"},
		{post, "/publish/delayed", `{"queue":"q","payload":1,"delayMs":1,"scheduledAt":"2026-01-31T08:00:00Z"}`, nil, 400, badRequest, "scheduledAt"},
		{post, "/publish/delayed", `{"specversion":"1.0"}`, []string{"Content-Type", eventType}, 415, "MQ_UNSUPPORTED_MEDIA_TYPE", "Content-Type"},
		{post, "/publish/delayed?queue=q", `{"queue":"q","payload":1,"delayMs":1}`, nil, 400, badRequest, "queue"},
		{post, "/publish/scheduled", `{"queue":"q","payload":1,"scheduledAt":"2026-01-31"}`, nil, 400, badRequest, "scheduledAt"},
		{post, "/publish/scheduled", `{"queue":"q","payload":1,"scheduledAt":"1970-01-01T00:00:00Z"}`, nil, 400, badRequest, "scheduledAt"},
		{post, "/publish/scheduled", `{"queue":"q","payload":1,"scheduledAt":"9999-12-31T23:59:59Z"}`, nil, 400, badRequest, "scheduledAt"},
		{post, "/publish/batch", `{"messages":[{"queue":"q","payload":1,"delayMs":1}]}`, nil, 400, badRequest, "messages[0].delayMs"},
		{post, "/publish", `{"queue":"q","payload":1,"maxRetryAttempts":1001}`, nil, 400, badRequest, "maxRetryAttempts"},
		{post, "/publish", `{"queue":"q","payload":1,"retryDelayMs":-1}`, nil, 400, badRequest, "retryDelayMs"},
		{post, "/messages/" + none + "/cancel", ``, nil, 404, "MQ_MESSAGE_NOT_FOUND", ""},
		{post, "/messages/' OR 1=1 --/cancel", ``, nil, 400, badRequest, "id"},
		{post, "/messages/" + none + "/cancel", `{"x":1}`, nil, 400, badRequest, "x"},
		{get, "/messages/" + none + "/cancel", ``, nil, 405, "MQ_METHOD_NOT_ALLOWED", ""},
		// again and again
		{post, "/schedules", `{"queue":"q","payload":1}`, nil, 400, badRequest, "cron"},
		{post, "/schedules", `{"queue":"q","payload":1,"cron":"* * * * * *"}`, nil, 400, badRequest, "cron"},
		{post, "/schedules", `{"queue":"q","payload":1,"cron":"*/0 * * * *"}`, nil, 400, badRequest, "cron"},
		{post, "/schedules", `{"queue":"q","payload":1,"cron":"* * 31 2 *"}`, nil, 400, badRequest, "cron"},
		{post, "/schedules", `{"queue":"q","payload":1,"cron":"@daily","timeZone":"../../etc/passwd"}`, nil, 400, badRequest, "cron"},
		{post, "/schedules", `{"queue":"q","payload":` + deep + `,"cron":"@daily"}`, nil, 400, badRequest, "payload"},
		{post, "/schedules", `{"queue":"q","payload":1,"cron":"@daily","headers":{"tallymq-tenant":"x"}}`, nil, 400, badRequest, "headers.tallymq-tenant"},
		{post, "/schedules", `{"queue":"other:q","payload":1,"cron":"@daily"}`, nil, 404, "MQ_QUEUE_NOT_FOUND", ""},
		{post, "/schedules/" + none + "/pause", ``, nil, 404, "MQ_SCHEDULE_NOT_FOUND", ""},
		{post, "/schedules/not-an-id/resume", ``, nil, 400, badRequest, "id"},
		{del, "/schedules/" + none, `{"x":1}`, nil, 400, badRequest, "x"},
		{get, "/schedules?queue=nothing", ``, nil, 404, "MQ_QUEUE_NOT_FOUND", ""},
		{get, "/schedules?queue=%ff", ``, nil, 400, badRequest, "queue"},
		{get, "/schedules/%00", ``, nil, 400, badRequest, "id"},
		// to whom
		{post, "/subscriptions", webhook(`"url":"https://a/"`), nil, 400, badRequest, "handlerConfig.url"},
		{post, "/subscriptions", webhook(`"timeoutMs":60001`), nil, 400, badRequest, "handlerConfig.timeoutMs"},
		{post, "/subscriptions", webhook(`"ratePerSecond":-1`), nil, 400, badRequest, "handlerConfig.ratePerSecond"},
		{post, "/subscriptions", webhook(`"nonsense":1`), nil, 400, badRequest, "handlerConfig"},
		{post, "/subscriptions", webhook(`"headers":{"webhook-signature":"v1,x"}`), nil, 400, badRequest, "handlerConfig"},
		{post, "/subscriptions", webhook(`"headers":{"host":"localhost"}`), nil, 400, badRequest, "handlerConfig"},
		{post, "/subscriptions", webhook(`"headers":{"a":"b\r\nc: d"}`), nil, 400, badRequest, "handlerConfig"},
		{post, "/subscriptions", webhook(`"retryScheduleMs":[-1]`), nil, 400, badRequest, "handlerConfig.retryScheduleMs"},
		{post, "/subscriptions", filter(`{"sql":"DROP TABLE"}`), nil, 400, badRequest, "messageFilter"},
		{post, "/subscriptions", filter(`{"cel":"payload."}`), nil, 400, badRequest, "messageFilter"},
		{post, "/subscriptions", filter(`{"cel":"` + strings.Repeat("(", 500) + `"}`), nil, 400, badRequest, "messageFilter"},
		{post, "/subscriptions", filter(`{"key":"` + strings.Repeat("k", 4<<10) + `"}`), nil, 400, badRequest, "messageFilter"},
		{post, "/subscriptions", `{"queue":"q","consumerGroup":"d","deadLetterQueue":"q"}`, nil, 400, badRequest, "deadLetterQueue"},
		{post, "/subscriptions", `{"queue":"q","consumerGroup":"d","deadLetterQueue":"nothing"}`, nil, 400, badRequest, "deadLetterQueue"},
		{post, "/subscriptions/{sub}/test-filter", `{}`, nil, 400, badRequest, "payload"},
		{post, "/subscriptions/{sub}/test-filter", `{"payload":1,"messageFilter":{"cel":"1"}}`, nil, 400, badRequest, "messageFilter"},
		{get, "/subscriptions/{sub}/secret", ``, nil, 409, "MQ_CONFLICT", ""},
		{get, "/subscriptions/{sub}/secret?all=1", ``, nil, 400, badRequest, "all"},
		{post, "/subscriptions/{sub}/rotate-secret", `{"secret":"mine"}`, nil, 400, badRequest, "secret"},
		// once more
		{post, "/subscriptions/{sub}/seek", `{}`, nil, 400, badRequest, "to"},
		{post, "/subscriptions/{sub}/seek", `{"to":-1}`, nil, 400, badRequest, "to"},
		{post, "/subscriptions/{sub}/seek", `{"to":"0 OR 1=1"}`, nil, 400, badRequest, "to"},
		{post, "/subscriptions/{sub}/seek", `{"to":["latest"]}`, nil, 400, badRequest, "to"},
		{post, "/subscriptions/{sub}/redrive", `{"messageIds":[]}`, nil, 400, badRequest, "messageIds"},
		{post, "/subscriptions/{sub}/redrive", `{"messageIds":["x"]}`, nil, 400, badRequest, "messageIds[0]"},
		{post, "/subscriptions/{sub}/redrive", `{"reason":"\u0000"}`, nil, 400, badRequest, "reason"},
		{post, "/subscriptions/{sub}/redrive", `{"from":"2026-02-01T00:00:00Z","to":"2026-01-01T00:00:00Z"}`, nil, 400, badRequest, "to"},
		{post, "/subscriptions/" + none + "/redrive", `{}`, nil, 404, "MQ_SUBSCRIPTION_NOT_FOUND", ""},
		{post, "/queues/q/replay", `{}`, nil, 400, badRequest, "subscriptionId"},
		{post, "/queues/q/replay", `{"queue":"q"}`, nil, 400, badRequest, "queue"},
		{post, "/queues/q/replay", `{"queue":"nothing"}`, nil, 404, "MQ_QUEUE_NOT_FOUND", ""},
		{post, "/queues/q/replay", `{"subscriptionId":"` + none + `"}`, nil, 404, "MQ_SUBSCRIPTION_NOT_FOUND", ""},
		{post, "/queues/q/replay", `{"subscriptionId":"{sub}","speed":1e99}`, nil, 400, badRequest, "speed"},
		{post, "/jobs/" + none + "/cancel", ``, nil, 404, "MQ_JOB_NOT_FOUND", ""},
		{post, "/jobs/%2e%2e/cancel", ``, nil, 400, badRequest, "id"},
		{del, "/jobs/" + none, ``, nil, 405, "MQ_METHOD_NOT_ALLOWED", ""},
	}
	return append(out, []hostile{
		{get, "/jobs?status=lost", ``, nil, 400, badRequest, "status"},
		{get, "/jobs?kind=purge", ``, nil, 400, badRequest, "kind"},
		{get, "/jobs?cursor=AAAA", ``, nil, 400, badRequest, "cursor"},
		{get, "/jobs/1", ``, nil, 400, badRequest, "id"},
		{get, "/subscriptions/{sub}/dead-letters?reason=bad-luck", ``, nil, 400, badRequest, "reason"},
		{get, "/subscriptions/{sub}/dead-letters?from=yesterday", ``, nil, 400, badRequest, "from"},
		{get, "/subscriptions/{sub}/dead-letters?limit=501", ``, nil, 400, badRequest, "limit"},
		{get, "/subscriptions/{sub}/dead-letters?cursor=%00", ``, nil, 400, badRequest, "cursor"},
		{get, "/subscriptions/{sub}/ledger?at=now", ``, nil, 400, badRequest, "at"},
		{get, "/subscriptions/%ff/ledger", ``, nil, 400, badRequest, "id"},
		{get, "/messages/" + none + "/explain", ``, nil, 400, badRequest, "subscription"},
		{get, "/messages/" + none + "/explain?subscription=1", ``, nil, 400, badRequest, "subscription"},
		{get, "/messages/" + none + "/explain?subscription={sub}&subscription={sub}", ``, nil, 400, badRequest, "subscription"},
		{get, "/messages/" + none + "/explain?subscription={sub}", ``, nil, 404, "MQ_MESSAGE_NOT_FOUND", ""},
		{get, "/messages/" + none + "/proof", ``, nil, 404, "MQ_MESSAGE_NOT_FOUND", ""},
		{get, "/messages/1/proof", ``, nil, 400, badRequest, "id"},
		{get, "/messages/" + none + "/proof?since=1", ``, nil, 400, badRequest, "since"},
	}...)
}

// Whatever is sent is answered with what is wrong, where, and what would be right: never
// with a fault, a stack or an internal name.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	require.Equal(t, http.StatusCreated, i.post("/queues", `{"name":"q","partitionCount":2}`).status)
	var sub struct{ ID string }
	i.post("/subscriptions", `{"queue":"q","consumerGroup":"g"}`).decode(http.StatusCreated, &sub)
	all := append(hostiles(), hostileDeliveries()...)
	require.GreaterOrEqual(t, len(all), 150)
	for n, h := range all {
		path, body := strings.ReplaceAll(h.path, "{sub}", sub.ID), strings.ReplaceAll(h.body, "{sub}", sub.ID)
		a := i.raw(h.method, path, body, h.headers)
		name := h.method + " " + path + " " + body[:min(len(body), 100)]
		require.Equal(t, h.status, a.status, "%d %s: %s", n, name, a.body)
		for _, word := range []string{"goroutine", ".go:", "pgx", "redis:", "SQLSTATE"} {
			require.NotContains(t, string(a.body), word, name)
		}
		if h.code == "" {
			continue
		}
		var e struct {
			Code, Message, RequestID string
			Details                  []struct{ Field, Limit, Problem string }
		}
		a.decode(h.status, &e)
		require.Equal(t, h.code, e.Code, name)
		require.NotEmpty(t, e.Message, name)
		require.NotEmpty(t, e.RequestID, name)
		if h.field != "" {
			require.NotEmpty(t, e.Details, name)
			require.True(t, strings.HasPrefix(e.Details[0].Field, h.field), "%d %s: %s", n, name, a.body)
		}
	}
}

// raw sends a request whose path is taken as it is.
func (i *instance) raw(method, path, body string, headers []string) answer {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), method, i.url, bytes.NewReader([]byte(body)))
	require.NoError(i.t, err)
	path, query, _ := strings.Cut(apiPrefix+path, "?")
	req.URL.Opaque, req.URL.RawQuery = "//"+req.URL.Host+strings.ReplaceAll(path, " ", "%20"), query
	req.Header.Set("Content-Type", jsonType)
	for n := 0; n+1 < len(headers); n += 2 {
		req.Header.Set(headers[n], headers[n+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(i.t, err)
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	require.NoError(i.t, err)
	return answer{t: i.t, status: resp.StatusCode, header: resp.Header, body: out}
}
