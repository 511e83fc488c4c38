package events

import "encoding/json"

// What happens to messages.
type (
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
		// ErasedSHA256 is set where Payload was erased, see [Erase].
		ErasedSHA256 string `json:"erasedSha256,omitempty"`
		Offset       int64  `json:"offset"`
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

	// MessageErased says that a message's payload is gone from every store. Whoever had
	// not settled the message does not get it any more.
	MessageErased struct {
		MessageID string `json:"messageId"`
		TopicID   string `json:"topicId"`
		// Entry is the entry of the log (ms-seq) where the message was accepted.
		Entry string `json:"entry"`
		// PayloadBytes is how long the payload was: what is left of it does not say.
		PayloadBytes int64 `json:"payloadBytes"`
		// Reason is why, in the words of whoever asked for it.
		Reason    string    `json:"reason,omitempty"`
		Discarded Discarded `json:"discarded"`
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
