package command

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// queueChange is the body of PUT /queues/{name}: what it does not name stays as it is.
type queueChange struct {
	Name              *string        `json:"name"`
	DisplayName       *string        `json:"displayName"`
	Description       *string        `json:"description"`
	TopicType         *string        `json:"topicType"`
	PartitionCount    *int           `json:"partitionCount"`
	ReplicationFactor *int           `json:"replicationFactor"`
	RetentionMs       *int64         `json:"retentionMs"`
	MessageFormat     *string        `json:"messageFormat"`
	SchemaDefinition  jsontext.Value `json:"schemaDefinition"`
	CompressionType   *string        `json:"compressionType"`
	IsPublic          *bool          `json:"isPublic"`
	AllowedProducers  *[]string      `json:"allowedProducers"`
	AllowedConsumers  *[]string      `json:"allowedConsumers"`
	Status            *string        `json:"status"`
}

func (h *Handlers) updateQueue(c echo.Context) error {
	var req queueChange
	if err := web.Decode(c, &req, AdminBodyMax); err != nil {
		return err
	}
	caller, ifVersion, err := h.changer(c)
	if err != nil {
		return err
	}
	topic, receipt, err := h.deps.Commands.UpdateQueue(c.Request().Context(), caller, commands.UpdateQueue{
		Queue: c.Param("name"), IfVersion: ifVersion, Name: req.Name, TopicType: req.TopicType,
		DisplayName: req.DisplayName, Description: req.Description, PartitionCount: req.PartitionCount,
		ReplicationFactor: req.ReplicationFactor, RetentionMs: req.RetentionMs, MessageFormat: req.MessageFormat,
		SchemaDefinition: json.RawMessage(req.SchemaDefinition), CompressionType: req.CompressionType, IsPublic: req.IsPublic,
		AllowedProducers: req.AllowedProducers, AllowedConsumers: req.AllowedConsumers, Status: req.Status,
	})
	if err != nil {
		return h.httpError(err)
	}
	return answerQueue(c, changed(caller), topic, changedAt(receipt, topic.ChangedAtMs))
}

func (h *Handlers) deleteQueue(c echo.Context) error {
	return h.end(c, "name", h.deps.Commands.DeleteQueue)
}

func (h *Handlers) purgeQueue(c echo.Context) error {
	return h.end(c, "name", h.deps.Commands.PurgeQueue)
}

func (h *Handlers) deleteSubscription(c echo.Context) error {
	if err := checkID(c); err != nil {
		return err
	}
	return h.end(c, "id", h.deps.Commands.DeleteSubscription)
}

// end carries out what leaves nothing to show.
func (h *Handlers) end(c echo.Context, param string, command func(context.Context, commands.Caller, string, *int64) (commands.Receipt, error)) error {
	caller, ifVersion, err := h.changerWithoutBody(c)
	if err != nil {
		return err
	}
	if _, err := command(c.Request().Context(), caller, c.Param(param), ifVersion); err != nil {
		return h.httpError(err)
	}
	if caller.Async {
		return c.NoContent(http.StatusAccepted)
	}
	return c.NoContent(http.StatusNoContent)
}

// subscriptionChange is the body of PUT /subscriptions/{id}.
type subscriptionChange struct {
	Queue               *string        `json:"queue"`
	ConsumerGroup       *string        `json:"consumerGroup"`
	ConsumerName        *string        `json:"consumerName"`
	SubscriptionType    *string        `json:"subscriptionType"`
	OffsetResetPolicy   *string        `json:"offsetResetPolicy"`
	MaxPollRecords      *int           `json:"maxPollRecords"`
	SessionTimeoutMs    *int           `json:"sessionTimeoutMs"`
	HeartbeatIntervalMs *int           `json:"heartbeatIntervalMs"`
	HandlerConfig       jsontext.Value `json:"handlerConfig"`
	DeadLetterQueue     *string        `json:"deadLetterQueue"`
	MaxRetryAttempts    *int           `json:"maxRetryAttempts"`
	RetryDelayMs        *int           `json:"retryDelayMs"`
	MessageFilter       jsontext.Value `json:"messageFilter"`
	Status              *string        `json:"status"`
}

