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
	first := newChanges()
	c := &first
	for i := range records {
		if err := c.apply(records[i]); err != nil {
			return changes{}, fmt.Errorf("fold event %s at %d/%d: %w", records[i].ID, records[i].Shard, records[i].Position, err)
		}
		if c.next != nil {
			c = c.next
		}
	}
	return first, nil
}

func newChanges() changes {
	return changes{
		byMessage: map[string]*messageChange{}, bySubscription: map[string]int{},
		changedTopics: map[string]*topicRow{}, changedSubscriptions: map[string]*subscriptionChange{},
		topicCounts: map[string]*topicCount{}, nextOffsets: map[partitionKey]int64{}, groupCounts: map[groupKey]*groupCount{}, changedSchedules: map[string]scheduleChange{},
	}
}

func (c *changes) apply(r events.Record) error {
	switch e := r.Event.(type) {
	case events.TopicCreated:
		c.topics = append(c.topics, newTopic(r, e.TopicConfig))
	case events.TopicUpdated:
		c.updateTopic(r, e.TopicConfig)
	case events.TopicPurged:
		return c.purgeTopic(r, e)
	case events.TopicRetained:
		c.retain(r, e)
	case events.TopicDeleted:
		c.purgeRedriven(e.TopicID, e.Discarded)
		return c.deleteTopic(r, e)
	case events.SubscriptionCreated:
		c.subscriptions = append(c.subscriptions, newSubscription(r, e.SubscriptionConfig))
		c.join(e.TopicID, e.Joined)
	case events.SubscriptionUpdated:
		c.changeSubscription(r, e.SubscriptionID, &e.SubscriptionConfig, e.Status)
	case events.SubscriptionPaused:
		c.changeSubscription(r, e.SubscriptionID, nil, statusPaused)
	case events.SubscriptionResumed:
		c.changeSubscription(r, e.SubscriptionID, nil, statusActive)
	case events.SubscriptionStopped:
		c.changeSubscription(r, e.SubscriptionID, nil, statusStopped)
	case events.SubscriptionSought:
		c.changeSubscription(r, e.SubscriptionID, nil, "")
		c.seek(e.TopicID, e.Moved)
	case events.SubscriptionDeleted:
		c.deleteSubscription(e)
	case events.ScheduleCreated:
		at := r.Position.Time()
		c.schedules = append(c.schedules, &scheduleRow{ScheduleConfig: e.ScheduleConfig, tenantID: r.TenantID, at: at, changedAt: at, version: r.Version})
	case events.SchedulePaused:
		c.changeSchedule(r, e.ScheduleID, statusPaused)
	case events.ScheduleResumed:
		c.changeSchedule(r, e.ScheduleID, statusActive)
	case events.ScheduleDeleted:
		c.deleteSchedule(e.ScheduleID)
	case events.MessagePublished, events.MessageScheduled, events.MessageReleased, events.MessageCancelled, events.MessageConsumed,
		events.MessageFailed, events.MessageDeadLettered, events.MessageFiltered, events.MessageExpired, events.MessageRedriven,
		events.MessageErased:
		return c.applyMessage(r)
	}
	return nil
}

// applyMessage is apply for what happens to messages.
func (c *changes) applyMessage(r events.Record) error {
	switch e := r.Event.(type) {
	case events.MessagePublished:
		return c.publish(r, e)
	case events.MessageScheduled:
		return c.schedule(r, e)
	case events.MessageReleased:
		c.release(r, e)
	case events.MessageCancelled:
		c.cancel(e)
	case events.MessageConsumed:
		c.consume(r, e)
	case events.MessageFailed:
		c.message(e.MessageID).rise(statusFailed, e.Attempt)
		c.attempt(r, e.Delivery, attemptRetrying, settled{
			reason: e.Reason, errorText: e.Error, statusCode: e.StatusCode, retryAt: r.Position.Time().Add(time.Duration(e.RetryDelayMs) * time.Millisecond),
		})
	case events.MessageDeadLettered:
		c.deadLettered(r, e)
	case events.MessageFiltered:
		c.of(e.Delivery).filtered++
	case events.MessageExpired:
		c.message(e.MessageID).rise(statusExpired, 0)
		c.of(e.Delivery).expired++
	case events.MessageRedriven:
		c.redrive(r, e)
	case events.MessageErased:
		c.erase(r, e)
	case events.TopicCreated, events.TopicUpdated, events.TopicPurged, events.TopicRetained, events.TopicDeleted, events.SubscriptionCreated,
		events.SubscriptionUpdated, events.SubscriptionPaused, events.SubscriptionResumed, events.SubscriptionStopped, events.SubscriptionSought,
		events.SubscriptionDeleted, events.ScheduleCreated, events.SchedulePaused, events.ScheduleResumed, events.ScheduleDeleted:
	}
	return nil
}

func (c *changes) consume(r events.Record, e events.MessageConsumed) {
	m := c.message(e.MessageID)
	m.rise(statusConsumed, e.Attempt-1)
	if m.consumedAt.IsZero() {
		m.consumedAt = r.Position.Time()
	}
	c.consumedBy(e.SubscriptionID, r.Position.Time())
	c.attempt(r, e.Delivery, attemptSucceeded, settled{statusCode: e.StatusCode})
	c.of(e.Delivery).consumed++
}

func (c *changes) publish(r events.Record, e events.MessagePublished) error {
	row, err := newMessage(r, e)
	if err != nil {
		return err
	}
	c.published = append(c.published, row)
	c.byMessage[e.MessageID] = &row.messageChange
	c.topicCount(e.TopicID).published++
	c.nextOffsets[partitionKey{e.TopicID, e.Partition}] = e.Offset + 1
	return nil
}

func newMessage(r events.Record, e events.MessagePublished) (*messageRow, error) {
	headers := json.RawMessage("{}")
	if len(e.Headers) > 0 {
		var err error
		if headers, err = json.Marshal(e.Headers); err != nil {
			return nil, fmt.Errorf("headers: %w", err)
		}
	}
	return &messageRow{
		MessagePublished: e, messageChange: messageChange{messageID: e.MessageID, status: statusPublished},
		tenantID: r.TenantID, publishedAt: r.Position.Time(), headers: headers, shard: r.Shard, position: r.Position,
	}, nil
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

// settled is how an attempt ended.
type settled struct {
	reason, errorText string
	statusCode        int
	// retryAt is zero where there is no retry.
	retryAt time.Time
}

func (c *changes) attempt(r events.Record, d events.Delivery, status string, s settled) {
	c.consumptions = append(c.consumptions, consumptionRow{
		Delivery: d, settled: s, id: AttemptID(d), tenantID: r.TenantID, status: status, at: r.Position.Time(),
	})
}

// AttemptID is the id of a consumption record: the same for the same subscription,
// message and attempt, on every fold. What its attempts are counted from is part of it,
// so that it is one although a message is replayed while an earlier delivery of it is
// still under way.
func AttemptID(d events.Delivery) string {
	name := d.SubscriptionID + "/" + d.MessageID + "/" + strconv.Itoa(d.Attempt)
	if d.AttemptsBefore > 0 {
		name += "/" + strconv.Itoa(d.AttemptsBefore)
	}
	return uuid.NewSHA1(attemptNamespace, []byte(name)).String()
}

// traceID is the second field of a W3C traceparent.
func traceID(traceParent string) string {
	if len(traceParent) < 35 {
		return ""
	}
	return traceParent[3:35]
}
