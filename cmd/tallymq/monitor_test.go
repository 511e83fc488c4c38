package main

import (
	"bytes"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tallymq/tallymq/handlers/monitor"
	"github.com/tallymq/tallymq/infra/telemetry"
)

type pulledMessages struct {
	Messages []struct{ MessageID, AckToken string }
}

// What the metrics say is what happened, on whichever instance, and to whom it belongs.
func TestMetricsAreMeasured(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	a, b := start(t, cfg, ""), start(t, cfg, "")
	mine := a.things("orders", nil)
	a.things("elsewhere", []string{headerTenant, tenantB})
	const more = 9
	for range more {
		require.Equal(t, http.StatusCreated, b.post("/publish", `{"queue":"orders","payload":1}`).status)
	}
	var pulled pulledMessages
	for len(pulled.Messages) < more+1 {
		var some pulledMessages
		b.post("/subscriptions/"+mine.sub+"/pull", `{"waitMs":5000}`).decode(http.StatusOK, &some)
		pulled.Messages = append(pulled.Messages, some.Messages...)
	}
	tokens := make([]string, 0, len(pulled.Messages))
	for _, m := range pulled.Messages {
		tokens = append(tokens, m.AckToken)
	}
	require.Equal(t, http.StatusOK, a.post("/subscriptions/"+mine.sub+"/ack", map[string]any{"ackTokens": tokens[:6]}).status)
	require.Equal(t, http.StatusOK, a.post("/subscriptions/"+mine.sub+"/nack", map[string]any{"ackTokens": tokens[6:8], "delayMs": 60_000}).status)
	for _, i := range []*instance{a, b} {
		var doc monitor.Document
		eventually(t, "both instances have posted", func() bool {
			i.get("/metrics").decode(http.StatusOK, &doc)
			return doc.Performance.Throughput > 0 && doc.Performance.AverageLatency > 0 && doc.Consumers.ErrorRate > 0
		})
		require.Equal(t, monitor.StreamTotals{TotalStreams: 2, TotalConsumerGroups: 1, TotalMessages: 10, PendingMessages: 2}, doc.RedisStreams)
		require.Equal(t, int64(1), doc.Consumers.ActiveConsumers)
		require.Zero(t, doc.Consumers.TotalLag)
		require.InDelta(t, 0.25, doc.Consumers.ErrorRate, 1e-9, "2 of 8")
		require.GreaterOrEqual(t, doc.Performance.P99Latency, doc.Performance.P95Latency)
		require.InDelta(t, doc.Consumers.ProcessingRate*10/6, doc.Performance.Throughput, doc.Performance.Throughput/2)
	}
	var topics struct{ Data []monitor.Topic }
	a.get("/metrics/topics").decode(http.StatusOK, &topics)
	require.Len(t, topics.Data, 1)
	require.Equal(t, int64(4), topics.Data[0].Depth, "two leased, two wait to be tried again")
	var consumers struct{ Data []monitor.Consumer }
	a.get("/metrics/consumers", headerTenant, tenantB).decode(http.StatusOK, &consumers)
	require.Len(t, consumers.Data, 1)
	require.Equal(t, "elsewhere", consumers.Data[0].Queue)
	// and so does Prometheus, each instance what it did itself
	scrape := func(i *instance) string { return string(i.call(http.MethodGet, "/metrics", nil).body) }
	require.Contains(t, scrape(b), `mq_messages_published_total{tenant="`+devTenant+`",topic="orders"} 9`)
	require.Contains(t, scrape(a), `mq_messages_consumed_total{group="g",tenant="`+devTenant+`",topic="orders"} 6`)
	for _, name := range []string{"mq_delivery_duration_seconds_bucket", "mq_http_request_duration_seconds_bucket", "mq_build_info"} {
		require.Contains(t, scrape(b), name)
	}
	eventually(t, "the gauges are read", func() bool {
		text := scrape(a)
		return strings.Contains(text, "mq_subscription_oldest_unacked_seconds{") && strings.Contains(text, "mq_projection_lag_events{")
	})
}

