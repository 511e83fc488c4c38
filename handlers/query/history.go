package query

import (
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// changeAnswer is a change of a queue or a subscription as the API shows it.
type changeAnswer struct {
	ID             string        `json:"id"`
	Type           string        `json:"type"`
	OccurredAt     web.Time      `json:"occurredAt"`
	Shard          int           `json:"shard"`
	Position       string        `json:"position"`
	Version        int64         `json:"version"`
	Actor          *string       `json:"actor"`
	RequestID      *string       `json:"requestId"`
	TopicID        string        `json:"topicId"`
	SubscriptionID *string       `json:"subscriptionId,omitempty"`
	Changes        []fieldAnswer `json:"changes"`
	// Details is what else the event says.
	Details web.Raw `json:"details,omitempty"`
}

type fieldAnswer struct {
	Field string  `json:"field"`
	From  web.Raw `json:"from"`
	To    web.Raw `json:"to"`
}

func showChange(e queries.Change) changeAnswer {
	out := changeAnswer{
		ID: e.ID, Type: e.Kind, OccurredAt: web.Time(e.OccurredAt), Shard: e.Shard, Position: showPosition(e.Position), Version: e.Version,
		Actor: e.Actor, RequestID: e.RequestID, TopicID: e.TopicID, SubscriptionID: e.SubscriptionID,
		Changes: make([]fieldAnswer, len(e.Fields)), Details: web.Raw(e.Details),
	}
	for i, f := range e.Fields {
		out.Changes[i] = fieldAnswer{Field: f.Field, From: web.Raw(f.From), To: web.Raw(f.To)}
	}
	return out
}

func changeKey(e queries.Change) string { return showPosition(e.Position) }

// queueHistory is the owner's: who changed a public queue is not for others.
func (h *Handlers) queueHistory(c echo.Context) error {
	name := c.Param("name")
	l, err := h.parseList(c, "history of "+name)
	if err != nil {
		return err
	}
	missing := notFound(codeQueueNotFound, "queue", strconv.Quote(name))
	if !web.ValidText(name) {
		return missing
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	rows, next, err := queries.QueueHistory(ctx, h.deps.DB(l.tenantID), l.tenantID, name, l.page)
	if err != nil {
		return h.failed(c, err, missing)
	}
	return answerList(h, c, l, rows, next, showChange, changeKey)
}

func (h *Handlers) subscriptionHistory(c echo.Context) error {
	id, err := pathID(c)
	if err != nil {
		return err
	}
	l, err := h.parseList(c, "history of "+id)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	rows, next, err := queries.SubscriptionHistory(ctx, h.deps.DB(l.tenantID), l.tenantID, id, l.page)
	if err != nil {
		return h.failed(c, err, subscriptionMissing(id))
	}
	return answerList(h, c, l, rows, next, showChange, changeKey)
}
