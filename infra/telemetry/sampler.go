package telemetry

import (
	"fmt"
	"strconv"
	"strings"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// DefaultSampleRatio is the share of traces recorded when OTEL_TRACES_SAMPLER is not
// set and the caller, by the sampled flag of its traceparent, has not decided: a busy
// instance does 25,000 requests a second, and more than a few hundred traces of the
// same kind tell nothing more. OTEL_TRACES_SAMPLER=parentbased_traceidratio with
// OTEL_TRACES_SAMPLER_ARG sets another.
const DefaultSampleRatio = 0.01

// linked records what is linked to a recorded trace, so that a message that is
// followed is followed to its consumer, and else asks the sampler.
type linked struct{ sdktrace.Sampler }

func (l linked) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	for _, link := range p.Links {
		if link.SpanContext.IsSampled() {
			return sdktrace.SamplingResult{
				Decision:   sdktrace.RecordAndSample,
				Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState(),
			}
		}
	}
	return l.Sampler.ShouldSample(p)
}

// samplerOf is the sampler that OTEL_TRACES_SAMPLER names.
func samplerOf(name, arg string) (sdktrace.Sampler, error) { //nolint:ireturn // samplers are an interface
	name, arg = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(arg)
	ratio := 1.0
	if arg != "" && strings.HasSuffix(name, "traceidratio") {
		r, err := strconv.ParseFloat(arg, 64)
		if err != nil || !(r >= 0 && r <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG: %q is no ratio; allowed: 0 to 1", arg)
		}
		ratio = r
	}
	switch name {
	case "":
		return linked{sdktrace.ParentBased(sdktrace.TraceIDRatioBased(DefaultSampleRatio))}, nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		return linked{sdktrace.TraceIDRatioBased(ratio)}, nil
	case "parentbased_always_on":
		return linked{sdktrace.ParentBased(sdktrace.AlwaysSample())}, nil
	case "parentbased_always_off":
		return linked{sdktrace.ParentBased(sdktrace.NeverSample())}, nil
	case "parentbased_traceidratio":
		return linked{sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))}, nil
	}
	return nil, fmt.Errorf("OTEL_TRACES_SAMPLER: %q is not supported; allowed: always_on, always_off, traceidratio, parentbased_ with one of these", name)
}
