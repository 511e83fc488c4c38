package telemetry

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// scrape returns the answer of GET /metrics as values by series, such as
// `mq_redis_up` or `x{a="b"}`, with labels in the order of their names.
func scrape(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	require.Equal(t, http.StatusOK, rec.Code, rec.Body.String())
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(rec.Body)
	require.NoError(t, err)
	values := map[string]float64{}
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			labels := make([]string, 0, len(metric.GetLabel()))
			for _, l := range metric.GetLabel() {
				labels = append(labels, l.GetName()+"="+strconv.Quote(l.GetValue()))
			}
			key := name
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			if h := metric.GetHistogram(); h != nil {
				values[key+" count"], values[key+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				continue
			}
			values[key] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + metric.GetUntyped().GetValue()
		}
	}
	return values
}

func requireValues(t *testing.T, want, got map[string]float64) {
	t.Helper()
	for series, value := range want {
		require.Contains(t, got, series)
		require.InDelta(t, value, got[series], 1e-9, series)
	}
}

// busy has told its metrics one of everything.
func busy() *Metrics {
	m := NewMetrics(Config{Version: "1.2.3"})
	m.Published("t", "q", 3, 300, 20*time.Millisecond)
	m.Delivered("t", "q", "g", time.Second)
	m.Settled("t", "q", "g", OutcomeAcked, "", 2*time.Second)
	m.Settled("t", "q", "g", OutcomeRetrying, "nack", time.Second)
	m.Settled("t", "q", "g", OutcomeDeadLetter, "lease_expired", time.Second)
	m.Refused("MQ_NOT_FOUND")
	m.SetProjectionActive(2, true)
	m.SetProjectionLag(2, 7, time.Minute)
	m.Folded(2, 5, 1500)
	m.SetRedisUp(true)
	m.SetPostgresUp(false)
	m.requestStarted()
	m.requestEnded("GET", "/queues/:id", 200, time.Second)
	return m
}

func TestAScrapeHasWhatHappened(t *testing.T) {
	t.Parallel()
	got := scrape(t, busy())
	requireValues(t, map[string]float64{
		`mq_messages_published_total{tenant="t",topic="q"}`:                               3,
		`mq_messages_published_bytes_total{tenant="t",topic="q"}`:                         300,
		`mq_messages_consumed_total{group="g",tenant="t",topic="q"}`:                      1,
		`mq_messages_failed_total{group="g",reason="nack",tenant="t",topic="q"}`:          1,
		`mq_messages_failed_total{group="g",reason="lease_expired",tenant="t",topic="q"}`: 1,
		`mq_messages_dead_lettered_total{group="g",tenant="t",topic="q"}`:                 1,
		`mq_publish_duration_seconds count`:                                               1,
		`mq_publish_duration_seconds sum`:                                                 0.02,
		`mq_delivery_duration_seconds{tenant="t",topic="q"} sum`:                          1,
		`mq_processing_duration_seconds{tenant="t",topic="q"} count`:                      1,
		`mq_processing_duration_seconds{tenant="t",topic="q"} sum`:                        2,
		`mq_refusals_total{code="MQ_NOT_FOUND"}`:                                          1,
		`mq_projection_lag_events{shard="2"}`:                                             7,
		`mq_projection_lag_seconds{shard="2"}`:                                            1.5,
		`mq_projection_commits_total{shard="2"}`:                                          1,
		`mq_projection_events_total{shard="2"}`:                                           5,
		`mq_projection_active{shard="2"}`:                                                 1,
		`mq_redis_up`:                                                                     1,
		`mq_postgres_up`:                                                                  0,
		`mq_build_info{version="1.2.3"}`:                                                  1,
		`mq_http_requests_total{method="GET",route="/queues/:id",status="200"}`:           1,
		`mq_http_request_duration_seconds{method="GET",route="/queues/:id"} count`:        1,
		`mq_http_requests_in_flight`:                                                      0,
	}, got)
	require.Contains(t, got, "go_goroutines")
	require.Contains(t, got, "process_start_time_seconds")
}

func TestNamesAreConventional(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(busy().registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestWhatIsNotKnownIsNotReported(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Config{})
	got := scrape(t, m)
	require.NotContains(t, got, "mq_redis_up")
	require.NotContains(t, got, "mq_postgres_up")
	// a shard that went to another instance is that one's to report
	m.SetProjectionActive(0, true)
	m.SetProjectionLag(0, 9, time.Second)
	require.Contains(t, scrape(t, m), `mq_projection_lag_events{shard="0"}`)
	m.SetProjectionActive(0, false)
	got = scrape(t, m)
	require.NotContains(t, got, `mq_projection_lag_events{shard="0"}`)
	require.NotContains(t, got, `mq_projection_lag_seconds{shard="0"}`)
	require.Zero(t, got[`mq_projection_active{shard="0"}`])
}

func TestTopicsPastTheLimitAreCountedTogether(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Config{})
	for i := range 2 * TopicsMax {
		topic := "q" + strconv.Itoa(i)
		m.Published("t", topic, 1, 1, 0)
		m.Settled("t", topic, "g", OutcomeAcked, "", 0)
	}
	m.Published("t", "bad\xff", 1, 1, 0)
	got := scrape(t, m)
	requireValues(t, map[string]float64{
		`mq_messages_published_total{tenant="t",topic="q0"}`:                     1,
		`mq_messages_published_total{tenant="t",topic="q499"}`:                   1,
		`mq_messages_published_total{tenant="other",topic="other"}`:              TopicsMax + 1,
		`mq_messages_consumed_total{group="other",tenant="other",topic="other"}`: TopicsMax,
	}, got)
	series := 0
	for name := range got {
		if strings.HasPrefix(name, "mq_messages_published_total") {
			series++
		}
	}
	require.Equal(t, TopicsMax+1, series)
}

func TestAForgottenTopicMakesRoom(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Config{TopicsMax: 1, GroupsMax: 1})
	seen := func(topic string) bool {
		m.Settled("t", topic, "g", OutcomeRetrying, "nack", 0)
		m.Published("t", topic, 1, 1, 0)
		got := scrape(t, m)
		_, topicSeen := got[`mq_messages_published_total{tenant="t",topic="`+topic+`"}`]
		_, groupSeen := got[`mq_messages_failed_total{group="g",reason="nack",tenant="t",topic="`+topic+`"}`]
		require.Equal(t, topicSeen, groupSeen)
		return topicSeen
	}
	require.True(t, seen("a"))
	require.False(t, seen("b"))
	m.Forget("t", "a")
	m.Forget("t", "unknown")
	for series := range scrape(t, m) {
		require.NotContains(t, series, `topic="a"`)
	}
	require.True(t, seen("b"))
	require.False(t, seen("a"))
}

func TestNamesThatAreNotTextDoNotBreakAScrape(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Config{})
	m.Published("t\xff", "q\xfe", 1, 1, 0)
	m.Published("t\xff", "q\xfe", 1, 1, 0)
	m.Delivered("t\xff", "q\xfe", "g\xfd", 0)
	got := scrape(t, m)
	requireValues(t, map[string]float64{"mq_messages_published_total{tenant=\"t\uFFFD\",topic=\"q\uFFFD\"}": 2}, got)
}

func TestOpenMetricsIsNegotiated(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody)
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	rec := httptest.NewRecorder()
	busy().Handler().ServeHTTP(rec, r)
	require.Contains(t, rec.Header().Get("Content-Type"), "application/openmetrics-text")
	require.True(t, strings.HasSuffix(rec.Body.String(), "# EOF\n"))
}
