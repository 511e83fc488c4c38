package query

import (
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// messageThen is a message record as it was.
type messageThen struct {
	messageAnswer

	AsOf asOfAnswer `json:"asOf"`
}

func (h *Handlers) messagesAsOf(c echo.Context) error {
	ctx, cancel := withTimeout(c)
	defer cancel()
	l, err := h.parsePastList(ctx, c, "messages", "queue", "status", "key", "from", "to")
	if err != nil {
		return err
	}
	filter, err := h.messageFilter(c)
	if err != nil {
		return err
	}
	if l.asOf.Position < l.asOf.Kept {
		return historyGone(l.asOf.Kept)
	}
	if filter.Queue != "" {
		if _, err := h.byNameThen(ctx, c, l.tenantID, filter.Queue, l.asOf); err != nil {
			return err
		}
	}
	rows, next, err := queries.MessagesAsOf(ctx, h.deps.DB(l.tenantID), h.deps.AllTenants(), l.tenantID, filter, l.asOf, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	kept, err := h.requireKept(ctx, c, l.asOf)
	if err != nil {
		return err
	}
	asOf := showAsOfShards(l.asOf)
	if kept > 0 {
		since := queries.PositionTime(kept)
		asOf.KeptSince = web.TimePtr(&since)
	}
	return answerPast(h, c, l, rows, next, asOf, showMessage)
}

func (h *Handlers) messageAsOf(c echo.Context) error {
	if err := web.CheckQuery(c, asOfParam); err != nil {
		return err
	}
	id, err := pathID(c)
	if err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	asOf, err := h.asOf(ctx, c, tenantID)
	if err != nil {
		return err
	}
	m, attempts, err := h.readMessageThen(ctx, tenantID, id, asOf)
	// A message from before is not told apart from none, whatever is left of it.
	kept, keptErr := h.requireKept(ctx, c, asOf)
	switch {
	case keptErr != nil:
		return keptErr
	case errors.Is(err, queries.ErrGone), kept > 0 && id < h.deps.MessageIDBound(queries.PositionTime(kept)):
		return historyGone(kept)
	case err != nil:
		return h.failed(c, err, notFound(codeMessageNotFound, "message", id))
	}
	return web.WriteRawJSON(c, http.StatusOK, messageThen{messageAnswer: showMessageDetail(m.Message, attempts), AsOf: showAsOf(asOf.Of(m.Shard))})
}

func (h *Handlers) readMessageThen(ctx context.Context, tenantID, id string, asOf queries.AsOf) (queries.MessageThen, []queries.Attempt, error) {
	db := h.deps.DB(tenantID)
	m, err := queries.MessageAsOf(ctx, db, h.deps.AllTenants(), tenantID, id, asOf)
	if err != nil {
		return m, nil, err //nolint:wrapcheck // says what it does
	}
	if err := h.open(ctx, &m.Message); err != nil {
		return m, nil, err
	}
	attempts, err := queries.AttemptsAsOf(ctx, db, tenantID, id, asOf.Of(m.Shard))
	return m, attempts, err //nolint:wrapcheck // says what it does
}

// ledgerThen is a group's account as it was. Where its messages were that were not settled
// only Redis knew.
type ledgerThen struct {
	SubscriptionID string   `json:"subscriptionId"`
	Queue          string   `json:"queue"`
	ConsumerGroup  string   `json:"consumerGroup"`
	Position       string   `json:"position"`
	At             web.Time `json:"at"`

	Published int64 `json:"published"`
	Replayed  int64 `json:"replayed"`

	Consumed  int64 `json:"consumed"`
	Unsettled int64 `json:"unsettled"`
	Scheduled int64 `json:"scheduled"`
	Dead      int64 `json:"dead"`
	Filtered  int64 `json:"filtered"`
	Expired   int64 `json:"expired"`
	Purged    int64 `json:"purged"`

	AsOf asOfAnswer `json:"asOf"`
}

func (h *Handlers) ledgerAsOf(c echo.Context) error {
	ctx, cancel := withTimeout(c)
	defer cancel()
	id, asOf, err := h.parseSubscriptionThen(ctx, c)
	if err != nil {
		return err
	}
	if asOf.Position < asOf.Kept {
		return historyGone(asOf.Kept)
	}
	s, err := h.subscribedThen(ctx, c, id, asOf)
	if err != nil {
		return err
	}
	a, err := h.accountThen(ctx, s, asOf)
	kept, keptErr := h.requireKept(ctx, c, asOf)
	switch {
	case keptErr != nil:
		return keptErr
	case errors.Is(err, queries.ErrGone):
		return historyGone(kept)
	case errors.Is(err, queries.ErrMoved):
		return h.historyMoves(c)
	case err != nil:
		return h.failed(c, err, subscriptionMissing(id))
	}
	at := showAsOf(asOf.Of(s.Shard))
	return web.WriteRawJSON(c, http.StatusOK, ledgerThen{
		SubscriptionID: s.ID, Queue: s.Queue, ConsumerGroup: s.ConsumerGroup, Position: at.Position, At: at.Time,
		Published: a.Published, Replayed: a.Replayed, Consumed: a.Consumed, Unsettled: a.Unsettled(), Scheduled: a.Scheduled,
		Dead: a.Dead, Filtered: a.Filtered, Expired: a.Expired, Purged: a.Purged, AsOf: at,
	})
}

func (h *Handlers) accountThen(ctx context.Context, s queries.SubscriptionThen, asOf queries.AsOf) (queries.Account, error) {
	db := h.deps.DB(s.TenantID)
	if !s.OwnTopic {
		db = h.deps.AllTenants()
	}
	return queries.AccountAsOf(ctx, db, s, asOf) //nolint:wrapcheck // says what it does
}
