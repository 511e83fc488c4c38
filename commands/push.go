package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Outcome is how a delivery to a webhook ended.
type Outcome struct {
	AckToken string
	// OK says that it was taken; Dead that it is never to be tried again.
	OK, Dead bool
	// Reason is one of the events.Reason constants.
	Reason, Error string
	// StatusCode is what was answered, 0 where nothing was.
	StatusCode int
	// NotBeforeMs is the least delay of another attempt.
	NotBeforeMs int64
}

// Load returns a subscription as it is now, whoever's it is.
func (d *Dispatcher) Load(ctx context.Context, subscriptionID string) (Subscription, error) {
	a, err := d.store.Subscription(ctx, subscriptionID)
	if errors.Is(err, events.ErrNoAggregate) {
		return Subscription{}, refuse(CodeSubscriptionNotFound, "no subscription %q", brief(subscriptionID))
	}
	if err != nil {
		return Subscription{}, unavailable(err)
	}
	s, ok := a.Value.(Subscription)
	if !ok {
		return Subscription{}, fmt.Errorf("subscription %s: state is %T", a.ID, a.Value)
	}
	s.CreatedAtMs, s.ChangedAtMs = a.Created.Ms(), a.Changed.Ms()
	return s, nil
}

// Consumable returns a subscription that the caller may consume from.
func (d *Dispatcher) Consumable(ctx context.Context, caller Caller, subscriptionID string) (Subscription, error) {
	s, _, err := d.subscription(ctx, caller, subscriptionID)
	if err == nil {
		err = d.checkConsumer(ctx, caller, s)
	}
	return s, err
}

// OwnQueue returns one of the tenant's own queues.
func (d *Dispatcher) OwnQueue(ctx context.Context, caller Caller, name string) (Topic, error) {
	t, _, err := d.ownTopic(ctx, caller, name)
	return t, err
}

// Producible refuses a queue of the tenant's that the caller may not publish to.
func (d *Dispatcher) Producible(ctx context.Context, caller Caller, name string) error {
	t, err := d.OwnQueue(ctx, caller, name)
	if err == nil && !t.mayProduce(caller) {
		err = refuse(CodeForbidden, "%q may not publish to queue %q", caller.Subject, name)
	}
	return err
}

// onBehalf is the service acting for a subscription's owner.
func (d *Dispatcher) onBehalf(ctx context.Context, subscriptionID string) (Caller, Subscription, error) {
	s, err := d.Load(ctx, subscriptionID)
	return Caller{TenantID: s.TenantID, Subject: system.Subject, Platform: true, Async: true}, s, err
}

// Take is Pull for what the service itself delivers, as to the subscription's owner: up to
// messagesMax messages, waiting for any time. It is refused with MQ_CONSUMER_ERROR where the subscription is not active
// or changed meanwhile.
func (d *Dispatcher) Take(ctx context.Context, subscriptionID string, messagesMax int, wait time.Duration) ([]Pulled, error) {
	first, err := d.Load(ctx, subscriptionID)
	if err != nil {
		return nil, err
	}
	return d.pull(ctx, first.Owner.Caller(first.TenantID), Pull{SubscriptionID: subscriptionID}, wait, func(s Subscription, _ Pull) (int, error) {
		if s.Config.Status != StatusActive || s.Version != first.Version {
			return 0, refuse(CodeConsumerError, "subscription is %s, version %d", s.Config.Status, s.Version)
		}
		return min(messagesMax, PullMessagesMax), nil
	})
}

// Settle settles what the service itself delivered. It answers for every outcome, in
// order.
func (d *Dispatcher) Settle(ctx context.Context, subscriptionID string, outcomes []Outcome) ([]Settled, error) {
	caller, _, err := d.onBehalf(ctx, subscriptionID)
	if err != nil {
		return nil, err
	}
	ackTokens := make([]string, len(outcomes))
	byToken := make(map[string]Outcome, len(outcomes))
	for i, o := range outcomes {
		ackTokens[i], byToken[o.AckToken] = o.AckToken, o
	}
	return d.settleEach(ctx, caller, subscriptionID, ackTokens, func(s Subscription, t delivery, token string) (events.Event, string) {
		o := byToken[token]
		reason := or(o.Reason, events.ReasonWebhook)
		switch {
		case o.OK:
			return events.MessageConsumed{Delivery: s.delivery(t), StatusCode: o.StatusCode}, "acked"
		case o.Dead:
			return events.MessageDeadLettered{Delivery: s.delivery(t), Reason: reason, Error: o.Error, StatusCode: o.StatusCode}, "dead_letter"
		}
		e := decideFailure(s, s.delivery(t), failure{
			Reason: reason, Error: o.Error, StatusCode: o.StatusCode, NotBeforeMs: min(o.NotBeforeMs, NackDelayMsMax), Policy: t.policy(), Unseen: t.Unseen, Rand: d.cfg.Rand(),
		})
		return e, failureStatus(e)
	})
}

