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
)

var groupName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

// CreateSubscription asks for a new subscription. Zero values take the defaults.
type CreateSubscription struct {
	// ID is the subscription's id, minted by the caller.
	ID                  string
	Queue               string
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
func decideCreateSubscription(c CreateSubscription, topicID string, sessionTimeoutMs int) (events.SubscriptionCreated, error) {
	handler := c.HandlerConfig
	if len(handler) == 0 {
		handler = json.RawMessage("{}")
	}
	e := events.SubscriptionCreated{
		SubscriptionID: c.ID, TopicID: topicID, ConsumerGroup: c.ConsumerGroup,
		ConsumerName: or(c.ConsumerName, c.ConsumerGroup), SubscriptionType: or(c.SubscriptionType, "redis_consumer"),
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
	v.oneOf(e.SubscriptionType, "subscriptionType", "redis_consumer")
	v.oneOf(e.OffsetResetPolicy, "offsetResetPolicy", "earliest", "latest")
	v.between(int64(e.MaxPollRecords), 1, PollRecordsMax, "maxPollRecords")
	v.between(int64(e.SessionTimeoutMs), SessionTimeoutMsMin, SessionTimeoutMsMax, "sessionTimeoutMs")
	v.between(int64(e.HeartbeatIntervalMs), HeartbeatMsMin, max(int64(e.SessionTimeoutMs)-1, HeartbeatMsMin), "heartbeatIntervalMs")
	v.between(int64(e.MaxRetryAttempts), 0, RetryAttemptsMax, "maxRetryAttempts")
	v.between(int64(e.RetryDelayMs), 0, RetryDelayMsMax, "retryDelayMs")
	v.that(isObjectOrAbsent(handler), "handlerConfig", "a JSON object", "is not an object")
	v.that(len(handler) <= HandlerConfigBytesMax, "handlerConfig", fmt.Sprintf("at most %d bytes", HandlerConfigBytesMax), fmt.Sprintf("has %d bytes", len(handler)))
	v.oneOf(e.Status, "status", StatusActive, StatusPaused)
	// What is not carried out must not be accepted in silence.
	v.that(e.DeadLetterQueue == "", "deadLetterQueue", "absent", "is not supported yet: dead letters stay with their subscription")
	v.that(len(e.MessageFilter) == 0, "messageFilter", "absent", "is not supported yet")
	return e, v.refusal()
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

func (d *Dispatcher) createSubscription(ctx context.Context, caller Caller, cmd CreateSubscription) (Subscription, Receipt, error) {
	fail := func(err error) (Subscription, Receipt, error) { return Subscription{}, Receipt{}, err }
	topic, shard, err := d.topic(ctx, caller, cmd.Queue)
	if err != nil {
		return fail(err)
	}
	if !topic.mayConsume(caller) {
		return fail(refuse(CodeForbidden, "%q may not consume from queue %q", caller.Subject, cmd.Queue))
	}
	e, err := decideCreateSubscription(cmd, topic.Created.TopicID, int(d.cfg.SessionTimeout.Milliseconds()))
	if err != nil {
		return fail(err)
	}
	sub := evolveSubscription(Subscription{TenantID: caller.TenantID, Partitions: topic.Created.PartitionCount}, e)
	state, err := json.Marshal(sub)
	if err != nil {
		return fail(fmt.Errorf("create subscription: %w", err))
	}
	out, err := d.appendOne(ctx, shard, events.Append{
		ID: cmd.ID, TenantID: caller.TenantID, Event: e, Meta: d.meta(caller, cmdFingerprint(caller, cmd)),
		Guard: events.Guard{TopicVersion: topic.Version, Partitions: topic.Created.PartitionCount},
		State: state, Version: sub.Version,
	})
	if err != nil {
		return fail(err)
	}
	switch out.Status {
	case events.StatusStale:
		d.store.Forget(topic.Created.TopicID)
		return fail(errStale)
	case events.StatusExists:
		return fail(refuse(CodeConflict, "consumer %q of group %q exists on queue %q", e.ConsumerName, e.ConsumerGroup, cmd.Queue))
	case events.StatusKeyReused:
		return fail(keyReused())
	case events.StatusDuplicate:
		if sub, _, err = d.subscription(ctx, caller, out.ID); err != nil {
			return fail(err)
		}
	case events.StatusAppended, events.StatusLeaseLost, events.StatusAborted:
	}
	receipt, err := d.await(ctx, caller, shard, out)
	return sub, receipt, err
}
