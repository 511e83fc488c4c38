package telemetry

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// requireLink requires that a span is linked to another.
func requireLink(t *testing.T, from, to *tracepb.Span) {
	t.Helper()
	require.NotNil(t, from)
	require.NotNil(t, to)
	require.Len(t, from.GetLinks(), 1)
	require.Equal(t, hex.EncodeToString(to.GetTraceId()), hex.EncodeToString(from.GetLinks()[0].GetTraceId()))
	require.Equal(t, hex.EncodeToString(to.GetSpanId()), hex.EncodeToString(from.GetLinks()[0].GetSpanId()))
}

func startTracing(t *testing.T) *Tracing {
	t.Helper()
	tracing, err := NewTracing(t.Context(), TracingConfig{Version: "1.2.3"})
	require.NoError(t, err)
	return tracing
}

func TestAMessageIsFollowedFromProducerToFoldAndConsumer(t *testing.T) {
	collected := newReceiver(t)
	// by default few traces are recorded, but the caller's wish counts
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collected.url)
	tracing := startTracing(t)
	require.True(t, tracing.On())
	e, _, out := observed(t, slog.LevelDebug, tracing)
	var stored string
	e.POST("/publish", func(c echo.Context) error {
		stored = Traceparent(c.Request().Context())
		return c.NoContent(http.StatusAccepted)
	})
	ask(e, http.MethodPost, "/publish?token=canary", "Traceparent", someTraceparent)
	require.Contains(t, stored, someTrace)
	require.Contains(t, out.String(), "traceId="+someTrace)

	_, endFold := tracing.Fold(context.Background(), []string{"", "junk", stored, stored}, 3, 2)
	endFold(errors.New("canary of a fault"))
	ctx, endConsume := tracing.Consume(context.Background(), stored, MessageSpan{TenantID: "t", Queue: "orders", Group: "billing", MessageID: "m-1"})
	require.NotEmpty(t, TraceID(ctx))
	endConsume(nil)
	require.NoError(t, tracing.Shutdown(context.Background()))

	producer, fold, consumer := collected.spans["POST /publish"], collected.spans["fold"], collected.spans["receive orders"]
	requireLink(t, fold, producer)
	requireLink(t, consumer, producer)
	require.Equal(t, someTrace, hex.EncodeToString(producer.GetTraceId()))
	require.Equal(t, "00f067aa0ba902b7", hex.EncodeToString(producer.GetParentSpanId()))
	require.Equal(t, tracepb.Span_SPAN_KIND_SERVER, producer.GetKind())
	require.Equal(t, tracepb.Span_SPAN_KIND_CONSUMER, consumer.GetKind())
	require.Equal(t, tracepb.Status_STATUS_CODE_ERROR, fold.GetStatus().GetCode())
	got := attributes(consumer.GetAttributes())
	require.Equal(t, "tallymq", got["messaging.system"])
	require.Equal(t, "orders", got["messaging.destination.name"])
	require.Equal(t, "billing", got["messaging.consumer.group.name"])
	require.Equal(t, "m-1", got["messaging.message.id"])
	require.Equal(t, "receive", got["messaging.operation.type"])
	require.Equal(t, "/publish", attributes(producer.GetAttributes())["http.route"])
	require.Equal(t, "tallymq", collected.resource["service.name"])
	require.Equal(t, "1.2.3", collected.resource["service.version"])
	require.Empty(t, Leaked(producer.String()+fold.String()+consumer.String(), "canary"))
}

func TestTheOperatorNamesTheServiceAndTheSampler(t *testing.T) {
	collected := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collected.url+"/v1/traces")
	t.Setenv("OTEL_SERVICE_NAME", "queue-eu")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	tracing := startTracing(t)
	_, end := tracing.StartServer(context.Background(), "", "GET /x")
	end(http.StatusServiceUnavailable)
	require.NoError(t, tracing.Shutdown(context.Background()))
	require.Equal(t, "queue-eu", collected.resource["service.name"])
	require.Equal(t, tracepb.Status_STATUS_CODE_ERROR, collected.spans["GET /x"].GetStatus().GetCode())
}

func TestWhatIsNotRecordedHasNoSpans(t *testing.T) {
	collected := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collected.url)
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
	tracing := startTracing(t)
	unsampled := strings.TrimSuffix(someTraceparent, "01") + "00"
	ctx, end := tracing.StartServer(context.Background(), unsampled, "GET /x")
	require.Equal(t, someTrace, TraceID(ctx))
	require.True(t, strings.HasSuffix(Traceparent(ctx), "-00"))
	end(http.StatusOK)
	for _, stored := range []string{"", unsampled, Traceparent(ctx), strings.Repeat("0", 54) + "1"} {
		after, end := tracing.Consume(context.Background(), stored, MessageSpan{})
		end(nil)
		require.Empty(t, TraceID(after))
		after, end = tracing.Fold(context.Background(), []string{stored}, 0, 1)
		end(nil)
		require.Empty(t, TraceID(after))
	}
	require.NoError(t, tracing.Shutdown(context.Background()))
	require.Empty(t, collected.spans)
}

