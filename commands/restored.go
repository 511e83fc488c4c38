package commands

import (
	"encoding/json"
	"fmt"

	"github.com/tallymq/tallymq/events"
)

// States of aggregates as the log keeps them, for a log that is put back.

// TopicState is what the log keeps of a topic.
func TopicState(tenantID string, version int64, config events.TopicConfig) ([]byte, error) {
	return state(Topic{TenantID: tenantID, Version: version, Config: config})
}

// SubscriptionState is what the log keeps of a subscription on a topic.
func SubscriptionState(tenantID string, version int64, config events.SubscriptionConfig, queue, queueTenantID string, owner Owner) ([]byte, error) {
	return state(Subscription{TenantID: tenantID, Version: version, Config: config, Queue: queue, QueueTenantID: queueTenantID, Owner: owner})
}

// ScheduleState is what the log keeps of a recurring schedule of a queue.
func ScheduleState(tenantID string, version int64, config events.ScheduleConfig, queue string, owner Owner) ([]byte, error) {
	return state(Schedule{TenantID: tenantID, Version: version, Config: config, Queue: queue, Owner: owner})
}

func state(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return data, nil
}

// IsOrdered reports whether a subscription gets the messages of one key one after the other.
func IsOrdered(config events.SubscriptionConfig) bool {
	h, err := parseHandler(config.HandlerConfig, false)
	return err == nil && h.Ordered
}

// IsPushed reports whether a subscription's messages are pushed to its consumer.
func IsPushed(config events.SubscriptionConfig) bool { return config.SubscriptionType == TypeWebhook }
