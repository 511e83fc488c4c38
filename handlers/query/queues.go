package query

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// queueDetail is a queue with its live state.
type queueDetail struct {
	web.Queue

	State State `json:"state"`
}

// State is a queue's delivery at one moment. Counts are of messages.
type State struct {
	// Depth is what waits, is leased or is to be tried again in the consumer group
	// that has most of it; without groups it is what the queue holds.
	Depth int64 `json:"depth"`
	// Pending is leased to consumers and not settled, over all groups.
	Pending int64 `json:"pending"`
	// Lag is not delivered yet, in the group that has most of it.
	Lag int64 `json:"lag"`
	// Scheduled waits to be published.
	Scheduled int64 `json:"scheduled"`
	// OldestUnackedMs is the age of the oldest message that a group has not
	// settled, null for none.
	OldestUnackedMs *int64           `json:"oldestUnackedMs"`
	Subscriptions   int64            `json:"subscriptions"`
	Groups          []GroupState     `json:"groups"`
	Partitions      []PartitionState `json:"partitions"`
}

// GroupState is one consumer group's share of a [State].
type GroupState struct {
	ConsumerGroup string `json:"consumerGroup"`
	Lag           int64  `json:"lag"`
	Pending       int64  `json:"pending"`
	// Retrying waits for another attempt.
	Retrying int64 `json:"retrying"`
	// Held waits, in an ordered group, for another message of its key. It is part of Lag.
	Held            int64  `json:"held"`
	OldestUnackedMs *int64 `json:"oldestUnackedMs"`
}

// PartitionState is one partition of a [State].
type PartitionState struct {
	Partition int `json:"partition"`
	// Published is how many messages the partition was ever given, which is also
	// its next offset.
	Published int64 `json:"published"`
	// Held is how many Redis holds, settled ones included.
	Held    int64 `json:"held"`
	Pending int64 `json:"pending"`
	Lag     int64 `json:"lag"`
}

func showQueue(q queries.Queue) web.Queue {
	return web.Queue{
		ID: q.ID, TenantID: q.TenantID, Name: q.Name, DisplayName: text(q.DisplayName), Description: text(q.Description),
		TopicType: q.TopicType, PartitionCount: q.PartitionCount, ReplicationFactor: q.ReplicationFactor, RetentionMs: q.RetentionMs,
		MessageFormat: q.MessageFormat, SchemaDefinition: web.Raw(q.SchemaDefinition), CompressionType: q.CompressionType,
		IsPublic: q.IsPublic, AllowedProducers: q.AllowedProducers, AllowedConsumers: q.AllowedConsumers, Status: q.Status,
		CreatedAt: web.Time(q.CreatedAt), UpdatedAt: web.Time(q.UpdatedAt), Version: q.Version,
	}
}

func (h *Handlers) queues(c echo.Context) error {
	l, err := h.parseList(c, "queues")
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	rows, next, err := queries.Queues(ctx, h.deps.DB(l.tenantID), l.tenantID, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	return answerList(h, c, l, rows, next, showQueue, func(q queries.Queue) string { return q.Name })
}

// Queue shows the queue that the path parameter name names, with its live state.
func (h *Handlers) Queue(c echo.Context) error {
	if err := web.CheckQuery(c); err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	q, err := h.byName(ctx, c, tenantID, c.Param("name"))
	if err != nil {
		return err
	}
	subscriptions, err := queries.CountSubscriptions(ctx, h.deps.DB(tenantID), tenantID, q.ID)
	if err != nil {
		return h.failed(c, err, nil)
	}
	state, err := h.deps.State(ctx, q)
	if err != nil {
		return h.failed(c, fmt.Errorf("live state: %w", err), nil)
	}
	state.Subscriptions = subscriptions
	c.Response().Header().Set("ETag", web.ETag(q.Version))
	return web.WriteRawJSON(c, http.StatusOK, queueDetail{Queue: showQueue(q), State: state})
}

// byName returns a tenant's queue. What is no text is the name of none.
func (h *Handlers) byName(ctx context.Context, c echo.Context, tenantID, name string) (queries.Queue, error) {
	missing := notFound(codeQueueNotFound, "queue", strconv.Quote(name))
	if !web.ValidText(name) {
		return queries.Queue{}, missing
	}
	q, err := queries.QueueByName(ctx, h.deps.DB(tenantID), tenantID, name)
	if err != nil {
		return q, h.failed(c, err, missing)
	}
	return q, nil
}
