package command

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/web"
)

// queueParameter names the queue of a CloudEvents request to POST /publish: the event
// itself has no place for it.
const queueParameter = "queue"

// publishEvents publishes what comes as CloudEvents (HTTP protocol binding 1.0.2):
// binary and structured mode are answered as one message, batched mode as a batch.
// Without an Idempotency-Key an event's source and id are the key, as they identify it:
// whoever sends it again, in whatever mode, publishes it once.
func (h *Handlers) publishEvents(c echo.Context, queue string, parameters ...string) error {
	caller, err := h.caller(c, parameters...)
	if err != nil {
		return err
	}
	list, isBatch, err := cloudevents.Parse(c, cloudevents.Limits{
		BodyBytesMax: h.bodyMax(), BatchBytesMax: max(BatchBodyMax, h.bodyMax()),
		PayloadBytesMax: h.deps.PayloadBytesMax, EventsMax: commands.BatchMessagesMax,
	})
	if err != nil {
		return err //nolint:wrapcheck // the API's own
	}
	batch := make([]commands.Publish, 0, len(list))
	for i := range list {
		if list[i].Problem == nil {
			batch = append(batch, h.event(c, caller, queue, &list[i]))
		} else if !isBatch {
			return list[i].Problem
		}
	}
	var results []commands.Published
	if len(batch) > 0 {
		if results, err = h.deps.Commands.Publish(c.Request().Context(), caller, batch, false); err != nil {
			return h.httpError(err)
		}
	}
	if !isBatch {
		if err := results[0].Err; err != nil {
			return h.httpError(err)
		}
		return web.WriteJSON(c, created(caller), answer(results[0]))
	}
	if len(batch) == len(list) && len(list) > 0 {
		return h.answerBatch(c, caller, results)
	}
	return answerEvents(c, created(caller), list, h.batchResults(results))
}

// answerEvents answers a batch some of whose events could not be read: each has its own
// answer, in order.
func answerEvents(c echo.Context, status int, list []cloudevents.Event, read batchAnswer) error {
	out := batchAnswer{Results: make([]any, 0, len(list)), Accepted: read.Accepted, Rejected: read.Rejected}
	next := 0
	for i := range list {
		if list[i].Problem != nil {
			out.Rejected++
			out.Results = append(out.Results, refusedAnswer{Error: list[i].Problem})
			continue
		}
		out.Results = append(out.Results, read.Results[next])
		next++
	}
	if out.Rejected > 0 {
		status = http.StatusMultiStatus
	}
	return web.WriteJSON(c, status, out)
}

func (h *Handlers) event(c echo.Context, caller commands.Caller, queue string, e *cloudevents.Event) commands.Publish {
	p := commands.Publish{
		ID: h.deps.NewID(), Queue: queue, Payload: []byte(e.Payload), Key: e.Key, Headers: onBehalf(c, e.Headers),
		ContentType: e.ContentType, TraceParent: e.TraceParent,
	}
	if !traceParent.MatchString(p.TraceParent) {
		p.TraceParent = ""
	}
	if caller.IdempotencyKey == "" {
		p.EventKey = cloudevents.IdempotencyKey(e)
	}
	return p
}

// headerOnBehalf is the message header that says for which tenant the platform's own
// published something in a queue of theirs.
const headerOnBehalf = "x-tenant-id"

// onBehalf adds that header where it applies.
func onBehalf(c echo.Context, headers map[string]string) map[string]string {
	tenantID := web.IdentityOf(c).OnBehalfOf
	if tenantID == "" {
		return headers
	}
	out := map[string]string{headerOnBehalf: tenantID}
	for name, value := range headers {
		if name != headerOnBehalf {
			out[name] = value
		}
	}
	return out
}