func TestAFoldHasABoundedNumberOfLinks(t *testing.T) {
	t.Parallel()
	var stored []string
	for i := range 2 * FoldLinksMax {
		stored = append(stored, "00-"+someTrace+"-00f067aa0ba9"+hex.EncodeToString([]byte{byte(i), 1})+"-01")
	}
	require.Len(t, foldLinks(stored), FoldLinksMax)
}

func TestTracingThatIsOffDoesNothing(t *testing.T) { //nolint:paralleltest // it counts the process' allocations, and others set the environment
	off, err := NewTracing(t.Context(), TracingConfig{})
	require.NoError(t, err)
	for _, tracing := range []*Tracing{nil, off} {
		require.False(t, tracing.On())
		ctx, stored := context.Background(), []string{someTraceparent}
		require.Zero(t, int(testing.AllocsPerRun(100, func() {
			c, end := tracing.StartServer(ctx, someTraceparent, "GET /x")
			end(http.StatusOK)
			c, endOther := tracing.Consume(c, someTraceparent, MessageSpan{})
			endOther(nil)
			_, endOther = tracing.Fold(c, stored, 1, 1)
			endOther(nil)
		})))
		require.NoError(t, tracing.Shutdown(ctx))
	}
}

func TestTracingIsOffWhereTheStandardSaysSo(t *testing.T) {
	for name, value := range map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:1")
			t.Setenv(name, value)
			require.False(t, startTracing(t).On())
		})
	}
}

func TestWhatTracingDoesNotSupportIsSaid(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_TRACES_EXPORTER": "zipkin", "OTEL_TRACES_SAMPLER": "jaeger_remote",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector:4318",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:1")
			t.Setenv(name, value)
			_, err := NewTracing(t.Context(), TracingConfig{})
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, "allowed")
		})
	}
}

func TestSamplersAreTheStandardOnes(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "ParentBased{root:TraceIDRatioBased{0.01}", "always_on": "AlwaysOnSampler", "always_off": "AlwaysOffSampler",
		"traceidratio": "TraceIDRatioBased{0.5}", "parentbased_always_on": "ParentBased{root:AlwaysOnSampler",
		"parentbased_always_off": "ParentBased{root:AlwaysOffSampler", "ParentBased_TraceIDRatio": "ParentBased{root:TraceIDRatioBased{0.5}",
	} {
		sampler, err := samplerOf(name, "0.5")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(sampler.Description(), want), sampler.Description())
	}
	for _, arg := range []string{"2", "-1", "NaN", "x"} {
		_, err := samplerOf("traceidratio", arg)
		require.ErrorContains(t, err, "0 to 1")
	}
}

func TestACollectorThatIsAwayIsLoggedAndHoldsUpNothing(t *testing.T) {
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", away.URL)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	lines := make(lineWriter, 1)
	tracing, err := NewTracing(t.Context(), TracingConfig{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	require.NoError(t, err)
	for range 10_000 {
		_, end := tracing.StartServer(context.Background(), "", "GET /x")
		end(http.StatusOK)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	started := time.Now()
	_ = tracing.Shutdown(ctx) // whether it ends in time is the exporter's luck
	require.Less(t, time.Since(started), TracingShutdownTimeout)
	select {
	case line := <-lines:
		require.Contains(t, line, "traces cannot be sent")
	case <-time.After(10 * time.Second):
		require.Fail(t, "nothing was logged")
	}
}

// lineWriter keeps the first lines that are written to it.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	select {
	case w <- string(p):
	default:
	}
	return len(p), nil
}

// FuzzTraceparent: nothing that callers store breaks what reads it.
func FuzzTraceparent(f *testing.F) {
	f.Add(someTraceparent)
	f.Add("00--")
	f.Fuzz(func(t *testing.T, traceparent string) {
		span := remote(traceparent)
		require.Equal(t, span.IsValid(), traceID(span) != "")
		if span.IsSampled() && strings.HasPrefix(traceparent, "00") {
			require.True(t, sampled(traceparent))
		}
		for _, link := range foldLinks([]string{traceparent}) {
			require.True(t, link.SpanContext.IsValid())
		}
		back := Traceparent(trace.ContextWithSpanContext(context.Background(), span))
		require.Equal(t, span.IsValid(), remote(back).IsValid())
	})
}
