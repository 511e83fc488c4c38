package web

import "strconv"

// Queue is a queue as the API shows it, to whoever created it and to whoever asks.
type Queue struct {
	ID                string   `json:"id"`
	TenantID          string   `json:"tenantId"`
	Name              string   `json:"name"`
	DisplayName       string   `json:"displayName,omitempty"`
	Description       string   `json:"description,omitempty"`
	TopicType         string   `json:"topicType"`
	PartitionCount    int      `json:"partitionCount"`
	ReplicationFactor int      `json:"replicationFactor"`
	RetentionMs       int64    `json:"retentionMs"`
	MessageFormat     string   `json:"messageFormat"`
	SchemaDefinition  Raw      `json:"schemaDefinition,omitempty"`
	CompressionType   string   `json:"compressionType"`
	IsPublic          bool     `json:"isPublic"`
	AllowedProducers  []string `json:"allowedProducers"`
	AllowedConsumers  []string `json:"allowedConsumers"`
	Status            string   `json:"status"`
	CreatedAt         Time     `json:"createdAt"`
	UpdatedAt         Time     `json:"updatedAt"`
	Version           int64    `json:"version"`
}

// Subscription is a subscription as the API shows it.
type Subscription struct {
	ID                  string `json:"id"`
	TopicID             string `json:"topicId"`
	TenantID            string `json:"tenantId"`
	Queue               string `json:"queue"`
	ConsumerGroup       string `json:"consumerGroup"`
	ConsumerName        string `json:"consumerName"`
	SubscriptionType    string `json:"subscriptionType"`
	OffsetResetPolicy   string `json:"offsetResetPolicy"`
	MaxPollRecords      int    `json:"maxPollRecords"`
	SessionTimeoutMs    int    `json:"sessionTimeoutMs"`
	HeartbeatIntervalMs int    `json:"heartbeatIntervalMs"`
	HandlerConfig       Raw    `json:"handlerConfig"`
	DeadLetterQueue     string `json:"deadLetterQueue,omitempty"`
	MaxRetryAttempts    int    `json:"maxRetryAttempts"`
	RetryDelayMs        int    `json:"retryDelayMs"`
	MessageFilter       Raw    `json:"messageFilter,omitempty"`
	Status              string `json:"status"`
	CreatedAt           Time   `json:"createdAt"`
	UpdatedAt           Time   `json:"updatedAt"`
	LastConsumedAt      *Time  `json:"lastConsumedAt"`
	Version             int64  `json:"version"`
}

// Schedule is a recurring schedule as the API shows it.
type Schedule struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	Queue         string            `json:"queue"`
	TopicID       string            `json:"topicId"`
	TenantID      string            `json:"tenantId"`
	Cron          string            `json:"cron"`
	TimeZone      string            `json:"timeZone"`
	Payload       Raw               `json:"payload"`
	Key           string            `json:"key,omitempty"`
	Headers       map[string]string `json:"headers"`
	CorrelationID string            `json:"correlationId,omitempty"`
	ContentType   string            `json:"contentType,omitempty"`
	TTLMs         *int64            `json:"ttlMs,omitempty"`
	Status        string            `json:"status"`
	CreatedAt     Time              `json:"createdAt"`
	UpdatedAt     Time              `json:"updatedAt"`
	Version       int64             `json:"version"`
	// NextAt is when it ticks next, nil where it is paused.
	NextAt *Time `json:"nextAt"`
}

// Job is work that takes a while, as the API shows it.
type Job struct {
	ID string `json:"id"`
	// Kind is redrive, replay or seek; Status waiting, running, done, cancelled or failed.
	Kind   string `json:"kind"`
	Status string `json:"status"`
	// Spec is what was asked for, a JSON object.
	Spec Raw `json:"spec"`
	// Done and Failed count messages; Total is how many there are, nil where that is not
	// known.
	Done   int64  `json:"done"`
	Failed int64  `json:"failed"`
	Total  *int64 `json:"total"`
	// Error is why it failed, nil where it did not.
	Error      *string `json:"error"`
	CreatedBy  string  `json:"createdBy"`
	CreatedAt  Time    `json:"createdAt"`
	UpdatedAt  Time    `json:"updatedAt"`
	FinishedAt *Time   `json:"finishedAt"`
}

// ETag is the entity tag of a version.
func ETag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }
