package command_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/infra/redis"
)

const (
	mismatch    = "MQ_VERSION_MISMATCH"
	otherTenant = "00000000-0000-0000-0000-000000000002"
	etagLimit   = `one ETag of this resource, such as "3", or *`
)

// do is post with any method.
func (b *testBundle) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	req := newRequest(path, body, append([]string{"Prefer", "respond-async"}, header...)...)
	req.Method = method
	rec := httptest.NewRecorder()
	b.ServeHTTP(rec, req)
	return rec
}

// shown is a queue or a subscription, as far as these tests look at it.
type shown struct {
	ID               string          `json:"id"`
	Queue            string          `json:"queue"`
	Description      string          `json:"description"`
	PartitionCount   int             `json:"partitionCount"`
	SchemaDefinition json.RawMessage `json:"schemaDefinition"`
	MessageFilter    json.RawMessage `json:"messageFilter"`
	AllowedProducers []string        `json:"allowedProducers"`
	MaxPollRecords   int             `json:"maxPollRecords"`
	Status           string          `json:"status"`
	CreatedAt        time.Time       `json:"createdAt"`
	UpdatedAt        time.Time       `json:"updatedAt"`
	Version          int64           `json:"version"`
}

// changes sends what must succeed and returns what it answers.
func (b *testBundle) changes(t testing.TB, method, path, body string, header ...string) shown {
	t.Helper()
	rec := b.do(method, path, body, header...)
	require.Contains(t, []int{http.StatusOK, http.StatusCreated, http.StatusAccepted}, rec.Code, rec.Body)
	var s shown
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &s), rec.Body)
	require.Equal(t, fmt.Sprintf("%q", fmt.Sprint(s.Version)), rec.Header().Get("ETag"))
	return s
}

func requireProblem(t testing.TB, rec *httptest.ResponseRecorder, status int, code string) problem {
	t.Helper()
	require.Equal(t, status, rec.Code, rec.Body)
	var p problem
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &p), rec.Body)
	require.Equal(t, code, p.Code)
	return p
}

func TestAChangeIsAnsweredWithWhatThereIsThen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fold(t)
	created := b.changes(t, http.MethodPost, "/queues", `{"name":"orders","description":"d","schemaDefinition":{"a":1},"allowedProducers":["p"]}`)
	require.Equal(t, created.CreatedAt, created.UpdatedAt)
	require.Eventually(t, func() bool { return time.Now().After(created.CreatedAt.Add(2 * time.Millisecond)) }, time.Second, time.Millisecond)
	// 200 says that it is folded, 202 that it is not
	rec := b.do(http.MethodPut, "/queues/orders", `{"partitionCount":2}`, "Prefer", "")
	require.Equal(t, http.StatusOK, rec.Code, rec.Body)
	require.Equal(t, http.StatusAccepted, b.do(http.MethodPut, "/queues/orders", `{"partitionCount":2}`).Code)
	changed := b.changes(t, http.MethodPut, "/queues/orders", `{"description":"","schemaDefinition":null,"allowedProducers":[]}`)
	require.Equal(t, []any{created.ID, "", 2, int64(3), created.CreatedAt}, []any{changed.ID, changed.Description, changed.PartitionCount, changed.Version, changed.CreatedAt})
	require.Nil(t, changed.SchemaDefinition)
	require.Empty(t, changed.AllowedProducers)
	require.True(t, changed.UpdatedAt.After(created.UpdatedAt))
	// nothing to change, nothing changed: null names nothing but where it takes away
	for _, body := range []string{`{}`, `{"description":null,"partitionCount":null,"allowedProducers":null,"status":null}`, `{"name":"orders","topicType":"redis_stream","partitionCount":2}`} {
		require.Equal(t, changed, b.changes(t, http.MethodPut, "/queues/orders", body))
	}
	sub := b.changes(t, http.MethodPost, "/subscriptions", `{"queue":"orders","consumerGroup":"g","messageFilter":{"a":1}}`)
	path := "/subscriptions/" + sub.ID
	changed = b.changes(t, http.MethodPut, path, `{"maxPollRecords":7,"messageFilter":null}`)
	require.Equal(t, []any{7, int64(2), "orders", "active"}, []any{changed.MaxPollRecords, changed.Version, changed.Queue, changed.Status})
	require.Nil(t, changed.MessageFilter)
	for n, step := range []struct{ what, status string }{{"pause", "paused"}, {"pause", "paused"}, {"resume", "active"}, {"resume", "active"}} {
		s := b.changes(t, http.MethodPost, path+"/"+step.what, []string{"", "{}"}[n%2])
		require.Equal(t, []any{step.status, int64(3 + n/2), 7}, []any{s.Status, s.Version, s.MaxPollRecords})
	}
	// what ends has nothing to show
	rec = b.do(http.MethodPost, "/queues/orders/purge", "", "Prefer", "")
	require.Equal(t, []any{http.StatusNoContent, 0}, []any{rec.Code, rec.Body.Len()})
	require.Equal(t, http.StatusAccepted, b.do(http.MethodPost, "/queues/orders/purge", "{}").Code)
	require.Equal(t, http.StatusNoContent, b.do(http.MethodDelete, path, "", "Prefer", "").Code)
	requireProblem(t, b.do(http.MethodDelete, path, ""), http.StatusNotFound, noSub)
	require.Equal(t, http.StatusAccepted, b.do(http.MethodDelete, "/queues/orders", "").Code)
	requireProblem(t, b.do(http.MethodDelete, "/queues/orders", ""), http.StatusNotFound, noQueue)
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders"}`)
}

