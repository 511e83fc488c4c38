package events

import (
	"encoding/json"
	"fmt"
	"time"
)

// Kind is an event's permanent name. It is stored with every event, so a kind is
// never renamed and never used again for something else.
type Kind string

// The catalogue. "One word per event" in code is the struct's name below.
const (
	KindTopicCreated        Kind = "topic.created"
	KindTopicUpdated        Kind = "topic.updated"
	KindTopicPurged         Kind = "topic.purged"
	KindTopicDeleted        Kind = "topic.deleted"
	KindSubscriptionCreated Kind = "subscription.created"
	KindSubscriptionUpdated Kind = "subscription.updated"
	KindSubscriptionPaused  Kind = "subscription.paused"
	KindSubscriptionResumed Kind = "subscription.resumed"
	KindSubscriptionStopped Kind = "subscription.stopped"
	KindSubscriptionSought  Kind = "subscription.sought"
	KindSubscriptionDeleted Kind = "subscription.deleted"
	KindScheduleCreated     Kind = "schedule.created"
	KindSchedulePaused      Kind = "schedule.paused"
	KindScheduleResumed     Kind = "schedule.resumed"
	KindScheduleDeleted     Kind = "schedule.deleted"
	KindMessagePublished    Kind = "message.published"
	KindMessageScheduled    Kind = "message.scheduled"
	KindMessageReleased     Kind = "message.released"
	KindMessageCancelled    Kind = "message.cancelled"
	KindMessageConsumed     Kind = "message.consumed"
	KindMessageFailed       Kind = "message.failed"
	KindMessageDeadLettered Kind = "message.dead_lettered"
	KindMessageFiltered     Kind = "message.filtered"
	KindMessageExpired      Kind = "message.expired"
	KindMessageRedriven     Kind = "message.redriven"
)

// Event is one fact of the catalogue. The interface is sealed: the types below
// are all there are, and gochecksumtype names every switch that forgets one.
//
//sumtype:decl
type Event interface {
	// Kind returns the event's permanent name.
	Kind() Kind

	// about seals the interface; see RefsOf.
	about() Refs
}

