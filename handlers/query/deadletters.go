package query

import (
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// deadReasons are what ?reason= may say.
var deadReasons = []string{"nack", "lease_expired", "released", "unreadable", "webhook"} //nolint:gochecknoglobals // constant

// deadLetterAnswer is a dead letter as the API shows it. What its message's record says is
// null where retention has dropped that, or the queue is another tenant's.
type deadLetterAnswer struct {
	MessageID string `json:"messageId"`
	Queue     string `json:"queue"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	// Attempt is the last one's number, Attempts how many there were.
	Attempt     int               `json:"attempt"`
	Attempts    int               `json:"attempts"`
	Reason      string            `json:"reason"`
	Error       *string           `json:"error"`
	StatusCode  *int              `json:"statusCode"`
	DeadAt      web.Time          `json:"deadAt"`
	Key         *string           `json:"key"`
	Headers     map[string]string `json:"headers"`
	PayloadSize *int              `json:"payloadSize"`
	ContentType *string           `json:"contentType"`
	PublishedAt *web.Time         `json:"publishedAt"`
}

func (h *Handlers) deadLetters(c echo.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	l, err := h.parseList(c, "dead letters of "+id, "reason", "from", "to")
	if err != nil {
		return err
	}
	filter, err := deadLetterFilter(c)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	s, topic, err := h.subscribed(ctx, c, id)
	if err != nil {
		return err
	}
	rows, next, err := queries.DeadLetters(ctx, h.deps.DB(l.tenantID), l.tenantID, topic.ID, queries.GroupOf(s, topic), filter, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	show := func(d queries.DeadLetter) deadLetterAnswer {
		return deadLetterAnswer{
			MessageID: d.MessageID, Queue: s.Queue, Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt, Attempts: d.Attempts,
			Reason: d.Reason, Error: d.Error, StatusCode: d.StatusCode, DeadAt: web.Time(d.DeadAt), Key: d.Key, Headers: d.Headers,
			PayloadSize: d.PayloadSize, ContentType: d.ContentType, PublishedAt: web.TimePtr(d.PublishedAt),
		}
	}
	return answerList(h, c, l, rows, next, show, func(d queries.DeadLetter) string { return strconv.FormatInt(d.Position, 10) })
}

func deadLetterFilter(c echo.Context) (queries.DeadLetterFilter, error) {
	f := queries.DeadLetterFilter{Reason: c.QueryParam("reason")}
	if f.Reason != "" && !slices.Contains(deadReasons, f.Reason) {
		return f, web.Invalid(web.Detail{Field: "reason", Limit: "one of " + strings.Join(deadReasons, ", "), Problem: "is another"})
	}
	var err error
	if f.From, err = instant(c, "from"); err != nil {
		return f, err
	}
	f.To, err = instant(c, "to")
	return f, err
}
