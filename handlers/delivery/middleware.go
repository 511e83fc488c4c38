package delivery

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/sony/gobreaker"
)

// account stands around the whole chain: it hands back the lease of what was not sent,
// and then counts the request as over.
func (p *Pusher) account(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		a := attemptOf(msg)
		defer a.end()
		_, err := next(msg)
		switch {
		case err == nil:
		case isUnsent(err):
			a.release()
		default:
			p.cfg.Logger.Warn("a delivery is not settled: its lease runs out", "subscriptionId", a.t.id(), "messageId", a.m.MessageID, "error", brief(err))
		}
		// The Router has nothing to add: all is said and done.
		return nil, nil
	}
}

// DelayedRetry is middleware that settles attempts. A failed one is tried again after a
// delay, or not: that is the dispatcher's policy, so it survives a restart. Permanent
// failures and what was not sent are for those around it; while deliveries rest, that is
// everything.
func (p *Pusher) DelayedRetry(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		// Now, as the middleware within leave an ended context behind.
		a := attemptOf(msg)
		if a.t.gate.isResting(time.Now()) {
			return nil, &unsentError{errResting}
		}
		_, err := next(msg)
		switch {
		case err == nil:
			a.t.health.succeeded()
			return nil, a.settle(a.outcome(nil))
		case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
			// The gate is closed whenever the breaker is open. Were it not, messages would go
			// round and round.
			a.t.gate.rest(time.Now(), p.pace.retryMin)
			return nil, &unsentError{err}
		case isUnsent(err), isPermanent(err):
			return nil, err
		}
		return nil, a.failed(p.shown(a, err))
	}
}

var errResting = errors.New("deliveries rest")

// shown is an error as the tenant may see it.
func (p *Pusher) shown(a *attempt, err error) error {
	panicked, ok := errors.AsType[middleware.RecoveredPanicError](err)
	if !ok {
		return err
	}
	p.cfg.Logger.Error("a delivery panicked", "subscriptionId", a.t.id(), "messageId", a.m.MessageID, "panic", fmt.Sprint(panicked.V), "stack", panicked.Stacktrace)
	return errors.New("the delivery failed for an internal reason")
}

// failed settles a failed attempt, and sees what it means for the subscription.
func (a *attempt) failed(err error) error {
	t, o := a.t, a.outcome(err)
	if !isEndpoints(err) {
		return a.settle(o)
	}
	failures, since := t.health.failed(err)
	if f, ok := errors.AsType[*failedError](err); ok && f.retryAfter > 0 &&
		(f.status == http.StatusTooManyRequests || f.status == http.StatusServiceUnavailable) {
		rest := min(f.retryAfter, RetryAfterMax)
		o.NotBeforeMs = rest.Milliseconds()
		t.gate.rest(time.Now(), rest)
	}
	isGone := a.status == http.StatusGone
	isOver := failures >= t.hook.BreakerFailures && time.Since(since).Milliseconds() >= t.hook.PauseAfterMs
	if !isGone && !isOver {
		return a.settle(o)
	}
	// Nothing more is taken; the word of it comes in a moment.
	t.gate.rest(time.Now(), t.p.pace.restMax)
	if err := a.settle(o); err != nil {
		return err
	}
	if isGone {
		t.conclude("stop", t.p.cfg.Commands.Stop, "the endpoint answered "+o.Error)
	} else {
		t.conclude("pause", t.p.cfg.Commands.Suspend, fmt.Sprintf("deliveries fail since %s: %s", since.UTC().Format(time.RFC3339), o.Error))
	}
	return nil
}

// deadLetterTopic is what Watermill calls the place of messages that are given up.
const deadLetterTopic = "dead-letter"

// deadLetters is the publisher of Watermill's poison queue: it makes a dead letter of the
// message's delivery.
type deadLetters struct{}

func (deadLetters) Publish(_ string, messages ...*message.Message) error {
	for _, msg := range messages {
		a := attemptOf(msg)
		o := a.outcome(errors.New(msg.Metadata.Get(middleware.ReasonForPoisonedKey)))
		o.Dead = true
		if err := a.settle(o); err != nil {
			return err
		}
	}
	return nil
}

func (deadLetters) Close() error { return nil }