type (
	// TopicConfig is a queue's configuration, whole.
	TopicConfig struct {
		TopicID           string          `json:"topicId"`
		Name              string          `json:"name"`
		DisplayName       string          `json:"displayName,omitempty"`
		Description       string          `json:"description,omitempty"`
		TopicType         string          `json:"topicType"`
		PartitionCount    int             `json:"partitionCount"`
		ReplicationFactor int             `json:"replicationFactor"`
		RetentionMs       int64           `json:"retentionMs"`
		MessageFormat     string          `json:"messageFormat"`
		SchemaDefinition  json.RawMessage `json:"schemaDefinition,omitempty"`
		CompressionType   string          `json:"compressionType"`
		IsPublic          bool            `json:"isPublic"`
		AllowedProducers  []string        `json:"allowedProducers"`
		AllowedConsumers  []string        `json:"allowedConsumers"`
		Status            string          `json:"status"`
	}

	// TopicCreated says that a queue came into being with this configuration.
	TopicCreated struct{ TopicConfig }

	// TopicUpdated says that a queue has this configuration from now on.
	TopicUpdated struct{ TopicConfig }

	// Discarded is what an event took from consumers unsettled. The log completes
	// it in the same step that appends the event.
	Discarded struct {
		// Groups is how many messages each consumer group had not settled.
		Groups map[string]int64 `json:"groups,omitempty"`
		// Scheduled is how many messages were waiting to be released.
		Scheduled int64 `json:"scheduled,omitempty"`
		// From is the entry of the log (ms-seq) from which on messages may be
		// concerned; empty where there are none.
		From string `json:"from,omitempty"`
	}

	// TopicPurged says that a queue was emptied: what was published before this
	// event and not settled will not be delivered.
	TopicPurged struct {
		TopicID   string    `json:"topicId"`
		Discarded Discarded `json:"discarded"`
	}

	// TopicDeleted says that a queue is gone, with its subscriptions and whatever
	// they had not settled. Its name is free again.
	TopicDeleted struct {
		TopicID   string    `json:"topicId"`
		Name      string    `json:"name"`
		Discarded Discarded `json:"discarded"`
	}

	// SubscriptionConfig is a subscription's configuration, whole.
	SubscriptionConfig struct {
		SubscriptionID      string          `json:"subscriptionId"`
		TopicID             string          `json:"topicId"`
		ConsumerGroup       string          `json:"consumerGroup"`
		ConsumerName        string          `json:"consumerName"`
		SubscriptionType    string          `json:"subscriptionType"`
		OffsetResetPolicy   string          `json:"offsetResetPolicy"`
		MaxPollRecords      int             `json:"maxPollRecords"`
		SessionTimeoutMs    int             `json:"sessionTimeoutMs"`
		HeartbeatIntervalMs int             `json:"heartbeatIntervalMs"`
		HandlerConfig       json.RawMessage `json:"handlerConfig"`
		DeadLetterQueue     string          `json:"deadLetterQueue,omitempty"`
		MaxRetryAttempts    int             `json:"maxRetryAttempts"`
		RetryDelayMs        int             `json:"retryDelayMs"`
		MessageFilter       json.RawMessage `json:"messageFilter,omitempty"`
		// SecretGeneration counts how often a webhook's secret was rotated, and
		// OldSecretUntilMs is until when the one before signs too, in ms since 1970.
		SecretGeneration int    `json:"secretGeneration,omitempty"`
		OldSecretUntilMs int64  `json:"oldSecretUntilMs,omitempty"`
		Status           string `json:"status"`
	}

	// SubscriptionCreated says that a consumer group member was registered on a
	// topic with this configuration.
	SubscriptionCreated struct {
		SubscriptionConfig

		Joined Joined `json:"joined,omitzero"`
	}

	// Joined is what a subscription found of its consumer group. The log completes it
	// in the same step that appends the event.
	Joined struct {
		// Group is the group's name, as deliveries have it.
		Group string `json:"group"`
		// Began says that the group began with this subscription, and Backlog how
		// many earlier messages it is to get.
		Began   bool  `json:"began,omitempty"`
		Backlog int64 `json:"backlog,omitempty"`
	}

	// SubscriptionUpdated says that a subscription has this configuration from now
	// on.
	SubscriptionUpdated struct{ SubscriptionConfig }

	// SubscriptionPaused says that a subscription gets no messages until it is
	// resumed. What its consumer holds stays leased.
	SubscriptionPaused struct {
		SubscriptionID string `json:"subscriptionId"`
		TopicID        string `json:"topicId"`
		// Reason is why the service paused it by itself.
		Reason string `json:"reason,omitempty"`
	}

	// SubscriptionStopped says that a subscription gets no messages because its
	// consumer said that it is gone.
	SubscriptionStopped struct {
		SubscriptionID string `json:"subscriptionId"`
		TopicID        string `json:"topicId"`
		Reason         string `json:"reason"`
	}

	// SubscriptionSought says that a subscription's consumer group goes on from
	// another place: what it had not settled is replaced by what stands there.
	SubscriptionSought struct {
		SubscriptionID string `json:"subscriptionId"`
		TopicID        string `json:"topicId"`
		// To is earliest, latest, a time (RFC 3339) or an offset.
		To    string `json:"to"`
		Moved Moved  `json:"moved"`
	}

	// Moved is how a consumer group's place changed. The log completes it in the same
	// step that appends the event.
	Moved struct {
		Group string `json:"group"`
		// Before and After are how many messages the group had not settled.
		Before int64 `json:"before"`
		After  int64 `json:"after"`
		// Older says that messages were asked for that are kept in history alone.
		Older bool `json:"older,omitempty"`
	}

	// SubscriptionResumed says that a paused subscription gets messages again.
	SubscriptionResumed struct {
		SubscriptionID string `json:"subscriptionId"`
		TopicID        string `json:"topicId"`
	}

	// SubscriptionDeleted says that a subscription is gone. With a group's last one
	// the group ends, and what it had not settled is discarded.
	SubscriptionDeleted struct {
		SubscriptionID string    `json:"subscriptionId"`
		TopicID        string    `json:"topicId"`
		ConsumerGroup  string    `json:"consumerGroup"`
		ConsumerName   string    `json:"consumerName"`
		Discarded      Discarded `json:"discarded"`
	}

	// ScheduleConfig is a recurring schedule, whole: what it publishes and when.
	ScheduleConfig struct {
		ScheduleID string `json:"scheduleId"`
		TopicID    string `json:"topicId"`
		Name       string `json:"name"`
		// Cron has the five fields of crontab(5), in TimeZone (IANA name).
		Cron          string            `json:"cron"`
		TimeZone      string            `json:"timeZone"`
		Key           string            `json:"key,omitempty"`
		Headers       map[string]string `json:"headers,omitempty"`
		ContentType   string            `json:"contentType,omitempty"`
		CorrelationID string            `json:"correlationId,omitempty"`
		TTLMs         *int64            `json:"ttlMs,omitempty"`
		// Sealed says that Payload is encrypted.
		Sealed  bool            `json:"sealed,omitempty"`
		Payload json.RawMessage `json:"payload"`
		Status  string          `json:"status"`
	}

	// ScheduleCreated says that messages are published regularly from now on.
	ScheduleCreated struct{ ScheduleConfig }

	// SchedulePaused says that a schedule publishes nothing until it is resumed.
	SchedulePaused struct {
		ScheduleID string `json:"scheduleId"`
		TopicID    string `json:"topicId"`
	}

	// ScheduleResumed says that a schedule publishes again. What was due meanwhile
	// is not made up for.
	ScheduleResumed struct {
		ScheduleID string `json:"scheduleId"`
		TopicID    string `json:"topicId"`
	}

	// ScheduleDeleted says that a schedule is gone.
	ScheduleDeleted struct {
		ScheduleID string `json:"scheduleId"`
		TopicID    string `json:"topicId"`
	}

	// MessagePublished says that a message was accepted. Offset is given by the
	// log in the same step that appends the event: dense per partition, from 0.
	MessagePublished struct {
		MessageID     string            `json:"messageId"`
		TopicID       string            `json:"topicId"`
		Partition     int               `json:"partition"`
		Key           string            `json:"key,omitempty"`
		Headers       map[string]string `json:"headers,omitempty"`
		ContentType   string            `json:"contentType"`
		CorrelationID string            `json:"correlationId,omitempty"`
		ProducerID    string            `json:"producerId,omitempty"`
		TraceParent   string            `json:"traceparent,omitempty"`
		// TTLMs is how long after it was published the message may still be
		// delivered; 0 is for ever.
		TTLMs int64 `json:"ttlMs,omitempty"`
		// Sealed says that Payload is encrypted, and PlainBytes how long it is
		// when it is not.
		Sealed     bool  `json:"sealed,omitempty"`
		PlainBytes int64 `json:"plainBytes,omitempty"`
		// MaxRetryAttempts and RetryDelayMs override those of subscriptions.
		MaxRetryAttempts *int `json:"maxRetryAttempts,omitempty"`
		RetryDelayMs     *int `json:"retryDelayMs,omitempty"`
		// ScheduleID is the recurring schedule that published it.
		ScheduleID string `json:"scheduleId,omitempty"`
		// Payload is the producer's JSON, byte for byte.
		Payload json.RawMessage `json:"payload"`
		Offset  int64           `json:"offset"`
	}

	// MessageScheduled says that a message was accepted, to be published at a later
	// time. Its Offset is none yet.
	MessageScheduled struct {
		MessagePublished

		// ReleaseAtMs is that time, in ms since 1970 by the log's clock. The log gives
		// it where the message is to be delayed.
		ReleaseAtMs int64 `json:"releaseAtMs"`
	}

	// MessageReleased says that a scheduled message was published: its time has come.
	MessageReleased struct {
		MessageID string `json:"messageId"`
		TopicID   string `json:"topicId"`
		Partition int    `json:"partition"`
		Offset    int64  `json:"offset"`
	}

	// MessageCancelled says that a scheduled message will not be published.
	MessageCancelled struct {
		MessageID string `json:"messageId"`
		TopicID   string `json:"topicId"`
	}

	// Delivery identifies one attempt to have one message processed by one
	// consumer group.
	Delivery struct {
		MessageID      string `json:"messageId"`
		TopicID        string `json:"topicId"`
		SubscriptionID string `json:"subscriptionId"`
		ConsumerGroup  string `json:"consumerGroup"`
		Consumer       string `json:"consumer"`
		Partition      int    `json:"partition"`
		Offset         int64  `json:"offset"`
		// Attempt counts from 1 and never repeats for a message and a group.
		Attempt int `json:"attempt"`
		// AttemptsBefore is where this count stood when the message was last redriven,
		// replayed or sought: retries are counted from there.
		AttemptsBefore int `json:"attemptsBefore,omitempty"`
		// LeasedAtMs is when the consumer got the message, in ms since 1970, by
		// the log's clock.
		LeasedAtMs int64 `json:"leasedAtMs"`
	}

	// MessageConsumed says that a consumer acknowledged a delivery.
	MessageConsumed struct {
		Delivery

		// StatusCode is what a webhook answered.
		StatusCode int `json:"statusCode,omitempty"`
	}

	// MessageFailed says that a delivery failed and will be tried again
	// RetryDelayMs after this event.
	MessageFailed struct {
		Delivery

		// Reason is one of the Reason constants.
		Reason       string `json:"reason"`
		Error        string `json:"error,omitempty"`
		StatusCode   int    `json:"statusCode,omitempty"`
		RetryDelayMs int64  `json:"retryDelayMs"`
	}

	// MessageDeadLettered says that a delivery failed and no attempt is left for
	// this consumer group.
	MessageDeadLettered struct {
		Delivery

		// Reason is one of the Reason constants.
		Reason     string `json:"reason"`
		Error      string `json:"error,omitempty"`
		StatusCode int    `json:"statusCode,omitempty"`
	}

	// MessageFiltered says that a message did not pass a subscription's filter: its
	// consumer group is done with it. Nobody has seen it.
	MessageFiltered struct {
		Delivery

		// Why is what the filter found, and Version the subscription's version that
		// had it.
		Why     string `json:"why"`
		Version int64  `json:"version"`
	}

	// MessageExpired says that a message's time was over before a consumer group
	// got it: the group is done with it.
	MessageExpired struct {
		Delivery

		// ExpiredAtMs is when it was over, in ms since 1970.
		ExpiredAtMs int64 `json:"expiredAtMs"`
	}

	// MessageRedriven says that a message that a consumer group was done with comes to
	// it once more.
	MessageRedriven struct {
		MessageID      string `json:"messageId"`
		TopicID        string `json:"topicId"`
		SubscriptionID string `json:"subscriptionId"`
		ConsumerGroup  string `json:"consumerGroup"`
		Partition      int    `json:"partition"`
		Offset         int64  `json:"offset"`
		// Attempt is the number of the next attempt.
		Attempt int `json:"attempt"`
		// DeadLetters is how many dead letters of the group it takes back, and JobID
		// the job that did it.
		DeadLetters int64  `json:"deadLetters,omitempty"`
		JobID       string `json:"jobId,omitempty"`
	}
)

