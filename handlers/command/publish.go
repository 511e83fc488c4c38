package command

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/web"
)

// messageRequest is a message as POST /topics/{name}/publish takes it.
type messageRequest struct {
	Payload       jsontext.Value    `json:"payload"`
	Key           string            `json:"key"`
	Headers       map[string]string `json:"headers"`
	CorrelationID string            `json:"correlationId"`
	ContentType   string            `json:"contentType"`
	Partition     *int              `json:"partition"`
	TTLMs         *int64            `json:"ttlMs"`
	ExpiresAt     *time.Time        `json:"expiresAt"`
	// MaxRetryAttempts and RetryDelayMs override those of subscriptions.
	MaxRetryAttempts *int `json:"maxRetryAttempts"`
	RetryDelayMs     *int `json:"retryDelayMs"`
}

// publishRequest is the body of POST /publish, and one of a batch.
type publishRequest struct {
	messageRequest

	Queue string `json:"queue"`
}

// batchRequest is the body of POST /publish/batch.
type batchRequest struct {
	Messages []publishRequest `json:"messages"`
	Atomic   bool             `json:"atomic"`
}

// publishAnswer says where a message stands. One that is to be published later has a
// ScheduledAt, and neither an offset nor a time yet.
type publishAnswer struct {
	MessageID   string    `json:"messageId"`
	Queue       string    `json:"queue"`
	Partition   int       `json:"partition"`
	Offset      *int64    `json:"offset"`
	Status      string    `json:"status"`
	PublishedAt *web.Time `json:"publishedAt"`
	ScheduledAt *web.Time `json:"scheduledAt,omitempty"`
	Duplicate   bool      `json:"duplicate"`
}

// refusedAnswer is a batch's answer for a message that was not taken.
type refusedAnswer struct {
	Error *web.Error `json:"error"`
}

type batchAnswer struct {
	Results  []any `json:"results"`
	Accepted int   `json:"accepted"`
	Rejected int   `json:"rejected"`
}

func (h *Handlers) publish(c echo.Context) error {
	if cloudevents.Is(c.Request().Header) {
		return h.publishEvents(c, c.QueryParam(queueParameter), queueParameter)
	}
	var req publishRequest
	if err := web.Decode(c, &req, h.bodyMax()); err != nil {
		return err
	}
	return h.publishOne(c, h.message(c, req))
}

// PublishToTopic publishes to the queue that the path parameter name names.
func (h *Handlers) PublishToTopic(c echo.Context) error {
	if cloudevents.Is(c.Request().Header) {
		return h.publishEvents(c, c.Param("name"))
	}
	var req messageRequest
	if err := web.Decode(c, &req, h.bodyMax()); err != nil {
		return err
	}
	return h.publishOne(c, h.message(c, publishRequest{messageRequest: req, Queue: c.Param("name")}))
}

func (h *Handlers) bodyMax() int64 { return int64(h.deps.PayloadBytesMax) + envelopeMax }

func (h *Handlers) publishOne(c echo.Context, m commands.Publish) error {
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	results, err := h.deps.Commands.Publish(c.Request().Context(), caller, []commands.Publish{m}, false)
	if err != nil {
		return h.httpError(err)
	}
	if err := results[0].Err; err != nil {
		return h.httpError(err)
	}
	return web.WriteJSON(c, created(caller), answer(results[0]))
}

func (h *Handlers) publishBatch(c echo.Context) error {
	var req batchRequest
	if err := web.Decode(c, &req, max(BatchBodyMax, h.bodyMax()), "/messages/*/payload"); err != nil {
		return err
	}
	caller, err := h.caller(c)
	if err != nil {
		return err
	}
	batch := make([]commands.Publish, len(req.Messages))
	for i, m := range req.Messages {
		batch[i] = h.message(c, m)
	}
	results, err := h.deps.Commands.Publish(c.Request().Context(), caller, batch, req.Atomic)
	if err != nil {
		return h.httpError(err)
	}
	if req.Atomic {
		if err := h.whyAborted(results); err != nil {
			return err
		}
	}
	return h.answerBatch(c, caller, results)
}

