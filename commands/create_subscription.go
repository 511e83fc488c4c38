package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/tallymq/tallymq/events"
)

// Limits of a subscription's configuration.
const (
	PollRecordsMax        = 1000
	PollRecordsDefault    = 500
	SessionTimeoutMsMin   = 1000
	SessionTimeoutMsMax   = 43_200_000
	HeartbeatMsMin        = 100
	HeartbeatMsDefault    = 3000
	RetryAttemptsMax      = 1000
	RetryAttemptsDefault  = 3
	RetryDelayMsMax       = 86_400_000
	RetryDelayMsDefault   = 1000
	groupNameLimit        = "[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
	HandlerConfigBytesMax = 16 << 10
	MessageFilterBytesMax = 4 << 10
)

var groupName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

// CreateSubscription asks for a new subscription. Zero values take the defaults.
type CreateSubscription struct {
	// ID is the subscription's id, minted by the caller.
	ID string
	// Queue names the queue; TopicID stands in where it is empty.
	Queue               string
	TopicID             string
	ConsumerGroup       string
	ConsumerName        string
	SubscriptionType    string
	OffsetResetPolicy   string
	MaxPollRecords      *int
	SessionTimeoutMs    *int
	HeartbeatIntervalMs *int
	HandlerConfig       json.RawMessage
	DeadLetterQueue     string
	MaxRetryAttempts    *int
	RetryDelayMs        *int
	MessageFilter       json.RawMessage
	Status              string
}

// decideCreateSubscription fills in the defaults and checks every field.
func decideCreateSubscription(c CreateSubscription, topicID string, sessionTimeoutMs int) (events.SubscriptionConfig, error) {
	handler := c.HandlerConfig
	if len(handler) == 0 {
		handler = json.RawMessage("{}")
	}
	e := events.SubscriptionConfig{
		SubscriptionID: c.ID, TopicID: topicID, ConsumerGroup: c.ConsumerGroup,
		ConsumerName: or(c.ConsumerName, c.ConsumerGroup), SubscriptionType: or(c.SubscriptionType, TypeConsumer),
		OffsetResetPolicy: or(c.OffsetResetPolicy, "latest"), MaxPollRecords: deref(c.MaxPollRecords, PollRecordsDefault),
		SessionTimeoutMs:    deref(c.SessionTimeoutMs, sessionTimeoutMs),
		HeartbeatIntervalMs: deref(c.HeartbeatIntervalMs, HeartbeatMsDefault), HandlerConfig: handler,
		DeadLetterQueue: c.DeadLetterQueue, MaxRetryAttempts: deref(c.MaxRetryAttempts, RetryAttemptsDefault),
		RetryDelayMs: deref(c.RetryDelayMs, RetryDelayMsDefault), MessageFilter: c.MessageFilter,
		Status: or(c.Status, StatusActive),
	}
	if c.HeartbeatIntervalMs == nil {
		e.HeartbeatIntervalMs = min(e.HeartbeatIntervalMs, max(e.SessionTimeoutMs-1, HeartbeatMsMin))
	}
	var v check
	v.that(groupName.MatchString(e.ConsumerGroup), "consumerGroup", groupNameLimit, fmt.Sprintf("is %q", brief(e.ConsumerGroup)))
	v.that(c.ConsumerName == "" || groupName.MatchString(c.ConsumerName), "consumerName", groupNameLimit, fmt.Sprintf("is %q", brief(e.ConsumerName)))
	v.oneOf(e.SubscriptionType, "subscriptionType", TypeConsumer, TypeWebhook)
	v.oneOf(e.OffsetResetPolicy, "offsetResetPolicy", "earliest", "latest")
	v.subscription(e)
	v.oneOf(e.Status, "status", StatusActive, StatusPaused)
	return e, v.refusal()
}

// Types of subscriptions.
const (
	TypeConsumer = "redis_consumer"
	TypeWebhook  = "webhook"
)

// subscription checks what may change of a subscription's configuration.
func (c *check) subscription(e events.SubscriptionConfig) {
	c.between(int64(e.MaxPollRecords), 1, PollRecordsMax, "maxPollRecords")
	c.between(int64(e.SessionTimeoutMs), SessionTimeoutMsMin, SessionTimeoutMsMax, "sessionTimeoutMs")
	c.between(int64(e.HeartbeatIntervalMs), HeartbeatMsMin, max(int64(e.SessionTimeoutMs)-1, HeartbeatMsMin), "heartbeatIntervalMs")
	c.between(int64(e.MaxRetryAttempts), 0, RetryAttemptsMax, "maxRetryAttempts")
	c.between(int64(e.RetryDelayMs), 0, RetryDelayMsMax, "retryDelayMs")
	c.handler(e.SubscriptionType, e.HandlerConfig)
	c.that(e.DeadLetterQueue == "" || queueName.MatchString(e.DeadLetterQueue), "deadLetterQueue", QueueNameLimit, fmt.Sprintf("is %q", brief(e.DeadLetterQueue)))
	c.that(isObjectOrAbsent(e.MessageFilter), "messageFilter", "a JSON object", "is not an object")
	c.atMost(len(e.MessageFilter), MessageFilterBytesMax, "messageFilter")
}

