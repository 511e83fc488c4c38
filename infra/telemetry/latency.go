package telemetry

import (
	"math"
	"time"
)

// Latencies are counted in buckets whose bounds grow by latencyGrowth, so that a
// quantile is off by less than 5 % from 0.1 ms to 11 days. What is shorter counts as
// 0.05 ms, what is longer as 11 days.
const (
	latencyGrowth     = 1.1
	latencyMin        = 100 * time.Microsecond
	latencyMax        = 1_000_000 * time.Second
	latencyBuckets    = 243
	latencySlots      = 12
	latencySlotSecond = WindowSeconds / latencySlots
)

var logGrowth = math.Log(latencyGrowth)

func bucketOf(d time.Duration) int {
	if d < latencyMin {
		return 0
	}
	return min(1+int(math.Log(float64(d)/float64(latencyMin))/logGrowth), latencyBuckets-1)
}

// bucketMs is the geometric middle of a bucket, which is at most the root of
// latencyGrowth away from what it stands for.
func bucketMs(bucket int) float64 {
	minMs := float64(latencyMin) / float64(time.Millisecond)
	if bucket == 0 {
		return minMs / 2
	}
	return minMs * math.Pow(latencyGrowth, float64(bucket)-0.5)
}

// latencies are a minute's latencies, in slots of latencySlotSecond seconds.
type latencies struct {
	slots [latencySlots]latencySlot
}

type latencySlot struct {
	// period is the slot's time since 1970, in slots.
	period int64
	sumUs  uint64
	// counts are made when they are first needed: most series are idle.
	counts *[latencyBuckets]uint32
}

func (l *latencies) observe(second int64, d time.Duration) {
	period := second / latencySlotSecond
	s := &l.slots[period%latencySlots]
	if s.counts == nil {
		s.counts = new([latencyBuckets]uint32)
	}
	if s.period != period {
		s.period, s.sumUs = period, 0
		clear(s.counts[:])
	}
	d = min(max(d, 0), latencyMax)
	s.sumUs += uint64(d / time.Microsecond)
	s.counts[bucketOf(d)]++
}

// spread is latencies added up.
type spread struct {
	count  uint64
	sumUs  float64
	counts [latencyBuckets]uint64
}

// sum adds up the slots of the last minute.
func (l *latencies) sum(second int64) *spread {
	var out spread
	for i := range l.slots {
		s := &l.slots[i]
		if s.counts == nil || s.period <= second/latencySlotSecond-latencySlots {
			continue
		}
		out.sumUs += float64(s.sumUs)
		for bucket, n := range s.counts {
			out.counts[bucket] += uint64(n)
			out.count += uint64(n)
		}
	}
	return &out
}

func (s *spread) add(other *spread) {
	s.count += other.count
	s.sumUs += other.sumUs
	for bucket, n := range other.counts {
		s.counts[bucket] += n
	}
}

// Latency says how long something took. All is 0 where nothing was measured.
type Latency struct {
	Count                          uint64
	AverageMs, P50Ms, P95Ms, P99Ms float64
}

func (s *spread) latency() Latency {
	if s.count == 0 {
		return Latency{}
	}
	return Latency{
		Count: s.count, AverageMs: s.sumUs / float64(s.count) / 1000,
		P50Ms: s.quantile(0.50), P95Ms: s.quantile(0.95), P99Ms: s.quantile(0.99),
	}
}

// quantile is the latency in ms that a share q of all does not exceed.
func (s *spread) quantile(q float64) float64 {
	rank := uint64(math.Ceil(q * float64(s.count)))
	var seen uint64
	for bucket, n := range s.counts {
		if seen += n; seen >= rank {
			return bucketMs(bucket)
		}
	}
	return 0
}
