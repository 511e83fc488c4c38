package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/infra/config"
	"github.com/tallymq/tallymq/infra/devstack"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// instance is a service in this process, on stores of the test's own.
type instance struct {
	t   testing.TB
	cfg config.Config
	url string
	// stop ends it in order and returns what runService returned.
	stop func() error
}

func testConfig(t testing.TB) config.Config {
	t.Helper()
	cfg, err := config.Load(nil)
	require.NoError(t, err)
	cfg.Port = 0
	cfg.RedisURL, cfg.RedisKeyPrefix = devstack.TestRedis(t)
	cfg.DatabaseURL = devstack.TestPostgres(t)
	return cfg
}

// start runs an instance and returns once it is ready.
func start(t testing.TB, cfg config.Config, token string) *instance {
	t.Helper()
	return startLogging(t, cfg, token, slog.New(slog.DiscardHandler))
}

func startLogging(t testing.TB, cfg config.Config, token string, logger *slog.Logger) *instance {
	t.Helper()
	return startWith(t, cfg, logger, options{token: token})
}

// startRoles runs an instance of some parts.
func startRoles(t testing.TB, cfg config.Config, parts roles) *instance {
	t.Helper()
	return startWith(t, cfg, slog.New(slog.DiscardHandler), options{roles: parts})
}

// startWith runs an instance with options of its own.
func startWith(t testing.TB, cfg config.Config, logger *slog.Logger, o options) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	o.host, o.onReady = "127.0.0.1", func(addr string) { ready <- addr }
	go func() { ended <- runService(ctx, cfg, logger, o) }()
	i := &instance{t: t, cfg: cfg}
	stopped := false
	var result error
	i.stop = func() error {
		if !stopped {
			stopped = true
			cancel()
			result = <-ended
		}
		return result
	}
	t.Cleanup(func() { _ = i.stop() })
	select {
	case addr := <-ready:
		i.url = "http://" + addr
	case err := <-ended:
		stopped = true
		cancel()
		require.NoError(t, err, "the instance ended before it was ready")
	case <-time.After(time.Minute):
		require.FailNow(t, "the instance did not become ready")
	}
	return i
}

// answer is what a request brought back.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

// call sends a request; body is sent as it is when it is text, else as JSON.
func (i *instance) call(method, path string, body any, headers ...string) answer {
	i.t.Helper()
	var text []byte
	switch b := body.(type) {
	case nil:
	case string:
		text = []byte(b)
	default:
		var err error
		text, err = json.Marshal(b)
		require.NoError(i.t, err)
	}
	req, err := http.NewRequestWithContext(i.t.Context(), method, i.url+path, bytes.NewReader(text))
	require.NoError(i.t, err)
	req.Header.Set("Content-Type", "application/json")
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

func (i *instance) post(path string, body any, headers ...string) answer {
	i.t.Helper()
	return i.call(http.MethodPost, apiPrefix+path, body, headers...)
}

func (i *instance) get(path string, headers ...string) answer {
	i.t.Helper()
	return i.call(http.MethodGet, apiPrefix+path, nil, headers...)
}

// is requires a status and returns the decoded body.
func (a answer) is(status int) map[string]any {
	a.t.Helper()
	require.Equal(a.t, status, a.status, "%s", a.body)
	var out map[string]any
	require.NoError(a.t, json.Unmarshal(a.body, &out), "%s", a.body)
	return out
}

// refused requires a status and a code in the error format, and returns the first
// detail's field and limit.
func (a answer) refused(status int, code string) (field, limit string) {
	a.t.Helper()
	out := a.is(status)
	require.Equal(a.t, code, out["code"])
	require.NotEmpty(a.t, out["requestId"])
	require.NotEmpty(a.t, out["message"])
	details, _ := out["details"].([]any)
	if len(details) == 0 {
		return "", ""
	}
	d, _ := details[0].(map[string]any)
	field, _ = d["field"].(string)
	limit, _ = d["limit"].(string)
	return field, limit
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// list returns the objects of an array.
func list(v any) []map[string]any {
	items, _ := v.([]any)
	out := make([]map[string]any, len(items))
	for i, item := range items {
		out[i], _ = item.(map[string]any)
	}
	return out
}

// queue creates a queue; more is JSON members to add.
func (i *instance) queue(name, more string) {
	i.t.Helper()
	i.post("/queues", `{"name":"`+name+`"`+more+`}`).is(http.StatusCreated)
}

// subscription creates a subscription from the earliest and returns its id.
func (i *instance) subscription(queue, group, more string) string {
	i.t.Helper()
	return text(i.post("/subscriptions", `{"queue":"`+queue+`","consumerGroup":"`+group+`","offsetResetPolicy":"earliest"`+more+`}`).is(http.StatusCreated)["id"])
}

// pull returns what is there, waiting for a first message up to the limit.
func (i *instance) pull(subscription string) []map[string]any {
	i.t.Helper()
	return list(i.post("/subscriptions/"+subscription+"/pull", `{"waitMs":10000}`).is(http.StatusOK)["messages"])
}

func (i *instance) ack(subscription string, messages ...map[string]any) {
	i.t.Helper()
	tokens := make([]string, len(messages))
	for n, m := range messages {
		tokens[n] = text(m["ackToken"])
	}
	for _, r := range list(i.post("/subscriptions/"+subscription+"/ack", map[string]any{"ackTokens": tokens}).is(http.StatusOK)["results"]) {
		require.Equal(i.t, "acked", r["status"])
	}
}

// eventually polls a condition, within a limit that only a failure reaches.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 30*time.Second, 10*time.Millisecond, what)
}
