package limits

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newLimiter(t testing.TB, r Rates) *Limiter {
	t.Helper()
	l, err := NewLimiter(r, start)
	require.NoError(t, err)
	return l
}

// admitted sends requests until one is refused, and counts those that were not.
func admitted(l *Limiter, tenant string, bodyBytes int64, now time.Time) int {
	for n := 0; ; n++ {
		if l.Take(tenant, bodyBytes, now).Refusal != nil {
			return n
		}
	}
}

func TestABurstThenTheRate(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{{1, 0}, {3, 0}, {3, 7}, {7, 1}, {5000, 0}, {5000, 5000}, {999_983, 10}} {
		t.Run(fmt.Sprint(r), func(t *testing.T) {
			t.Parallel()
			l := newLimiter(t, Rates{Requests: r})
			burst := r.Burst
			if burst == 0 {
				burst = 2 * r.PerSecond
			}
			d := l.Take("a", 0, start)
			require.Equal(t, burst-1, d.RequestsLeft, "what is left is exact")
			require.EqualValues(t, burst-1, admitted(l, "a", 0, start))
			d = l.Take("a", 0, start)
			require.Zero(t, d.RequestsLeft)
			require.InDelta(t, float64(time.Second)/float64(r.PerSecond), float64(d.Refusal.RetryAfter()), 20)
			// When it says that one may go on, one may, and no more.
			require.Equal(t, 1, admitted(l, "a", 0, start.Add(d.Refusal.RetryAfter())))
			require.EqualValues(t, min(burst, r.PerSecond), admitted(l, "a", 0, start.Add(d.Refusal.RetryAfter()+time.Second)))
			require.EqualValues(t, burst, admitted(l, "a", 0, start.Add(time.Hour)), "no rest gives more than the burst")
		})
	}
}

func TestDefaultRates(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{PerSecond: DefaultRequestsPerSecond}, Bytes: Rate{PerSecond: DefaultBytesPerSecond}})
	require.Equal(t, 10_000, admitted(l, "a", 0, start))
	require.Equal(t, 8, admitted(l, "b", DefaultBodyBytesMax, start), "128 MiB of the largest bodies")
	d := l.Take("b", DefaultBodyBytesMax, start)
	name, allowed := d.Refusal.Limit()
	require.Equal(t, bytesLimit, name)
	require.Equal(t, "at most 67108864, at once at most 134217728", allowed)
	require.Equal(t, 250*time.Millisecond, d.Refusal.RetryAfter())
	require.Contains(t, d.Refusal.Error(), bytesLimit)
}

func TestDefaultTenantsMax(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{PerSecond: 1}})
	for i := range DefaultTenantsMax + 100 {
		l.Take(fmt.Sprint(i), 0, start)
	}
	require.Equal(t, DefaultTenantsMax, l.Tenants())
}

func TestZeroIsNoLimit(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{})
	for range 10 {
		require.Equal(t, Decision{}, l.Take("a", math.MaxInt64, start))
		l.Spend("a", math.MaxInt64, start)
	}
	l = newLimiter(t, Rates{Bytes: Rate{PerSecond: 1}})
	require.Nil(t, l.Take("a", 1, start).Refusal, "one of two limits may stand alone")
	require.Nil(t, l.Take("a", 1, start).Refusal)
	require.NotNil(t, l.Take("a", 1, start).Refusal)
}

func TestRatesOutOfRangeAreRefused(t *testing.T) {
	t.Parallel()
	for _, r := range []Rates{
		{Requests: Rate{PerSecond: -1}},
		{Requests: Rate{PerSecond: 1, Burst: -1}},
		{Bytes: Rate{PerSecond: PerSecondMax + 1}},
		{Bytes: Rate{PerSecond: 1, Burst: BurstMax + 1}},
		{TenantsMax: -1},
		{BodyBytesMax: -1},
	} {
		_, err := NewLimiter(r, start)
		require.Error(t, err, "%+v", r)
	}
	l := newLimiter(t, Rates{Requests: Rate{1, BurstMax}, Bytes: Rate{PerSecondMax, BurstMax}, BodyBytesMax: math.MaxInt64})
	d := l.Take("a", BurstMax-1, start)
	require.Nil(t, d.Refusal)
	require.EqualValues(t, BurstMax-1, d.RequestsLeft)
	require.EqualValues(t, 1, d.BytesLeft)
	require.EqualValues(t, BurstMax, l.Take("a", 0, start.Add(200*365*24*time.Hour)).BytesLeft, "nothing overflows")
}

