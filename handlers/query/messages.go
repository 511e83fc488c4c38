package query

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// messageStatuses are what ?status= may say.
var messageStatuses = []string{"published", "consumed", "failed", "dead_letter", "scheduled", "cancelled", "expired", "purged"} //nolint:gochecknoglobals // constant

// clockSkewMax is how far the clocks of instances and of the log may be apart for
// ?from= and ?to= to find every message.
const clockSkewMax = time.Hour

// messageAnswer is a message record as the API shows it.
type messageAnswer struct {
	MessageID     string            `json:"messageId"`
	Queue         string            `json:"queue"`
	TopicID       string            `json:"topicId"`
	TenantID      string            `json:"tenantId"`
	Status        string            `json:"status"`
	Key           *string           `json:"key"`
	CorrelationID *string           `json:"correlationId"`
	Headers       map[string]string `json:"headers"`
	// Payload is left out of lists: see payloadSize.
	Payload     web.Raw   `json:"payload,omitzero"`
	PayloadSize *int      `json:"payloadSize"`
	ContentType string    `json:"contentType"`
	Partition   *int      `json:"partition"`
	Offset      *int64    `json:"offset"`
	RetryCount  int       `json:"retryCount"`
	PublishedAt *web.Time `json:"publishedAt"`
	ScheduledAt *web.Time `json:"scheduledAt"`
	ConsumedAt  *web.Time `json:"consumedAt"`
	ExpiresAt   *web.Time `json:"expiresAt"`
	ProducerID  *string   `json:"producerId"`
	TraceID     *string   `json:"traceId"`
	// ErasedAt is when the payload was erased: it is null since.
	ErasedAt *web.Time `json:"erasedAt,omitempty"`
	// Consumption has one entry per attempt; it is left out of lists.
	Consumption []attemptAnswer `json:"consumption,omitzero"`
}

// attemptAnswer is a consumption record as the API shows it.
type attemptAnswer struct {
	ID               string  `json:"id"`
	SubscriptionID   string  `json:"subscriptionId"`
	ConsumerInstance string  `json:"consumerInstance"`
	Partition        *int    `json:"partition"`
	Offset           *int64  `json:"offset"`
	Status           string  `json:"status"`
	Attempt          int     `json:"attempt"`
	RetryCount       int     `json:"retryCount"`
	ProcessingTimeMs *int    `json:"processingTimeMs"`
	Reason           *string `json:"reason"`
	ErrorMessage     *string `json:"errorMessage"`
	// StatusCode is what a webhook answered, null for none.
	StatusCode  *int      `json:"statusCode"`
	ConsumedAt  *web.Time `json:"consumedAt"`
	ProcessedAt *web.Time `json:"processedAt"`
	NextRetryAt *web.Time `json:"nextRetryAt"`
}

// eventAnswer is an event of a message's history as the API shows it.
type eventAnswer struct {
	ID         string   `json:"id"`
	Type       string   `json:"type"`
	OccurredAt web.Time `json:"occurredAt"`
	Shard      int      `json:"shard"`
	// Position is text: it does not fit the integers of every JSON reader
	// (RFC 7493, section 2.2).
	Position string            `json:"position"`
	Metadata map[string]string `json:"metadata"`
	Data     web.Raw           `json:"data"`
}

func showMessage(m queries.Message) messageAnswer {
	return messageAnswer{
		MessageID: m.MessageID, Queue: m.Queue, TopicID: m.TopicID, TenantID: m.TenantID, Status: m.Status, Key: m.Key,
		CorrelationID: m.CorrelationID, Headers: m.Headers, Payload: web.Raw(m.Payload), PayloadSize: m.PayloadSize,
		ContentType: m.ContentType, Partition: m.Partition, Offset: m.Offset, RetryCount: m.RetryCount,
		PublishedAt: web.TimePtr(m.PublishedAt), ScheduledAt: web.TimePtr(m.ScheduledAt), ConsumedAt: web.TimePtr(m.ConsumedAt),
		ExpiresAt: web.TimePtr(m.ExpiresAt), ProducerID: m.ProducerID, TraceID: m.TraceID, ErasedAt: web.TimePtr(m.ErasedAt),
	}
}

func showAttempt(a queries.Attempt) attemptAnswer {
	return attemptAnswer{
		ID: a.ID, SubscriptionID: a.SubscriptionID, ConsumerInstance: a.ConsumerInstance, Partition: a.Partition, Offset: a.Offset,
		Status: a.Status, Attempt: a.Attempt, RetryCount: a.RetryCount, ProcessingTimeMs: a.ProcessingTimeMs, Reason: a.Reason,
		ErrorMessage: a.ErrorMessage, StatusCode: a.StatusCode, ConsumedAt: web.TimePtr(a.ConsumedAt), ProcessedAt: web.TimePtr(a.ProcessedAt), NextRetryAt: web.TimePtr(a.NextRetryAt),
	}
}

