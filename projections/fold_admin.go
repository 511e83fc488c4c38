package projections

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tallymq/tallymq/events"
)

// What the batch itself created is changed in place, so that new rows are written once,
// as they are in the end.

func newTopic(r events.Record, config events.TopicConfig) *topicRow {
	at := r.Position.Time()
	return &topicRow{TopicConfig: config, tenantID: r.TenantID, at: at, changedAt: at, version: r.Version, shard: r.Shard}
}

func newSubscription(r events.Record, config events.SubscriptionConfig) *subscriptionRow {
	at := r.Position.Time()
	return &subscriptionRow{SubscriptionConfig: config, tenantID: r.TenantID, at: at, changedAt: at, version: r.Version}
}

func (c *changes) updateTopic(r events.Record, config events.TopicConfig) {
	row := c.topic(config.TopicID)
	row.TopicConfig, row.changedAt, row.version = config, r.Position.Time(), r.Version
}

func (c *changes) deleteTopic(r events.Record, e events.TopicDeleted) error {
	row := c.topic(e.TopicID)
	row.Status, row.archived, row.changedAt, row.version = statusArchived, true, r.Position.Time(), r.Version
	c.subscriptions = slices.DeleteFunc(c.subscriptions, func(s *subscriptionRow) bool { return s.TopicID == e.TopicID })
	c.endedTopics = append(c.endedTopics, e.TopicID)
	c.endTopicGroups(e.TopicID)
	return c.purge(r, e.TopicID, e.Discarded)
}

func (c *changes) deleteSubscription(e events.SubscriptionDeleted) {
	id := e.SubscriptionID
	// Only a group's last subscription discards what the group had.
	for group := range e.Discarded.Groups {
		c.endGroup(e.TopicID, group)
	}
	c.subscriptions = slices.DeleteFunc(c.subscriptions, func(s *subscriptionRow) bool { return s.SubscriptionID == id })
	c.endedSubscriptions = append(c.endedSubscriptions, id)
}

// topic returns the row of a topic, new or changed.
func (c *changes) topic(id string) *topicRow {
	for _, row := range c.topics {
		if row.TopicID == id {
			return row
		}
	}
	row := c.changedTopics[id]
	if row == nil {
		row = &topicRow{}
		row.TopicID = id
		c.changedTopics[id] = row
	}
	return row
}

func (c *changes) changeSubscription(r events.Record, id string, config *events.SubscriptionConfig, status string) {
	at := r.Position.Time()
	for _, row := range c.subscriptions {
		if row.SubscriptionID == id {
			if config != nil {
				row.SubscriptionConfig = *config
			}
			row.Status, row.changedAt, row.version = or(status, row.Status), at, r.Version
			return
		}
	}
	change := c.changedSubscriptions[id]
	if change == nil {
		change = &subscriptionChange{id: id}
		c.changedSubscriptions[id] = change
	}
	if config != nil {
		change.config = config
	}
	change.status, change.at, change.version = or(status, change.status), at, r.Version
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// clockSkewMax is how far the clocks of instances and of the log may be apart.
const clockSkewMax = time.Hour

func (c *changes) purgeTopic(r events.Record, e events.TopicPurged) error {
	c.discard(e.TopicID, e.Discarded)
	c.purgeRedriven(e.TopicID, e.Discarded)
	return c.purge(r, e.TopicID, e.Discarded)
}

// purge notes what a purge took. The batch's own messages are marked here, earlier
// ones by a statement, both by the same rule.
func (c *changes) purge(r events.Record, topicID string, d events.Discarded) error {
	if d.From == "" {
		return nil
	}
	from, err := discardedFrom(d)
	if err != nil {
		return err
	}
	p := purge{tenantID: r.TenantID, topicID: topicID, before: r.Position, messageIDFrom: from}
	for _, row := range c.published {
		if row.TopicID == topicID && row.messageID >= p.messageIDFrom {
			row.rise(statusPurged, 0)
		}
	}
	for i := range c.purges {
		if c.purges[i].topicID == topicID {
			// One walk over the topic's messages does for both.
			c.purges[i].before, c.purges[i].messageIDFrom = p.before, min(c.purges[i].messageIDFrom, p.messageIDFrom)
			return nil
		}
	}
	c.purges = append(c.purges, p)
	return nil
}

// discardedFrom is the least id of a message that an event may have discarded.
func discardedFrom(d events.Discarded) (messageID string, err error) {
	text, _, _ := strings.Cut(d.From, "-")
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return "", fmt.Errorf("discarded from %q: %w", d.From, err)
	}
	return leastMessageID(ms - clockSkewMax.Milliseconds()), nil
}

// leastMessageID is the least UUIDv7 of a time in ms since 1970 or later, as text (RFC
// 9562, section 5.7).
func leastMessageID(ms int64) string {
	if ms <= 0 {
		return ""
	}
	const lowBits, lowMask = 16, 1<<16 - 1
	return fmt.Sprintf("%08x-%04x", ms>>lowBits, ms&lowMask)
}