func (c *check) atMost(n, most int, field string) {
	c.that(n <= most, field, fmt.Sprintf("at most %d bytes", most), fmt.Sprintf("has %d bytes", n))
}

// CreateSubscription creates a subscription on a queue and returns it. A consumer
// group's first subscription starts where offsetResetPolicy says; those that join
// later share its place.
func (d *Dispatcher) CreateSubscription(ctx context.Context, caller Caller, cmd CreateSubscription) (Subscription, Receipt, error) {
	for range decideAgainMax {
		s, receipt, err := d.createSubscription(ctx, caller, cmd)
		if !errors.Is(err, errStale) {
			return s, receipt, err
		}
	}
	return Subscription{}, Receipt{}, tooBusy()
}

// refOfTopic is how the caller names the queue that a command names by its id.
func (d *Dispatcher) refOfTopic(ctx context.Context, caller Caller, cmd CreateSubscription) (string, error) {
	if cmd.Queue != "" {
		var v check
		v.that(false, "topicId", "queue or topicId, not both", "is given beside queue")
		return "", v.refusal()
	}
	a, err := d.store.TopicByID(ctx, cmd.TopicID)
	if err != nil && !errors.Is(err, events.ErrNoAggregate) {
		return "", unavailable(err)
	}
	if err == nil {
		if t, ok := a.Value.(Topic); ok && (t.TenantID == caller.TenantID || t.Config.IsPublic) {
			return queueRef(caller.TenantID, t.TenantID, t.Config.Name), nil
		}
	}
	return "", refuse(CodeQueueNotFound, "no queue with the id %q", brief(cmd.TopicID))
}

func (d *Dispatcher) createSubscription(ctx context.Context, caller Caller, cmd CreateSubscription) (Subscription, Receipt, error) {
	fail := func(err error) (Subscription, Receipt, error) { return Subscription{}, Receipt{}, err }
	if cmd.TopicID != "" {
		ref, err := d.refOfTopic(ctx, caller, cmd)
		if err != nil {
			return fail(err)
		}
		cmd.Queue = ref
	}
	topic, shard, err := d.topic(ctx, caller, cmd.Queue)
	if err != nil {
		return fail(err)
	}
	if !topic.mayConsume(caller) {
		return fail(refuse(CodeForbidden, "%q may not consume from queue %q", caller.Subject, cmd.Queue))
	}
	config, err := decideCreateSubscription(cmd, topic.Config.TopicID, int(d.cfg.SessionTimeout.Milliseconds()))
	if err != nil {
		return fail(err)
	}
	if err := d.checkDelivery(ctx, caller, cmd.Queue, config, ""); err != nil {
		return fail(err)
	}
	sub := Subscription{TenantID: caller.TenantID, Version: 1, Config: config, Queue: topic.Config.Name, QueueTenantID: topic.TenantID, Owner: OwnerOf(caller)}
	out, err := d.appendState(ctx, shard, sub, events.Append{
		ID: cmd.ID, TenantID: caller.TenantID, Event: events.SubscriptionCreated{SubscriptionConfig: config},
		Meta: d.meta(caller, d.fingerprint(caller, cmd)), Guard: events.Guard{TopicVersion: topic.Version},
		Version: sub.Version, Group: sub.group(), Push: config.SubscriptionType == TypeWebhook,
	})
	if err != nil {
		return fail(err)
	}
	sub.CreatedAtMs, sub.ChangedAtMs = out.Position.Ms(), out.Position.Ms()
	switch out.Status {
	case events.StatusStale:
		d.store.Forget(topic.Config.TopicID)
		return fail(errStale)
	case events.StatusExists:
		return fail(refuse(CodeConflict, "consumer %q of group %q exists on queue %q", config.ConsumerName, config.ConsumerGroup, cmd.Queue))
	case events.StatusKeyReused:
		return fail(keyReused())
	case events.StatusDuplicate:
		d.store.Forget(out.ID)
		sub, _, err = d.subscription(ctx, caller, out.ID)
		if isRefused(err, CodeSubscriptionNotFound) {
			err = refuse(CodeConflict, "the subscription that this request made has been deleted")
		}
		if err != nil {
			return fail(err)
		}
	default:
	}
	receipt, err := d.await(ctx, caller, shard, out)
	return sub, receipt, err
}