func showEvent(e queries.Event) eventAnswer {
	return eventAnswer{
		ID: e.ID, Type: e.Kind, OccurredAt: web.Time(e.OccurredAt), Shard: e.Shard, Position: strconv.FormatInt(e.Position, 10),
		Metadata: e.Metadata, Data: web.Raw(e.Data),
	}
}

func (h *Handlers) messages(c echo.Context) error {
	l, err := h.parseList(c, "messages", "queue", "status", "key", "from", "to")
	if err != nil {
		return err
	}
	filter, err := h.messageFilter(c)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	if filter.Queue != "" {
		if _, err := h.byName(ctx, c, l.tenantID, filter.Queue); err != nil {
			return err
		}
	}
	rows, next, err := queries.Messages(ctx, h.deps.DB(l.tenantID), l.tenantID, filter, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	return answerList(h, c, l, rows, next, showMessage, func(m queries.Message) string { return m.MessageID })
}

func (h *Handlers) messageFilter(c echo.Context) (queries.MessageFilter, error) {
	f := queries.MessageFilter{Queue: c.QueryParam("queue"), Status: c.QueryParam("status"), Key: c.QueryParam("key")}
	if f.Status != "" && !slices.Contains(messageStatuses, f.Status) {
		return f, web.Invalid(web.Detail{Field: "status", Limit: "one of " + strings.Join(messageStatuses, ", "), Problem: "is another"})
	}
	var err error
	if f.From, err = instant(c, "from"); err != nil {
		return f, err
	}
	if f.To, err = instant(c, "to"); err != nil {
		return f, err
	}
	f.IDFrom, f.IDTo = h.deps.MessageIDBound(f.From.Add(-clockSkewMax)), h.deps.MessageIDBound(f.To.Add(clockSkewMax))
	return f, nil
}

// instant reads an optional time; years outside 1970 to 9999 no message can have.
func instant(c echo.Context, name string) (time.Time, error) {
	value := c.QueryParam(name)
	if value == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil || t.Year() < 1971 || t.Year() > 9998 {
		return t, web.Invalid(web.Detail{Field: name, Limit: "a time as in RFC 3339, such as 2026-01-31T08:00:00Z", Problem: "is not one"})
	}
	return t, nil
}

func (h *Handlers) message(c echo.Context) error {
	id, err := detailID(c)
	if err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	m, err := queries.MessageByID(ctx, h.deps.DB(tenantID), tenantID, id)
	if err != nil {
		return h.failed(c, err, notFound(codeMessageNotFound, "message", id))
	}
	if err := h.open(ctx, &m); err != nil {
		return h.failed(c, err, nil)
	}
	attempts, err := queries.Attempts(ctx, h.deps.DB(tenantID), tenantID, id)
	if err != nil {
		return h.failed(c, err, nil)
	}
	return web.WriteRawJSON(c, http.StatusOK, showMessageDetail(m, attempts))
}

// open decrypts a message's payload, where it is encrypted.
func (h *Handlers) open(ctx context.Context, m *queries.Message) error {
	if m.Payload == nil {
		m.Payload = []byte("null") // it was erased
		return nil
	}
	if !m.Sealed {
		return nil
	}
	var err error
	if m.Payload, err = h.deps.Open(ctx, m.TenantID, m.TopicID, m.MessageID, m.Payload); err != nil {
		return fmt.Errorf("%w: %w", ErrStateUnavailable, err)
	}
	return nil
}

func showMessageDetail(m queries.Message, attempts []queries.Attempt) messageAnswer {
	out := showMessage(m)
	out.Consumption = make([]attemptAnswer, len(attempts))
	for i, a := range attempts {
		out.Consumption[i] = showAttempt(a)
	}
	return out
}

func (h *Handlers) messageEvents(c echo.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	l, err := h.parseList(c, "events of "+id)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	rows, next, err := queries.MessageEvents(ctx, h.deps.DB(l.tenantID), l.tenantID, id, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	if len(rows) == 0 && len(l.page.After) == 0 {
		return notFound(codeMessageNotFound, "message", id)
	}
	for i := range rows {
		if rows[i].Data, err = h.deps.OpenEvent(ctx, rows[i].TenantID, rows[i].Kind, rows[i].Data); err != nil {
			return h.failed(c, fmt.Errorf("%w: %w", ErrStateUnavailable, err), nil)
		}
	}
	return answerList(h, c, l, rows, next, showEvent, func(e queries.Event) string { return strconv.FormatInt(e.Position, 10) })
}