// A component that does not answer is down, one that others can do without degraded;
// each says why.
func TestHealthTellsDegradedFromDown(t *testing.T) {
	t.Parallel()
	own := ownStores(t)
	cfg := testConfig(t)
	cfg.RedisURL, cfg.DatabaseURL, cfg.HealthSeconds = own.redis.URL(), own.postgres.URL(), 1
	cfg.AuthURL = "http://127.0.0.1:1"
	i := start(t, cfg, accessToken)
	health := func(status int) (h struct {
		Status     string
		Components map[string]monitor.Component
	},
	) {
		i.get("/health").decode(status, &h)
		return h
	}
	eventually(t, "all that is looked at is there", func() bool { return len(health(http.StatusOK).Components) == 5 })
	h := health(http.StatusOK)
	require.Equal(t, monitor.StateDegraded, h.Status)
	require.Equal(t, monitor.StateDegraded, h.Components["auth"].Status)
	require.NotEmpty(t, h.Components["auth"].Reason)
	require.Equal(t, monitor.StateUp, h.Components["redis"].Status)
	require.NotNil(t, h.Components["database"].LatencyMs)
	own.postgres.Kill()
	eventually(t, "the database is down", func() bool { return i.get("/health").status == http.StatusServiceUnavailable })
	h = health(http.StatusServiceUnavailable)
	require.Equal(t, monitor.StateDown, h.Status)
	require.Equal(t, monitor.Component{Status: monitor.StateDown, Reason: "Postgres does not answer"}, h.Components["database"])
	require.Equal(t, monitor.StateUp, h.Components["redis"].Status)
	require.NoError(t, own.postgres.Restart(t.Context()))
	eventually(t, "the database is back", func() bool { return i.get("/health").status == http.StatusOK })
	own.redis.Kill()
	eventually(t, "Redis is down", func() bool { return i.get("/health").status == http.StatusServiceUnavailable })
	h = health(http.StatusServiceUnavailable)
	for _, name := range []string{"redis", "queues", "consumers"} {
		require.Equal(t, monitor.StateDown, h.Components[name].Status, name)
		require.NotEmpty(t, h.Components[name].Reason, name)
	}
	require.NoError(t, own.redis.Restart(t.Context()))
	var status struct {
		Service string
		Roles   []string
	}
	i.get("/status").decode(http.StatusOK, &status)
	require.Equal(t, "tallymq", status.Service)
	require.Equal(t, []string(allRoles()), status.Roles)
}

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Logs name requests, tenants and traces, and hold no payload, token or secret, however
// much is logged and whatever goes wrong.
func TestLogsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	auth := newAuthService(t)
	cfg := testConfig(t)
	cfg.AuthURL, cfg.AuthIssuer, cfg.EncryptionKeys = auth.url, accessIssuer, masterKey(t, "m")
	log := &lines{}
	i := startLogging(t, cfg, accessToken, slog.New(telemetry.NewTraceHandler(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	owner := auth.bearer(tenantA, "owner", everyScope...)
	const canary = "canary-of-the-logs"
	mine := i.things("orders", owner)
	i.post("/publish", `{"queue":"orders","payload":"`+canary+`","headers":{"a":"`+canary+`"}}`, append([]string{"X-Request-Id", "request-77", "Idempotency-Key", canary}, owner...)...)
	i.post("/publish", `{"queue":"orders","payload":"`+canary+`","unknown":1}`, owner...)
	i.post("/publish", `{"queue":"nothing","payload":"`+canary+`"}`, owner...)
	var pulled pulledMessages
	i.post("/subscriptions/"+mine.sub+"/pull", `{"waitMs":1000}`, owner...).decode(http.StatusOK, &pulled)
	i.post("/subscriptions/"+mine.sub+"/nack", map[string]any{"ackTokens": []string{pulled.Messages[0].AckToken}, "error": canary}, owner...)
	i.get("/messages?key="+canary, owner...)
	i.get("/queues", "Authorization", "Bearer "+canary)
	i.get("/queues", headerToken, canary)
	require.NoError(t, i.stop())
	text := log.text()
	for _, want := range []string{`"requestId":"request-77"`, `"tenant":"` + tenantA + `"`, `"route":"/api/v1/mq/publish"`, `"status":201`} {
		require.Contains(t, text, want)
	}
	require.Empty(t, telemetry.Leaked(text, canary, accessToken, strings.TrimPrefix(owner[1], "Bearer "), pulled.Messages[0].AckToken, strings.TrimPrefix(cfg.EncryptionKeys, "m:")))
}

// A trace leads from the producer's request to the fold and to the consumer.
func TestTracesLeadFromProducerToConsumer(t *testing.T) {
	var mu sync.Mutex
	var spans []*tracepb.Span
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		var export collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(data, &export) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range export.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				spans = append(spans, ss.GetSpans()...)
			}
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	i := start(t, testConfig(t), "")
	mine := i.things("orders", nil)
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	require.Equal(t, http.StatusCreated, i.post("/publish", `{"queue":"orders","payload":1}`, "Traceparent", "00-"+trace+"-"+parent+"-01").status)
	// the first message was published without a trace
	for n := 0; n < 2; {
		var pulled pulledMessages
		i.post("/subscriptions/"+mine.sub+"/pull", `{"waitMs":5000}`).decode(http.StatusOK, &pulled)
		n += len(pulled.Messages)
	}
	var publish *tracepb.Span
	linked := func(s *tracepb.Span) bool {
		for _, l := range s.GetLinks() {
			if bytes.Equal(l.GetSpanId(), publish.GetSpanId()) {
				return true
			}
		}
		return false
	}
	eventually(t, "the spans have come", func() bool {
		mu.Lock()
		defer mu.Unlock()
		folds, consumes := false, false
		for _, s := range spans {
			// Others may be traced too, by chance.
			if strings.Contains(s.GetName(), "/publish") && hex.EncodeToString(s.GetTraceId()) == trace {
				publish = s
			}
		}
		for _, s := range spans {
			folds = folds || (strings.Contains(s.GetName(), "fold") && linked(s))
			consumes = consumes || (strings.Contains(s.GetName(), "orders") && linked(s))
		}
		return publish != nil && folds && consumes
	})
	require.Equal(t, parent, hex.EncodeToString(publish.GetParentSpanId()), "the producer's own span is its parent")
}
