package commands

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/tallymq/tallymq/events"
)

// UpdateSubscription asks for another configuration of a subscription. What is nil
// stays as it is.
type UpdateSubscription struct {
	SubscriptionID string
	// IfVersion is the version that the caller has seen, nil for any.
	IfVersion *int64

	Queue               *string
	ConsumerGroup       *string
	ConsumerName        *string
	SubscriptionType    *string
	OffsetResetPolicy   *string
	MaxPollRecords      *int
	SessionTimeoutMs    *int
	HeartbeatIntervalMs *int
	HandlerConfig       json.RawMessage
	// DeadLetterQueue is empty, and MessageFilter JSON null, to take them away.
	DeadLetterQueue  *string
	MaxRetryAttempts *int
	RetryDelayMs     *int
	MessageFilter    json.RawMessage
	Status           *string
}

// decideUpdateSubscription returns the configuration that a subscription is to have,
// whole.
func decideUpdateSubscription(s Subscription, c UpdateSubscription) (events.SubscriptionConfig, error) {
	e := s.Config
	set(&e.MaxPollRecords, c.MaxPollRecords)
	set(&e.SessionTimeoutMs, c.SessionTimeoutMs)
	set(&e.HeartbeatIntervalMs, c.HeartbeatIntervalMs)
	if c.HeartbeatIntervalMs == nil {
		e.HeartbeatIntervalMs = min(e.HeartbeatIntervalMs, max(e.SessionTimeoutMs-1, HeartbeatMsMin))
	}
	set(&e.DeadLetterQueue, c.DeadLetterQueue)
	set(&e.MaxRetryAttempts, c.MaxRetryAttempts)
	set(&e.RetryDelayMs, c.RetryDelayMs)
	set(&e.Status, c.Status)
	if c.HandlerConfig != nil {
		e.HandlerConfig = orNull(c.HandlerConfig)
		if e.HandlerConfig == nil {
			e.HandlerConfig = json.RawMessage("{}")
		}
	}
	if c.MessageFilter != nil {
		e.MessageFilter = orNull(c.MessageFilter)
	}
	var v check
	v.unchanged(s.QueueName(), c.Queue, "queue")
	v.unchanged(e.ConsumerGroup, c.ConsumerGroup, "consumerGroup")
	v.unchanged(e.ConsumerName, c.ConsumerName, "consumerName")
	v.unchanged(e.SubscriptionType, c.SubscriptionType, "subscriptionType")
	v.unchanged(e.OffsetResetPolicy, c.OffsetResetPolicy, "offsetResetPolicy")
	v.subscription(e)
	if c.Status != nil {
		v.oneOf(e.Status, "status", StatusActive, StatusPaused)
	}
	return e, v.refusal()
}

// UpdateSubscription changes a subscription's configuration and returns it. Where
// nothing changes nothing happens.
func (d *Dispatcher) UpdateSubscription(ctx context.Context, caller Caller, cmd UpdateSubscription) (Subscription, Receipt, error) {
	return d.onSubscription(ctx, caller, cmd.SubscriptionID, cmd.IfVersion, func(s Subscription) (events.SubscriptionConfig, events.Event, error) {
		config, err := decideUpdateSubscription(s, cmd)
		if err == nil {
			err = d.checkDelivery(ctx, caller, s.QueueName(), config, s.Config.DeadLetterQueue)
		}
		return config, events.SubscriptionUpdated{SubscriptionConfig: config}, err
	})
}

// PauseSubscription stops a subscription's deliveries. What its consumer holds stays
// leased and may be settled. Pausing a paused one does nothing.
func (d *Dispatcher) PauseSubscription(ctx context.Context, caller Caller, id string, ifVersion *int64) (Subscription, Receipt, error) {
	return d.onSubscription(ctx, caller, id, ifVersion, func(s Subscription) (events.SubscriptionConfig, events.Event, error) {
		config := s.Config
		config.Status = StatusPaused
		return config, events.SubscriptionPaused{SubscriptionID: id, TopicID: config.TopicID}, nil
	})
}

// ResumeSubscription lets deliveries go on. Resuming an active one does nothing.
func (d *Dispatcher) ResumeSubscription(ctx context.Context, caller Caller, id string, ifVersion *int64) (Subscription, Receipt, error) {
	return d.onSubscription(ctx, caller, id, ifVersion, func(s Subscription) (events.SubscriptionConfig, events.Event, error) {
		config := s.Config
		config.Status = StatusActive
		return config, events.SubscriptionResumed{SubscriptionID: id, TopicID: config.TopicID}, nil
	})
}

// DeleteSubscription deletes a subscription. Members of its group that are left go on,
// and get what it held; with the last one the group ends.
func (d *Dispatcher) DeleteSubscription(ctx context.Context, caller Caller, id string, ifVersion *int64) (Receipt, error) {
	_, receipt, err := d.onSubscription(ctx, caller, id, ifVersion, func(s Subscription) (events.SubscriptionConfig, events.Event, error) {
		return events.SubscriptionConfig{}, events.SubscriptionDeleted{
			SubscriptionID: id, TopicID: s.Config.TopicID, ConsumerGroup: s.Config.ConsumerGroup, ConsumerName: s.Config.ConsumerName,
		}, nil
	})
	return receipt, err
}

// onSubscription decides on a tenant's subscription, appends the event unless it
// leaves the configuration as it is, and decides again where the subscription changed
// meanwhile. It returns the subscription as it is then.
func (d *Dispatcher) onSubscription(ctx context.Context, caller Caller, id string, ifVersion *int64, decide func(Subscription) (events.SubscriptionConfig, events.Event, error)) (Subscription, Receipt, error) {
	for range decideAgainMax {
		s, shard, err := d.subscription(ctx, caller, id)
		if err != nil {
			return s, Receipt{}, err
		}
		if err := checkVersion(ifVersion, s.Version); err != nil {
			return s, Receipt{}, err
		}
		config, event, err := decide(s)
		if err != nil {
			return s, Receipt{}, err
		}
		if isSame(config, s.Config) {
			return s, Receipt{Folded: !caller.Async}, nil
		}
		before, group := s.Version, s.group() // what is deleted has no configuration after it
		s.Config = config
		s.Version++
		receipt, err := d.appendAdmin(ctx, caller, shard, events.Append{
			ID: d.cfg.NewID(), TenantID: s.TenantID, Event: event, Meta: d.adminMeta(caller), Version: s.Version, Group: group,
			Guard: events.Guard{SubscriptionVersion: before},
		}, s)
		d.store.Forget(id)
		if !errors.Is(err, errStale) {
			return s, receipt, err
		}
	}
	return Subscription{}, Receipt{}, tooBusy()
}