// change is a request that changes something; it is sent with %s for an If-Match.
type change struct{ method, path, body string }

func (b *testBundle) everyChange(t testing.TB) []change {
	t.Helper()
	sub := "/subscriptions/" + b.subscribed(t)
	return []change{
		{http.MethodPut, "/queues/orders", `{"description":"d"}`},
		{http.MethodPost, "/queues/orders/purge", ``},
		{http.MethodPut, sub, `{"maxPollRecords":9}`},
		{http.MethodPost, sub + "/pause", ``},
		{http.MethodPost, sub + "/resume", ``},
		{http.MethodDelete, sub, ``},
		{http.MethodDelete, "/queues/orders", ``},
	}
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	version := map[bool]int{true: 1, false: 1}
	for _, c := range b.everyChange(t) {
		isQueue := strings.HasPrefix(c.path, "/queues")
		for _, bad := range []string{`1`, `W/"1"`, `"1", "2"`, `"a"`, `"-1"`, `"1`, ``, `"99999999999999999999"`, `"1 "`} {
			p := requireProblem(t, b.do(c.method, c.path, c.body, "If-Match", bad), http.StatusBadRequest, invalid)
			require.Equal(t, []string{"If-Match", etagLimit}, []string{p.Details[0].Field, p.Details[0].Limit}, bad)
		}
		for _, wrong := range []int{0, version[isQueue] + 1, 999999} {
			p := requireProblem(t, b.do(c.method, c.path, c.body, "If-Match", fmt.Sprintf(`"%d"`, wrong)), http.StatusPreconditionFailed, mismatch)
			require.Equal(t, []string{"If-Match", fmt.Sprintf(`"%d"`, version[isQueue])}, []string{p.Details[0].Field, p.Details[0].Limit})
		}
		rec := b.do(c.method, c.path, c.body, "If-Match", fmt.Sprintf(`"%d"`, version[isQueue]))
		require.Equal(t, http.StatusAccepted, rec.Code, "%s %s: %s", c.method, c.path, rec.Body)
		if !strings.HasSuffix(c.path, "/purge") {
			version[isQueue]++
		}
	}
	// any version is one that exists
	b.changes(t, http.MethodPost, "/queues", `{"name":"orders"}`)
	b.changes(t, http.MethodPut, "/queues/orders", `{"description":"x"}`, "If-Match", "*")
	requireProblem(t, b.do(http.MethodPut, "/queues/nowhere", `{}`, "If-Match", "*"), http.StatusNotFound, noQueue)
}

