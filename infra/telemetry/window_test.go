package telemetry

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Unix(1_800_000_000, 0)

func TestRatesAreOfTheLastMinute(t *testing.T) {
	t.Parallel()
	at := newClock(noon)
	w := NewWindow(at.now)
	for range 180 { // three minutes of 10 a second, acked 4 and failed 1
		w.Published("t", "q", 10)
		for range 4 {
			w.Delivered("t", "q", "g", 20*time.Millisecond)
			w.Settled("t", "q", "g", OutcomeAcked, 100*time.Millisecond)
		}
		w.Settled("t", "q", "g", OutcomeRetrying, time.Second)
		at.advance(time.Second)
	}
	at.advance(-time.Millisecond) // the end of the last second
	s := Merge([][]byte{w.Snapshot()})
	require.Equal(t, 1, s.Instances)
	require.InDelta(t, 10, s.Total.PublishedPerSecond, 0.01)
	require.InDelta(t, 4, s.Total.AckedPerSecond, 0.01)
	require.InDelta(t, 1, s.Total.FailedPerSecond, 0.01)
	require.InDelta(t, 0.2, s.Total.ErrorRate, 1e-9)
	require.EqualValues(t, 600, s.Total.Published)
	require.InDelta(t, 20, s.Total.Delivery.AverageMs, 1e-9)
	require.InEpsilon(t, 20, s.Total.Delivery.P99Ms, 0.05)
	require.InEpsilon(t, 100, s.Total.Processing.P50Ms, 0.05)
	require.EqualValues(t, 240, s.Total.Delivery.Count)
	// and of nothing else
	at.advance(WindowSeconds * time.Second)
	s = Merge([][]byte{w.Snapshot()})
	require.Equal(t, Rates{}, s.Total)
	require.Empty(t, s.Topics)
}

func TestAYoungProcessCountsOverItsUptime(t *testing.T) {
	t.Parallel()
	at := newClock(noon)
	w := NewWindow(at.now)
	w.Published("t", "q", 40)
	require.InDelta(t, 40, Merge([][]byte{w.Snapshot()}).Total.PublishedPerSecond, 1e-9)
	at.advance(4 * time.Second)
	require.InDelta(t, 10, Merge([][]byte{w.Snapshot()}).Total.PublishedPerSecond, 1e-9)
}

func TestSnapshotsOfInstancesAreAddedUp(t *testing.T) {
	t.Parallel()
	at := newClock(noon)
	a, b := NewWindow(at.now), NewWindow(at.now)
	at.advance(10 * time.Second)
	a.Published("t", "q", 20)
	b.Published("t", "q", 30)
	b.Published("t", "p", 10)
	for range 90 {
		a.Delivered("t", "q", "g", 10*time.Millisecond)
	}
	for range 10 {
		b.Delivered("t", "q", "h", time.Second)
	}
	a.Settled("t", "q", "g", OutcomeAcked, time.Millisecond)
	b.Settled("t", "q", "h", OutcomeDeadLetter, time.Millisecond)
	s := Merge([][]byte{a.Snapshot(), []byte(`{"v":2}`), b.Snapshot(), nil})
	require.Equal(t, 2, s.Instances)
	require.Equal(t, 2, s.Skipped)
	require.InDelta(t, 6, s.Total.PublishedPerSecond, 1e-9)
	require.Len(t, s.Topics, 2)
	require.Equal(t, "p", s.Topics[0].Topic)
	require.InDelta(t, 5, s.Topics[1].PublishedPerSecond, 1e-9)
	require.InEpsilon(t, 10, s.Topics[1].Delivery.P50Ms, 0.05)
	require.InEpsilon(t, 1000, s.Topics[1].Delivery.P95Ms, 0.05)
	require.InDelta(t, 109, s.Topics[1].Delivery.AverageMs, 1e-9)
	require.Len(t, s.Groups, 2)
	require.Equal(t, "h", s.Groups[1].Group)
	require.InDelta(t, 1, s.Groups[1].ErrorRate, 1e-9)
	require.EqualValues(t, 1, s.Groups[1].DeadLettered)
	require.EqualValues(t, 1, s.Groups[1].Failed)
	require.InDelta(t, 0, s.Groups[0].ErrorRate, 1e-9)
}

