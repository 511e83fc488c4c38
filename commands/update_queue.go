package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tallymq/tallymq/events"
)

// UpdateQueue asks for another configuration of a queue. What is nil stays as it is.
type UpdateQueue struct {
	// Queue is its name.
	Queue string
	// IfVersion is the version that the caller has seen, nil for any.
	IfVersion *int64

	Name              *string
	TopicType         *string
	DisplayName       *string
	Description       *string
	PartitionCount    *int
	ReplicationFactor *int
	RetentionMs       *int64
	MessageFormat     *string
	// SchemaDefinition is JSON null to take it away.
	SchemaDefinition json.RawMessage
	CompressionType  *string
	IsPublic         *bool
	AllowedProducers *[]string
	AllowedConsumers *[]string
	Status           *string
}

// decideUpdateQueue returns the configuration that a queue is to have, whole.
func decideUpdateQueue(t Topic, c UpdateQueue) (events.TopicConfig, error) {
	e := t.Config
	set(&e.DisplayName, c.DisplayName)
	set(&e.Description, c.Description)
	set(&e.PartitionCount, c.PartitionCount)
	set(&e.ReplicationFactor, c.ReplicationFactor)
	set(&e.RetentionMs, c.RetentionMs)
	set(&e.MessageFormat, c.MessageFormat)
	set(&e.CompressionType, c.CompressionType)
	set(&e.IsPublic, c.IsPublic)
	set(&e.AllowedProducers, c.AllowedProducers)
	set(&e.AllowedConsumers, c.AllowedConsumers)
	set(&e.Status, c.Status)
	e.AllowedProducers, e.AllowedConsumers = orEmpty(e.AllowedProducers), orEmpty(e.AllowedConsumers)
	if c.SchemaDefinition != nil {
		e.SchemaDefinition = orNull(c.SchemaDefinition)
	}
	var v check
	v.unchanged(t.Config.Name, c.Name, "name")
	v.unchanged(t.Config.TopicType, c.TopicType, "topicType")
	v.that(e.PartitionCount >= t.Config.PartitionCount, "partitionCount", fmt.Sprintf("%d or more: partitions cannot be taken away", t.Config.PartitionCount), fmt.Sprintf("is %d", e.PartitionCount))
	v.topic(e)
	return e, v.refusal()
}

// set moves a value that was given.
func set[T any](to, value *T) {
	if value != nil {
		*to = *value
	}
}

