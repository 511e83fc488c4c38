package commands

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Settled is what became of one ack token: Err, or Status.
type Settled struct {
	AckToken string
	// Status is acked, retrying, dead_letter or extended.
	Status           string
	LeaseExpiresAtMs int64
	Err              error
}

// Ack says that messages were processed. It answers for every token, in order,
// once the log has the events: losing one costs a redelivery, never a message.
func (d *Dispatcher) Ack(ctx context.Context, caller Caller, subscriptionID string, ackTokens []string) ([]Settled, error) {
	return d.settle(ctx, caller, subscriptionID, ackTokens, func(s Subscription, t delivery) (events.Event, string) {
		return events.MessageConsumed{Delivery: s.delivery(t)}, "acked"
	})
}

// Nack asks for another attempt at messages.
type Nack struct {
	SubscriptionID string
	AckTokens      []string
	// DelayMs overrides the subscription's backoff.
	DelayMs *int64
	// Error is the consumer's reason, kept with the attempt.
	Error string
}

// Nack says that messages could not be processed: they are tried again after a
// delay, or dead-lettered where no attempt is left.
func (d *Dispatcher) Nack(ctx context.Context, caller Caller, cmd Nack) ([]Settled, error) {
	var v check
	if cmd.DelayMs != nil {
		v.between(*cmd.DelayMs, 0, NackDelayMsMax, "delayMs")
	}
	v.short(cmd.Error, "error", NackErrorMax)
	if err := v.refusal(); err != nil {
		return nil, err
	}
	return d.settle(ctx, caller, cmd.SubscriptionID, cmd.AckTokens, func(s Subscription, t delivery) (events.Event, string) {
		e := decideFailure(s, s.delivery(t), failure{Reason: events.ReasonNack, Error: cmd.Error, DelayMs: cmd.DelayMs, Policy: t.policy(), Unseen: t.Unseen, Rand: d.cfg.Rand()})
		return e, failureStatus(e)
	})
}

func failureStatus(e events.Event) string {
	if _, dead := e.(events.MessageDeadLettered); dead {
		return "dead_letter"
	}
	return "retrying"
}

// failure is why an attempt failed and what the consumer wishes.
type failure struct {
	Reason, Error string
	StatusCode    int
	// DelayMs stands in for the subscription's backoff, and NotBeforeMs is the least
	// delay.
	DelayMs     *int64
	NotBeforeMs int64
	Policy      policy
	// Unseen is as in [events.Leased].
	Unseen int
	Rand   float64
}

// policy is what a message says of its own retries; nil is as the subscription says.
type policy struct{ MaxRetryAttempts, RetryDelayMs *int }

// decideFailure gives a failed attempt its consequence: another attempt after a delay,
// or none. The delay is the next of retryScheduleMs, or retryDelayMs·2^n with full
// jitter, where that is at most an hour or retryDelayMs itself. Attempts are counted from
// where the message was last redriven.
func decideFailure(s Subscription, a events.Delivery, f failure) events.Event {
	tried := max(a.Attempt-a.AttemptsBefore-f.Unseen, 1)
	if tried > deref(f.Policy.MaxRetryAttempts, s.Config.MaxRetryAttempts) {
		return events.MessageDeadLettered{Delivery: a, Reason: f.Reason, Error: f.Error, StatusCode: f.StatusCode}
	}
	var delay int64
	switch {
	case f.DelayMs != nil:
		delay = *f.DelayMs
	case f.Policy.RetryDelayMs == nil && len(s.how.RetrySchedule) > 0:
		delay = s.how.RetrySchedule[min(tried, len(s.how.RetrySchedule))-1]
	default:
		first := float64(deref(f.Policy.RetryDelayMs, s.Config.RetryDelayMs))
		ceiling := math.Min(first*math.Pow(2, float64(tried-1)), max(first, retryDelayCapMs))
		delay = int64(f.Rand * ceiling)
	}
	return events.MessageFailed{Delivery: a, Reason: f.Reason, Error: f.Error, StatusCode: f.StatusCode, RetryDelayMs: max(delay, f.NotBeforeMs)}
}

func policyOf(m events.DeliveryMeta) policy {
	return policy{MaxRetryAttempts: m.MaxRetryAttempts, RetryDelayMs: m.RetryDelayMs}
}

func (t delivery) policy() policy {
	return policy{MaxRetryAttempts: t.MaxRetryAttempts, RetryDelayMs: t.RetryDelayMs}
}

func (s Subscription) delivery(t delivery) events.Delivery {
	return events.Delivery{
		MessageID: t.MessageID, TopicID: s.Config.TopicID, SubscriptionID: t.SubscriptionID,
		ConsumerGroup: s.group(), Consumer: s.Config.ConsumerName,
		Partition: t.Partition, Offset: t.Offset, Attempt: t.Attempt, LeasedAtMs: t.LeasedAtMs, AttemptsBefore: t.AttemptsBefore,
	}
}

