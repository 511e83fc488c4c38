package telemetry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheObserverFeedsBoth(t *testing.T) {
	t.Parallel()
	m, w := NewMetrics(Config{}), NewWindow(nil)
	for _, o := range []*Observer{NewObserver(m, w), NewObserver(m, nil), NewObserver(nil, w), NewObserver(nil, nil)} {
		o.Published("t", "q", 2, 20, time.Millisecond)
		o.Delivered("t", "q", "g", time.Millisecond)
		o.Settled("t", "q", "g", OutcomeAcked, "", time.Millisecond)
		o.Settled("t", "q", "g", OutcomeDeadLetter, "nack", time.Millisecond)
		o.Refused("MQ_FORBIDDEN")
		o.Folded(1, 3, 10)
	}
	requireValues(t, map[string]float64{
		`mq_messages_published_total{tenant="t",topic="q"}`:               4,
		`mq_delivery_duration_seconds{tenant="t",topic="q"} count`:        2,
		`mq_messages_consumed_total{group="g",tenant="t",topic="q"}`:      2,
		`mq_messages_dead_lettered_total{group="g",tenant="t",topic="q"}`: 2,
		`mq_refusals_total{code="MQ_FORBIDDEN"}`:                          2,
		`mq_projection_events_total{shard="1"}`:                           6,
	}, scrape(t, m))
	s := Merge([][]byte{w.Snapshot()})
	require.EqualValues(t, 4, s.Total.Published)
	require.EqualValues(t, 2, s.Total.Delivered)
	require.EqualValues(t, 2, s.Total.DeadLettered)
	require.InDelta(t, 0.5, s.Total.ErrorRate, 1e-9)
}
