package telemetry

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// clock is a time that tests move.
type clock struct{ ns atomic.Int64 }

func newClock(at time.Time) *clock {
	c := &clock{}
	c.ns.Store(at.UnixNano())
	return c
}

func (c *clock) now() time.Time { return time.Unix(0, c.ns.Load()) }

func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

const oldestOfG = `mq_subscription_oldest_unacked_seconds{group="g",tenant="t",topic="q"}`

func TestGaugesAreReadWhenAsked(t *testing.T) {
	t.Parallel()
	at := newClock(time.Unix(1_000_000, 0))
	var calls int64
	m := NewMetrics(Config{Now: at.now, Gauges: func(context.Context) ([]QueueGauge, error) {
		calls++
		return []QueueGauge{{TenantID: "t", Queue: "q", DepthMessages: 10 * calls, Groups: []GroupGauge{
			{Group: "g", OldestUnacked: 90 * time.Second, LagMessages: 4, PendingMessages: 2},
		}}}, nil
	}})
	require.Zero(t, calls)
	requireValues(t, map[string]float64{
		`mq_queue_depth_messages{tenant="t",topic="q"}`: 10,
		oldestOfG: 90,
		`mq_subscription_lag_messages{group="g",tenant="t",topic="q"}`:     4,
		`mq_subscription_pending_messages{group="g",tenant="t",topic="q"}`: 2,
		`mq_scrape_errors_total`: 0,
	}, scrape(t, m))
	at.advance(GaugesEvery - 1)
	scrape(t, m)
	require.EqualValues(t, 1, calls)
	at.advance(1)
	requireValues(t, map[string]float64{`mq_queue_depth_messages{tenant="t",topic="q"}`: 20}, scrape(t, m))
	problems, err := testutil.GatherAndLint(m.registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestGaugesThatCannotBeReadAreLeftOut(t *testing.T) {
	t.Parallel()
	at := newClock(time.Unix(1_000_000, 0))
	var fail func() error
	m := NewMetrics(Config{Now: at.now, Gauges: func(context.Context) ([]QueueGauge, error) {
		return []QueueGauge{{TenantID: "t", Queue: "q", Groups: []GroupGauge{{Group: "g"}}}}, fail()
	}})
	fail = func() error { return nil }
	require.Contains(t, scrape(t, m), oldestOfG)
	for i, f := range []func() error{func() error { return errors.New("away") }, func() error { panic("oops") }} {
		fail = f
		at.advance(GaugesEvery)
		for range 2 { // the second scrape does not try again so soon
			got := scrape(t, m)
			require.NotContains(t, got, oldestOfG)
			requireValues(t, map[string]float64{`mq_scrape_errors_total`: float64(i + 1)}, got)
		}
	}
	fail = func() error { return nil }
	at.advance(GaugesEvery)
	require.Contains(t, scrape(t, m), oldestOfG)
}

func TestAReaderThatHangsHoldsUpNoScrape(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var running, calls atomic.Int64
	m := NewMetrics(Config{GaugesTimeout: 10 * time.Millisecond, Gauges: func(context.Context) ([]QueueGauge, error) {
		calls.Add(1)
		running.Add(1)
		defer running.Add(-1)
		<-release
		return []QueueGauge{{TenantID: "t", Queue: "q"}}, nil
	}})
	var wg sync.WaitGroup
	for range 2 * ScrapesMax {
		wg.Go(func() { _, _ = m.registry.Gather() })
	}
	wg.Wait()
	require.EqualValues(t, 1, calls.Load())
	require.NotContains(t, scrape(t, m), `mq_queue_depth_messages{tenant="t",topic="q"}`)
	close(release)
	require.Eventually(t, func() bool { return running.Load() == 0 && scrape(t, m)["mq_scrape_errors_total"] == 1 }, 5*time.Second, time.Millisecond)
}

func TestGaugesPastTheLimitAreAddedUp(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Config{TopicsMax: 2, Gauges: func(context.Context) (all []QueueGauge, _ error) {
		for i := range 5 {
			all = append(all, QueueGauge{TenantID: "t", Queue: "q" + strconv.Itoa(i), DepthMessages: 10, Groups: []GroupGauge{
				{Group: "g", OldestUnacked: time.Duration(i) * time.Second, LagMessages: 1, PendingMessages: 2},
			}})
		}
		return all, nil
	}})
	requireValues(t, map[string]float64{
		`mq_queue_depth_messages{tenant="t",topic="q1"}`:                                     10,
		`mq_queue_depth_messages{tenant="other",topic="other"}`:                              30,
		`mq_subscription_oldest_unacked_seconds{group="other",tenant="other",topic="other"}`: 4,
		`mq_subscription_lag_messages{group="other",tenant="other",topic="other"}`:           3,
		`mq_subscription_pending_messages{group="other",tenant="other",topic="other"}`:       6,
	}, scrape(t, m))
}
