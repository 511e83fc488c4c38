package projections

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/tallymq/tallymq/events"
)

// Statuses of message_records. They only rise, in this order, whichever consumer
// group comes first, until the message is redriven: message_status_rank in the schema is
// the same order.
const (
	statusScheduled  = "scheduled"
	statusPublished  = "published"
	statusFailed     = "failed"
	statusPurged     = "purged"
	statusCancelled  = "cancelled"
	statusExpired    = "expired"
	statusConsumed   = "consumed"
	statusDeadLetter = "dead_letter"
)

// Statuses of topics and subscriptions.
const (
	statusActive   = "active"
	statusPaused   = "paused"
	statusStopped  = "stopped"
	statusArchived = "archived"
)

// Statuses of consumption_records.
const (
	attemptSucceeded = "success"
	attemptFailed    = "failed"
	attemptRetrying  = "retrying"
)

func statusRank(status string) int {
	return slices.Index([]string{
		"", statusScheduled, statusPublished, statusFailed, statusPurged, statusCancelled, statusExpired, statusConsumed, statusDeadLetter,
	}, status)
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

	topicCounts map[string]*topicCount
	nextOffsets map[partitionKey]int64
	groupCounts map[groupKey]*groupCount
	deadLetters []deadLetter
	revivals    []revival
	// schedules are new ones, changedSchedules and endedSchedules earlier ones.
	schedules        []*scheduleRow
	changedSchedules map[string]scheduleChange
	endedSchedules   []string

	// retained comes after all of this, and next after that.
	retained *retention
	next     *changes

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
// configuration, or nil and another status, which is empty where it stays.
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
	// isScheduled says that it was not published at once.
	isScheduled bool
	scheduledAt time.Time
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
	// restarted says that status and what came before no longer counts. topicID is known
	// where it is set.
	restarted bool
	topicID   string
	// releasedAt is when a scheduled message was published, at offset; zero for none.
	releasedAt time.Time
	offset     int64
	// erasedAt is when its payload was erased, which had payloadBytes; zero for never.
	erasedAt     time.Time
	payloadBytes int64
}

// restart forgets what has become of a message: it is to be tried again.
func (c *messageChange) restart() { c.status, c.restarted = statusFailed, true }

// rise moves a message's state up, never down.
func (c *messageChange) rise(status string, retryCount int) {
	if statusRank(status) > statusRank(c.status) {
		c.status = status
	}
	c.retryCount = max(c.retryCount, retryCount)
}

type consumptionRow struct {
	events.Delivery
	settled

	id       string
	tenantID string
	status   string
	// at is when the attempt was settled.
	at time.Time
}

type lastConsumed struct {
	subscriptionID string
	at             time.Time
}
