package query

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

func showSubscription(s queries.Subscription) web.Subscription {
	return web.Subscription{
		ID: s.ID, TopicID: s.TopicID, TenantID: s.TenantID, Queue: s.Queue, ConsumerGroup: s.ConsumerGroup, ConsumerName: s.ConsumerName,
		SubscriptionType: s.SubscriptionType, OffsetResetPolicy: s.OffsetResetPolicy, MaxPollRecords: s.MaxPollRecords,
		SessionTimeoutMs: s.SessionTimeoutMs, HeartbeatIntervalMs: s.HeartbeatIntervalMs, HandlerConfig: web.Raw(s.HandlerConfig),
		DeadLetterQueue: text(s.DeadLetterQueue), MaxRetryAttempts: s.MaxRetryAttempts, RetryDelayMs: s.RetryDelayMs,
		MessageFilter: web.Raw(s.MessageFilter), Status: s.Status, CreatedAt: web.Time(s.CreatedAt), UpdatedAt: web.Time(s.UpdatedAt),
		LastConsumedAt: web.TimePtr(s.LastConsumedAt), Version: s.Version,
	}
}

func (h *Handlers) subscriptions(c echo.Context) error {
	l, err := h.parseList(c, "subscriptions", "queue", "consumerGroup")
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	filter := queries.SubscriptionFilter{Queue: c.QueryParam("queue"), ConsumerGroup: c.QueryParam("consumerGroup")}
	rows, next, err := queries.Subscriptions(ctx, h.deps.DB(l.tenantID), l.tenantID, filter, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	return answerList(h, c, l, rows, next, showSubscription, func(s queries.Subscription) string { return s.ID })
}

func (h *Handlers) subscription(c echo.Context) error {
	id, err := detailID(c)
	if err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	s, err := queries.SubscriptionByID(ctx, h.deps.DB(tenantID), tenantID, id)
	if err != nil {
		return h.failed(c, err, notFound(codeSubscriptionNotFound, "subscription", id))
	}
	c.Response().Header().Set("ETag", web.ETag(s.Version))
	return web.WriteRawJSON(c, http.StatusOK, showSubscription(s))
}
