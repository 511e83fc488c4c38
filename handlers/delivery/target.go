package delivery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/tallymq/tallymq/commands"
)

// target is an active webhook subscription in one version, and the Watermill subscriber
// that feeds its handler.
type target struct {
	p    *Pusher
	sub  commands.Subscription
	hook commands.Webhook
	// timeout is the longest that a request may take, and lease how long a message is
	// leased. leased is how much of that its request may see.
	timeout, lease, leased time.Duration

	gate    *gate
	health  *health
	settler *settler
	handler *message.Handler

	// intake ends taking messages, requests the requests under way, settling all else.
	intake, requests, settling life
	// over is closed when no more messages are taken.
	over       chan struct{}
	isEnding   atomic.Bool
	isRetiring bool // of Pusher.mu
}

// life is a context that is ended from outside of what it is for.
type life struct {
	ctx context.Context //nolint:containedctx // it outlives every call
	end context.CancelCauseFunc
}

func newLife(ctx context.Context) life {
	ctx, end := context.WithCancelCause(ctx)
	return life{ctx: ctx, end: end}
}

// errCutOff is why requests end that are under way at the end of the grace.
var errCutOff = errors.New("cut off: deliveries end here")

func newTarget(ctx context.Context, p *Pusher, s commands.Subscription, hook commands.Webhook) *target {
	t := &target{
		p: p, sub: s, hook: hook, over: make(chan struct{}), health: &health{since: time.Now()},
		timeout: p.cfg.Timeout, lease: time.Duration(s.Config.SessionTimeoutMs) * time.Millisecond,
		intake: newLife(ctx), requests: newLife(ctx), settling: newLife(ctx),
	}
	if hook.TimeoutMs > 0 {
		t.timeout = time.Duration(hook.TimeoutMs) * time.Millisecond
	}
	t.leased = max(t.lease-p.pace.leaseMargin, RequestTimeMin)
	t.timeout = min(t.timeout, t.leased)
	if t.hook.BreakerFailures == 0 {
		t.hook.BreakerFailures = commands.WebhookFailuresDefault
	}
	if t.hook.PauseAfterMs == 0 {
		t.hook.PauseAfterMs = commands.WebhookPauseMsDefault
	}
	if t.hook.Concurrency == 0 {
		t.hook.Concurrency = p.cfg.Concurrency
	}
	t.gate = newGate(t.hook.Concurrency, hook.RatePerSecond, p.pace.restMin, p.pace.restMax)
	t.settler = &settler{t: t}
	return t
}

func (t *target) id() string { return t.sub.Config.SubscriptionID }

// chain is what the handler does with a message: the inner part of the chain of
// middleware.
func (t *target) chain() message.NoPublishHandlerFunc {
	post := func(msg *message.Message) ([]*message.Message, error) { return nil, t.post(msg) }
	handle := middleware.Timeout(t.timeout)(t.breaker().Middleware(middleware.Recoverer(post)))
	return func(msg *message.Message) error {
		_, err := handle(msg)
		return err
	}
}

// Subscribe is for the Router: the messages of the subscription until the target ends.
func (t *target) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go t.feed(out)
	return out, nil
}

// Close is for the Router, which closes when all targets have ended.
func (t *target) Close() error { return nil }

func (t *target) isOver() bool {
	select {
	case <-t.over:
		return true
	default:
		return false
	}
}