// openTokens loads the subscription and reads the tokens; a token that is not the
// subscription's own is refused by itself.
func (d *Dispatcher) openTokens(ctx context.Context, caller Caller, subscriptionID string, ackTokens []string) (Subscription, int, []Settled, []delivery, error) {
	var v check
	v.that(len(ackTokens) >= 1 && len(ackTokens) <= AckTokensMax, "ackTokens", fmt.Sprintf("1 to %d tokens", AckTokensMax), fmt.Sprintf("has %d", len(ackTokens)))
	if err := v.refusal(); err != nil {
		return Subscription{}, 0, nil, nil, err
	}
	s, shard, err := d.subscription(ctx, caller, subscriptionID)
	if err != nil {
		return Subscription{}, 0, nil, nil, err
	}
	if err := d.checkConsumer(ctx, caller, s); err != nil {
		return Subscription{}, 0, nil, nil, err
	}
	results := make([]Settled, len(ackTokens))
	opened := make([]delivery, len(ackTokens))
	for i, token := range ackTokens {
		results[i].AckToken = token
		t, err := d.tokens.open(token)
		if err != nil || t.SubscriptionID != subscriptionID {
			var v check
			v.that(false, fmt.Sprintf("ackTokens[%d]", i), "a token from a pull of this subscription", "is not one")
			results[i].Err = v.refusal()
			continue
		}
		opened[i] = t
	}
	return s, shard, results, opened, nil
}

func (d *Dispatcher) settle(ctx context.Context, caller Caller, subscriptionID string, ackTokens []string, decide func(Subscription, delivery) (events.Event, string)) ([]Settled, error) {
	return d.settleEach(ctx, caller, subscriptionID, ackTokens, func(s Subscription, t delivery, _ string) (events.Event, string) { return decide(s, t) })
}

// settleEach is settle by a decision that needs the token.
func (d *Dispatcher) settleEach(ctx context.Context, caller Caller, subscriptionID string, ackTokens []string, decide func(Subscription, delivery, string) (events.Event, string)) ([]Settled, error) {
	s, shard, results, opened, err := d.openTokens(ctx, caller, subscriptionID, ackTokens)
	if err != nil {
		return nil, err
	}
	batch := make([]events.Append, 0, len(opened))
	of := make([]int, 0, len(opened))
	for i, t := range opened {
		if results[i].Err != nil {
			continue
		}
		var e events.Event
		e, results[i].Status = decide(s, t, ackTokens[i])
		a := d.settlementOf(caller, s, e, t.Lease)
		a.Unseen = t.Unseen
		batch = append(batch, a)
		of = append(of, i)
	}
	outs, err := d.store.Append(ctx, shard, batch)
	if err != nil {
		return nil, unavailable(err)
	}
	for k, out := range outs {
		if out.Status == events.StatusAppended {
			d.observeSettled(s, batch[k].Event, out.Position)
		} else {
			results[of[k]].Status = ""
			results[of[k]].Err = refuse(CodeLeaseLost, "the lease is over: the message was settled or went back to the queue")
		}
	}
	return results, nil
}

func (d *Dispatcher) settlement(caller Caller, tenantID string, e events.Event, lease events.Lease) events.Append {
	meta := d.meta(caller, "")
	meta.IdempotencyKey = ""
	return events.Append{ID: d.cfg.NewID(), TenantID: tenantID, Event: e, Meta: meta, Guard: events.Guard{Lease: lease}}
}

// system is who acts where nobody asked.
var system = Caller{Subject: "system"}

// settlementOf is settlement on behalf of a subscription, whose dead letters may have a
// queue to go to.
func (d *Dispatcher) settlementOf(caller Caller, s Subscription, e events.Event, lease events.Lease) events.Append {
	a := d.settlement(caller, s.TenantID, e, lease)
	if _, isDead := e.(events.MessageDeadLettered); isDead {
		a.Forward = s.Config.DeadLetterQueue != ""
	}
	return a
}

