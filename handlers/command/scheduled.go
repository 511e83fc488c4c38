package command

import (
	"errors"
	"fmt"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// delayedRequest is the body of POST /publish/delayed.
type delayedRequest struct {
	publishRequest

	DelayMs *int64 `json:"delayMs"`
}

// scheduledRequest is the body of POST /publish/scheduled.
type scheduledRequest struct {
	publishRequest

	ScheduledAt *time.Time `json:"scheduledAt"`
}

func (h *Handlers) publishDelayed(c echo.Context) error {
	var req delayedRequest
	if err := web.Decode(c, &req, h.bodyMax()); err != nil {
		return err
	}
	m := h.message(c, req.publishRequest)
	m.DelayMs = req.DelayMs
	if m.DelayMs == nil && m.Refused == nil {
		m.Refused = isMissing("delayMs", fmt.Sprintf("0 to %d", int64(commands.DelayMsMax)))
	}
	return h.publishOne(c, m)
}

func (h *Handlers) publishScheduled(c echo.Context) error {
	var req scheduledRequest
	if err := web.Decode(c, &req, h.bodyMax()); err != nil {
		return err
	}
	m := h.message(c, req.publishRequest)
	m.ScheduledAt = req.ScheduledAt
	if m.ScheduledAt == nil && m.Refused == nil {
		m.Refused = isMissing("scheduledAt", "in the future, within 365 days")
	}
	return h.publishOne(c, m)
}

func isMissing(field, limit string) *commands.Refusal {
	return &commands.Refusal{
		Code: commands.CodeValidationFailed, Reason: fmt.Sprintf("%s is missing; allowed: %s", field, limit),
		Problems: []commands.Problem{{Field: field, Limit: limit, Text: "is missing"}},
	}
}

// Statuses of messages on the read side, as far as it matters here.
const (
	statusScheduled = "scheduled"
	statusCancelled = "cancelled"
)

type cancelAnswer struct {
	MessageID string `json:"messageId"`
	Status    string `json:"status"`
}

// cancelMessage takes back a scheduled message. What the log knows nothing of any more
// the read side tells apart: cancelled before, published, or none.
func (h *Handlers) cancelMessage(c echo.Context) error {
	caller, err := h.callerWithoutBody(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	id := c.Param("id")
	_, err = h.deps.Commands.CancelMessage(c.Request().Context(), caller, id)
	if refusal, ok := errors.AsType[*commands.Refusal](err); ok && refusal.Code == commands.CodeMessageNotFound {
		err = h.cancelledBefore(c, caller, refusal)
	}
	if err != nil {
		return h.httpError(err)
	}
	return web.WriteJSON(c, changed(caller), cancelAnswer{MessageID: id, Status: statusCancelled})
}

// cancelledBefore returns nil where a message that is not scheduled was cancelled, else
// why it cannot be; missing is the refusal where there is no such message.
func (h *Handlers) cancelledBefore(c echo.Context, caller commands.Caller, missing *commands.Refusal) error {
	id := c.Param("id")
	status, err := h.deps.MessageStatus(c.Request().Context(), caller.TenantID, id)
	switch {
	case err != nil:
		h.deps.Logger.Warn("look for a message to cancel", "messageId", id, "requestId", caller.RequestID, "error", err)
		return web.Unavailable("the read side does not answer; try again")
	case status == statusCancelled:
		return nil
	case status == "":
		return missing
	case status == statusScheduled:
		// It was published or cancelled a moment ago, and the read side is behind.
		return web.Unavailable("what became of the message is not known yet; try again")
	}
	return &commands.Refusal{Code: commands.CodeConflict, Reason: fmt.Sprintf("message %q is %s; only a scheduled one can be cancelled", id, status)}
}