// feed takes messages until the target ends. Should it die, the next look at the
// subscriptions starts it anew.
func (t *target) feed(out chan<- *message.Message) {
	defer func() {
		if r := recover(); r != nil {
			t.p.cfg.Logger.Error("taking messages panicked; starting again", "subscriptionId", t.id(), "panic", fmt.Sprint(r))
			pause(t.intake.ctx, t.p.pace.restartAfter)
		}
		close(out)
		close(t.over)
		t.p.nudge()
	}()
	b := newBackoff(t.p.pace.retryMin, t.p.pace.retryMax)
	for t.intake.ctx.Err() == nil {
		taking, cancel, most, wait := t.gate.begin(t.intake.ctx, time.Now())
		if most == 0 {
			t.sleep(wait)
			continue
		}
		began := time.Now()
		isIdle, err := t.take(taking, out, most)
		wasInterrupted := taking.Err() != nil
		cancel()
		switch {
		case wasInterrupted:
		case !isIdle:
			b.reset()
		case err != nil && !isRefusal(err):
			t.health.note(err)
			t.p.cfg.Logger.Warn("take messages; trying again", "subscriptionId", t.id(), "error", brief(err))
			pause(t.intake.ctx, b.next())
		case time.Since(began) < t.p.pace.takeWait:
			// It changed, and this handler's end is near, or its owner may not consume now.
			if err != nil {
				t.health.note(err)
			}
			t.p.nudge()
			pause(t.intake.ctx, b.next())
		}
	}
}

// sleep waits until the gate changes, for at most d unless that is 0.
func (t *target) sleep(d time.Duration) {
	var late <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-t.gate.changed:
	case <-late:
	case <-t.intake.ctx.Done():
	}
}

// take takes up to most messages and hands them to the Router.
func (t *target) take(ctx context.Context, out chan<- *message.Message, most int) (isIdle bool, err error) {
	// Nothing is leased while there is no room for a request.
	select {
	case t.p.requests <- struct{}{}:
		<-t.p.requests
	case <-ctx.Done():
		return true, nil
	}
	pulled, err := t.p.cfg.Commands.Take(ctx, t.id(), most, t.p.pace.takeWait)
	if err != nil || len(pulled) == 0 {
		return true, err //nolint:wrapcheck // said by feed
	}
	t.handOut(out, pulled, time.Now())
	return false, nil
}

// handOut gives messages to the Router, and those back for which there is no place now.
func (t *target) handOut(out chan<- *message.Message, pulled []commands.Pulled, takenAt time.Time) {
	if t.intake.ctx.Err() != nil || !t.gate.enter(len(pulled), takenAt) {
		t.release(takenAt.Add(t.lease), pulled)
		return
	}
	for i, m := range pulled {
		if !t.admit(takenAt) {
			t.gate.leave(len(pulled) - i)
			t.release(takenAt.Add(t.lease), pulled[i:])
			return
		}
		out <- t.newAttempt(m, takenAt).message()
	}
}

// admit waits for one of the places for requests, though not for long: the lease's clock
// has started.
func (t *target) admit(takenAt time.Time) bool {
	select {
	case t.p.requests <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(takenAt.Add(min(admitMax, t.leased/4))))
	defer timer.Stop()
	select {
	case t.p.requests <- struct{}{}:
		return true
	case <-timer.C:
		return false
	case <-t.intake.ctx.Done():
		return false
	}
}

// stop ends the target: no new messages, the requests under way have their time, what is
// left is cut off and settled. Then its handler ends.
func (t *target) stop() {
	t.intake.end(nil)
	grace := time.NewTimer(t.p.pace.grace)
	defer grace.Stop()
	if !t.isQuiet(grace.C) {
		t.requests.end(errCutOff)
		grace.Reset(t.p.pace.settleGrace)
		if !t.isQuiet(grace.C) {
			t.p.cfg.Logger.Warn("deliveries could not be settled: their leases run out", "subscriptionId", t.id())
		}
	}
	t.requests.end(errCutOff)
	t.settling.end(errCutOff)
	<-t.over
	t.handler.Stop()
	<-t.handler.Stopped()
}

// isQuiet waits until nothing is taken any more and nothing is under way, or it is late.
func (t *target) isQuiet(late <-chan time.Time) bool {
	select {
	case <-t.over:
	case <-late:
		return false
	}
	for !t.gate.isEmpty() {
		select {
		case <-t.gate.changed:
		case <-late:
			return t.gate.isEmpty()
		}
	}
	return true
}
