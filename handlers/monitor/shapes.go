package monitor

import "github.com/tallymq/tallymq/handlers/web"

// QueuesMax is how many queues a document looks at; with more it says that it is
// truncated.
const QueuesMax = 1000

// Metrics is what was measured.
type Metrics struct {
	Document    Document
	Topics      []Topic
	Consumers   []Consumer
	IsTruncated bool
}

// Document is the metrics document. Latencies are in ms, rates per second over the last
// minute, counts of this moment.
type Document struct {
	RedisStreams StreamTotals   `json:"redisStreams"`
	Consumers    ConsumerTotals `json:"consumers"`
	Performance  Performance    `json:"performance"`
}

// StreamTotals counts what Redis holds: a stream per partition, and messages that are
// held for late readers too.
type StreamTotals struct {
	TotalStreams        int64 `json:"totalStreams"`
	TotalConsumerGroups int64 `json:"totalConsumerGroups"`
	TotalMessages       int64 `json:"totalMessages"`
	PendingMessages     int64 `json:"pendingMessages"`
}

// ConsumerTotals is about all consumers. ActiveConsumers got messages within the last
// minute; ErrorRate is the share of deliveries that failed, 0 to 1.
type ConsumerTotals struct {
	ActiveConsumers int64   `json:"activeConsumers"`
	TotalLag        int64   `json:"totalLag"`
	ProcessingRate  float64 `json:"processingRate"`
	ErrorRate       float64 `json:"errorRate"`
}

// Performance is how long messages took from being published to a consumer, and how
// many were published per second.
type Performance struct {
	AverageLatency float64 `json:"averageLatency"`
	P95Latency     float64 `json:"p95Latency"`
	P99Latency     float64 `json:"p99Latency"`
	Throughput     float64 `json:"throughput"`
}

// Topic is one queue's metrics.
type Topic struct {
	TenantID        string  `json:"tenantId"`
	Queue           string  `json:"queue"`
	TopicID         string  `json:"topicId"`
	Depth           int64   `json:"depth"`
	Pending         int64   `json:"pending"`
	Lag             int64   `json:"lag"`
	OldestUnackedMs *int64  `json:"oldestUnackedMs"`
	PublishRate     float64 `json:"publishRate"`
	DeliveryRate    float64 `json:"deliveryRate"`
	AckRate         float64 `json:"ackRate"`
	FailureRate     float64 `json:"failureRate"`
	DeadLetterRate  float64 `json:"deadLetterRate"`
	AverageLatency  float64 `json:"averageLatency"`
	P95Latency      float64 `json:"p95Latency"`
	P99Latency      float64 `json:"p99Latency"`
}

// Consumer is one consumer group's metrics on one queue. ProcessingMs are from lease to
// acknowledgement.
type Consumer struct {
	TenantID            string  `json:"tenantId"`
	Queue               string  `json:"queue"`
	ConsumerGroup       string  `json:"consumerGroup"`
	ActiveConsumers     int64   `json:"activeConsumers"`
	Lag                 int64   `json:"lag"`
	Pending             int64   `json:"pending"`
	Retrying            int64   `json:"retrying"`
	OldestUnackedMs     *int64  `json:"oldestUnackedMs"`
	DeliveryRate        float64 `json:"deliveryRate"`
	AckRate             float64 `json:"ackRate"`
	ErrorRate           float64 `json:"errorRate"`
	AverageProcessingMs float64 `json:"averageProcessingMs"`
	P95ProcessingMs     float64 `json:"p95ProcessingMs"`
	P99ProcessingMs     float64 `json:"p99ProcessingMs"`
}

// States of components, best first.
const (
	StateUp       = "up"
	StateDegraded = "degraded"
	StateDown     = "down"
)

// Health is the worst of its components' states, and each of them.
type Health struct {
	Status     string               `json:"status"`
	CheckedAt  web.Time             `json:"checkedAt"`
	Components map[string]Component `json:"components"`
}

// Component is one component's state, and why where it is not up.
type Component struct {
	Status    string   `json:"status"`
	Reason    string   `json:"reason,omitempty"`
	LatencyMs *float64 `json:"latencyMs,omitempty"`
}

// Status is what runs here.
type Status struct {
	Service   string   `json:"service"`
	Version   string   `json:"version"`
	Instance  string   `json:"instance"`
	Roles     []string `json:"roles"`
	Shards    int      `json:"shards"`
	StartedAt web.Time `json:"startedAt"`
	UptimeMs  int64    `json:"uptimeMs"`
	IsReady   bool     `json:"isReady"`
}
