package queries

import (
	"encoding/json"
	"fmt"
	"time"
)

// told is what events say, as far as an explanation needs it.
type told struct {
	SubscriptionID    string `json:"subscriptionId"`
	Partition         int    `json:"partition"`
	Offset            int64  `json:"offset"`
	Attempt           int    `json:"attempt"`
	AttemptsBefore    int    `json:"attemptsBefore"`
	Reason            string `json:"reason"`
	Error             string `json:"error"`
	StatusCode        int    `json:"statusCode"`
	RetryDelayMs      int64  `json:"retryDelayMs"`
	Why               string `json:"why"`
	Version           int64  `json:"version"`
	ExpiredAtMs       int64  `json:"expiredAtMs"`
	ReleaseAtMs       int64  `json:"releaseAtMs"`
	To                string `json:"to"`
	Status            string `json:"status"`
	OffsetResetPolicy string `json:"offsetResetPolicy"`
	Joined            *struct {
		Began   bool  `json:"began"`
		Backlog int64 `json:"backlog"`
	} `json:"joined"`
	Moved struct {
		Older bool `json:"older"`
	} `json:"moved"`
	Discarded struct {
		Groups    map[string]int64 `json:"groups"`
		Scheduled int64            `json:"scheduled"`
	} `json:"discarded"`
}

// standing is how a message stands with a group.
type standing struct {
	verdict, reason string
	// retryAt is set while retrying.
	retryAt time.Time
	// otherwise is how it stands if the log does not have it for the group: events do
	// not tell whether an old message was still kept when the group went back to it.
	otherwise *standing
}

// explained folds events into how one message stands with one group.
type explained struct {
	s       Subscription
	group   string
	now     time.Time
	message *Message

	events []Event
	at     standing
	// hasGroup says that the group is there, isPublished that the message is, at
	// publishedAt.
	hasGroup, isPublished bool
	publishedAt           time.Time
	// isPlaced says that partition and offset are known, isDelivered that the group had
	// to do with the message.
	isPlaced, isDelivered bool
	partition             int
	offset                int64
	letter                *DeadLetterNote
	// haltedAt is since when the subscription is paused or stopped, zero where it is not
	// or since before the message.
	haltedAt time.Time
	subs     map[string]bool
	live     *LiveMessage
}

// fold begins anew with a list of events.
func (c *explained) fold(list []Event) error {
	*c = explained{s: c.s, group: c.group, now: c.now, message: c.message, events: list, subs: map[string]bool{c.s.ID: true}}
	c.at = standing{verdict: VerdictUnknown, reason: "History does not say what became of the message."}
	all := make([]told, len(list))
	for i, e := range list {
		if err := json.Unmarshal(e.Data, &all[i]); err != nil {
			return fmt.Errorf("explain event %s: %w", e.ID, err)
		}
	}
	c.hasGroup = wasThere(list, all)
	for i, e := range list {
		if !c.ofMessage(e, all[i]) {
			c.ofOthers(e, all[i])
		}
	}
	if c.message != nil && c.message.TopicID != c.s.TopicID {
		c.at = standing{verdict: VerdictNotSubscribed, reason: fmt.Sprintf("The message was published to the queue %s; the subscription is of the queue %s.", c.message.Queue, c.s.Queue)}
	}
	return nil
}

// wasThere reports whether the group was there before the first event: it was unless its
// beginning is on record.
func wasThere(list []Event, all []told) bool {
	for i, e := range list {
		if e.Kind == "subscription.created" {
			return !all[i].begins()
		}
	}
	return true
}

// begins reports whether a group began with a created subscription. Of one from before
// that was noted, it is taken to have.
func (t told) begins() bool { return t.Joined == nil || t.Joined.Began }

// isOpen says that the group is to get the message yet.
func (c *explained) isOpen() bool {
	return c.at.verdict == VerdictWaiting || c.at.verdict == VerdictRetrying
}

func (c *explained) place(t told) { c.isPlaced, c.partition, c.offset = true, t.Partition, t.Offset }

