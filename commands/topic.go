package commands

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tallymq/tallymq/events"
)

// Topic is what decisions about a queue and its messages rest on.
type Topic struct {
	TenantID string             `json:"tenantId"`
	Version  int64              `json:"version"`
	Config   events.TopicConfig `json:"topic"`
	// CreatedAtMs and ChangedAtMs are when it was created and last changed, by the
	// log's clock, in ms since 1970. They come from the log, beside the state.
	CreatedAtMs, ChangedAtMs int64 `json:"-"`
}

// Subscription is what decisions about a subscription and its deliveries rest on.
type Subscription struct {
	TenantID string                    `json:"tenantId"`
	Version  int64                     `json:"version"`
	Config   events.SubscriptionConfig `json:"subscription"`
	// Queue and QueueTenantID name the queue, which may be another tenant's where it
	// is public.
	Queue         string `json:"queue"`
	QueueTenantID string `json:"queueTenantId"`
	// Owner is who made it: what the service delivers on its behalf is delivered as to
	// them.
	Owner Owner `json:"owner"`
	// CreatedAtMs and ChangedAtMs are as in Topic.
	CreatedAtMs, ChangedAtMs int64 `json:"-"`

	// how is what handlerConfig says about deliveries, once the state was read.
	how deliveryConfig
}

// Owner is on whose behalf the service acts by itself: their permission is asked for each
// time.
type Owner struct {
	Subject string `json:"subject,omitempty"`
	// Platform is as in [Caller].
	Platform bool `json:"platform,omitempty"`
}

// OwnerOf is a caller for whom the service will act later.
func OwnerOf(c Caller) Owner { return Owner{Subject: c.Subject, Platform: c.Platform} }

// Caller is the service acting for one of a tenant's.
func (o Owner) Caller(tenantID string) Caller {
	return Caller{TenantID: tenantID, Subject: o.Subject, Platform: o.Platform, Async: true}
}

// QueueName is the queue as its subscriber names it: another tenant's is
// <tenant id>:<name>.
func (s Subscription) QueueName() string { return queueRef(s.TenantID, s.QueueTenantID, s.Queue) }

// Group is the consumer group's name within the topic, as deliveries have it.
func (s Subscription) Group() string { return s.group() }

// group is the consumer group's name within the topic: tenants' groups are their own,
// whatever they are called.
func (s Subscription) group() string {
	if s.QueueTenantID == s.TenantID {
		return s.Config.ConsumerGroup
	}
	return s.TenantID + ":" + s.Config.ConsumerGroup
}

// Statuses of topics and subscriptions.
const (
	StatusActive   = "active"
	StatusPaused   = "paused"
	StatusArchived = "archived"
	StatusStopped  = "stopped"
)

// DecodeTopic reads the state that the log keeps of a topic.
func DecodeTopic(state []byte) (any, error) {
	var t Topic
	if err := json.Unmarshal(state, &t); err != nil {
		return nil, fmt.Errorf("topic state: %w", err)
	}
	return t, nil
}

// DecodeSubscription reads the state that the log keeps of a subscription.
func DecodeSubscription(state []byte) (any, error) {
	var s Subscription
	if err := json.Unmarshal(state, &s); err != nil {
		return nil, fmt.Errorf("subscription state: %w", err)
	}
	if h, err := parseHandler(s.Config.HandlerConfig, false); err == nil {
		s.how = h.deliveryConfig
	}
	return s, nil
}

// mayProduce reports whether a caller may publish: the tenant's own, and where the
// queue names producers those alone, or the platform's own on the tenant's behalf.
func (t Topic) mayProduce(c Caller) bool {
	return c.TenantID == t.TenantID && (c.Platform || isAllowed(c, t.Config.AllowedProducers))
}

// mayConsume reports whether a caller may consume: the tenant's own, everybody's where
// the queue is public, and where it names consumers those alone.
func (t Topic) mayConsume(c Caller) bool {
	return c.Platform || ((c.TenantID == t.TenantID || t.Config.IsPublic) && isAllowed(c, t.Config.AllowedConsumers))
}

func isAllowed(c Caller, names []string) bool {
	return len(names) == 0 || slices.Contains(names, c.Subject)
}

// queueRef is how a tenant names a queue.
func queueRef(tenantID, ownerID, name string) string {
	if tenantID == ownerID {
		return name
	}
	return ownerID + ":" + name
}