// ReleaseTokens is Release for what the service itself took and did not deliver.
func (d *Dispatcher) ReleaseTokens(ctx context.Context, subscriptionID string, ackTokens []string, delayMs int64) error {
	caller, _, err := d.onBehalf(ctx, subscriptionID)
	if err != nil {
		return err
	}
	return d.release(ctx, caller, subscriptionID, ackTokens, delayMs)
}

// Suspend pauses a subscription because its deliveries fail; the reason is kept.
func (d *Dispatcher) Suspend(ctx context.Context, subscriptionID, reason string) error {
	return d.end(ctx, subscriptionID, StatusPaused, func(s Subscription) events.Event {
		return events.SubscriptionPaused{SubscriptionID: subscriptionID, TopicID: s.Config.TopicID, Reason: reason}
	})
}

// Stop stops a subscription because its endpoint is gone; the reason is kept.
func (d *Dispatcher) Stop(ctx context.Context, subscriptionID, reason string) error {
	return d.end(ctx, subscriptionID, StatusStopped, func(s Subscription) events.Event {
		return events.SubscriptionStopped{SubscriptionID: subscriptionID, TopicID: s.Config.TopicID, Reason: reason}
	})
}

// end leaves an active subscription in another status. One that is not active is left as
// it is.
func (d *Dispatcher) end(ctx context.Context, subscriptionID, status string, event func(Subscription) events.Event) error {
	caller, _, err := d.onBehalf(ctx, subscriptionID)
	if err != nil {
		return err
	}
	_, _, err = d.onSubscription(ctx, caller, subscriptionID, nil, func(s Subscription) (events.SubscriptionConfig, events.Event, error) {
		config := s.Config
		if config.Status == StatusActive {
			config.Status = status
		}
		return config, event(s), nil
	})
	return err
}

// RotateSecret gives a webhook subscription another secret. The one before goes on
// signing beside it for a day, and until then there is no other.
func (d *Dispatcher) RotateSecret(ctx context.Context, caller Caller, id string, ifVersion *int64) (Subscription, Receipt, error) {
	return d.onSubscription(ctx, caller, id, ifVersion, func(s Subscription) (events.SubscriptionConfig, events.Event, error) {
		config := s.Config
		if err := d.checkConsumer(ctx, caller, s); err != nil {
			return config, nil, err
		}
		if config.SubscriptionType != TypeWebhook {
			return config, nil, refuse(CodeConflict, "subscription %q is no webhook", id)
		}
		if now := d.cfg.Now().UnixMilli(); now < config.OldSecretUntilMs {
			return config, nil, refuse(CodeConflict, "the secret before this one signs too until %s: another one would end that",
				time.UnixMilli(config.OldSecretUntilMs).UTC().Format(time.RFC3339))
		}
		config.SecretGeneration++
		config.OldSecretUntilMs = d.cfg.Now().Add(SecretOverlap).UnixMilli()
		return config, events.SubscriptionUpdated{SubscriptionConfig: config}, nil
	})
}

// Secrets returns what a webhook subscription's secrets are derived from, the current
// one's first.
func (d *Dispatcher) Secrets(ctx context.Context, caller Caller, id string) (Subscription, []string, error) {
	s, err := d.Consumable(ctx, caller, id)
	if err == nil && s.Config.SubscriptionType != TypeWebhook {
		err = refuse(CodeConflict, "subscription %q is no webhook", id)
	}
	if err != nil {
		return s, nil, err
	}
	return s, s.SecretInfos(d.cfg.Now()), nil
}
