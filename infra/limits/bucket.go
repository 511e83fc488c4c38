package limits

import (
	"fmt"
	"time"
)

// Bounds of what a rate can be, so that its arithmetic stays within 64 bits.
const (
	// PerSecondMax bounds Rate.PerSecond: a unit takes a nanosecond or more.
	PerSecondMax = 1_000_000_000
	// BurstMax bounds Rate.Burst, and what one use can cost.
	BurstMax = 1 << 33
	// DebtMax bounds how long a tenant waits for what it has used already.
	DebtMax = time.Hour
	// DefaultBurstSeconds is how many seconds' worth may come at once where
	// Rate.Burst does not say.
	DefaultBurstSeconds = 2

	// clockStepMax tells a clock that was set back from calls that overtook one
	// another.
	clockStepMax = time.Second
)

// Rate is so many units a second.
type Rate struct {
	// PerSecond is how many units come back each second; 0 is no limit.
	PerSecond int64
	// Burst is how many units may be used at once after a time of rest; 0 is
	// DefaultBurstSeconds' worth.
	Burst int64
}

// bucket is a token bucket's measure. A level is what the bucket holds, as the
// nanoseconds that it takes to come back. A use is rounded down to a nanosecond, so a
// burst is never a unit short.
//
// golang.org/x/time/rate would do most of this, but it refuses a use larger than the
// burst and gives tokens to a clock that was set back and forth.
type bucket struct {
	perSecond int64
	// full is the level of a full bucket, 0 where there is no limit.
	full int64
}

func newBucket(name string, r Rate) (bucket, error) {
	if r.PerSecond < 0 || r.PerSecond > PerSecondMax || r.Burst < 0 || r.Burst > BurstMax {
		return bucket{}, fmt.Errorf("%s: 0 to %d a second and a burst of 0 to %d are allowed, not %d and %d",
			name, int64(PerSecondMax), int64(BurstMax), r.PerSecond, r.Burst)
	}
	if r.PerSecond == 0 {
		return bucket{}, nil
	}
	b := bucket{perSecond: r.PerSecond}
	burst := r.Burst
	if burst == 0 {
		burst = DefaultBurstSeconds * r.PerSecond
	}
	b.full = b.cost(burst)
	return b, nil
}

func (b bucket) limited() bool { return b.perSecond > 0 }

// cost is the level that n units take.
func (b bucket) cost(n int64) int64 {
	n = min(n, BurstMax)
	return n/b.perSecond*int64(time.Second) + n%b.perSecond*int64(time.Second)/b.perSecond
}

// left is how many units, whole, a level is worth; none for a debt.
func (b bucket) left(level int64) int64 {
	if level <= 0 {
		return 0
	}
	second := int64(time.Second)
	n := level/second*b.perSecond + level%second*b.perSecond/second
	if n < BurstMax && b.cost(n+1) <= level {
		n++
	}
	return n
}

// refill is a level after a time, which is not negative.
func (b bucket) refill(level int64, elapsed time.Duration) int64 {
	if int64(elapsed) >= b.full-level {
		return b.full
	}
	return level + int64(elapsed)
}

// wait is how long a level must grow before n units may be used, 0 for not at all.
// More than a full bucket holds may be used when it is full.
func (b bucket) wait(level, n int64) time.Duration {
	return time.Duration(max(0, min(b.cost(n), b.full)-level))
}

// use takes n units, whether they are there or not.
func (b bucket) use(level, n int64) int64 {
	return max(level-b.cost(n), -int64(DebtMax))
}