// Why a delivery failed.
const (
	// ReasonNack is a consumer's own no.
	ReasonNack = "nack"
	// ReasonLeaseExpired is a lease that ran out with no word from the consumer.
	ReasonLeaseExpired = "lease_expired"
	// ReasonReleased is a message that never reached the consumer it was leased for.
	ReasonReleased = "released"
	// ReasonUnreadable is a message whose payload cannot be decrypted.
	ReasonUnreadable = "unreadable"
	// ReasonWebhook is a webhook that did not answer 2xx in time.
	ReasonWebhook = "webhook"
)

func (TopicCreated) Kind() Kind        { return KindTopicCreated }
func (TopicUpdated) Kind() Kind        { return KindTopicUpdated }
func (TopicPurged) Kind() Kind         { return KindTopicPurged }
func (TopicDeleted) Kind() Kind        { return KindTopicDeleted }
func (SubscriptionCreated) Kind() Kind { return KindSubscriptionCreated }
func (SubscriptionUpdated) Kind() Kind { return KindSubscriptionUpdated }
func (SubscriptionPaused) Kind() Kind  { return KindSubscriptionPaused }
func (SubscriptionResumed) Kind() Kind { return KindSubscriptionResumed }
func (SubscriptionDeleted) Kind() Kind { return KindSubscriptionDeleted }
func (MessagePublished) Kind() Kind    { return KindMessagePublished }
func (MessageConsumed) Kind() Kind     { return KindMessageConsumed }
func (MessageFailed) Kind() Kind       { return KindMessageFailed }
func (MessageDeadLettered) Kind() Kind { return KindMessageDeadLettered }
func (SubscriptionStopped) Kind() Kind { return KindSubscriptionStopped }
func (SubscriptionSought) Kind() Kind  { return KindSubscriptionSought }
func (ScheduleCreated) Kind() Kind     { return KindScheduleCreated }
func (SchedulePaused) Kind() Kind      { return KindSchedulePaused }
func (ScheduleResumed) Kind() Kind     { return KindScheduleResumed }
func (ScheduleDeleted) Kind() Kind     { return KindScheduleDeleted }
func (MessageScheduled) Kind() Kind    { return KindMessageScheduled }
func (MessageReleased) Kind() Kind     { return KindMessageReleased }
func (MessageCancelled) Kind() Kind    { return KindMessageCancelled }
func (MessageFiltered) Kind() Kind     { return KindMessageFiltered }
func (MessageExpired) Kind() Kind      { return KindMessageExpired }
func (MessageRedriven) Kind() Kind     { return KindMessageRedriven }