func TestTenantsDoNotAffectOneAnother(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{PerSecond: 10}, Bytes: Rate{PerSecond: 100}})
	require.Equal(t, 20, admitted(l, "a", 0, start))
	l.Spend("a", 1000, start)
	require.Equal(t, Decision{RequestsLeft: 19, BytesLeft: 200}, l.Take("b", 0, start))
}

func TestARefusedRequestCostsNothing(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{PerSecond: 10}, Bytes: Rate{PerSecond: 100}})
	require.Nil(t, l.Take("a", 150, start).Refusal)
	for range 100 {
		d := l.Take("a", 51, start)
		require.NotNil(t, d.Refusal)
		require.EqualValues(t, 19, d.RequestsLeft)
		require.EqualValues(t, 50, d.BytesLeft)
		require.Equal(t, 10*time.Millisecond, d.Refusal.RetryAfter())
	}
	require.Nil(t, l.Take("a", 50, start).Refusal)
}

func TestBytesBeyondTheBurst(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Bytes: Rate{PerSecond: 100, Burst: 200}, BodyBytesMax: 1000})
	// given a full bucket, then one body larger than it goes on, and is a debt
	require.Nil(t, l.Take("a", 700, start).Refusal)
	d := l.Take("a", 1, start)
	require.NotNil(t, d.Refusal)
	require.Zero(t, d.BytesLeft)
	require.Equal(t, 5*time.Second+10*time.Millisecond, d.Refusal.RetryAfter())
	require.NotNil(t, l.Take("a", -1, start).Refusal, "a body of unknown length waits, too")
	require.Nil(t, l.Take("a", 0, start).Refusal, "what has no body does not")
	// a second one waits for a full bucket
	require.Equal(t, 7*time.Second, l.Take("a", 700, start).Refusal.RetryAfter())
	require.NotNil(t, l.Take("a", 700, start.Add(7*time.Second-1)).Refusal)
	require.Nil(t, l.Take("a", 700, start.Add(7*time.Second)).Refusal)
	// and an announced length, which may be a lie, is charged as the largest body
	require.Nil(t, l.Take("b", math.MaxInt64, start).Refusal)
	require.Equal(t, 8*time.Second+10*time.Millisecond, l.Take("b", 1, start).Refusal.RetryAfter())
}

func TestBytesOfUnknownLengthAreChargedAsTheyAreRead(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Bytes: Rate{PerSecond: 100, Burst: 200}})
	require.EqualValues(t, 200, l.Take("a", -1, start).BytesLeft)
	for range 3 {
		l.Spend("a", 100, start)
	}
	require.Equal(t, 1010*time.Millisecond, l.Take("a", -1, start).Refusal.RetryAfter())
	require.Nil(t, l.Take("a", -1, start.Add(1010*time.Millisecond)).Refusal)
	for range 100 {
		l.Spend("a", math.MaxInt64, start.Add(2*time.Second))
	}
	require.Equal(t, DebtMax+10*time.Millisecond, l.Take("a", 1, start.Add(2*time.Second)).Refusal.RetryAfter(), "a debt is bounded")
}

func TestRememberedTenantsAreBoundedAndNoneGetsAFreshBucket(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{PerSecond: 10}, TenantsMax: 3})
	// given as many tenants as can be remembered, all with buckets in use
	for _, tenant := range []string{"a", "b", "c"} {
		require.Equal(t, 20, admitted(l, tenant, 0, start))
	}
	// when more come, then they share a bucket, and those before get none
	shared := 0
	for i := range 100 {
		shared += admitted(l, fmt.Sprint("stranger", i), 0, start)
	}
	require.Equal(t, 20, shared)
	require.Equal(t, 3, l.Tenants())
	for _, tenant := range []string{"a", "b", "c"} {
		require.Zero(t, admitted(l, tenant, 0, start))
	}
	// when those before have rested, then a stranger takes a place, with the strangers' bucket
	rested := start.Add(2 * time.Second)
	l.strangers.requests = 0
	l.strangers.at = rested.Sub(start)
	require.Zero(t, admitted(l, "stranger0", 0, rested))
	require.Equal(t, 3, l.Tenants())
	// and at rest everybody has a bucket of their own again
	require.Equal(t, 20, admitted(l, "stranger0", 0, rested.Add(time.Minute)))
	require.Equal(t, 20, admitted(l, "d", 0, rested.Add(time.Minute)))
	require.Equal(t, 3, l.Tenants())
}

