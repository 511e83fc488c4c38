package commands

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tallymq/tallymq/events"
)

// Topic is what decisions about a queue and its messages rest on.
type Topic struct {
	TenantID string              `json:"tenantId"`
	Version  int64               `json:"version"`
	Created  events.TopicCreated `json:"topic"`
}

// Subscription is what decisions about a subscription and its deliveries rest on.
type Subscription struct {
	TenantID string                     `json:"tenantId"`
	Version  int64                      `json:"version"`
	Created  events.SubscriptionCreated `json:"subscription"`
	// Partitions is the topic's number of partitions.
	Partitions int `json:"partitions"`
}

// Statuses of topics and subscriptions.
const (
	StatusActive   = "active"
	StatusPaused   = "paused"
	StatusArchived = "archived"
	StatusStopped  = "stopped"
)

// evolveTopic folds an event into a topic.
func evolveTopic(t Topic, e events.TopicCreated) Topic {
	t.Version++
	t.Created = e
	return t
}

// evolveSubscription folds an event into a subscription.
func evolveSubscription(s Subscription, e events.SubscriptionCreated) Subscription {
	s.Version++
	s.Created = e
	return s
}

// DecodeTopic reads the state that [Dispatcher.CreateQueue] appended.
func DecodeTopic(state []byte) (any, error) {
	var t Topic
	if err := json.Unmarshal(state, &t); err != nil {
		return nil, fmt.Errorf("topic state: %w", err)
	}
	return t, nil
}

// DecodeSubscription reads the state that [Dispatcher.CreateSubscription]
// appended.
func DecodeSubscription(state []byte) (any, error) {
	var s Subscription
	if err := json.Unmarshal(state, &s); err != nil {
		return nil, fmt.Errorf("subscription state: %w", err)
	}
	return s, nil
}

// mayProduce reports whether a caller may publish. The platform's own callers,
// who have no subject, may.
func (t Topic) mayProduce(c Caller) bool {
	return c.Subject == "" || len(t.Created.AllowedProducers) == 0 || slices.Contains(t.Created.AllowedProducers, c.Subject)
}

func (t Topic) mayConsume(c Caller) bool {
	return c.Subject == "" || len(t.Created.AllowedConsumers) == 0 || slices.Contains(t.Created.AllowedConsumers, c.Subject)
}
