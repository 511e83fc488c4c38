package commands

import (
	"context"
	"errors"

	"github.com/tallymq/tallymq/events"
)

// Resume takes up again what the subscription's consumer was handed and has not
// settled: for the successor of a consumer that is gone, which must not wait until its
// leases run out. They are renewed for sessionTimeoutMs. Retries come first, then each
// partition's messages in order; where there is more than one answer holds, the rest
// comes once these are settled.
//
// It is the same attempt under a token that settles it as the old one does, so whoever
// calls must know that the consumer has no other instance at work.
func (d *Dispatcher) Resume(ctx context.Context, caller Caller, subscriptionID string) ([]Pulled, error) {
	for again := 0; again < decideAgainMax; {
		s, shard, err := d.subscription(ctx, caller, subscriptionID)
		if err != nil {
			return nil, err
		}
		if err := d.checkConsumer(ctx, caller, s); err != nil {
			return nil, err
		}
		if _, err := d.decidePull(s, Pull{SubscriptionID: subscriptionID}); err != nil {
			return nil, err
		}
		filter, err := d.filterOf(s)
		if err != nil {
			return nil, err
		}
		leased, err := d.store.Resume(ctx, d.leaseRequest(s, shard, s.Config.MaxPollRecords))
		if errors.Is(err, events.ErrStale) {
			d.store.Forget(subscriptionID)
			again++
			continue
		}
		if err != nil {
			return nil, unavailable(err)
		}
		pulled, err := d.handOut(ctx, caller, s, filter, leased)
		if err != nil || len(pulled) > 0 || len(leased) == 0 || ctx.Err() != nil {
			return pulled, err
		}
		// All of it was settled on the way, because it is expired or filtered: there may be more.
	}
	return nil, tooBusy()
}

// DeadLetter says that messages can never be processed, whatever attempts are left:
// they become dead letters at once, with the reason. It answers for every token, in
// order.
func (d *Dispatcher) DeadLetter(ctx context.Context, caller Caller, subscriptionID string, ackTokens []string, reason string) ([]Settled, error) {
	var v check
	v.short(reason, "error", NackErrorMax)
	if err := v.refusal(); err != nil {
		return nil, err
	}
	return d.settle(ctx, caller, subscriptionID, ackTokens, func(s Subscription, t delivery) (events.Event, string) {
		return events.MessageDeadLettered{Delivery: s.delivery(t), Reason: events.ReasonNack, Error: reason}, "dead_letter"
	})
}
