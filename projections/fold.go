package projections

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/tallymq/tallymq/events"
)

// attemptNamespace makes the ids of consumption records (UUIDv5, RFC 9562, section
// 5.5) from subscription, message and attempt. It is permanent.
var attemptNamespace = uuid.MustParse("6f1c2c5e-6f0b-5d5a-9a51-5a0f3f5d9c41")

// fold folds records, which are in the order of their shard's log.
func fold(records []events.Record) (changes, error) {
	c := changes{
		byMessage: map[string]*messageChange{}, bySubscription: map[string]int{},
		changedTopics: map[string]*topicRow{}, changedSubscriptions: map[string]*subscriptionChange{},
	}
	for i := range records {
		if err := c.apply(records[i]); err != nil {
			return changes{}, fmt.Errorf("fold event %s at %d/%d: %w", records[i].ID, records[i].Shard, records[i].Position, err)
		}
	}
	return c, nil
}

func (c *changes) apply(r events.Record) error {
	switch e := r.Event.(type) {
	case events.TopicCreated:
		c.topics = append(c.topics, newTopic(r, e.TopicConfig))
	case events.TopicUpdated:
		c.updateTopic(r, e.TopicConfig)
	case events.TopicPurged:
		return c.purge(r, e.TopicID, e.Discarded)
	case events.TopicDeleted:
		return c.deleteTopic(r, e)
	case events.SubscriptionCreated:
		c.subscriptions = append(c.subscriptions, newSubscription(r, e.SubscriptionConfig))
	case events.SubscriptionUpdated:
		c.changeSubscription(r, e.SubscriptionID, &e.SubscriptionConfig, e.Status)
	case events.SubscriptionPaused:
		c.changeSubscription(r, e.SubscriptionID, nil, statusPaused)
	case events.SubscriptionResumed:
		c.changeSubscription(r, e.SubscriptionID, nil, statusActive)
	case events.SubscriptionDeleted:
		c.deleteSubscription(e.SubscriptionID)
	case events.MessagePublished:
		return c.publish(r, e)
	case events.MessageConsumed:
		m := c.message(e.MessageID)
		m.rise(statusConsumed, e.Attempt-1)
		if m.consumedAt.IsZero() {
			m.consumedAt = r.Position.Time()
		}
		c.consumedBy(e.SubscriptionID, r.Position.Time())
		c.attempt(r, e.Delivery, attemptSucceeded, "", "", time.Time{})
	case events.MessageFailed:
		c.message(e.MessageID).rise(statusFailed, e.Attempt)
		c.attempt(r, e.Delivery, attemptRetrying, e.Reason, e.Error, r.Position.Time().Add(time.Duration(e.RetryDelayMs)*time.Millisecond))
	case events.MessageDeadLettered:
		c.message(e.MessageID).rise(statusDeadLetter, e.Attempt-1)
		c.attempt(r, e.Delivery, attemptFailed, e.Reason, e.Error, time.Time{})
	}
	return nil
}

func (c *changes) publish(r events.Record, e events.MessagePublished) error {
	headers := json.RawMessage("{}")
	if len(e.Headers) > 0 {
		var err error
		if headers, err = json.Marshal(e.Headers); err != nil {
			return fmt.Errorf("headers: %w", err)
		}
	}
	row := &messageRow{
		MessagePublished: e, messageChange: messageChange{messageID: e.MessageID, status: statusPublished},
		tenantID: r.TenantID, publishedAt: r.Position.Time(), headers: headers, shard: r.Shard, position: r.Position,
	}
	c.published = append(c.published, row)
	c.byMessage[e.MessageID] = &row.messageChange
	return nil
}

// message returns the change of a message, which an earlier batch published
// unless this one did.
func (c *changes) message(id string) *messageChange {
	m := c.byMessage[id]
	if m == nil {
		m = &messageChange{messageID: id}
		c.byMessage[id] = m
		c.touched = append(c.touched, m)
	}
	return m
}

func (c *changes) consumedBy(subscriptionID string, at time.Time) {
	if i, ok := c.bySubscription[subscriptionID]; ok {
		c.lastConsumed[i].at = at
		return
	}
	c.bySubscription[subscriptionID] = len(c.lastConsumed)
	c.lastConsumed = append(c.lastConsumed, lastConsumed{subscriptionID: subscriptionID, at: at})
}

func (c *changes) attempt(r events.Record, d events.Delivery, status, reason, errorText string, retryAt time.Time) {
	c.consumptions = append(c.consumptions, consumptionRow{
		Delivery: d, id: AttemptID(d.SubscriptionID, d.MessageID, d.Attempt), tenantID: r.TenantID,
		status: status, reason: reason, errorText: errorText, at: r.Position.Time(), retryAt: retryAt,
	})
}

// AttemptID is the id of a consumption record: the same for the same subscription,
// message and attempt, on every fold.
func AttemptID(subscriptionID, messageID string, attempt int) string {
	return uuid.NewSHA1(attemptNamespace, []byte(subscriptionID+"/"+messageID+"/"+strconv.Itoa(attempt))).String()
}

// traceID is the second field of a W3C traceparent.
func traceID(traceParent string) string {
	if len(traceParent) < 35 {
		return ""
	}
	return traceParent[3:35]
}
