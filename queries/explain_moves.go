package queries

import (
	"fmt"
	"strconv"
	"time"
)

// ofOthers takes in what happened to the subscription, its group and its topic.
func (c *explained) ofOthers(e Event, t told) {
	switch e.Kind {
	case "subscription.created":
		c.begin(e, t)
	case "subscription.paused", "subscription.stopped":
		c.haltedAt = e.OccurredAt
	case "subscription.resumed":
		c.haltedAt = time.Time{}
	case "subscription.updated":
		if t.Status != c.s.Status {
			c.haltedAt = time.Time{}
		} else if c.haltedAt.IsZero() {
			c.haltedAt = e.OccurredAt
		}
	case "subscription.sought":
		c.seek(e, t)
	case "subscription.deleted":
		c.end(e, t)
	case "topic.purged":
		if c.isOpen() || c.at.verdict == VerdictScheduled {
			c.at = standing{verdict: VerdictPurged, reason: "The queue was purged at " + clock(e.OccurredAt) + ", when the group had not settled the message."}
		}
	}
}

// begin has the group begin, unless the subscription joined one that was there.
func (c *explained) begin(e Event, t told) {
	c.hasGroup = true
	if !t.begins() || !c.isPublished {
		return
	}
	before := c.at
	if t.OffsetResetPolicy == "latest" {
		if before.verdict == VerdictNotSubscribed {
			before.reason = fmt.Sprintf("The message was published at %s, before the consumer group began at %s with offsetResetPolicy latest.", clock(c.publishedAt), clock(e.OccurredAt))
		}
		c.at = before
		return
	}
	if before.verdict == VerdictNotSubscribed {
		before.reason = fmt.Sprintf("The message was published at %s; when the consumer group began at %s, the queue did not hold it any more.", clock(c.publishedAt), clock(e.OccurredAt))
	}
	c.at = before
	if t.Joined == nil || t.Joined.Backlog > 0 {
		c.at = standing{verdict: VerdictWaiting, otherwise: &before, reason: "The consumer group began after the message was published, with what the queue held, and the message was not delivered yet."}
	}
}

// end has the group end, with what it had not settled, where the subscription was its
// last one.
func (c *explained) end(e Event, t told) {
	if _, ended := t.Discarded.Groups[c.group]; !ended {
		return
	}
	c.hasGroup = false
	if c.isOpen() {
		c.at = standing{verdict: VerdictNotSubscribed, reason: "The consumer group ended at " + clock(e.OccurredAt) + ", before it got the message; it began anew since."}
	}
}

// seek has the group go elsewhere.
func (c *explained) seek(e Event, t told) {
	if !c.isPlaced {
		return // not published yet
	}
	if !c.covers(t.To) {
		if c.isOpen() {
			c.at = standing{verdict: VerdictSkippedBySeek, reason: fmt.Sprintf("The group had not settled the message when it was moved to %s at %s, which is behind the message.", t.To, clock(e.OccurredAt))}
		}
		return
	}
	before := c.at
	c.at = standing{verdict: VerdictWaiting, reason: fmt.Sprintf("The group was moved back to %s at %s and gets the message once more; it was not delivered since.", t.To, clock(e.OccurredAt))}
	if t.Moved.Older || c.publishedAt.IsZero() {
		c.at.otherwise = &before
	}
}

// covers reports whether the message is among what a group gets after a seek.
func (c *explained) covers(to string) bool {
	switch to {
	case "earliest":
		return true
	case "latest":
		return false
	}
	if offset, err := strconv.ParseInt(to, 10, 64); err == nil {
		return c.offset >= offset
	}
	at, err := time.Parse(time.RFC3339Nano, to)
	return err == nil && (c.publishedAt.IsZero() || !c.publishedAt.Before(at)) // of another tenant's queue it is not known
}

// hear takes in what the log says, nil for not known: where history leaves the matter
// open, the log knows.
func (c *explained) hear(live *LiveMessage) {
	if live == nil || !c.isOpen() {
		return
	}
	c.live = live
	switch live.State {
	case LiveInFlight:
		c.at = standing{verdict: VerdictInFlight, reason: "A consumer has the message" + until(", until ", live.LeaseExpiresAt) + ", and has not settled it."}
	case LiveRetrying:
		if c.at.verdict != VerdictRetrying {
			c.at = standing{verdict: VerdictRetrying, reason: "The message is to be tried again" + until(", at ", live.NextRetryAt) + "."}
		}
	case LiveHeld:
		c.at = standing{verdict: VerdictWaiting, reason: "The message is held behind another one of the same key."}
		if live.Behind != "" {
			c.at.reason = "The message is held behind message " + live.Behind + " of the same key."
		}
	case LiveWaiting:
		if live.Ahead != nil {
			c.at.reason += fmt.Sprintf(" %d of its partition come before it.", *live.Ahead)
		}
	default:
		c.live = nil
		if c.at.otherwise != nil {
			c.at = *c.at.otherwise
			return
		}
		c.at = standing{verdict: VerdictUnknown, reason: "The consumer group does not have the message any more, and what can be seen of its history does not say why: a queue's owner may have purged it."}
	}
}

func until(text string, at *time.Time) string {
	if at == nil {
		return ""
	}
	return text + clock(*at)
}

// explanation puts together what was found.
func (c *explained) explanation(attempts []Attempt) Explanation {
	x := Explanation{Verdict: c.at.verdict, Reason: c.at.reason, Events: c.events, Message: c.message, DeadLetter: c.letter, Attempts: []Attempt{}, Live: c.live}
	if c.isOpen() {
		x.Reason += c.delays()
	}
	if c.isPlaced {
		x.Partition, x.Offset = &c.partition, &c.offset
	}
	for _, a := range attempts {
		if c.subs[a.SubscriptionID] {
			x.Attempts = append(x.Attempts, a)
		}
	}
	return x
}

// delays says what keeps the group from getting a message.
func (c *explained) delays() string {
	text := ""
	if c.s.Status == "paused" || c.s.Status == "stopped" {
		text += " The subscription is " + c.s.Status
		if !c.haltedAt.IsZero() {
			text += " since " + clock(c.haltedAt)
		}
		text += "."
	}
	if c.message != nil && c.message.ExpiresAt != nil && c.message.ExpiresAt.Before(c.now) {
		text += " Its time was over at " + clock(*c.message.ExpiresAt) + ": when its turn comes, it is not delivered."
	}
	return text
}