func TestFloodersAreNotForgotten(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{PerSecond: 10}, TenantsMax: 50})
	require.Equal(t, 20, admitted(l, "flooder", 0, start))
	// A thousand others pass by, each at rest again before the next.
	now, passed := start, 0
	for i := range 1000 {
		now = now.Add(10 * time.Millisecond)
		require.Nil(t, l.Take(fmt.Sprint("other", i%200), 0, now).Refusal)
		passed += admitted(l, "flooder", 0, now)
		require.LessOrEqual(t, l.Tenants(), 50)
	}
	require.Equal(t, 100, passed, "ten seconds' worth")
}

func TestAClockThatGoesBack(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{time.Nanosecond, 100 * time.Millisecond, time.Hour} {
		l := newLimiter(t, Rates{Requests: Rate{PerSecond: 10}})
		now := start.Add(10 * time.Hour)
		require.Equal(t, 20, admitted(l, "a", 0, now))
		// To and fro gives nothing.
		for range 100 {
			require.Zero(t, admitted(l, "a", 0, now.Add(-step)), step)
			if step <= clockStepMax {
				require.Zero(t, admitted(l, "a", 0, now), step)
			}
		}
		// And nobody waits long for the clock to catch up.
		require.GreaterOrEqual(t, admitted(l, "a", 0, now.Add(-step).Add(clockStepMax)), 9, step)
	}
}

func TestConcurrentUseAdmitsExactlyTheBurst(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, Rates{Requests: Rate{PerSecond: 500}, Bytes: Rate{PerSecond: 5000}, TenantsMax: 3})
	var counts [3]atomic.Int64
	var wg sync.WaitGroup
	for worker := range 12 {
		wg.Go(func() {
			tenant := fmt.Sprint("tenant", worker%3)
			for range 600 {
				_, err := l.Admit(tenant, -1, start)
				if err == nil {
					counts[worker%3].Add(1)
					l.Spend(tenant, 1, start)
					continue
				}
				if _, ok := errors.AsType[*Refusal](err); !ok {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range counts {
		require.EqualValues(t, 1000, counts[i].Load())
		require.EqualValues(t, 9000, l.Take(fmt.Sprint("tenant", i), 0, start).BytesLeft)
	}
}

// Whatever comes when, no tenant is let through more often than the burst and the
// rate say, nor more bytes than that and one body over it.
func FuzzNothingBeatsTheRate(f *testing.F) {
	f.Add([]byte{1, 200, 3, 255, 255, 0, 0, 7}, uint8(3), uint8(5))
	f.Add([]byte("some requests at some times, more or less"), uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, calls []byte, perSecond, burst uint8) {
		rate := Rate{PerSecond: int64(perSecond) + 1, Burst: int64(burst) + 1}
		l := newLimiter(t, Rates{Requests: rate, Bytes: rate, TenantsMax: 2})
		now := start
		passed, bytes := map[string]int64{}, map[string]int64{}
		for i, call := range calls {
			now = now.Add(time.Duration(call%32) * 10 * time.Millisecond)
			tenant := string(rune('a' + call/64))
			size := int64(i % 3)
			if l.Take(tenant, size, now).Refusal == nil {
				passed[tenant]++
				bytes[tenant] += size
			}
			bound := rate.Burst + int64(now.Sub(start).Seconds()*float64(rate.PerSecond)) + 1
			if passed[tenant] > bound || bytes[tenant] > bound+2 {
				t.Fatalf("%d requests and %d bytes passed, of at most %d", passed[tenant], bytes[tenant], bound)
			}
			if l.Tenants() > 2 {
				t.Fatal("more tenants are remembered than allowed")
			}
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	l := newLimiter(b, Rates{Requests: Rate{PerSecond: PerSecondMax}, Bytes: Rate{PerSecond: PerSecondMax}})
	for i := range 1000 {
		l.Take(fmt.Sprintf("%036d", i), 1, start)
	}
	tenant := fmt.Sprintf("%036d", 500)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Admit(tenant, 64, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
