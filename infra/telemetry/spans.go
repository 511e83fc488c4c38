package telemetry

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// FoldLinksMax is how many of the messages that a fold takes up its span is linked
// to.
const FoldLinksMax = 64

const headerTraceparent = "Traceparent"

// MessageSpan says which message a span is about.
type MessageSpan struct{ TenantID, Queue, Group, MessageID string }

func endNothing(int)        {}
func endWithoutError(error) {}

// StartServer begins the span of a request, under the caller's W3C traceparent if it
// is one. The returned context carries it; the returned function ends it with the
// request's HTTP status.
func (t *Tracing) StartServer(ctx context.Context, traceparent, name string) (context.Context, func(status int)) {
	if !t.On() {
		return ctx, endNothing
	}
	if parent := remote(traceparent); parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer)) //nolint:spancheck // the returned function ends it
	return ctx, func(status int) {                                                   //nolint:spancheck // the returned function ends it
		if span.IsRecording() {
			span.SetAttributes(attribute.Int("http.response.status_code", status))
			if status >= http.StatusInternalServerError {
				span.SetStatus(codes.Error, "")
			}
		}
		span.End()
	}
}

func (t *Tracing) startHTTP(r *http.Request, method, route string) (context.Context, func(status int)) {
	if !t.On() {
		return r.Context(), endNothing
	}
	ctx, end := t.StartServer(r.Context(), r.Header.Get(headerTraceparent), method+" "+route)
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String("http.request.method", method), attribute.String("http.route", route))
	}
	return ctx, end
}

// Consume begins the span of a message's being handed to a consumer, linked to its
// producer by the traceparent that was stored with it. There is none if the
// producer's trace is not recorded. The returned function ends it.
func (t *Tracing) Consume(ctx context.Context, stored string, m MessageSpan) (context.Context, func(error)) {
	if !t.On() || !sampled(stored) {
		return ctx, endWithoutError
	}
	producer := remote(stored)
	if !producer.IsValid() {
		return ctx, endWithoutError
	}
	ctx, span := t.tracer.Start(ctx, "receive "+m.Queue, //nolint:spancheck // the returned function ends it
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(trace.Link{SpanContext: producer}),
		trace.WithAttributes(
			attribute.String("messaging.system", ServiceName),
			attribute.String("messaging.operation.type", "receive"),
			attribute.String("messaging.operation.name", "receive"),
			attribute.String("messaging.destination.name", m.Queue),
			attribute.String("messaging.consumer.group.name", m.Group),
			attribute.String("messaging.message.id", m.MessageID),
			attribute.String("tallymq.tenant.id", m.TenantID),
		))
	return ctx, ending(span) //nolint:spancheck // the returned function ends it
}

// Fold begins the span of a transaction of a shard's projector, linked to the
// producers of its events, [FoldLinksMax] at most. There is none if none of them is
// recorded. The returned function ends it.
func (t *Tracing) Fold(ctx context.Context, stored []string, shard, events int) (context.Context, func(error)) {
	if !t.On() {
		return ctx, endWithoutError
	}
	links := foldLinks(stored)
	if len(links) == 0 {
		return ctx, endWithoutError
	}
	ctx, span := t.tracer.Start(ctx, "fold", //nolint:spancheck // the returned function ends it
		trace.WithSpanKind(trace.SpanKindInternal),
		trace.WithLinks(links...),
		trace.WithAttributes(
			attribute.String("messaging.system", ServiceName),
			attribute.Int("messaging.batch.message_count", events),
			attribute.Int("tallymq.shard", shard),
		))
	return ctx, ending(span) //nolint:spancheck // the returned function ends it
}

// foldLinks are links to the recorded ones, each once.
func foldLinks(stored []string) []trace.Link {
	var links []trace.Link
	seen := map[string]bool{}
	for _, s := range stored {
		if len(links) == FoldLinksMax {
			break
		}
		if !sampled(s) || seen[s] {
			continue
		}
		if producer := remote(s); producer.IsValid() {
			seen[s] = true
			links = append(links, trace.Link{SpanContext: producer})
		}
	}
	return links
}

func ending(span trace.Span) func(error) {
	return func(err error) {
		if err != nil {
			// its text may hold what is not for traces; the log has it
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

// Traceparent is the context's span as a W3C traceparent, to be stored with what the
// request brings about; "" without a span.
func Traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	var c carrier
	propagation.TraceContext{}.Inject(ctx, &c)
	return string(c)
}

// TraceID is the id of the context's trace; "" without a span.
func TraceID(ctx context.Context) string { return traceID(trace.SpanContextFromContext(ctx)) }

func traceID(s trace.SpanContext) string {
	if !s.HasTraceID() {
		return ""
	}
	return s.TraceID().String()
}

// sampled is a quick look at the flags of a traceparent of version 00.
func sampled(traceparent string) bool {
	if len(traceparent) != len("00-00000000000000000000000000000000-0000000000000000-00") {
		return false
	}
	switch traceparent[len(traceparent)-1] {
	case '1', '3', '5', '7', '9', 'b', 'd', 'f':
		return true
	}
	return false
}

// remote is the span that a traceparent names; not valid if it names none.
func remote(traceparent string) trace.SpanContext {
	c := carrier(traceparent)
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), &c))
}

// carrier holds a traceparent for the propagator, and no tracestate.
type carrier string

// Get is part of propagation.TextMapCarrier.
func (c *carrier) Get(key string) string {
	if key == "traceparent" {
		return string(*c)
	}
	return ""
}

// Set is part of propagation.TextMapCarrier.
func (c *carrier) Set(key, value string) {
	if key == "traceparent" {
		*c = carrier(value)
	}
}

// Keys is part of propagation.TextMapCarrier.
func (c *carrier) Keys() []string { return []string{"traceparent"} }
