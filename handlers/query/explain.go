package query

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// explainAnswer says whether a message was delivered to a subscription, and why or why
// not. Payloads are not in it.
type explainAnswer struct {
	MessageID      string                `json:"messageId"`
	SubscriptionID string                `json:"subscriptionId"`
	Verdict        string                `json:"verdict"`
	Reason         string                `json:"reason"`
	Message        explainedMessage      `json:"message"`
	Subscription   explainedSubscription `json:"subscription"`
	Events         []eventAnswer         `json:"events"`
	Attempts       []attemptAnswer       `json:"attempts"`
	DeadLetter     *explainedDeadLetter  `json:"deadLetter,omitempty"`
	Live           *explainedLive        `json:"live,omitempty"`
}

// explainedMessage is the message; of one of another tenant's queue little is known.
type explainedMessage struct {
	Queue       *string   `json:"queue"`
	Status      *string   `json:"status"`
	PublishedAt *web.Time `json:"publishedAt"`
	ScheduledAt *web.Time `json:"scheduledAt"`
	ExpiresAt   *web.Time `json:"expiresAt"`
	Partition   *int      `json:"partition"`
	Offset      *int64    `json:"offset"`
}

// explainedSubscription is the subscription as it is now.
type explainedSubscription struct {
	Queue             string   `json:"queue"`
	ConsumerGroup     string   `json:"consumerGroup"`
	SubscriptionType  string   `json:"subscriptionType"`
	OffsetResetPolicy string   `json:"offsetResetPolicy"`
	MessageFilter     web.Raw  `json:"messageFilter,omitempty"`
	MaxRetryAttempts  int      `json:"maxRetryAttempts"`
	RetryDelayMs      int      `json:"retryDelayMs"`
	DeadLetterQueue   string   `json:"deadLetterQueue,omitempty"`
	Status            string   `json:"status"`
	CreatedAt         web.Time `json:"createdAt"`
	Version           int64    `json:"version"`
}

// explainedDeadLetter is the last time that the group gave the message up.
type explainedDeadLetter struct {
	Attempt    int       `json:"attempt"`
	Attempts   int       `json:"attempts"`
	Reason     string    `json:"reason"`
	Error      *string   `json:"error"`
	StatusCode *int      `json:"statusCode"`
	DeadAt     web.Time  `json:"deadAt"`
	RedrivenAt *web.Time `json:"redrivenAt"`
}

// explainedLive is where the log has the message for the group now.
type explainedLive struct {
	State          string    `json:"state"`
	LeaseExpiresAt *web.Time `json:"leaseExpiresAt,omitempty"`
	NextRetryAt    *web.Time `json:"nextRetryAt,omitempty"`
	Ahead          *int64    `json:"ahead,omitempty"`
	Behind         string    `json:"behind,omitempty"`
}

func (h *Handlers) explain(c echo.Context) error {
	if err := web.CheckQuery(c, "subscription"); err != nil {
		return err
	}
	id, err := pathID(c)
	if err != nil {
		return err
	}
	subscriptionID := c.QueryParam("subscription")
	if !web.ValidUUID(subscriptionID) {
		return web.Invalid(web.Detail{Field: "subscription", Limit: "a UUID in lower case", Problem: "is not one"})
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	s, topic, err := h.subscribed(ctx, c, subscriptionID)
	if err != nil {
		return err
	}
	x, err := queries.Explain(ctx, h.deps.DB(s.TenantID), s, topic, id, time.Now(), h.live(c))
	if err != nil {
		return h.failed(c, err, notFound(codeMessageNotFound, "message", id))
	}
	return web.WriteRawJSON(c, http.StatusOK, showExplanation(id, s, x))
}

// live asks the log where a message is, and waits until history has what the log had. An
// explanation does without, where that takes too long.
func (h *Handlers) live(c echo.Context) func(context.Context, queries.Question) *queries.LiveMessage {
	if h.deps.Live == nil {
		return nil
	}
	return func(ctx context.Context, q queries.Question) *queries.LiveMessage {
		found, err := h.deps.Live(ctx, q)
		if err == nil && found != nil {
			err = h.waitFolded(ctx, q.Topic.Shard, found.Position)
		}
		if err != nil {
			h.deps.Logger.Warn("live state of a message not known", "messageId", q.MessageID, "requestId", web.RequestID(c), "error", err)
			return nil
		}
		return found
	}
}

func showExplanation(id string, s queries.Subscription, x queries.Explanation) explainAnswer {
	out := explainAnswer{
		MessageID: id, SubscriptionID: s.ID, Verdict: x.Verdict, Reason: x.Reason,
		Message: explainedMessage{Partition: x.Partition, Offset: x.Offset},
		Subscription: explainedSubscription{
			Queue: s.Queue, ConsumerGroup: s.ConsumerGroup, SubscriptionType: s.SubscriptionType, OffsetResetPolicy: s.OffsetResetPolicy,
			MessageFilter: web.Raw(s.MessageFilter), MaxRetryAttempts: s.MaxRetryAttempts, RetryDelayMs: s.RetryDelayMs,
			DeadLetterQueue: text(s.DeadLetterQueue), Status: s.Status, CreatedAt: web.Time(s.CreatedAt), Version: s.Version,
		},
		Events: make([]eventAnswer, len(x.Events)), Attempts: make([]attemptAnswer, len(x.Attempts)),
	}
	if m := x.Message; m != nil {
		out.Message = explainedMessage{
			Queue: &m.Queue, Status: &m.Status, PublishedAt: web.TimePtr(m.PublishedAt), ScheduledAt: web.TimePtr(m.ScheduledAt),
			ExpiresAt: web.TimePtr(m.ExpiresAt), Partition: m.Partition, Offset: m.Offset,
		}
	}
	for i, e := range x.Events {
		out.Events[i] = showEvent(e)
	}
	for i, a := range x.Attempts {
		out.Attempts[i] = showAttempt(a)
	}
	if d := x.DeadLetter; d != nil {
		out.DeadLetter = &explainedDeadLetter{Attempt: d.Attempt, Attempts: d.Attempts, Reason: d.Reason, DeadAt: web.Time(d.DeadAt)}
		if d.Error != "" {
			out.DeadLetter.Error = &d.Error
		}
		if d.StatusCode != 0 {
			out.DeadLetter.StatusCode = &d.StatusCode
		}
		if !d.RedrivenAt.IsZero() {
			out.DeadLetter.RedrivenAt = web.TimePtr(&d.RedrivenAt)
		}
	}
	if l := x.Live; l != nil {
		out.Live = &explainedLive{State: l.State, LeaseExpiresAt: web.TimePtr(l.LeaseExpiresAt), NextRetryAt: web.TimePtr(l.NextRetryAt), Ahead: l.Ahead, Behind: l.Behind}
	}
	return out
}
