package delivery

import (
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// gate says when a subscription may take how many messages: it counts its requests under
// way, keeps its rate, and closes while deliveries rest.
type gate struct {
	requestsMax int
	limiter     *rate.Limiter // nil for any rate
	// changed gets a value when a request has ended or a rest has begun.
	changed chan struct{}

	mu       sync.Mutex
	inFlight int
	// since and until are when the last rest began and when it ends.
	since, until time.Time
	// isProbing says that the endpoint failed and has yet to answer well again: one
	// message at a time finds out.
	isProbing bool
	rests     restLengths
	// interrupt ends the Take under way.
	interrupt context.CancelFunc
}

// restLengths are how long the rests are one after the other.
type restLengths struct{ next, least, most time.Duration }

func newGate(requestsMax int, perSecond float64, restMin, restMax time.Duration) *gate {
	g := &gate{
		requestsMax: requestsMax, changed: make(chan struct{}, 1),
		rests: restLengths{next: restMin, least: restMin, most: restMax},
	}
	if perSecond > 0 {
		g.limiter = rate.NewLimiter(rate.Limit(perSecond), int(max(1, perSecond)))
	}
	return g
}

// begin returns how many messages may be taken now, and a context for taking them that
// ends when a rest begins. Where it is none, it returns how long to wait before the next
// look unless something changes, 0 for until something changes.
func (g *gate) begin(ctx context.Context, now time.Time) (taking context.Context, cancel context.CancelFunc, most int, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if rest := g.until.Sub(now); rest > 0 {
		return ctx, nil, 0, rest
	}
	most = g.requestsMax - g.inFlight
	if g.isProbing {
		most = 1 - g.inFlight
	}
	if most <= 0 {
		return ctx, nil, 0, 0
	}
	if g.limiter != nil {
		tokens := g.limiter.TokensAt(now)
		if tokens < 1 {
			seconds := (1 - tokens) / float64(g.limiter.Limit())
			return ctx, nil, 0, time.Duration(math.Ceil(seconds*float64(time.Second))) + time.Microsecond
		}
		most = min(most, int(tokens))
	}
	taking, cancel = context.WithCancel(ctx)
	g.interrupt = cancel
	return taking, cancel, most, 0
}

// enter counts requests that begin; false, and nothing is counted, where deliveries rest
// by now.
func (g *gate) enter(n int, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Before(g.until) {
		return false
	}
	g.inFlight += n
	if g.limiter != nil {
		g.limiter.AllowN(now, n)
	}
	return true
}

// leave counts requests that are over.
func (g *gate) leave(n int) {
	g.mu.Lock()
	g.inFlight -= n
	g.mu.Unlock()
	g.notify()
}

func (g *gate) notify() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// trip begins a rest because the endpoint fails, and returns how long it is: more than the
// last time. It is never shorter than the least, which is for how long the breaker itself
// refuses.
func (g *gate) trip(now time.Time, random float64) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isProbing = true
	d := g.rests.next + time.Duration(random*float64(g.rests.next)/2) + time.Millisecond
	// A third of the longest is left for the jitter.
	g.rests.next = min(2*g.rests.next, max(g.rests.most*2/3, g.rests.least))
	g.restUntil(now, now.Add(d))
	return d
}

// rest begins a rest of this length, or prolongs the one under way.
func (g *gate) rest(now time.Time, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.restUntil(now, now.Add(d))
}

func (g *gate) restUntil(now, until time.Time) {
	if !now.Before(g.until) {
		g.since = now
	}
	if until.After(g.until) {
		g.until = until
	}
	if g.interrupt != nil {
		g.interrupt()
	}
	g.notify()
}

// recovered says that the endpoint answers well again.
func (g *gate) recovered() {
	g.mu.Lock()
	g.isProbing = false
	g.rests.next = g.rests.least
	g.mu.Unlock()
	g.notify()
}

func (g *gate) isResting(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return now.Before(g.until)
}

func (g *gate) isEmpty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inFlight == 0
}