// What events are about. Those of deliveries say it by their Delivery, and scheduled ones
// as published ones do.

func (e TopicCreated) about() Refs    { return Refs{TopicID: e.TopicID} }
func (e TopicUpdated) about() Refs    { return Refs{TopicID: e.TopicID} }
func (e TopicPurged) about() Refs     { return Refs{TopicID: e.TopicID} }
func (e TopicDeleted) about() Refs    { return Refs{TopicID: e.TopicID} }
func (e ScheduleCreated) about() Refs { return Refs{TopicID: e.TopicID} }
func (e SchedulePaused) about() Refs  { return Refs{TopicID: e.TopicID} }
func (e ScheduleResumed) about() Refs { return Refs{TopicID: e.TopicID} }
func (e ScheduleDeleted) about() Refs { return Refs{TopicID: e.TopicID} }

func (e SubscriptionCreated) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionUpdated) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionPaused) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionResumed) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionStopped) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionSought) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e SubscriptionDeleted) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID}
}

func (e MessagePublished) about() Refs { return Refs{TopicID: e.TopicID, MessageID: e.MessageID} }
func (e MessageReleased) about() Refs  { return Refs{TopicID: e.TopicID, MessageID: e.MessageID} }
func (e MessageCancelled) about() Refs { return Refs{TopicID: e.TopicID, MessageID: e.MessageID} }

