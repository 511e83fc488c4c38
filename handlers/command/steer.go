package command

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// seekRequest is the body of POST /subscriptions/{id}/seek: a place in words or as a time,
// or an offset, as a number or as text.
type seekRequest struct {
	To jsontext.Value `json:"to"`
}

// place is the place that was asked for, as the command has it. What is neither text nor
// a number stays as it is, for the command to refuse.
func (r seekRequest) place() string {
	if r.To.Kind() != '"' {
		return string(r.To)
	}
	text, err := jsontext.AppendUnquote(nil, r.To)
	if err != nil {
		return string(r.To)
	}
	return string(text)
}

type seekAnswer struct {
	SubscriptionID string `json:"subscriptionId"`
	To             string `json:"to"`
	Older          bool   `json:"older"`
	JobID          string `json:"jobId,omitempty"`
}

// seek moves a subscription's group, and starts a job for what only history has of that.
func (h *Handlers) seek(c echo.Context) error {
	var req seekRequest
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
	ctx := c.Request().Context()
	cmd := commands.Seek{SubscriptionID: c.Param("id"), IfVersion: ifVersion, To: req.place()}
	sought, err := h.deps.Commands.Seek(ctx, caller, cmd)
	if err != nil {
		return h.httpError(err)
	}
	out := seekAnswer{SubscriptionID: cmd.SubscriptionID, To: cmd.To, Older: sought.Older}
	if sought.Older {
		job, err := h.deps.Jobs.Older(ctx, caller, sought.Subscription, cmd.To)
		if refusal, ok := errors.AsType[*commands.Refusal](err); ok {
			err = &commands.Refusal{
				Code: refusal.Code, Problems: refusal.Problems,
				Reason: "the subscription is at " + cmd.To + ", but what only history has does not come: " + refusal.Reason,
			}
		}
		if err != nil {
			return h.httpError(err)
		}
		out.JobID = job.ID
	}
	return web.WriteJSON(c, changed(caller), out)
}

// filterRequest is the body of POST /subscriptions/{id}/test-filter.
type filterRequest struct {
	Payload       jsontext.Value    `json:"payload"`
	Key           string            `json:"key"`
	Headers       map[string]string `json:"headers"`
	MessageFilter jsontext.Value    `json:"messageFilter"`
}

type filterAnswer struct {
	Matches bool   `json:"matches"`
	Why     string `json:"why"`
}

func (h *Handlers) testFilter(c echo.Context) error {
	var req filterRequest
	id, caller, err := h.onSubscription(c, &req, h.bodyMax())
	if err != nil {
		return err
	}
	if refusal := h.checkPayload(req.Payload); refusal != nil {
		return h.httpError(refusal)
	}
	matches, why, err := h.deps.Commands.TestFilter(c.Request().Context(), caller, commands.TestFilter{
		SubscriptionID: id, MessageFilter: given(req.MessageFilter), Key: req.Key, Headers: req.Headers, Payload: json.RawMessage(req.Payload),
	})
	if err != nil {
		return h.httpError(err)
	}
	return web.WriteJSON(c, http.StatusOK, filterAnswer{Matches: matches, Why: why})
}

// secretsAnswer has a webhook's secrets, the current one first.
type secretsAnswer struct {
	Secrets   []string  `json:"secrets"`
	RotatedAt *web.Time `json:"rotatedAt,omitempty"`
}

func (h *Handlers) secrets(c echo.Context) error {
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	sub, infos, err := h.deps.Commands.Secrets(c.Request().Context(), caller, c.Param("id"))
	if err != nil {
		return h.httpError(err)
	}
	return h.answerSecrets(c, http.StatusOK, sub, infos)
}

func (h *Handlers) rotateSecret(c echo.Context) error {
	caller, ifVersion, err := h.changerWithoutBody(c)
	if err != nil {
		return err
	}
	if err := checkID(c); err != nil {
		return err
	}
	sub, _, err := h.deps.Commands.RotateSecret(c.Request().Context(), caller, c.Param("id"), ifVersion)
	if err != nil {
		return h.httpError(err)
	}
	return h.answerSecrets(c, changed(caller), sub, sub.SecretInfos(time.Now()))
}

// answerSecrets shows secrets to whoever asked, and to no cache.
func (h *Handlers) answerSecrets(c echo.Context, status int, sub commands.Subscription, infos []string) error {
	out := secretsAnswer{Secrets: make([]string, len(infos))}
	for i, info := range infos {
		out.Secrets[i] = h.deps.Secret(info)
	}
	if sub.Config.SecretGeneration > 0 {
		at := timeOf(sub.Config.OldSecretUntilMs - commands.SecretOverlap.Milliseconds())
		out.RotatedAt = &at
	}
	header := c.Response().Header()
	header.Set("ETag", web.ETag(sub.Version))
	header.Set("Cache-Control", "no-store")
	return web.WriteJSON(c, status, out)
}
