package command

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// eraseRequest is the body of POST /messages/{id}/erase, which may be left out.
type eraseRequest struct {
	Reason string `json:"reason"`
}

type eraseAnswer struct {
	MessageID string   `json:"messageId"`
	ErasedAt  web.Time `json:"erasedAt"`
	// Discarded is how many deliveries will not come about.
	Discarded int64 `json:"discarded"`
}

// eraseMessage takes a message's payload out of every store.
func (h *Handlers) eraseMessage(c echo.Context) error {
	var req eraseRequest
	if c.Request().ContentLength != 0 {
		if err := web.Decode(c, &req, AdminBodyMax); err != nil {
			return err
		}
	}
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	id, ctx := c.Param("id"), c.Request().Context()
	m, err := h.deps.StoredMessage(ctx, caller.TenantID, id)
	if err != nil {
		if _, refused := errors.AsType[*commands.Refusal](err); !refused {
			h.deps.Logger.Warn("look for a message to erase", "messageId", id, "requestId", caller.RequestID, "error", err)
			return web.Unavailable("the read side does not answer; try again")
		}
		return h.httpError(err)
	}
	erased, err := h.deps.Commands.EraseMessage(ctx, caller, commands.EraseMessage{Message: m, Reason: req.Reason})
	if err != nil {
		return h.httpError(err)
	}
	status := http.StatusOK
	if !erased.Receipt.Folded {
		status = http.StatusAccepted
	}
	return web.WriteJSON(c, status, eraseAnswer{MessageID: id, ErasedAt: web.Time(erased.At), Discarded: erased.Discarded})
}
