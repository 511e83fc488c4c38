package query

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// LedgerLive is where a group's messages are at one moment.
type LedgerLive = queries.LedgerLive

const (
	// ledgerWait is how long a ledger waits for the read tables to have what Redis had.
	ledgerWait = 5 * time.Second
	// ledgerTries is how often a ledger is read anew where the group began or ended
	// meanwhile.
	ledgerTries = 3
)

// ledgerAnswer is a group's account as the API shows it, all of it at one position.
type ledgerAnswer struct {
	SubscriptionID string `json:"subscriptionId"`
	Queue          string `json:"queue"`
	ConsumerGroup  string `json:"consumerGroup"`
	// Position is text, as in eventAnswer, and At its time.
	Position string   `json:"position"`
	At       web.Time `json:"at"`

	Published int64 `json:"published"`
	Replayed  int64 `json:"replayed"`

	Consumed  int64 `json:"consumed"`
	InFlight  int64 `json:"inFlight"`
	Waiting   int64 `json:"waiting"`
	Scheduled int64 `json:"scheduled"`
	Retrying  int64 `json:"retrying"`
	Dead      int64 `json:"dead"`
	Filtered  int64 `json:"filtered"`
	Expired   int64 `json:"expired"`
	Purged    int64 `json:"purged"`

	Difference int64 `json:"difference"`
	Balanced   bool  `json:"balanced"`
}

func showLedger(s queries.Subscription, l queries.Ledger) ledgerAnswer {
	return ledgerAnswer{
		SubscriptionID: s.ID, Queue: s.Queue, ConsumerGroup: s.ConsumerGroup,
		Position: strconv.FormatInt(l.Live.Position, 10), At: web.Time(queries.PositionTime(l.Live.Position)),
		Published: l.Published, Replayed: l.Replayed, Consumed: l.Consumed, InFlight: l.Live.InFlight, Waiting: l.Live.Waiting,
		Scheduled: l.Live.Scheduled, Retrying: l.Live.Retrying, Dead: l.Dead, Filtered: l.Filtered, Expired: l.Expired, Purged: l.Purged,
		Difference: l.Difference(), Balanced: l.Balanced(),
	}
}

func (h *Handlers) ledger(c echo.Context) error {
	id, err := detailID(c)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(c)
	defer cancel()
	s, topic, err := h.subscribed(ctx, c, id)
	if err != nil {
		return err
	}
	l, err := h.account(ctx, s, topic)
	if err != nil {
		return h.failed(c, err, subscriptionMissing(id))
	}
	return web.WriteRawJSON(c, http.StatusOK, showLedger(s, l))
}

func subscriptionMissing(id string) *web.Error {
	return notFound(codeSubscriptionNotFound, "subscription", id)
}

// subscribed returns the caller's subscription and its topic, or the API's error.
func (h *Handlers) subscribed(ctx context.Context, c echo.Context, id string) (queries.Subscription, queries.QueueRef, error) {
	tenantID := web.IdentityOf(c).TenantID
	db := h.deps.DB(tenantID)
	s, err := queries.SubscriptionByID(ctx, db, tenantID, id)
	if err != nil {
		return s, queries.QueueRef{}, h.failed(c, err, subscriptionMissing(id))
	}
	topic, err := queries.TopicByID(ctx, db, s.TopicID)
	if err != nil {
		return s, topic, h.failed(c, err, subscriptionMissing(id))
	}
	return s, topic, nil
}

// account reads what Redis has, waits until history has that too, and reads history as it
// was then. Where the group began or ended between, it begins anew.
func (h *Handlers) account(ctx context.Context, s queries.Subscription, topic queries.QueueRef) (queries.Ledger, error) {
	db, group := h.deps.DB(s.TenantID), queries.GroupOf(s, topic)
	if topic.TenantID != s.TenantID {
		db = h.deps.AllTenants()
	}
	var l queries.Ledger
	for range ledgerTries {
		var err error
		if l.Live, err = h.deps.LedgerLive(ctx, topic, group); err != nil {
			return l, fmt.Errorf("ledger: %w", err)
		}
		if err := h.waitFolded(ctx, topic.Shard, l.Live.Position); err != nil {
			return l, err
		}
		l.Account, err = queries.AccountOf(ctx, db, topic.Shard, topic.ID, group, l.Live.Position)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, queries.ErrMoved) && !errors.Is(err, queries.ErrNotFound) {
			return l, err //nolint:wrapcheck // says what it does
		}
	}
	return l, fmt.Errorf("%w: the consumer group changes while it is counted", ErrStateUnavailable)
}

func (h *Handlers) waitFolded(ctx context.Context, shard int, position int64) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerWait)
	defer cancel()
	if err := h.deps.WaitFolded(ctx, shard, position); err != nil {
		return fmt.Errorf("%w: wait for the read tables: %w", ErrStateUnavailable, err)
	}
	return nil
}
