package events

import "encoding/json"

// What happens to topics, subscriptions and schedules.
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

	// TopicRetained says that messages of a queue were kept for as long as it keeps them:
	// those that were published before a time, with an id from From up to UpTo. Every group
	// had settled them. They leave the read tables, and their payloads the history.
	TopicRetained struct {
		TopicID string `json:"topicId"`
		// BeforeMs is that time, in ms since 1970 by the log's clock.
		BeforeMs int64  `json:"beforeMs"`
		From     string `json:"from"`
		UpTo     string `json:"upTo"`
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
		// Offsets are the first one that the group is to get, by partition, where it
		// began.
		Offsets []int64 `json:"offsets,omitempty"`
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
		// Offsets are where the group goes on, by partition, and AttemptsBefore is what
		// attempts are counted from there.
		Offsets        []int64 `json:"offsets,omitempty"`
		AttemptsBefore int     `json:"attemptsBefore,omitempty"`
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
)
