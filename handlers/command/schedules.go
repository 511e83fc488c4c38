package command

import (
	"context"
	"encoding/json"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// scheduleRequest is the body of POST /schedules.
type scheduleRequest struct {
	Name          string            `json:"name"`
	Queue         string            `json:"queue"`
	Cron          string            `json:"cron"`
	TimeZone      string            `json:"timeZone"`
	Payload       jsontext.Value    `json:"payload"`
	Key           string            `json:"key"`
	Headers       map[string]string `json:"headers"`
	CorrelationID string            `json:"correlationId"`
	ContentType   string            `json:"contentType"`
	TTLMs         *int64            `json:"ttlMs"`
	Status        string            `json:"status"`
}

func (h *Handlers) createSchedule(c echo.Context) error {
	var req scheduleRequest
	if err := web.Decode(c, &req, h.bodyMax()); err != nil {
		return err
	}
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	if refusal := h.checkPayload(req.Payload); refusal != nil {
		return h.httpError(refusal)
	}
	s, _, err := h.deps.Commands.CreateSchedule(c.Request().Context(), caller, commands.CreateSchedule{
		ID: h.deps.NewID(), Name: req.Name, Queue: req.Queue, Cron: req.Cron, TimeZone: req.TimeZone, Status: req.Status,
		Payload: json.RawMessage(req.Payload), Key: req.Key, Headers: req.Headers, CorrelationID: req.CorrelationID,
		ContentType: req.ContentType, TTLMs: req.TTLMs,
	})
	if err != nil {
		return h.httpError(err)
	}
	c.Response().Header().Set("Location", "/api/v1/mq/schedules/"+s.Config.ScheduleID)
	return h.answerSchedule(c, created(caller), s)
}

func (h *Handlers) pauseSchedule(c echo.Context) error {
	return h.turnSchedule(c, h.deps.Commands.PauseSchedule)
}

func (h *Handlers) resumeSchedule(c echo.Context) error {
	return h.turnSchedule(c, h.deps.Commands.ResumeSchedule)
}

func (h *Handlers) deleteSchedule(c echo.Context) error {
	if err := checkID(c); err != nil {
		return err
	}
	return h.end(c, "id", h.deps.Commands.DeleteSchedule)
}

// turnSchedule pauses or resumes a schedule and shows it.
func (h *Handlers) turnSchedule(c echo.Context, command func(context.Context, commands.Caller, string, *int64) (commands.Schedule, commands.Receipt, error)) error {
	caller, ifVersion, err := h.changerWithoutBody(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	s, _, err := command(c.Request().Context(), caller, c.Param("id"), ifVersion)
	if err != nil {
		return h.httpError(err)
	}
	return h.answerSchedule(c, changed(caller), s)
}

// answerSchedule shows a schedule, its payload as the log has it, decrypted.
func (h *Handlers) answerSchedule(c echo.Context, status int, s commands.Schedule) error {
	e := s.Config
	payload := []byte(e.Payload)
	if e.Sealed {
		var err error
		if payload, err = h.deps.Open(c.Request().Context(), s.TenantID, e.TopicID, e.ScheduleID, payload); err != nil {
			h.deps.Logger.Warn("decrypt a schedule's payload", "schedule", e.ScheduleID, "requestId", web.RequestID(c), "error", err)
			return web.Unavailable("the payload cannot be shown now; try again")
		}
	}
	c.Response().Header().Set("ETag", web.ETag(s.Version))
	return web.WriteRawJSON(c, status, web.Schedule{
		ID: e.ScheduleID, Name: e.Name, Queue: s.Queue, TopicID: e.TopicID, TenantID: s.TenantID, Cron: e.Cron, TimeZone: e.TimeZone,
		Payload: web.Raw(payload), Key: e.Key, Headers: e.Headers, CorrelationID: e.CorrelationID, ContentType: e.ContentType,
		TTLMs: e.TTLMs, Status: e.Status, CreatedAt: timeOf(s.CreatedAtMs), UpdatedAt: timeOf(s.ChangedAtMs), Version: s.Version,
		NextAt: h.nextTick(s),
	})
}

// nextTick is when a schedule ticks next, nil for never.
func (h *Handlers) nextTick(s commands.Schedule) *web.Time {
	if s.Config.Status != commands.StatusActive {
		return nil
	}
	next, err := h.deps.NextTick(s.Config.Cron, s.Config.TimeZone, time.Now())
	if err != nil {
		return nil // its time zone is not known any more
	}
	return web.TimePtr(&next)
}
