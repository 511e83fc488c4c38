package events

import (
	"errors"
	"time"
)

// Aggregate is a topic or subscription as the log last left it.
type Aggregate struct {
	ID      string
	Shard   int
	Version int64
	// Created and Changed are where the events stand that created it and last
	// changed it.
	Created, Changed Position
	// Value is the decoded state; what type it has is the business of whoever
	// decides on it.
	Value any
}

// ErrNoAggregate reports a topic or subscription that does not exist.
var ErrNoAggregate = errors.New("no such aggregate")

// ErrStale reports that an aggregate has another version than the one a request
// was decided on: load it and decide again.
var ErrStale = errors.New("aggregate changed meanwhile")

// LeaseRequest asks for messages on behalf of a consumer.
type LeaseRequest struct {
	Shard   int
	TopicID string
	// Group is unique within the topic. Where a subscription is another tenant's
	// than the topic, that tenant is part of it.
	Group          string
	Consumer       string
	SubscriptionID string
	// SubscriptionVersion is the version the request was decided on; where it is
	// not the current one nothing is leased.
	SubscriptionVersion int64
	// MessagesMax bounds one answer. BytesMax of payload are where it stops too, at
	// most 8 messages late, because what a message weighs is known once it is read.
	MessagesMax int
	BytesMax    int
	// For is how long the messages are leased.
	For time.Duration
	// Ordered says that of one key no message is leased while the group has not
	// settled the one before.
	Ordered bool
}

// Leased is a message in a consumer's hands.
type Leased struct {
	Lease

	MessageID string
	Partition int
	Offset    int64
	Attempt   int
	// AttemptsBefore is as in [Delivery], and Unseen how many attempts since then nobody
	// saw: they do not count as tries.
	AttemptsBefore, Unseen int
	// Position is where the message's publishing stands in the log.
	Position   Position
	LeasedAtMs int64
	// Meta are the delivery metadata, see [DeliveryMeta].
	Meta    DeliveryMeta
	Payload []byte
}

// ExpiredLease is a lease that ran out: the attempt failed with no word from the
// consumer.
type ExpiredLease struct {
	Leased

	SubscriptionID string
	TopicID        string
	Group          string
	Consumer       string
}

// DeliveryMeta is what a consumer sees of a message beside its payload.
type DeliveryMeta struct {
	TenantID      string
	Key           string
	ContentType   string
	CorrelationID string
	TraceParent   string
	ExpiresAtMs   int64
	// Sealed says that the payload is encrypted.
	Sealed bool
	// MaxRetryAttempts and RetryDelayMs are as in [MessagePublished].
	MaxRetryAttempts, RetryDelayMs *int
	Headers                        map[string]string
}

// DueTick is a tick of a recurring schedule whose time has come.
type DueTick struct {
	ScheduleID string
	// TickMs is that time, in ms since 1970.
	TickMs int64
	// State is the schedule's, as [Append.State] gave it.
	State []byte
}

// DueForward is a dead letter that is still to be published to another queue.
type DueForward struct {
	// Member names it, to say that it is done.
	Member string
	// Event is what made it a dead letter, and Message the message.
	Event   MessageDeadLettered
	Message Leased
}
