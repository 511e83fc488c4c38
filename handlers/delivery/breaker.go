package delivery

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/sony/gobreaker"
)

// breaker is the circuit breaker of the subscription's endpoint. While it is open, the
// gate is closed, and for longer: the breaker's own time is always the same.
func (t *target) breaker() middleware.CircuitBreaker {
	return middleware.NewCircuitBreaker(gobreaker.Settings{
		Name: t.id(), MaxRequests: 1, Timeout: t.p.pace.restMin,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return int64(c.ConsecutiveFailures) >= int64(t.hook.BreakerFailures) },
		IsSuccessful: func(err error) bool { return !isEndpoints(err) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				rest := t.gate.trip(time.Now(), rand.Float64()) //nolint:gosec // not a secret
				t.p.cfg.Logger.Info("an endpoint fails; deliveries rest", "subscriptionId", t.id(), "for", rest.Round(time.Millisecond))
			}
			if to == gobreaker.StateClosed {
				t.gate.recovered()
			}
		},
	})
}

// conclude pauses or stops the subscription, once; with that its status changes and this
// target ends. Where it cannot be done now, the next failure says so again.
func (t *target) conclude(what string, command func(ctx context.Context, id, reason string) error, reason string) {
	// A target that ends already is not what the subscription is now.
	if t.intake.ctx.Err() != nil || !t.isEnding.CompareAndSwap(false, true) {
		return
	}
	ctx, cancel := context.WithTimeout(t.intake.ctx, t.p.pace.restMax)
	defer cancel()
	b := newBackoff(t.p.pace.retryMin, t.p.pace.retryMax)
	for {
		err := command(ctx, t.id(), reason)
		if err == nil || isRefusal(err) {
			t.p.cfg.Logger.Warn(what+" a webhook subscription", "subscriptionId", t.id(), "reason", reason, "refused", brief(err))
			t.isEnding.Store(err == nil)
			t.p.nudge()
			return
		}
		t.health.note(err)
		if !pause(ctx, b.next()) {
			t.isEnding.Store(false)
			t.p.cfg.Logger.Error(what+" a webhook subscription", "subscriptionId", t.id(), "reason", reason, "error", brief(err))
			return
		}
	}
}

// health is how an endpoint has answered of late.
type health struct {
	delivered atomic.Int64

	mu    sync.Mutex
	since time.Time // when the target began
	// failures are those since the last success, the first of which was at failingSince.
	failures     int
	failingSince time.Time
	lastError    string
	lastErrorAt  time.Time
}

func (h *health) succeeded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures, h.failingSince = 0, time.Time{}
}

// failed counts a failure and returns how many there are since the last success, and when
// the first of them was.
func (h *health) failed(err error) (failures int, since time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.failures++; h.failures == 1 {
		h.failingSince = now
	}
	h.lastError, h.lastErrorAt = brief(err), now
	return h.failures, h.failingSince
}

// note keeps an error that is not the endpoint's.
func (h *health) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastError, h.lastErrorAt = brief(err), time.Now()
}