func TestHostileChanges(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const none = "01890a5d-ac97-7d6b-8f2a-0c6d5f1e2a3b"
	for _, c := range b.everyChange(t) {
		path, name := c.path, "queue"
		at := func(other string) string { return strings.Replace(path, "orders", other, 1) }
		missing, code := at("nowhere"), noQueue
		if strings.HasPrefix(c.path, "/subscriptions") {
			id := strings.Split(c.path, "/")[2]
			at = func(other string) string { return strings.Replace(path, id, other, 1) }
			missing, code, name = at(none), noSub, "id"
		}
		requireProblem(t, b.do(c.method, missing, c.body), http.StatusNotFound, code)
		requireProblem(t, b.do(c.method, c.path, c.body, "X-Test-Tenant", otherTenant), http.StatusNotFound, code)
		for _, bad := range []string{"A", "%20", "%ff", "%00", "a%2Fb", "é", strings.Repeat("a", 201)} {
			p := requireProblem(t, b.do(c.method, at(bad), c.body), http.StatusBadRequest, invalid)
			require.Equal(t, name, p.Details[0].Field, "%s %s", c.method, at(bad))
		}
		p := requireProblem(t, b.do(c.method, c.path+"?force=true", c.body), http.StatusBadRequest, invalid)
		require.Equal(t, "force", p.Details[0].Field)
		for body, field := range map[string]string{`{"nonsense":1}`: "nonsense", `[]`: "body", `{} {}`: "body", `{`: "body", "{\"\xff\":1}": "body"} {
			p := requireProblem(t, b.do(c.method, c.path, body), http.StatusBadRequest, invalid)
			require.Equal(t, field, p.Details[0].Field, "%s %s %s", c.method, c.path, body)
		}
		requireProblem(t, b.do(c.method, c.path, `{"x":"`+strings.Repeat("x", command.AdminBodyMax)+`"}`), http.StatusRequestEntityTooLarge, tooLarge)
	}
	cannot := "it cannot be changed"
	sub := b.oneMore(t)
	for _, tc := range []struct{ path, body, field, limit string }{
		{"/queues/orders", `{"name":"orders2"}`, "name", `"orders": ` + cannot},
		{"/queues/orders", `{"topicType":"kafka"}`, "topicType", `"redis_stream": ` + cannot},
		{"/queues/orders", `{"partitionCount":1}`, "partitionCount", "2 or more: partitions cannot be taken away"},
		{"/queues/orders", `{"partitionCount":65}`, "partitionCount", "1 to 64"},
		{"/queues/orders", `{"partitionCount":"2"}`, "partitionCount", "an integer"},
		{"/queues/orders", `{"status":""}`, "status", "one of active, paused"},
		{"/queues/orders", `{"schemaDefinition":[]}`, "schemaDefinition", "a JSON object"},
		{"/queues/orders", `{"id":"x"}`, "id", fieldsLimit},
		{"/queues/orders", `{"version":1}`, "version", fieldsLimit},
		{"/queues/orders", `{"description":"a","description":"b"}`, "description", onceLimit},
		{"/queues/orders", `{"description":"\u0000"}`, "description", nulLimit},
		{sub, `{"queue":"other"}`, "queue", `"orders": ` + cannot},
		{sub, `{"consumerGroup":"other"}`, "consumerGroup", `"again": ` + cannot},
		{sub, `{"consumerName":""}`, "consumerName", `"again": ` + cannot},
		{sub, `{"subscriptionType":"webhook"}`, "subscriptionType", `"redis_consumer": ` + cannot},
		{sub, `{"offsetResetPolicy":"earliest"}`, "offsetResetPolicy", `"latest": ` + cannot},
		{sub, `{"sessionTimeoutMs":999}`, "sessionTimeoutMs", "1000 to 43200000"},
		{sub, `{"messageFilter":"x"}`, "messageFilter", "a JSON object"},
		{sub, `{"deadLetterQueue":"D"}`, "deadLetterQueue", queueName},
		{sub, `{"status":"stopped"}`, "status", "one of active, paused"},
	} {
		p := requireProblem(t, b.do(http.MethodPut, tc.path, tc.body), http.StatusBadRequest, invalid)
		require.Equal(t, []string{tc.field, tc.limit}, []string{p.Details[0].Field, p.Details[0].Limit}, tc.body)
	}
}

// oneMore makes one more subscription on queue orders and returns its path.
func (b *testBundle) oneMore(t testing.TB) string {
	t.Helper()
	return "/subscriptions/" + b.changes(t, http.MethodPost, "/subscriptions", `{"queue":"orders","consumerGroup":"again"}`).ID
}

func TestAFullQueueSaysWhenToComeBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	log := redis.New(redis.Config{
		Client: b.client, Prefix: b.prefix, Shards: shards, IdempotencyTTL: time.Minute, Logger: slog.Default(), QueueLengthMax: 2,
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	t.Cleanup(log.Close)
	full := setup(t, func(d *command.Deps) {
		d.Commands = commands.NewDispatcher(log, commands.Config{
			Shards: shards, AckTimeout: time.Second, SessionTimeout: time.Minute, PayloadBytesMax: payloadMax, PullBytesMax: 1 << 20,
			TokenKey: []byte("key"), Logger: slog.Default(), Now: time.Now, NewID: newID, Rand: func() float64 { return 0 },
		})
	})
	full.changes(t, http.MethodPost, "/queues", `{"name":"orders"}`)
	messages := `{"messages":[` + strings.TrimSuffix(strings.Repeat(`{"queue":"orders","payload":1},`, 3), ",") + `],"atomic":%v}`
	rec := full.do(http.MethodPost, "/publish/batch", fmt.Sprintf(messages, true))
	p := requireProblem(t, rec, http.StatusTooManyRequests, "MQ_QUEUE_FULL")
	require.Equal(t, []any{1, "1"}, []any{p.RetryAfter, rec.Header().Get("Retry-After")})
	rec = full.do(http.MethodPost, "/publish/batch", fmt.Sprintf(messages, false))
	require.Equal(t, http.StatusMultiStatus, rec.Code, rec.Body)
	var batch struct {
		Results []struct {
			MessageID string  `json:"messageId"`
			Error     problem `json:"error"`
		} `json:"results"`
		Accepted int `json:"accepted"`
		Rejected int `json:"rejected"`
	}
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &batch))
	require.Equal(t, []any{2, 1, "MQ_QUEUE_FULL", 1}, []any{batch.Accepted, batch.Rejected, batch.Results[2].Error.Code, batch.Results[2].Error.RetryAfter})
	rec = full.do(http.MethodPost, "/publish", `{"queue":"orders","payload":1}`)
	p = requireProblem(t, rec, http.StatusTooManyRequests, "MQ_QUEUE_FULL")
	require.Equal(t, []any{1, "1"}, []any{p.RetryAfter, rec.Header().Get("Retry-After")})
}
