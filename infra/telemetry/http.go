package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// Unmatched is the route of requests for which there is none.
const Unmatched = "unmatched"

// HTTPConfig is what [HTTP] observes requests with. Any of it may be nil.
type HTTPConfig struct {
	Metrics *Metrics
	Tracing *Tracing
	// Logger gets a line per request: at info if it failed with a 5xx, at debug
	// otherwise. Thousands of requests a second are metrics' matter.
	Logger *slog.Logger
	// RequestID returns the request's id.
	RequestID func(echo.Context) string
	// Tenant returns the caller's tenant, once the request was handled.
	Tenant func(echo.Context) string
}

// HTTP returns middleware that counts, times, logs and traces requests by method and
// route template. An error is answered here, so that its status is known, and then
// returned; a panic counts as a 500 and passes through. Use it after routing
// (echo.Echo.Use), outside of what recovers from panics if that answers them.
func HTTP(cfg HTTPConfig) echo.MiddlewareFunc {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error { return cfg.observe(c, next) }
	}
}

func (cfg HTTPConfig) observe(c echo.Context, next echo.HandlerFunc) error {
	start := time.Now()
	r := c.Request()
	method, route := methodOf(r.Method), c.Path()
	if route == "" {
		route = Unmatched
	}
	ctx, endSpan := cfg.Tracing.startHTTP(r, method, route)
	if ctx != r.Context() {
		c.SetRequest(r.WithContext(ctx))
	}
	cfg.Metrics.requestStarted()
	status := http.StatusInternalServerError // unless the handler returns
	defer func() {
		took := time.Since(start)
		cfg.Metrics.requestEnded(method, route, status, took)
		cfg.log(ctx, c, accessLine{method: method, route: route, status: status, took: took})
		endSpan(status)
	}()
	err := next(c)
	if err != nil {
		c.Error(err)
	}
	status = c.Response().Status
	return err
}

type accessLine struct {
	method, route string
	status        int
	took          time.Duration
}

func (cfg HTTPConfig) log(ctx context.Context, c echo.Context, l accessLine) {
	level := slog.LevelDebug
	if l.status >= http.StatusInternalServerError {
		level = slog.LevelInfo
	}
	if !cfg.Logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", l.method), slog.String("route", l.route), slog.Int("status", l.status),
		slog.Float64("durationMs", float64(l.took.Microseconds())/1000),
	}
	said := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	if cfg.RequestID != nil {
		said("requestId", cfg.RequestID(c))
	}
	if cfg.Tenant != nil {
		said("tenant", cfg.Tenant(c))
	}
	id := TraceID(ctx)
	if id == "" { // the caller's trace, where this service takes no part in it
		id = traceID(remote(c.Request().Header.Get(headerTraceparent)))
	}
	said("traceId", id)
	cfg.Logger.LogAttrs(ctx, level, "request", attrs...)
}

// methodOf is the method as a label: callers may make up any.
func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	default:
		return Other
	}
}

type (
	route struct {
		method, route string
		status        int
	}
	routeSeries struct {
		requests prometheus.Counter
		seconds  prometheus.Observer
	}
)

func (m *Metrics) requestStarted() {
	if m != nil {
		m.vecs.inFlight.Inc()
	}
}

func (m *Metrics) requestEnded(method, template string, status int, took time.Duration) {
	if m == nil {
		return
	}
	m.vecs.inFlight.Dec()
	key := route{method, template, status}
	s, ok := m.routes.get(key)
	if !ok {
		s, _ = m.routes.add(key, func() *routeSeries {
			return &routeSeries{
				requests: m.vecs.requests.WithLabelValues(method, valid(template), strconv.Itoa(status)),
				seconds:  m.vecs.requestSeconds.WithLabelValues(method, valid(template)),
			}
		})
	}
	s.requests.Inc()
	s.seconds.Observe(took.Seconds())
}
