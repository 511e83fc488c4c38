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
	statusPurged     = "purged"
	statusConsumed   = "consumed"
	statusDeadLetter = "dead_letter"
)

// Statuses of topics and subscriptions.
const (
	statusActive   = "active"
	statusPaused   = "paused"
	statusArchived = "archived"
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
	case statusPurged:
		return 3
	case statusConsumed:
		return 4
	case statusDeadLetter:
		return 5
	}
	return 0
}

// changes is what a batch of records does to the read tables.
type changes struct {
	// topics and subscriptions are new ones, as the batch leaves them; changed ones
	// are earlier ones, by id.
	topics               []*topicRow
	changedTopics        map[string]*topicRow
	subscriptions        []*subscriptionRow
	changedSubscriptions map[string]*subscriptionChange
	// endedSubscriptions are ids, endedTopics those of topics all of whose
	// subscriptions ended. Both are of earlier ones.
	endedSubscriptions []string
	endedTopics        []string
	purges             []purge
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

// topicRow is a topic as it is from an event on.
type topicRow struct {
	events.TopicConfig

	tenantID string
	// at is when the topic was created, changedAt when it last changed.
	at, changedAt time.Time
	version       int64
	shard         int
	// archived says that it was deleted; of its configuration only the id is known.
	archived bool
}

type subscriptionRow struct {
	events.SubscriptionConfig

	tenantID      string
	at, changedAt time.Time
	version       int64
}

// subscriptionChange is what becomes of an earlier subscription: another
// configuration, or nil and another status.
type subscriptionChange struct {
	id      string
	config  *events.SubscriptionConfig
	status  string
	at      time.Time
	version int64
}

// purge takes what a topic's consumers had not settled.
type purge struct {
	tenantID, topicID string
	// before is where the purge stands; messageIDFrom bounds whom it concerns.
	before        events.Position
	messageIDFrom string
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