func (e MessageRedriven) about() Refs {
	return Refs{TopicID: e.TopicID, SubscriptionID: e.SubscriptionID, MessageID: e.MessageID}
}

func (d Delivery) about() Refs {
	return Refs{TopicID: d.TopicID, SubscriptionID: d.SubscriptionID, MessageID: d.MessageID}
}

// decoders has every kind; a test holds it against the catalogue.
var decoders = map[Kind]func(Kind, []byte) (Event, error){
	KindTopicCreated:        decode[TopicCreated],
	KindTopicUpdated:        decode[TopicUpdated],
	KindTopicPurged:         decode[TopicPurged],
	KindTopicDeleted:        decode[TopicDeleted],
	KindSubscriptionCreated: decode[SubscriptionCreated],
	KindSubscriptionUpdated: decode[SubscriptionUpdated],
	KindSubscriptionPaused:  decode[SubscriptionPaused],
	KindSubscriptionResumed: decode[SubscriptionResumed],
	KindSubscriptionDeleted: decode[SubscriptionDeleted],
	KindMessagePublished:    decode[MessagePublished],
	KindMessageConsumed:     decode[MessageConsumed],
	KindMessageFailed:       decode[MessageFailed],
	KindMessageDeadLettered: decode[MessageDeadLettered],
	KindSubscriptionStopped: decode[SubscriptionStopped],
	KindSubscriptionSought:  decode[SubscriptionSought],
	KindScheduleCreated:     decode[ScheduleCreated],
	KindSchedulePaused:      decode[SchedulePaused],
	KindScheduleResumed:     decode[ScheduleResumed],
	KindScheduleDeleted:     decode[ScheduleDeleted],
	KindMessageScheduled:    decode[MessageScheduled],
	KindMessageReleased:     decode[MessageReleased],
	KindMessageCancelled:    decode[MessageCancelled],
	KindMessageFiltered:     decode[MessageFiltered],
	KindMessageExpired:      decode[MessageExpired],
	KindMessageRedriven:     decode[MessageRedriven],
}