// orNull is nil for JSON null.
func orNull(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// isSame compares configurations as the log keeps them: the whitespace of the JSON in
// them makes no difference.
func isSame(a, b any) bool {
	left, err1 := json.Marshal(a)
	right, err2 := json.Marshal(b)
	return errors.Join(err1, err2) == nil && bytes.Equal(left, right)
}

// unchanged refuses another value of what cannot change.
func (c *check) unchanged(is string, wish *string, field string) {
	c.that(wish == nil || *wish == is, field, fmt.Sprintf("%q: it cannot be changed", is), fmt.Sprintf("is %q", brief(deref(wish, is))))
}

// UpdateQueue changes a queue's configuration and returns it. Where nothing changes
// nothing happens.
func (d *Dispatcher) UpdateQueue(ctx context.Context, caller Caller, cmd UpdateQueue) (Topic, Receipt, error) {
	var updated Topic
	receipt, err := d.onQueue(ctx, caller, cmd.Queue, cmd.IfVersion, func(topic Topic) (*events.Append, any, error) {
		config, err := decideUpdateQueue(topic, cmd)
		if err != nil {
			return nil, nil, err
		}
		updated = topic
		if isSame(config, topic.Config) {
			return nil, nil, nil
		}
		updated.Config = config
		updated.Version++
		return &events.Append{Event: events.TopicUpdated{TopicConfig: config}, Version: updated.Version}, updated, nil
	})
	if err == nil && !updated.Config.IsPublic {
		err = d.endForeign(ctx, updated)
	}
	return updated, receipt, err
}

// endForeign ends other tenants' subscriptions on a queue that is not public: nobody may
// use them, and what they never settle would fill the queue. It is done again with every
// change, in case it was not done to its end.
func (d *Dispatcher) endForeign(ctx context.Context, topic Topic) error {
	shard := events.ShardOf(topic.TenantID, topic.Config.Name, d.cfg.Shards)
	subscriptions, err := d.store.Subscriptions(ctx, shard, topic.Config.TopicID)
	if err != nil {
		return unavailable(err)
	}
	for _, a := range subscriptions {
		s, ok := a.Value.(Subscription)
		if !ok || s.TenantID == topic.TenantID {
			continue
		}
		owner := Caller{TenantID: s.TenantID, Subject: system.Subject, Async: true}
		if _, err := d.DeleteSubscription(ctx, owner, a.ID, nil); err != nil && !isRefused(err, CodeSubscriptionNotFound) {
			return err
		}
	}
	return nil
}

// DeleteQueue deletes a queue, its subscriptions and all that they have not settled.
// Its history stays, and its name is free.
func (d *Dispatcher) DeleteQueue(ctx context.Context, caller Caller, name string, ifVersion *int64) (Receipt, error) {
	return d.onQueue(ctx, caller, name, ifVersion, func(topic Topic) (*events.Append, any, error) {
		return &events.Append{Event: events.TopicDeleted{TopicID: topic.Config.TopicID, Name: topic.Config.Name}, Version: topic.Version + 1}, nil, nil
	})
}

// PurgeQueue empties a queue: nothing that was published before will be delivered, and
// leases on it are lost.
func (d *Dispatcher) PurgeQueue(ctx context.Context, caller Caller, name string, ifVersion *int64) (Receipt, error) {
	return d.onQueue(ctx, caller, name, ifVersion, func(topic Topic) (*events.Append, any, error) {
		return &events.Append{Event: events.TopicPurged{TopicID: topic.Config.TopicID}, Version: topic.Version}, nil, nil
	})
}

// onQueue decides on one of the tenant's own queues, appends what was decided (nil is
// nothing) and decides again where the queue changed meanwhile.
func (d *Dispatcher) onQueue(ctx context.Context, caller Caller, name string, ifVersion *int64, decide func(Topic) (*events.Append, any, error)) (Receipt, error) {
	for range decideAgainMax {
		topic, shard, err := d.ownTopic(ctx, caller, name)
		if err != nil {
			return Receipt{}, err
		}
		if err := checkVersion(ifVersion, topic.Version); err != nil {
			return Receipt{}, err
		}
		a, state, err := decide(topic)
		if err != nil {
			return Receipt{}, err
		}
		if a == nil {
			return Receipt{Folded: !caller.Async}, nil
		}
		a.ID, a.TenantID, a.Meta = d.cfg.NewID(), caller.TenantID, d.adminMeta(caller)
		a.Guard.TopicVersion = topic.Version
		receipt, err := d.appendAdmin(ctx, caller, shard, *a, state)
		if !errors.Is(err, errStale) {
			d.store.Forget(topic.Config.TopicID)
			return receipt, err
		}
		d.store.Forget(topic.Config.TopicID)
	}
	return Receipt{}, tooBusy()
}

// appendAdmin appends one admin event and waits for its fold; errStale asks for
// another decision.
func (d *Dispatcher) appendAdmin(ctx context.Context, caller Caller, shard int, a events.Append, state any) (Receipt, error) {
	out, err := d.appendState(ctx, shard, state, a)
	if err != nil {
		return Receipt{}, err
	}
	if out.Status == events.StatusStale {
		return Receipt{}, errStale
	}
	return d.await(ctx, caller, shard, out)
}

// adminMeta is meta without an idempotency key, which is for what creates.
func (d *Dispatcher) adminMeta(caller Caller) events.Meta {
	caller.IdempotencyKey = ""
	return d.meta(caller, "")
}

// checkVersion refuses a request that was made on another version (RFC 9110, section
// 13.1.1).
func checkVersion(wanted *int64, is int64) error {
	if wanted == nil || *wanted == is {
		return nil
	}
	return &Refusal{
		Code: CodeVersionMismatch, Reason: fmt.Sprintf("this is version %d by now", is),
		Problems: []Problem{{Field: "If-Match", Limit: fmt.Sprintf("%q", decimal(is)), Text: fmt.Sprintf("is %q", decimal(*wanted))}},
	}
}