// ofMessage takes in what happened to the message, or reports that it is something else.
func (c *explained) ofMessage(e Event, t told) bool {
	switch e.Kind {
	case "message.scheduled":
		until := time.UnixMilli(t.ReleaseAtMs)
		c.at = standing{verdict: VerdictScheduled, reason: "The message is to be published at " + clock(until) + "."}
	case "message.published", "message.released":
		c.publish(e, t)
	case "message.cancelled":
		c.at = standing{verdict: VerdictCancelled, reason: "The message was cancelled at " + clock(e.OccurredAt) + ", before it was published."}
	case "message.erased":
		c.erase(e, t)
	case "message.consumed", "message.failed", "message.dead_lettered", "message.filtered", "message.expired", "message.redriven":
		c.isDelivered, c.subs[t.SubscriptionID] = true, true
		c.place(t)
		c.deliver(e, t)
	default:
		return false
	}
	return true
}

// erase has the group lose the message, if it had not settled it.
func (c *explained) erase(e Event, t told) {
	if t.Discarded.Groups[c.group] > 0 || t.Discarded.Scheduled > 0 {
		c.at = standing{verdict: VerdictPurged, reason: "The message's payload was erased at " + clock(e.OccurredAt) + ", before the group had settled the message."}
	}
}

func (c *explained) publish(e Event, t told) {
	c.isPublished, c.publishedAt = true, e.OccurredAt
	c.place(t)
	if c.hasGroup {
		c.at = standing{verdict: VerdictWaiting, reason: "The message was not delivered yet."}
		return
	}
	c.at = standing{verdict: VerdictNotSubscribed, reason: "When the message was published, at " + clock(e.OccurredAt) + ", the consumer group " + c.group + " was not there."}
}

func (c *explained) deliver(e Event, t told) {
	at := clock(e.OccurredAt)
	switch e.Kind {
	case "message.consumed":
		c.at = standing{verdict: VerdictConsumed, reason: fmt.Sprintf("Attempt %d was acknowledged at %s%s.", t.Attempt, at, c.by(t))}
	case "message.failed":
		next := e.OccurredAt.Add(time.Duration(t.RetryDelayMs) * time.Millisecond)
		c.at = standing{verdict: VerdictRetrying, retryAt: next, reason: fmt.Sprintf("Attempt %d failed at %s (%s); the next one is due at %s.", t.Attempt, at, why(t), clock(next))}
	case "message.dead_lettered":
		c.letter = &DeadLetterNote{
			Attempt: t.Attempt, Attempts: t.Attempt - t.AttemptsBefore, Reason: t.Reason, Error: t.Error, StatusCode: t.StatusCode, DeadAt: e.OccurredAt,
		}
		c.at = standing{verdict: VerdictDeadLetter, reason: fmt.Sprintf("Attempt %d failed at %s (%s), and no attempt was left.", t.Attempt, at, why(t))}
	case "message.filtered":
		c.at = standing{verdict: VerdictFiltered, reason: fmt.Sprintf("At %s the filter that the subscription%s had in version %d did not let the message pass: %s.", at, c.of(t), t.Version, t.Why)}
	case "message.expired":
		c.at = standing{verdict: VerdictExpired, reason: fmt.Sprintf("The message's time was over at %s, before the group got it.", clock(time.UnixMilli(t.ExpiredAtMs)))}
	case "message.redriven":
		if c.letter != nil && c.letter.RedrivenAt.IsZero() {
			c.letter.RedrivenAt = e.OccurredAt
		}
		c.at = standing{verdict: VerdictWaiting, reason: fmt.Sprintf("The message came to the group once more at %s, and was not delivered since.", at)}
	}
}

// by names who settled a message, where that is another member of the group.
func (c *explained) by(t told) string {
	if t.SubscriptionID == c.s.ID {
		return ""
	}
	return " by subscription " + t.SubscriptionID + " of the same group"
}

func (c *explained) of(t told) string {
	if t.SubscriptionID == c.s.ID {
		return ""
	}
	return " " + t.SubscriptionID + " of the same group"
}

// why is why an attempt failed.
func why(t told) string {
	if t.Error == "" {
		return t.Reason
	}
	return t.Reason + ": " + t.Error
}

// clock is a time as the API has them.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