func TestQuantilesAreOffByLessThanFivePercent(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	at := newClock(noon)
	w := NewWindow(at.now)
	var took []float64
	for range 20_000 {
		d := time.Duration(float64(200*time.Microsecond) * math.Exp(rnd.NormFloat64()*2+4))
		took = append(took, float64(d)/float64(time.Millisecond))
		w.Delivered("t", "q", "g", d)
	}
	slices.Sort(took)
	got := Merge([][]byte{w.Snapshot()}).Total.Delivery
	require.InEpsilon(t, took[len(took)*50/100-1], got.P50Ms, 0.05)
	require.InEpsilon(t, took[len(took)*95/100-1], got.P95Ms, 0.05)
	require.InEpsilon(t, took[len(took)*99/100-1], got.P99Ms, 0.05)
}

func TestEveryLatencyHasABucketNearIt(t *testing.T) {
	t.Parallel()
	for d := latencyMin; d <= latencyMax; d += d/50 + 1 {
		require.InEpsilon(t, float64(d)/float64(time.Millisecond), bucketMs(bucketOf(d)), 0.05, d.String())
	}
	require.Equal(t, 0, bucketOf(-time.Second))
	require.Equal(t, latencyBuckets-1, bucketOf(math.MaxInt64))
}

func TestAWindowIsBoundedAndMakesRoomForTheBusy(t *testing.T) {
	t.Parallel()
	at := newClock(noon)
	w := NewWindow(at.now)
	for i := range WindowSeriesMax + 100 {
		w.Published("t", "q"+strconv.Itoa(i), 1)
	}
	s := Merge([][]byte{w.Snapshot()})
	require.Len(t, s.Topics, WindowSeriesMax+1)
	require.EqualValues(t, WindowSeriesMax+100, s.Total.Published)
	require.Equal(t, Other, s.Topics[0].Topic)
	require.EqualValues(t, 100, s.Topics[0].Published)
	at.advance(WindowSeconds * time.Second)
	w.Published("t", "new", 1)
	s = Merge([][]byte{w.Snapshot()})
	require.Len(t, s.Topics, 1)
	require.Equal(t, "new", s.Topics[0].Topic)
}

func TestTheLargestSnapshotCanBeMerged(t *testing.T) {
	t.Parallel()
	w := NewWindow(newClock(noon).now)
	for i := range WindowSeriesMax {
		s := w.find(triple{"0190f0a0-0000-7000-8000-000000000001", "queue-" + strconv.Itoa(i), "group"}, noon.Unix())
		s.slot(noon.Unix()).counts = [countsOf]uint32{1, 1, 1, 1, 1}
		for d := latencyMin; d <= latencyMax; d += d / 12 {
			s.delivery.observe(noon.Unix(), d)
			s.processing.observe(noon.Unix(), d)
		}
	}
	data := w.Snapshot()
	require.LessOrEqual(t, len(data), SnapshotBytesMax)
	require.Equal(t, 1, Merge([][]byte{data}).Instances)
	require.Equal(t, 1, Merge([][]byte{make([]byte, SnapshotBytesMax+1)}).Skipped)
}

func TestAWindowIsSharedByGoroutines(t *testing.T) {
	t.Parallel()
	w := NewWindow(nil)
	o := NewObserver(nil, w)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 500 {
				o.Published("t", "q", 1, 1, 0)
				o.Delivered("t", "q", strconv.Itoa(i), time.Millisecond)
				o.Settled("t", "q", strconv.Itoa(i), OutcomeAcked, "", time.Millisecond)
				w.Snapshot()
			}
		})
	}
	wg.Wait()
	s := Merge([][]byte{w.Snapshot()})
	require.EqualValues(t, 4000, s.Total.Published)
	require.EqualValues(t, 4000, s.Total.Acked)
	require.Len(t, s.Groups, 8)
}

func FuzzMerge(f *testing.F) {
	w := NewWindow(newClock(noon).now)
	w.Published("t", "q", 1)
	w.Delivered("t", "q", "g", time.Second)
	f.Add(w.Snapshot())
	f.Add([]byte(`{"v":1,"ms":60000,"s":[{"n":[1,2,3,4,5],"d":{"u":1e300,"b":[242,4294967295]}}]}`))
	f.Add([]byte(`{"v":1,"ms":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := Merge([][]byte{data, data})
		require.Equal(t, 2, s.Instances+s.Skipped)
		for _, v := range []float64{s.Total.PublishedPerSecond, s.Total.Delivery.AverageMs, s.Total.Delivery.P99Ms, s.Total.ErrorRate} {
			require.False(t, math.IsNaN(v) || math.IsInf(v, 0) || v < 0)
		}
	})
}