func (h *Handlers) updateSubscription(c echo.Context) error {
	var req subscriptionChange
	if err := web.Decode(c, &req, AdminBodyMax); err != nil {
		return err
	}
	caller, ifVersion, err := h.changer(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	sub, receipt, err := h.deps.Commands.UpdateSubscription(c.Request().Context(), caller, commands.UpdateSubscription{
		SubscriptionID: c.Param("id"), IfVersion: ifVersion, Queue: req.Queue, ConsumerGroup: req.ConsumerGroup, ConsumerName: req.ConsumerName,
		SubscriptionType: req.SubscriptionType, OffsetResetPolicy: req.OffsetResetPolicy, MaxPollRecords: req.MaxPollRecords,
		SessionTimeoutMs: req.SessionTimeoutMs, HeartbeatIntervalMs: req.HeartbeatIntervalMs,
		HandlerConfig: json.RawMessage(req.HandlerConfig), DeadLetterQueue: req.DeadLetterQueue, MaxRetryAttempts: req.MaxRetryAttempts,
		RetryDelayMs: req.RetryDelayMs, MessageFilter: json.RawMessage(req.MessageFilter), Status: req.Status,
	})
	if err != nil {
		return h.httpError(err)
	}
	return answerSubscription(c, changed(caller), sub, changedAt(receipt, sub.ChangedAtMs))
}

func (h *Handlers) pauseSubscription(c echo.Context) error {
	return h.turn(c, h.deps.Commands.PauseSubscription)
}

func (h *Handlers) resumeSubscription(c echo.Context) error {
	return h.turn(c, h.deps.Commands.ResumeSubscription)
}

// turn pauses or resumes a subscription and shows it.
func (h *Handlers) turn(c echo.Context, command func(context.Context, commands.Caller, string, *int64) (commands.Subscription, commands.Receipt, error)) error {
	caller, ifVersion, err := h.changerWithoutBody(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	sub, receipt, err := command(c.Request().Context(), caller, c.Param("id"), ifVersion)
	if err != nil {
		return h.httpError(err)
	}
	return answerSubscription(c, changed(caller), sub, changedAt(receipt, sub.ChangedAtMs))
}

// changer is the caller of a request that changes something, and the version that
// If-Match names, nil for any.
func (h *Handlers) changer(c echo.Context) (commands.Caller, *int64, error) {
	caller, err := h.caller(c)
	if err != nil {
		return caller, nil, err
	}
	version, err := ifMatch(c.Request().Header)
	return caller, version, err
}

// changerWithoutBody is changer of a request that has nothing to say.
func (h *Handlers) changerWithoutBody(c echo.Context) (commands.Caller, *int64, error) {
	if err := nothing(c); err != nil {
		return commands.Caller{}, nil, err
	}
	return h.changer(c)
}

// callerWithoutBody is the caller of a request that has nothing to say.
func (h *Handlers) callerWithoutBody(c echo.Context) (commands.Caller, error) {
	if err := nothing(c); err != nil {
		return commands.Caller{}, err
	}
	return h.caller(c)
}

// nothing reads the body of a request that has nothing to say: none, or an empty object.
func nothing(c echo.Context) error {
	if c.Request().ContentLength == 0 {
		return nil
	}
	return web.Decode(c, &struct{}{}, AdminBodyMax)
}

var entityTag = regexp.MustCompile(`^"([0-9]{1,18})"$`)

// ifMatch reads If-Match (RFC 9110, section 13.1.1): one of our entity tags, or * for
// any.
func ifMatch(header http.Header) (*int64, error) {
	values := header.Values("If-Match")
	if len(values) == 0 || (len(values) == 1 && values[0] == "*") {
		return nil, nil //nolint:nilnil // nil is any version
	}
	if found := entityTag.FindStringSubmatch(values[0]); len(values) == 1 && found != nil {
		version, err := strconv.ParseInt(found[1], 10, 64)
		if err == nil {
			return &version, nil
		}
	}
	return nil, web.Invalid(web.Detail{Field: "If-Match", Limit: `one ETag of this resource, such as "3", or *`, Problem: "is not that"})
}

// changed is the status of a change; see created.
func changed(caller commands.Caller) int {
	if caller.Async {
		return http.StatusAccepted
	}
	return http.StatusOK
}

// changedAt is when a change happened, in ms since 1970: before, where nothing changed.
func changedAt(receipt commands.Receipt, beforeMs int64) int64 {
	if receipt.Position == 0 {
		return beforeMs
	}
	return receipt.Position.Ms()
}
