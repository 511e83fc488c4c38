package telemetry

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func observers() map[string]func() {
	m, w := NewMetrics(Config{}), NewWindow(nil)
	o := NewObserver(m, w)
	const tenant, queue, group = "0190f0a0-0000-7000-8000-000000000001", "orders", "billing"
	return map[string]func(){
		"metrics/published":  func() { m.Published(tenant, queue, 1, 100, time.Millisecond) },
		"metrics/delivered":  func() { m.Delivered(tenant, queue, group, time.Millisecond) },
		"metrics/settled":    func() { m.Settled(tenant, queue, group, OutcomeAcked, "", time.Millisecond) },
		"metrics/failed":     func() { m.Settled(tenant, queue, group, OutcomeRetrying, "nack", time.Millisecond) },
		"metrics/refused":    func() { m.Refused("MQ_NOT_FOUND") },
		"metrics/request":    func() { m.requestStarted(); m.requestEnded("GET", "/queues/:id", 200, time.Millisecond) },
		"window/published":   func() { w.Published(tenant, queue, 1) },
		"window/delivered":   func() { w.Delivered(tenant, queue, group, time.Millisecond) },
		"window/settled":     func() { w.Settled(tenant, queue, group, OutcomeAcked, time.Millisecond) },
		"observer/delivered": func() { o.Delivered(tenant, queue, group, time.Millisecond) },
		"observer/settled":   func() { o.Settled(tenant, queue, group, OutcomeAcked, "", time.Millisecond) },
	}
}

func TestAnObservationAllocatesNothing(t *testing.T) { //nolint:paralleltest // it counts the process' allocations
	for name, observe := range observers() {
		observe()
		require.Zero(t, int(testing.AllocsPerRun(1000, observe)), name)
	}
}

func BenchmarkObserve(b *testing.B) {
	for name, observe := range observers() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				observe()
			}
		})
	}
}

func BenchmarkFullWindow(b *testing.B) {
	w := NewWindow(nil)
	for i := range WindowSeriesMax {
		for d := latencyMin; d < time.Minute; d *= 2 {
			w.Delivered("0190f0a0-0000-7000-8000-000000000001", "queue-"+strconv.Itoa(i), "group", d)
		}
	}
	data := w.Snapshot()
	b.Run("snapshot", func(b *testing.B) {
		for b.Loop() {
			w.Snapshot()
		}
		b.ReportMetric(float64(len(data)), "bytes")
	})
	b.Run("merge", func(b *testing.B) {
		for b.Loop() {
			Merge([][]byte{data, data})
		}
	})
}

func BenchmarkObserveParallel(b *testing.B) {
	for name, observe := range observers() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					observe()
				}
			})
		})
	}
}
