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

// ETag is the entity tag of a version.
func ETag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }
