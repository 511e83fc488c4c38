package command

import (
	"encoding/json"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// queueRequest is the body of POST /queues.
type queueRequest struct {
	Name              string         `json:"name"`
	DisplayName       string         `json:"displayName"`
	Description       string         `json:"description"`
	TopicType         string         `json:"topicType"`
	PartitionCount    *int           `json:"partitionCount"`
	ReplicationFactor *int           `json:"replicationFactor"`
	RetentionMs       *int64         `json:"retentionMs"`
	MessageFormat     string         `json:"messageFormat"`
	SchemaDefinition  jsontext.Value `json:"schemaDefinition"`
	CompressionType   string         `json:"compressionType"`
	IsPublic          bool           `json:"isPublic"`
	AllowedProducers  []string       `json:"allowedProducers"`
	AllowedConsumers  []string       `json:"allowedConsumers"`
	Status            string         `json:"status"`
}

func (h *Handlers) createQueue(c echo.Context) error {
	var req queueRequest
	if err := web.Decode(c, &req, AdminBodyMax); err != nil {
		return err
	}
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	topic, _, err := h.deps.Commands.CreateQueue(c.Request().Context(), caller, commands.CreateQueue{
		ID: h.deps.NewID(), Name: req.Name, DisplayName: req.DisplayName, Description: req.Description,
		TopicType: req.TopicType, PartitionCount: req.PartitionCount, ReplicationFactor: req.ReplicationFactor,
		RetentionMs: req.RetentionMs, MessageFormat: req.MessageFormat, SchemaDefinition: given(req.SchemaDefinition),
		CompressionType: req.CompressionType, IsPublic: req.IsPublic,
		AllowedProducers: req.AllowedProducers, AllowedConsumers: req.AllowedConsumers, Status: req.Status,
	})
	if err != nil {
		return h.httpError(err)
	}
	c.Response().Header().Set("Location", "/api/v1/mq/queues/"+topic.Config.Name)
	return answerQueue(c, created(caller), topic, topic.CreatedAtMs)
}

// answerQueue shows a queue that last changed at a time in ms since 1970.
func answerQueue(c echo.Context, status int, topic commands.Topic, changedAtMs int64) error {
	e := topic.Config
	c.Response().Header().Set("ETag", web.ETag(topic.Version))
	return web.WriteRawJSON(c, status, web.Queue{
		ID: e.TopicID, TenantID: topic.TenantID, Name: e.Name, DisplayName: e.DisplayName, Description: e.Description,
		TopicType: e.TopicType, PartitionCount: e.PartitionCount, ReplicationFactor: e.ReplicationFactor,
		RetentionMs: e.RetentionMs, MessageFormat: e.MessageFormat, SchemaDefinition: web.Raw(e.SchemaDefinition),
		CompressionType: e.CompressionType, IsPublic: e.IsPublic,
		AllowedProducers: e.AllowedProducers, AllowedConsumers: e.AllowedConsumers, Status: e.Status,
		CreatedAt: timeOf(topic.CreatedAtMs), UpdatedAt: timeOf(changedAtMs), Version: topic.Version,
	})
}

// subscriptionRequest is the body of POST /subscriptions.
type subscriptionRequest struct {
	Queue               string         `json:"queue"`
	TopicID             string         `json:"topicId"`
	ConsumerGroup       string         `json:"consumerGroup"`
	ConsumerName        string         `json:"consumerName"`
	SubscriptionType    string         `json:"subscriptionType"`
	OffsetResetPolicy   string         `json:"offsetResetPolicy"`
	MaxPollRecords      *int           `json:"maxPollRecords"`
	SessionTimeoutMs    *int           `json:"sessionTimeoutMs"`
	HeartbeatIntervalMs *int           `json:"heartbeatIntervalMs"`
	HandlerConfig       jsontext.Value `json:"handlerConfig"`
	DeadLetterQueue     string         `json:"deadLetterQueue"`
	MaxRetryAttempts    *int           `json:"maxRetryAttempts"`
	RetryDelayMs        *int           `json:"retryDelayMs"`
	MessageFilter       jsontext.Value `json:"messageFilter"`
	Status              string         `json:"status"`
}

func (h *Handlers) createSubscription(c echo.Context) error {
	var req subscriptionRequest
	if err := web.Decode(c, &req, AdminBodyMax); err != nil {
		return err
	}
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	sub, _, err := h.deps.Commands.CreateSubscription(c.Request().Context(), caller, commands.CreateSubscription{
		ID: h.deps.NewID(), Queue: req.Queue, TopicID: req.TopicID, ConsumerGroup: req.ConsumerGroup, ConsumerName: req.ConsumerName,
		SubscriptionType: req.SubscriptionType, OffsetResetPolicy: req.OffsetResetPolicy, MaxPollRecords: req.MaxPollRecords,
		SessionTimeoutMs: req.SessionTimeoutMs, HeartbeatIntervalMs: req.HeartbeatIntervalMs,
		HandlerConfig: given(req.HandlerConfig), DeadLetterQueue: req.DeadLetterQueue, MaxRetryAttempts: req.MaxRetryAttempts,
		RetryDelayMs: req.RetryDelayMs, MessageFilter: given(req.MessageFilter), Status: req.Status,
	})
	if err != nil {
		return h.httpError(err)
	}
	c.Response().Header().Set("Location", "/api/v1/mq/subscriptions/"+sub.Config.SubscriptionID)
	return answerSubscription(c, created(caller), sub, sub.CreatedAtMs)
}

// answerSubscription shows a subscription that last changed at a time in ms since 1970.
// When it last consumed only the read side knows.
func answerSubscription(c echo.Context, status int, sub commands.Subscription, changedAtMs int64) error {
	e := sub.Config
	c.Response().Header().Set("ETag", web.ETag(sub.Version))
	return web.WriteRawJSON(c, status, web.Subscription{
		ID: e.SubscriptionID, TopicID: e.TopicID, TenantID: sub.TenantID, Queue: sub.QueueName(), ConsumerGroup: e.ConsumerGroup,
		ConsumerName: e.ConsumerName, SubscriptionType: e.SubscriptionType, OffsetResetPolicy: e.OffsetResetPolicy,
		MaxPollRecords: e.MaxPollRecords, SessionTimeoutMs: e.SessionTimeoutMs, HeartbeatIntervalMs: e.HeartbeatIntervalMs,
		HandlerConfig: web.Raw(e.HandlerConfig), DeadLetterQueue: e.DeadLetterQueue, MaxRetryAttempts: e.MaxRetryAttempts,
		RetryDelayMs: e.RetryDelayMs, MessageFilter: web.Raw(e.MessageFilter), Status: e.Status,
		CreatedAt: timeOf(sub.CreatedAtMs), UpdatedAt: timeOf(changedAtMs), Version: sub.Version,
	})
}

// given treats JSON null like an absent field.
func given(v jsontext.Value) json.RawMessage {
	if v.Kind() == 'n' {
		return nil
	}
	return json.RawMessage(v)
}