// Decode reads the JSON of an event of the given kind. Unknown fields are
// ignored, so that an older program can read a newer history; an unknown kind is
// an error, because a fold that skips what it does not know is not a fold.
func Decode(kind Kind, data []byte) (Event, error) {
	decode := decoders[kind]
	if decode == nil {
		return nil, fmt.Errorf("decode event: unknown kind %q", kind)
	}
	return decode(kind, data)
}

func decode[E Event](kind Kind, data []byte) (Event, error) {
	var e E
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("decode event %s: %w", kind, err)
	}
	return e, nil
}

// Position is an event's place in its shard's log: the log entry's millisecond
// and sequence number packed as ms<<20 | seq, so positions sort as entries do.
type Position int64

// positionSeqBits leaves 2^20 events to a millisecond and 43 bits of them, which
// last until the year 2248.
const positionSeqBits = 20

// IsPosition reports whether a log entry's id can be packed. The log makes no
// others.
func IsPosition(ms, seq int64) bool {
	return ms >= 0 && seq >= 0 && seq < 1<<positionSeqBits && ms < 1<<(63-positionSeqBits)
}

// MakePosition packs a log entry's id. It panics where the id cannot be packed, see
// [IsPosition].
func MakePosition(ms, seq int64) Position {
	if !IsPosition(ms, seq) {
		panic(fmt.Sprintf("log entry %d-%d does not fit a position", ms, seq))
	}
	return Position(ms<<positionSeqBits | seq)
}

// Ms is the position's time in ms since 1970, by the log's clock.
func (p Position) Ms() int64 { return int64(p) >> positionSeqBits }

// Seq is the position's sequence number within its millisecond.
func (p Position) Seq() int64 { return int64(p) & (1<<positionSeqBits - 1) }

// Time is when the event was appended, by the log's clock, in UTC. It is the one
// time an event has: folds take it from here.
func (p Position) Time() time.Time { return time.UnixMilli(p.Ms()).UTC() }