// Extend gives leases another leaseMs from now. It is not an event: nothing has
// become of the message.
func (d *Dispatcher) Extend(ctx context.Context, caller Caller, subscriptionID string, ackTokens []string, leaseMs int64) ([]Settled, error) {
	var v check
	v.between(leaseMs, ExtendMsMin, ExtendMsMax, "leaseMs")
	if err := v.refusal(); err != nil {
		return nil, err
	}
	s, shard, results, opened, err := d.openTokens(ctx, caller, subscriptionID, ackTokens)
	if err != nil {
		return nil, err
	}
	leases := make([]events.Lease, 0, len(opened))
	of := make([]int, 0, len(opened))
	for i, t := range opened {
		if results[i].Err == nil {
			leases = append(leases, t.Lease)
			of = append(of, i)
		}
	}
	if len(leases) == 0 {
		return results, nil
	}
	ends, held, err := d.store.Extend(ctx, shard, s.Config.TopicID, s.group(), subscriptionID, leases, time.Duration(leaseMs)*time.Millisecond)
	if err != nil {
		return nil, unavailable(err)
	}
	for k, ok := range held {
		r := &results[of[k]]
		if !ok {
			r.Err = refuse(CodeLeaseLost, "the lease is over: the message was settled or went back to the queue")
			continue
		}
		r.Status, r.LeaseExpiresAtMs = "extended", ends
	}
	return results, nil
}

// Release hands messages that could not be given to their consumer straight back.
// The attempt is spent, as its number never comes again, but it is never the last:
// nobody has seen the message.
func (d *Dispatcher) Release(ctx context.Context, caller Caller, subscriptionID string, pulled []Pulled) error {
	ackTokens := make([]string, len(pulled))
	for i, m := range pulled {
		ackTokens[i] = m.AckToken
	}
	return d.release(ctx, caller, subscriptionID, ackTokens, 0)
}

// release is Release by token, after a delay.
func (d *Dispatcher) release(ctx context.Context, caller Caller, subscriptionID string, ackTokens []string, delayMs int64) error {
	_, err := d.settle(ctx, caller, subscriptionID, ackTokens, func(s Subscription, t delivery) (events.Event, string) {
		return events.MessageFailed{Delivery: s.delivery(t), Reason: events.ReasonReleased, RetryDelayMs: delayMs}, "released"
	})
	return err
}

// ExpireLeases settles attempts whose lease ran out, by the same policy as a
// nack. Those that somebody settled meanwhile are left alone.
func (d *Dispatcher) ExpireLeases(ctx context.Context, shard int, expired []events.ExpiredLease) error {
	batch := make([]events.Append, 0, len(expired))
	of := map[int]Subscription{}
	for _, x := range expired {
		a, err := d.store.Subscription(ctx, x.SubscriptionID)
		if err != nil && !errors.Is(err, events.ErrNoAggregate) {
			return unavailable(err)
		}
		attempt := events.Delivery{
			MessageID: x.MessageID, TopicID: x.TopicID, SubscriptionID: x.SubscriptionID, ConsumerGroup: x.Group, Consumer: x.Consumer,
			Partition: x.Partition, Offset: x.Offset, Attempt: x.Attempt, LeasedAtMs: x.LeasedAtMs, AttemptsBefore: x.AttemptsBefore,
		}
		if err != nil {
			// The subscription is gone, and its group has other members.
			tenantID := x.Meta.TenantID
			if other, _, found := strings.Cut(x.Group, ":"); found {
				tenantID = other // see Subscription.group
			}
			e := events.MessageFailed{Delivery: attempt, Reason: events.ReasonReleased}
			batch = append(batch, d.settlement(system, tenantID, e, x.Lease))
			continue
		}
		s, ok := a.Value.(Subscription)
		if !ok {
			return fmt.Errorf("subscription %s: state is %T", a.ID, a.Value)
		}
		of[len(batch)] = s
		e := decideFailure(s, attempt, failure{Reason: events.ReasonLeaseExpired, Policy: policyOf(x.Meta), Unseen: x.Unseen, Rand: d.cfg.Rand()})
		settlement := d.settlementOf(system, s, e, x.Lease)
		settlement.Unseen = x.Unseen
		batch = append(batch, settlement)
	}
	outs, err := d.store.Append(ctx, shard, batch)
	if err != nil {
		return unavailable(err)
	}
	for k, out := range outs {
		if s, ok := of[k]; ok && out.Status == events.StatusAppended {
			d.observeSettled(s, batch[k].Event, out.Position)
		}
	}
	return nil
}

// observeSettled tells the observer how a delivery ended.
func (d *Dispatcher) observeSettled(s Subscription, e events.Event, at events.Position) {
	if d.cfg.Observer == nil {
		return
	}
	settled := func(a events.Delivery, outcome, reason string) {
		d.cfg.Observer.Settled(s.QueueTenantID, s.Queue, s.group(), outcome, reason, time.Duration(at.Ms()-a.LeasedAtMs)*time.Millisecond)
	}
	if consumed, ok := e.(events.MessageConsumed); ok {
		settled(consumed.Delivery, "acked", "")
	}
	if failed, ok := e.(events.MessageFailed); ok {
		settled(failed.Delivery, failureStatus(e), failed.Reason)
	}
	if dead, ok := e.(events.MessageDeadLettered); ok {
		settled(dead.Delivery, failureStatus(e), dead.Reason)
	}
}
