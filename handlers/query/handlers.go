package query

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/proof"
	"github.com/tallymq/tallymq/queries"
)

// Codes of what is not there.
const (
	codeQueueNotFound        = "MQ_QUEUE_NOT_FOUND"
	codeSubscriptionNotFound = "MQ_SUBSCRIPTION_NOT_FOUND"
	codeMessageNotFound      = "MQ_MESSAGE_NOT_FOUND"
	codeScheduleNotFound     = "MQ_SCHEDULE_NOT_FOUND"
	codeJobNotFound          = "MQ_JOB_NOT_FOUND"
	// codeHistoryGone is of what retention has dropped.
	codeHistoryGone = "MQ_HISTORY_GONE"
)

// ErrStateUnavailable is what the errors of Deps.State and Deps.LedgerLive are wrapped in
// where Redis does not answer.
var ErrStateUnavailable = errors.New("live state is not available")

// queryTimeout bounds one request's queries.
const queryTimeout = 10 * time.Second

// Deps is what the handlers need.
type Deps struct {
	// DB is what a tenant's queries run on.
	DB      func(tenantID string) queries.DB
	Cursors web.Cursors
	// State returns a queue's delivery at this moment.
	State func(ctx context.Context, q queries.Queue) (State, error)
	// Open decrypts a message's payload, OpenEvent the payload within an event's data;
	// they return what is not encrypted as it is.
	Open      func(ctx context.Context, tenantID, topicID, messageID string, payload []byte) ([]byte, error)
	OpenEvent func(ctx context.Context, tenantID, kind string, data []byte) ([]byte, error)
	// MessageIDBound is the least message id that can be of an instant or later.
	MessageIDBound func(time.Time) string
	// LedgerLive returns where a group's messages are, all of it and its position at one
	// moment, or queries.ErrNotFound where the log has no such group.
	LedgerLive func(ctx context.Context, topic queries.QueueRef, group string) (LedgerLive, error)
	// WaitFolded returns once the read tables have everything of a shard up to a position.
	WaitFolded func(ctx context.Context, shard int, position int64) error
	// AllTenants is what the ledger of a group of another tenant's queue is counted on:
	// its topic's events are that tenant's.
	AllTenants func() queries.DB
	// Horizon is since when messages are kept: retention has dropped what was before. It
	// is zero where nothing was dropped yet.
	Horizon func(ctx context.Context) (time.Time, error)
	// Live returns where a message is for a group at this moment; nil, or nothing, is not
	// known.
	Live func(ctx context.Context, q queries.Question) (*queries.LiveMessage, error)
	// NextTick is when a schedule ticks next after a time.
	NextTick func(cron, timeZone string, after time.Time) (time.Time, error)
	// SignProof signs the head in a proof.
	SignProof func(ctx context.Context, d proof.Document) (proof.Document, error)
	Logger    *slog.Logger
}

// Handlers serves the query API.
type Handlers struct{ deps Deps }

// New returns handlers.
func New(deps Deps) *Handlers { return &Handlers{deps: deps} }

// Register adds the routes to the API's group.
func (h *Handlers) Register(g *echo.Group) {
	read := web.Require(web.ScopeRead, web.ScopeAdmin)
	g.GET("/queues", asOfOr(h.queuesAsOf, h.queues), read)
	g.GET("/queues/:name", asOfOr(h.queueAsOf, h.Queue), read)
	g.GET("/queues/:name/history", h.queueHistory, read)
	g.GET("/subscriptions", asOfOr(h.subscriptionsAsOf, h.subscriptions), read)
	g.GET("/subscriptions/:id", asOfOr(h.subscriptionAsOf, h.subscription), read)
	g.GET("/subscriptions/:id/history", h.subscriptionHistory, read)
	g.GET("/messages", asOfOr(h.messagesAsOf, h.messages), read)
	g.GET("/messages/:id", asOfOr(h.messageAsOf, h.message), read)
	g.GET("/messages/:id/events", h.messageEvents, read)
	g.GET("/messages/:id/explain", h.explain, read)
	g.GET("/messages/:id/proof", h.proof, read)
	g.GET("/subscriptions/:id/dead-letters", h.deadLetters, web.Require(web.ScopeRead, web.ScopeConsume, web.ScopeAdmin))
	g.GET("/subscriptions/:id/ledger", asOfOr(h.ledgerAsOf, h.ledger), read)
	g.GET("/schedules", h.schedules, read)
	g.GET("/schedules/:id", h.schedule, read)
	g.GET("/jobs", h.jobs, read)
	g.GET("/jobs/:id", h.job, read)
}

// page is a part of a list, as the API shows it.
type page[T any] struct {
	Data       []T     `json:"data"`
	NextCursor *string `json:"nextCursor"`
}

// list is a request for a page of a list.
type list struct {
	tenantID string
	// name is the list with its filters: a cursor is good for that alone.
	name string
	page queries.Page
}

// parseList reads limit, cursor and filters; other parameters are refused.
func (h *Handlers) parseList(c echo.Context, name string, filters ...string) (list, error) {
	l := list{name: name}
	l.tenantID = web.IdentityOf(c).TenantID
	if err := web.CheckQuery(c, append([]string{"limit", "cursor"}, filters...)...); err != nil {
		return l, err
	}
	for _, f := range filters {
		l.name += "\x00" + c.QueryParam(f)
	}
	var err error
	if l.page.Limit, err = web.ParseLimit(c); err != nil {
		return l, err
	}
	l.page.After, err = h.deps.Cursors.Decode(c, l.tenantID, l.name, 1)
	return l, err
}

// answerList renders a page; last is the key of its last row.
func answerList[R, T any](h *Handlers, c echo.Context, l list, rows []R, next bool, show func(R) T, key func(R) string) error {
	out := page[T]{Data: make([]T, len(rows))}
	for i, row := range rows {
		out.Data[i] = show(row)
	}
	if next {
		cursor := h.deps.Cursors.Encode(l.tenantID, l.name, key(rows[len(rows)-1]))
		out.NextCursor = &cursor
	}
	return web.WriteRawJSON(c, http.StatusOK, out)
}

func withTimeout(c echo.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Request().Context(), queryTimeout)
}

// failed turns a query's error into the API's.
func (h *Handlers) failed(c echo.Context, err error, missing *web.Error) error {
	if errors.Is(err, queries.ErrNotFound) {
		return missing
	}
	ctx := c.Request().Context()
	switch {
	case ctx.Err() != nil:
		h.deps.Logger.Debug("the caller left", "path", c.Path(), "error", err)
	case !errors.Is(err, queries.ErrUnavailable) && !errors.Is(err, ErrStateUnavailable):
		return err // a fault of ours, which the edge logs
	default:
		h.deps.Logger.Warn("query not answered", "path", c.Path(), "requestId", web.RequestID(c), "error", err)
	}
	return web.Unavailable("the read side does not answer; try again")
}

func notFound(code, what, name string) *web.Error {
	return &web.Error{Status: http.StatusNotFound, Code: code, Message: "no " + what + " " + name}
}

// pathID reads an id from the path, in the form in which we write ids.
func pathID(c echo.Context) (string, error) {
	id := c.Param("id")
	if !web.ValidUUID(id) {
		return "", web.Invalid(web.Detail{Field: "id", Limit: "a UUID in lower case", Problem: "is not one"})
	}
	return id, nil
}

// detailID is pathID for a route that has no query parameters.
func detailID(c echo.Context) (string, error) {
	if err := web.CheckQuery(c); err != nil {
		return "", err
	}
	return pathID(c)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
