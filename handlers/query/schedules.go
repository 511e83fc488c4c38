package query

import (
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

const statusActive = "active"

// listedSchedule is a schedule in a list: without its payload, as messages are.
type listedSchedule struct {
	web.Schedule

	Payload web.Raw `json:"payload,omitzero"`
}

func (h *Handlers) showSchedule(s queries.Schedule) web.Schedule {
	out := web.Schedule{
		ID: s.ID, Name: s.Name, Queue: s.Queue, TopicID: s.TopicID, TenantID: s.TenantID, Cron: s.Cron, TimeZone: s.TimeZone,
		Payload: web.Raw(s.Payload), Key: text(s.Key), Headers: s.Headers, CorrelationID: text(s.CorrelationID), ContentType: text(s.ContentType),
		TTLMs: s.TTLMs, Status: s.Status, CreatedAt: web.Time(s.CreatedAt), UpdatedAt: web.Time(s.UpdatedAt), Version: s.Version,
	}
	if s.Status == statusActive {
		if next, err := h.deps.NextTick(s.Cron, s.TimeZone, time.Now()); err == nil { // else its time zone is not known any more
			out.NextAt = web.TimePtr(&next)
		}
	}
	return out
}

func (h *Handlers) schedules(c echo.Context) error {
	l, err := h.parseList(c, "schedules", "queue")
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	queue := c.QueryParam("queue")
	if queue != "" {
		if _, err := h.byName(ctx, c, l.tenantID, queue); err != nil {
			return err
		}
	}
	rows, next, err := queries.Schedules(ctx, h.deps.DB(l.tenantID), l.tenantID, queue, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	show := func(s queries.Schedule) listedSchedule { return listedSchedule{Schedule: h.showSchedule(s)} }
	return answerList(h, c, l, rows, next, show, func(s queries.Schedule) string { return s.ID })
}

func (h *Handlers) schedule(c echo.Context) error {
	id, err := detailID(c)
	if err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	s, err := queries.ScheduleByID(ctx, h.deps.DB(tenantID), tenantID, id)
	if err != nil {
		return h.failed(c, err, notFound(codeScheduleNotFound, "schedule", id))
	}
	if s.Sealed {
		if s.Payload, err = h.deps.Open(ctx, s.TenantID, s.TopicID, s.ID, s.Payload); err != nil {
			return h.failed(c, fmt.Errorf("%w: %w", ErrStateUnavailable, err), nil)
		}
	}
	c.Response().Header().Set("ETag", web.ETag(s.Version))
	return web.WriteRawJSON(c, http.StatusOK, h.showSchedule(s))
}
