package command

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// pullRequest is the body of POST /subscriptions/{id}/pull.
type pullRequest struct {
	MaxMessages *int `json:"maxMessages"`
	WaitMs      int  `json:"waitMs"`
}

// pulledMessage is a message as a consumer gets it.
type pulledMessage struct {
	MessageID      string            `json:"messageId"`
	AckToken       string            `json:"ackToken"`
	Payload        web.Raw           `json:"payload"`
	Headers        map[string]string `json:"headers"`
	Key            string            `json:"key,omitempty"`
	ContentType    string            `json:"contentType"`
	Partition      int               `json:"partition"`
	Offset         int64             `json:"offset"`
	Attempt        int               `json:"attempt"`
	PublishedAt    web.Time          `json:"publishedAt"`
	CorrelationID  string            `json:"correlationId,omitempty"`
	TraceID        string            `json:"traceId,omitempty"`
	TraceParent    string            `json:"traceparent,omitempty"`
	LeaseExpiresAt web.Time          `json:"leaseExpiresAt"`
}

type pullAnswer struct {
	Messages []pulledMessage `json:"messages"`
}

func (h *Handlers) pull(c echo.Context) error {
	var req pullRequest
	id, caller, err := h.onSubscription(c, &req, AdminBodyMax)
	if err != nil {
		return err
	}
	if req.WaitMs > 0 && h.deps.Waiting != nil {
		leave, err := h.deps.Waiting.Enter(caller.TenantID)
		if err != nil {
			return web.RateLimited(err)
		}
		defer leave()
	}
	ctx := c.Request().Context()
	waiting, stopWaiting := h.untilStopping(ctx)
	defer stopWaiting()
	pulled, err := h.deps.Commands.Pull(waiting, caller, commands.Pull{SubscriptionID: id, MessagesMax: req.MaxMessages, WaitMs: req.WaitMs})
	if err != nil {
		return h.httpError(err)
	}
	if len(pulled) > 0 && ctx.Err() != nil {
		// Leased for somebody who has left: hand the messages back at once, not
		// when the lease runs out.
		if err := h.deps.Commands.Release(detached(ctx), caller, id, pulled); err != nil {
			h.deps.Logger.Warn("hand back messages of a consumer who left", "error", err)
		}
		return nil
	}
	out := pullAnswer{Messages: make([]pulledMessage, len(pulled))}
	for i, m := range pulled {
		out.Messages[i] = pulledMessage{
			MessageID: m.MessageID, AckToken: m.AckToken, Payload: web.Raw(m.Payload), Headers: m.Meta.Headers,
			Key: m.Meta.Key, ContentType: m.Meta.ContentType, Partition: m.Partition, Offset: m.Offset, Attempt: m.Attempt,
			PublishedAt: timeOf(m.Position.Ms()), CorrelationID: m.Meta.CorrelationID, TraceParent: m.Meta.TraceParent,
			TraceID: traceID(m.Meta.TraceParent), LeaseExpiresAt: timeOf(m.LeaseExpiresAtMs),
		}
	}
	return web.WriteRawJSON(c, http.StatusOK, out)
}

// untilStopping is ctx, which also ends when the service stops.
func (h *Handlers) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if h.deps.Stopping == nil {
		return ctx, cancel
	}
	unhook := context.AfterFunc(h.deps.Stopping, cancel)
	return ctx, func() {
		unhook()
		cancel()
	}
}

// traceID is the second field of a traceparent.
func traceID(traceParent string) string {
	if len(traceParent) < 35 {
		return ""
	}
	return traceParent[3:35]
}

// settleRequest is the body of ack; nack and extend add a field each.
type settleRequest struct {
	AckTokens []string `json:"ackTokens"`
}

type nackRequest struct {
	settleRequest

	DelayMs *int64 `json:"delayMs"`
	Error   string `json:"error"`
}

type extendRequest struct {
	settleRequest

	LeaseMs int64 `json:"leaseMs"`
}

// settled is what became of one token.
type settled struct {
	AckToken       string     `json:"ackToken"`
	Status         string     `json:"status,omitempty"`
	LeaseExpiresAt *web.Time  `json:"leaseExpiresAt,omitempty"`
	Error          *web.Error `json:"error,omitempty"`
}

type settleAnswer struct {
	Results []settled `json:"results"`
}

func (h *Handlers) ack(c echo.Context) error {
	var req settleRequest
	id, caller, err := h.onSubscription(c, &req, SettleBodyMax)
	if err != nil {
		return err
	}
	results, err := h.deps.Commands.Ack(c.Request().Context(), caller, id, req.AckTokens)
	return h.answerSettled(c, results, err)
}

func (h *Handlers) nack(c echo.Context) error {
	var req nackRequest
	id, caller, err := h.onSubscription(c, &req, SettleBodyMax)
	if err != nil {
		return err
	}
	results, err := h.deps.Commands.Nack(c.Request().Context(), caller, commands.Nack{
		SubscriptionID: id, AckTokens: req.AckTokens, DelayMs: req.DelayMs, Error: req.Error,
	})
	return h.answerSettled(c, results, err)
}

func (h *Handlers) extend(c echo.Context) error {
	var req extendRequest
	id, caller, err := h.onSubscription(c, &req, SettleBodyMax)
	if err != nil {
		return err
	}
	results, err := h.deps.Commands.Extend(c.Request().Context(), caller, id, req.AckTokens, req.LeaseMs)
	return h.answerSettled(c, results, err)
}

// onSubscription reads what every request on a subscription has. An id that is no
// UUID is the id of no subscription.
func (h *Handlers) onSubscription(c echo.Context, req any, bodyMax int64) (string, commands.Caller, error) {
	if err := web.Decode(c, req, bodyMax); err != nil {
		return "", commands.Caller{}, err
	}
	caller, err := h.caller(c)
	if err != nil {
		return "", commands.Caller{}, err
	}
	return c.Param("id"), caller, checkID(c)
}

// checkID refuses an id in the path that is no UUID.
func checkID(c echo.Context) error {
	if web.ValidUUID(c.Param("id")) {
		return nil
	}
	return web.Invalid(web.Detail{Field: "id", Limit: "a UUID in lower case", Problem: "is not one"})
}

// answerSettled answers 200 with a result per token: a batch of tokens has no one
// outcome.
func (h *Handlers) answerSettled(c echo.Context, results []commands.Settled, err error) error {
	if err != nil {
		return h.httpError(err)
	}
	out := settleAnswer{Results: make([]settled, len(results))}
	for i, r := range results {
		out.Results[i] = settled{AckToken: r.AckToken, Status: r.Status}
		if r.LeaseExpiresAtMs != 0 {
			at := timeOf(r.LeaseExpiresAtMs)
			out.Results[i].LeaseExpiresAt = &at
		}
		if r.Err != nil {
			out.Results[i].Error = h.httpError(r.Err)
		}
	}
	return web.WriteJSON(c, http.StatusOK, out)
}
