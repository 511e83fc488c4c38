package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// ServiceName is service.name of the spans unless OTEL_SERVICE_NAME says another.
	ServiceName = "tallymq"
	// TracingShutdownTimeout bounds how long the last spans may take to be sent.
	TracingShutdownTimeout = 5 * time.Second
)

// TracingConfig is what [NewTracing] needs beside the OTEL_ variables.
type TracingConfig struct {
	Version string
	// Logger gets what goes wrong with sending spans; nil for nowhere.
	Logger *slog.Logger
}

// Tracing makes spans and sends them over OTLP/HTTP in the background. A queue of
// bounded length holds those that wait; past it they are dropped, and nothing waits
// for a collector. A nil *Tracing, and one that is off, does nothing at no cost.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// NewTracing reads the standard OTEL_ variables. Tracing is on when
// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, unless
// OTEL_SDK_DISABLED is true or OTEL_TRACES_EXPORTER is none. Which traces are
// recorded, OTEL_TRACES_SAMPLER says; see [DefaultSampleRatio]. It is an error to ask
// for what is not supported.
func NewTracing(ctx context.Context, cfg TracingConfig) (*Tracing, error) {
	if !tracingWanted() {
		return &Tracing{}, nil
	}
	if err := checkTracingEnv(); err != nil {
		return nil, err
	}
	sampler, err := samplerOf(os.Getenv("OTEL_TRACES_SAMPLER"), os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	if err != nil {
		return nil, err
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", ServiceName), attribute.String("service.version", cfg.Version)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // last, so that the operator has the last word
	)
	if err != nil {
		return nil, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up the export of traces: %w", err)
	}
	logExportErrors(cfg.Logger)
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithResource(about), sdktrace.WithSampler(sampler),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer("github.com/tallymq/tallymq")}, nil
}

// On reports whether spans are made.
func (t *Tracing) On() bool { return t != nil && t.tracer != nil }

// Shutdown sends the spans that wait and ends the sending of spans, within ctx and
// [TracingShutdownTimeout].
func (t *Tracing) Shutdown(ctx context.Context) error {
	if !t.On() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, TracingShutdownTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

var endpointVars = []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}

func tracingWanted() bool {
	set := func(name string) bool { return os.Getenv(name) != "" }
	return slices.ContainsFunc(endpointVars, set) && !strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") &&
		!strings.EqualFold(os.Getenv("OTEL_TRACES_EXPORTER"), "none")
}

func isEndpoint(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func checkTracingEnv() error {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		switch v := os.Getenv(name); v {
		case "", "http/protobuf", "http/json":
		default:
			return fmt.Errorf("%s: %q is not supported; allowed: http/protobuf, http/json", name, v)
		}
	}
	for _, name := range endpointVars {
		// its text may hold a password
		if v := os.Getenv(name); v != "" && !isEndpoint(v) {
			return fmt.Errorf("%s is no URL; allowed: http://host:port or https://host:port, and a path", name)
		}
	}
	switch v := os.Getenv("OTEL_TRACES_EXPORTER"); v {
	case "", "otlp":
	default:
		return fmt.Errorf("OTEL_TRACES_EXPORTER: %q is not supported; allowed: otlp, none", v)
	}
	return nil
}

// logExportErrors sends what OpenTelemetry, which has one place for it in a process,
// reports to the service's log.
func logExportErrors(logger *slog.Logger) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("traces cannot be sent", "error", err)
	}))
}
