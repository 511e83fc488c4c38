package projections

import (
	"maps"
	"slices"
	"time"

	"github.com/tallymq/tallymq/events"
)

// groupKey names a consumer group of a topic, as deliveries do.
type groupKey struct{ topicID, group string }

// partitionKey names a partition of a topic.
type partitionKey struct {
	topicID   string
	partition int
}

// topicCount is what a batch adds to a topic's counts.
type topicCount struct{ published, scheduled int64 }

// groupCount is what a batch adds to a group's counts. A group that begins in the batch
// has began set, and counts from there.
type groupCount struct {
	began bool
	// ended says that the group is gone, with its counts and dead letters.
	ended bool
	// before is how many messages the batch published to the topic before the group
	// began, and backlog what it began with.
	before, backlog int64

	replayed, consumed, dead, filtered, expired, purged int64
}

// deadLetter is a message that a group gave up.
type deadLetter struct {
	events.MessageDeadLettered

	tenantID string
	at       time.Time
	position events.Position
}

// revival takes back a group's dead letters of a message from before a position.
type revival struct {
	groupKey

	messageID string
	position  events.Position
}

func (c *changes) topicCount(topicID string) *topicCount {
	n := c.topicCounts[topicID]
	if n == nil {
		n = &topicCount{}
		c.topicCounts[topicID] = n
	}
	return n
}

func (c *changes) groupCount(topicID, group string) *groupCount {
	key := groupKey{topicID, group}
	n := c.groupCounts[key]
	if n == nil {
		n = &groupCount{}
		c.groupCounts[key] = n
	}
	return n
}

// of returns the counts of a delivery's group.
func (c *changes) of(d events.Delivery) *groupCount { return c.groupCount(d.TopicID, d.ConsumerGroup) }

func (c *changes) join(topicID string, joined events.Joined) {
	if joined.Began {
		*c.groupCount(topicID, joined.Group) = groupCount{began: true, before: c.topicCount(topicID).published, backlog: joined.Backlog}
	}
}

// discard counts what an event took from consumers.
func (c *changes) discard(topicID string, d events.Discarded) {
	for group, n := range d.Groups {
		c.groupCount(topicID, group).purged += n
	}
	if d.Scheduled > 0 {
		c.topicCount(topicID).scheduled -= d.Scheduled
	}
}

// endGroup forgets a group's counts and dead letters.
func (c *changes) endGroup(topicID, group string) {
	*c.groupCount(topicID, group) = groupCount{ended: true}
	c.deadLetters = slices.DeleteFunc(c.deadLetters, func(l deadLetter) bool { return l.TopicID == topicID && l.ConsumerGroup == group })
}

func (c *changes) endTopicGroups(topicID string) {
	for key := range c.groupCounts {
		if key.topicID == topicID {
			delete(c.groupCounts, key)
		}
	}
	delete(c.topicCounts, topicID)
	maps.DeleteFunc(c.nextOffsets, func(key partitionKey, _ int64) bool { return key.topicID == topicID })
	c.deadLetters = slices.DeleteFunc(c.deadLetters, func(l deadLetter) bool { return l.TopicID == topicID })
	c.schedules = slices.DeleteFunc(c.schedules, func(s *scheduleRow) bool { return s.TopicID == topicID })
}

// seek counts what a group's going elsewhere changed: what it gets again was replayed,
// what it passes over is as if it had been purged.
func (c *changes) seek(topicID string, m events.Moved) {
	n := c.groupCount(topicID, m.Group)
	n.replayed += max(m.After-m.Before, 0)
	n.purged += max(m.Before-m.After, 0)
}

func (c *changes) deadLettered(r events.Record, e events.MessageDeadLettered) {
	c.message(e.MessageID).rise(statusDeadLetter, e.Attempt-1)
	c.attempt(r, e.Delivery, attemptFailed, settled{reason: e.Reason, errorText: e.Error, statusCode: e.StatusCode})
	c.of(e.Delivery).dead++
	c.deadLetters = append(c.deadLetters, deadLetter{MessageDeadLettered: e, tenantID: r.TenantID, at: r.Position.Time(), position: r.Position})
}

// redrive brings a message back: whatever it was, it is to be tried again.
func (c *changes) redrive(r events.Record, e events.MessageRedriven) {
	m := c.message(e.MessageID)
	m.restart()
	m.topicID = e.TopicID
	n := c.groupCount(e.TopicID, e.ConsumerGroup)
	n.replayed++
	if e.DeadLetters == 0 {
		return
	}
	// A dead letter that leaves adds to what is not settled: it is not replayed.
	key, before := groupKey{e.TopicID, e.ConsumerGroup}, len(c.deadLetters)
	c.deadLetters = slices.DeleteFunc(c.deadLetters, func(l deadLetter) bool {
		return groupKey{l.TopicID, l.ConsumerGroup} == key && l.MessageID == e.MessageID
	})
	gone := int64(before - len(c.deadLetters))
	n.dead, n.replayed = n.dead-gone, n.replayed-gone
	c.revivals = append(c.revivals, revival{groupKey: key, messageID: e.MessageID, position: r.Position})
}

// purgeRedriven marks what a purge took of the earlier messages that the batch brought
// back: the purge's statement sees them as they were before.
func (c *changes) purgeRedriven(topicID string, d events.Discarded) {
	from, err := discardedFrom(d)
	if err != nil || d.From == "" {
		return // none are concerned, or purge says so
	}
	for _, m := range c.touched {
		if m.restarted && m.topicID == topicID && m.messageID >= from {
			m.rise(statusPurged, 0)
		}
	}
}

// schedule notes a message that is published later.
func (c *changes) schedule(r events.Record, e events.MessageScheduled) error {
	row, err := newMessage(r, e.MessagePublished)
	if err != nil {
		return err
	}
	row.status, row.publishedAt, row.isScheduled = statusScheduled, time.Time{}, true
	row.scheduledAt = time.UnixMilli(e.ReleaseAtMs).UTC()
	c.published = append(c.published, row)
	c.byMessage[e.MessageID] = &row.messageChange
	c.topicCount(e.TopicID).scheduled++
	return nil
}

func (c *changes) release(r events.Record, e events.MessageReleased) {
	m := c.message(e.MessageID)
	m.rise(statusPublished, 0)
	m.releasedAt, m.offset = r.Position.Time(), e.Offset
	c.nextOffsets[partitionKey{e.TopicID, e.Partition}] = e.Offset + 1
	n := c.topicCount(e.TopicID)
	n.published++
	n.scheduled--
}

func (c *changes) cancel(e events.MessageCancelled) {
	c.message(e.MessageID).rise(statusCancelled, 0)
	c.topicCount(e.TopicID).scheduled--
}

// scheduleRow is a recurring schedule as it is from an event on.
type scheduleRow struct {
	events.ScheduleConfig

	tenantID      string
	at, changedAt time.Time
	version       int64
}

// scheduleChange is another status of an earlier schedule.
type scheduleChange struct {
	id, status string
	at         time.Time
	version    int64
}

func (c *changes) changeSchedule(r events.Record, id, status string) {
	at := r.Position.Time()
	for _, row := range c.schedules {
		if row.ScheduleID == id {
			row.Status, row.changedAt, row.version = status, at, r.Version
			return
		}
	}
	c.changedSchedules[id] = scheduleChange{id: id, status: status, at: at, version: r.Version}
}

func (c *changes) deleteSchedule(id string) {
	c.schedules = slices.DeleteFunc(c.schedules, func(s *scheduleRow) bool { return s.ScheduleID == id })
	delete(c.changedSchedules, id)
	c.endedSchedules = append(c.endedSchedules, id)
}
