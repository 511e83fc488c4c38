package projections

import (
	"encoding/json"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Statuses of message_records. They only rise, in this order, whichever consumer
// group comes first: message_status_rank in the schema is the same order.
const (
	statusPublished  = "published"
	statusFailed     = "failed"
	statusConsumed   = "consumed"
	statusDeadLetter = "dead_letter"
)

// Statuses of consumption_records.
const (
	attemptSucceeded = "success"
	attemptFailed    = "failed"
	attemptRetrying  = "retrying"
)

func statusRank(status string) int {
	switch status {
	case statusPublished:
		return 1
	case statusFailed:
		return 2
	case statusConsumed:
		return 3
	case statusDeadLetter:
		return 4
	}
	return 0
}

// changes is what a batch of records does to the read tables.
type changes struct {
	topics        []topicRow
	subscriptions []subscriptionRow
	// published are new messages, with what the batch already says of their later
	// life; touched are earlier ones.
	published    []*messageRow
	touched      []*messageChange
	consumptions []consumptionRow
	// lastConsumed is by subscription, in order of first appearance.
	lastConsumed []lastConsumed

	byMessage      map[string]*messageChange
	bySubscription map[string]int
}

type topicRow struct {
	events.TopicCreated

	tenantID string
	at       time.Time
	version  int64
	shard    int
}

type subscriptionRow struct {
	events.SubscriptionCreated

	tenantID string
	at       time.Time
	version  int64
}

// messageRow is a message as it was published, and what has become of it.
type messageRow struct {
	events.MessagePublished
	messageChange

	tenantID    string
	publishedAt time.Time
	headers     json.RawMessage
	shard       int
	position    events.Position
}

// messageChange is what has become of a message.
type messageChange struct {
	messageID  string
	status     string
	retryCount int
	// consumedAt is the first acknowledgement's time, zero for none.
	consumedAt time.Time
}

// rise moves a message's state up, never down.
func (c *messageChange) rise(status string, retryCount int) {
	if statusRank(status) > statusRank(c.status) {
		c.status = status
	}
	c.retryCount = max(c.retryCount, retryCount)
}

type consumptionRow struct {
	events.Delivery

	id        string
	tenantID  string
	status    string
	reason    string
	errorText string
	// at is when the attempt was settled; retryAt is zero where there is no retry.
	at, retryAt time.Time
}

type lastConsumed struct {
	subscriptionID string
	at             time.Time
}
