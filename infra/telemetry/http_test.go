package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
)

// observed is an echo with the middleware, and what it logs.
func observed(t *testing.T, level slog.Level, tracing *Tracing) (*echo.Echo, *Metrics, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	m := NewMetrics(Config{})
	e := echo.New()
	e.Use(HTTP(HTTPConfig{
		Metrics: m, Tracing: tracing,
		Logger:    slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})),
		RequestID: func(c echo.Context) string { return c.Request().Header.Get(echo.HeaderXRequestID) },
		Tenant:    func(c echo.Context) string { s, _ := c.Get("tenant").(string); return s },
	}))
	e.POST("/queues/:id/publish", func(c echo.Context) error {
		c.Set("tenant", "acme")
		return c.NoContent(http.StatusAccepted)
	})
	e.GET("/refused", func(echo.Context) error { return echo.NewHTTPError(http.StatusConflict, "no") })
	e.GET("/fault", func(echo.Context) error { return errors.New("oops") })
	e.GET("/panic", func(echo.Context) error { panic("at the disco") })
	e.GET("/flight", func(c echo.Context) error {
		return c.JSON(http.StatusOK, scrape(t, m)["mq_http_requests_in_flight"])
	})
	return e, m, &out
}

func ask(e *echo.Echo, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(`{"payload":"canary-body"}`))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, r)
	return rec
}

func TestRequestsAreCountedByRoute(t *testing.T) {
	t.Parallel()
	e, m, out := observed(t, slog.LevelInfo, nil)
	ask(e, http.MethodPost, "/queues/1/publish")
	ask(e, http.MethodPost, "/queues/2/publish")
	require.Equal(t, http.StatusConflict, ask(e, http.MethodGet, "/refused").Code)
	require.Empty(t, out.String())
	require.Equal(t, http.StatusInternalServerError, ask(e, http.MethodGet, "/fault").Code)
	require.Contains(t, out.String(), "status=500")
	ask(e, http.MethodGet, "/no/such/path")
	ask(e, http.MethodDelete, "/refused")
	ask(e, "INVENTED", "/another/path")
	require.Equal(t, "1\n", ask(e, http.MethodGet, "/flight").Body.String())
	got := scrape(t, m)
	requireValues(t, map[string]float64{
		`mq_http_requests_total{method="POST",route="/queues/:id/publish",status="202"}`:    2,
		`mq_http_requests_total{method="GET",route="/refused",status="409"}`:                1,
		`mq_http_requests_total{method="GET",route="/fault",status="500"}`:                  1,
		`mq_http_requests_total{method="GET",route="unmatched",status="404"}`:               1,
		`mq_http_requests_total{method="DELETE",route="/refused",status="405"}`:             1,
		`mq_http_requests_total{method="other",route="unmatched",status="404"}`:             1,
		`mq_http_request_duration_seconds{method="POST",route="/queues/:id/publish"} count`: 2,
		`mq_http_requests_in_flight`: 0,
	}, got)
	for series := range got {
		require.NotContains(t, series, "/no/such")
		require.NotContains(t, series, "INVENTED")
	}
}

func TestAPanicPassesThroughAndIsCounted(t *testing.T) {
	t.Parallel()
	e, m, out := observed(t, slog.LevelInfo, nil)
	require.PanicsWithValue(t, "at the disco", func() { ask(e, http.MethodGet, "/panic") })
	requireValues(t, map[string]float64{
		`mq_http_requests_total{method="GET",route="/panic",status="500"}`: 1,
		`mq_http_requests_in_flight`:                                       0,
	}, scrape(t, m))
	require.Contains(t, out.String(), "route=/panic status=500")
}

func TestTheAccessLogHasIDsAndNoSecrets(t *testing.T) {
	t.Parallel()
	e, m, out := observed(t, slog.LevelDebug, nil)
	ask(e, http.MethodPost, "/queues/canary-path/publish?token=canary-query",
		"Authorization", "Bearer canary-token", "X-Service-Token", "canary-service", echo.HeaderXRequestID, "r-1", "Traceparent", someTraceparent)
	line := out.String()
	for _, want := range []string{
		"level=DEBUG", "method=POST", "route=/queues/:id/publish", "status=202", "durationMs=", "requestId=r-1", "tenant=acme", "traceId=" + someTrace,
	} {
		require.Contains(t, line, want)
	}
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	require.Empty(t, Leaked(line+rec.Body.String(), "canary-path", "canary-query", "canary-token", "canary-service", "canary-body"))
}

func TestNothingConfiguredObservesNothing(t *testing.T) {
	t.Parallel()
	e := echo.New()
	e.Use(HTTP(HTTPConfig{}))
	e.GET("/", func(c echo.Context) error { return c.NoContent(http.StatusNoContent) })
	require.Equal(t, http.StatusNoContent, ask(e, http.MethodGet, "/").Code)
}