// whyAborted returns the error that kept an atomic batch out, nil where all of it
// went in.
func (h *Handlers) whyAborted(results []commands.Published) error {
	for i, r := range results {
		if r.Err != nil && !commands.IsAborted(r.Err) {
			return h.memberError(i, r.Err)
		}
	}
	return nil
}

// memberError is a message's error with the path of its fields in the batch.
func (h *Handlers) memberError(i int, err error) *web.Error {
	e := h.httpError(err)
	for k := range e.Details {
		e.Details[k].Field = fmt.Sprintf("messages[%d].%s", i, e.Details[k].Field)
	}
	return e
}

// answerBatch answers 201 where all were taken, 207 where some were not, and the
// stores' 503 where none could be tried to the end.
func (h *Handlers) answerBatch(c echo.Context, caller commands.Caller, results []commands.Published) error {
	unavailable := 0
	for _, r := range results {
		if r.Err != nil && h.httpError(r.Err).Status == http.StatusServiceUnavailable {
			unavailable++
		}
	}
	if unavailable == len(results) {
		return h.httpError(results[0].Err)
	}
	out := h.batchResults(results)
	status := created(caller)
	if out.Rejected > 0 {
		status = http.StatusMultiStatus
	}
	return web.WriteJSON(c, status, out)
}

// batchResults shows what became of each message.
func (h *Handlers) batchResults(results []commands.Published) batchAnswer {
	out := batchAnswer{Results: make([]any, len(results))}
	for i, r := range results {
		if r.Err == nil {
			out.Accepted++
			out.Results[i] = answer(r)
			continue
		}
		out.Rejected++
		out.Results[i] = refusedAnswer{Error: h.memberError(i, r.Err)}
	}
	return out
}

// checkPayload returns what is wrong with a payload, nil for nothing.
func (h *Handlers) checkPayload(payload jsontext.Value) *commands.Refusal {
	detail := web.CheckPayload("payload", payload, h.deps.PayloadBytesMax)
	if len(payload) == 0 {
		detail = &web.Detail{Field: "payload", Limit: "any JSON value", Problem: "is missing"}
	}
	if detail == nil {
		return nil
	}
	code := commands.CodeValidationFailed
	if len(payload) > h.deps.PayloadBytesMax {
		code = commands.CodePayloadTooLarge
	}
	return &commands.Refusal{
		Code: code, Reason: fmt.Sprintf("%s %s; allowed: %s", detail.Field, detail.Problem, detail.Limit),
		Problems: []commands.Problem{{Field: detail.Field, Limit: detail.Limit, Text: detail.Problem}},
	}
}

func (h *Handlers) message(c echo.Context, req publishRequest) commands.Publish {
	return commands.Publish{
		ID: h.deps.NewID(), Queue: req.Queue, Payload: json.RawMessage(req.Payload), Key: req.Key, Headers: onBehalf(c, req.Headers),
		CorrelationID: req.CorrelationID, ContentType: req.ContentType, Partition: req.Partition,
		TTLMs: req.TTLMs, ExpiresAt: req.ExpiresAt, MaxRetryAttempts: req.MaxRetryAttempts, RetryDelayMs: req.RetryDelayMs,
		Refused: h.checkPayload(req.Payload),
	}
}

func answer(r commands.Published) publishAnswer {
	out := publishAnswer{MessageID: r.MessageID, Queue: r.Queue, Partition: r.Partition, Duplicate: r.Duplicate}
	if r.ReleaseAtMs != 0 {
		at := timeOf(r.ReleaseAtMs)
		out.Status, out.ScheduledAt = "scheduled", &at
		return out
	}
	at := timeOf(r.Position.Ms())
	out.Status, out.Offset, out.PublishedAt = "published", &r.Offset, &at
	return out
}
