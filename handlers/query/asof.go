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

// asOfParam asks for what was true at a time or a position.
const asOfParam = "asOf"

// asOfLimit is what ?asOf= may be.
const asOfLimit = "a time as in RFC 3339, such as 2026-01-31T08:00:00Z, or an event's position, not in the future"

// asOfOr is a route that answers of the past where it is asked to.
func asOfOr(past, present echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if c.QueryParams().Has(asOfParam) {
			return past(c)
		}
		return present(c)
	}
}

// asOfAnswer says as of where an answer is.
type asOfAnswer struct {
	// Position is text, as in eventAnswer, and Time its time.
	Position string   `json:"position"`
	Time     web.Time `json:"time"`
	// Shards has, in a list, the position of each shard.
	Shards []string `json:"shards,omitzero"`
	// KeptSince is since when messages are kept: a list has none from before.
	KeptSince *web.Time `json:"keptSince,omitempty"`
}

func showPosition(n int64) string { return strconv.FormatInt(n, 10) }

func showAsOf(position int64) asOfAnswer {
	return asOfAnswer{Position: showPosition(position), Time: web.Time(queries.PositionTime(position))}
}

func showAsOfShards(asOf queries.AsOf) asOfAnswer {
	out := showAsOf(asOf.Last())
	for _, n := range asOf.Shards() {
		out.Shards = append(out.Shards, showPosition(n))
	}
	return out
}

// asOf reads ?asOf=. More than is folded is not known yet: the answer is as of what is.
func (h *Handlers) asOf(ctx context.Context, c echo.Context, tenantID string) (queries.AsOf, error) {
	var asOf queries.AsOf
	var ok bool
	if asOf.Position, ok = parseAsOf(c.QueryParam(asOfParam)); !ok {
		return asOf, asOfInvalid("is none")
	}
	var err error
	if asOf.Folded, err = queries.Folded(ctx, h.deps.DB(tenantID)); err != nil {
		return asOf, h.failed(c, err, nil)
	}
	// The log's clock may be ahead of ours: what it has given out is no future.
	isGiven := len(asOf.Folded) > 0 && asOf.Position <= slices.Max(asOf.Folded)
	if !isGiven && queries.PositionTime(asOf.Position).After(time.Now()) {
		return asOf, asOfInvalid("is in the future")
	}
	if asOf.Kept, err = h.kept(ctx, c); err != nil {
		return asOf, err
	}
	return asOf, nil
}

func asOfInvalid(problem string) error {
	return web.Invalid(web.Detail{Field: asOfParam, Limit: asOfLimit, Problem: problem})
}

// parseAsOf returns the last position that is meant: a time is all that stands up to it.
func parseAsOf(text string) (position int64, ok bool) {
	if position, err := strconv.ParseInt(text, 10, 64); err == nil {
		return position, text[0] >= '0' && text[0] <= '9'
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1971 || t.Year() > 9998 {
		return 0, false
	}
	return queries.PositionUntil(t), true
}

// kept is the position since which messages are kept.
func (h *Handlers) kept(ctx context.Context, c echo.Context) (int64, error) {
	horizon, err := h.deps.Horizon(ctx)
	if err != nil {
		return 0, h.failed(c, fmt.Errorf("%w: %w", queries.ErrUnavailable, err), nil)
	}
	if horizon.IsZero() {
		return 0, nil
	}
	return queries.PositionFrom(horizon), nil
}

// requireKept refuses what retention has taken from an answer: it is asked once all is
// read, since retention may have worked meanwhile.
func (h *Handlers) requireKept(ctx context.Context, c echo.Context, asOf queries.AsOf) (kept int64, err error) {
	kept, err = h.kept(ctx, c)
	switch {
	case err != nil:
		return kept, err
	case asOf.Position < kept:
		return kept, historyGone(kept)
	case kept != asOf.Kept:
		return kept, h.historyMoves(c)
	}
	return kept, nil
}

func (h *Handlers) historyMoves(c echo.Context) error {
	return h.failed(c, fmt.Errorf("%w: history changes while it is read", ErrStateUnavailable), nil)
}

func historyGone(kept int64) *web.Error {
	since := queries.PositionTime(kept).Format(time.RFC3339)
	return &web.Error{
		Status: http.StatusGone, Code: codeHistoryGone, Message: "messages are kept since " + since + "; what was before is gone",
		Details: []web.Detail{{Field: asOfParam, Limit: since + " or later, and for messages and consumer groups that began since", Problem: "reaches back further"}},
	}
}

// pastPage is a page of a list as of then.
type pastPage[T any] struct {
	page[T]

	AsOf asOfAnswer `json:"asOf"`
}

// pastList is list as of then.
type pastList struct {
	list

	asOf queries.AsOf
}

// cursorBase is how positions are written in cursors.
const cursorBase = 36

// parsePastList is parseList for the past. Further pages are as of where the first one was:
// its positions are in the cursor.
func (h *Handlers) parsePastList(ctx context.Context, c echo.Context, name string, filters ...string) (pastList, error) {
	l := pastList{list: list{name: name + " as of", tenantID: web.IdentityOf(c).TenantID}}
	filters = append(filters, asOfParam)
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
	parts, err := h.deps.Cursors.Decode(c, l.tenantID, l.name, 2)
	if err != nil {
		return l, err
	}
	if l.asOf, err = h.asOf(ctx, c, l.tenantID); err != nil || parts == nil {
		return l, err
	}
	l.page.After = parts[1:]
	l.asOf.Folded = nil
	for text := range strings.SplitSeq(parts[0], ".") {
		position, err := strconv.ParseInt(text, cursorBase, 64)
		if err != nil {
			return l, fmt.Errorf("positions of a cursor: %w", err)
		}
		l.asOf.Folded = append(l.asOf.Folded, position)
	}
	return l, nil
}

// answerPast renders a page as of then; next is the key of where the list goes on, "" at
// its end.
func answerPast[R, T any](h *Handlers, c echo.Context, l pastList, rows []R, next string, asOf asOfAnswer, show func(R) T) error {
	out := pastPage[T]{page: page[T]{Data: make([]T, len(rows))}, AsOf: asOf}
	for i, row := range rows {
		out.Data[i] = show(row)
	}
	if next != "" {
		upTo := l.asOf.Shards()
		positions := make([]string, len(upTo))
		for i, n := range upTo {
			positions[i] = strconv.FormatInt(n, cursorBase)
		}
		cursor := h.deps.Cursors.Encode(l.tenantID, l.name, strings.Join(positions, "."), next)
		out.NextCursor = &cursor
	}
	return web.WriteRawJSON(c, http.StatusOK, out)
}

// queueThen is a queue as it was. What was in it then is not known.
type queueThen struct {
	web.Queue

	AsOf asOfAnswer `json:"asOf"`
}

func (h *Handlers) queuesAsOf(c echo.Context) error {
	ctx, cancel := withTimeout(c)
	defer cancel()
	l, err := h.parsePastList(ctx, c, "queues")
	if err != nil {
		return err
	}
	rows, next, err := queries.QueuesAsOf(ctx, h.deps.DB(l.tenantID), l.tenantID, l.asOf, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	return answerPast(h, c, l, rows, next, showAsOfShards(l.asOf), showQueue)
}

func (h *Handlers) queueAsOf(c echo.Context) error {
	if err := web.CheckQuery(c, asOfParam); err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	asOf, err := h.asOf(ctx, c, tenantID)
	if err != nil {
		return err
	}
	q, err := h.byNameThen(ctx, c, tenantID, c.Param("name"), asOf)
	if err != nil {
		return err
	}
	c.Response().Header().Set("ETag", web.ETag(q.Version))
	return web.WriteRawJSON(c, http.StatusOK, queueThen{Queue: showQueue(q), AsOf: showAsOf(asOf.Of(q.Shard))})
}

// byNameThen is byName as of then.
func (h *Handlers) byNameThen(ctx context.Context, c echo.Context, tenantID, name string, asOf queries.AsOf) (queries.Queue, error) {
	missing := notFound(codeQueueNotFound, "queue", strconv.Quote(name))
	if !web.ValidText(name) {
		return queries.Queue{}, missing
	}
	q, err := queries.QueueAsOf(ctx, h.deps.DB(tenantID), h.deps.AllTenants(), tenantID, name, asOf)
	if err != nil {
		return q, h.failed(c, err, missing)
	}
	return q, nil
}

// subscriptionThen is a subscription as it was.
type subscriptionThen struct {
	web.Subscription

	// LastConsumedAt is left out where that is not known, and null where there was none.
	LastConsumedAt web.Raw `json:"lastConsumedAt,omitzero"`
}

// subscriptionThenDetail is one of them alone.
type subscriptionThenDetail struct {
	subscriptionThen

	AsOf asOfAnswer `json:"asOf"`
}

func showSubscriptionThen(s queries.SubscriptionThen) subscriptionThen {
	out := subscriptionThen{Subscription: showSubscription(s.Subscription)}
	switch {
	case s.LastConsumedUnknown:
	case s.LastConsumedAt == nil:
		out.LastConsumedAt = web.Raw("null")
	default:
		out.LastConsumedAt = web.Raw(strconv.Quote(web.FormatTime(*s.LastConsumedAt)))
	}
	return out
}

func (h *Handlers) subscriptionsAsOf(c echo.Context) error {
	ctx, cancel := withTimeout(c)
	defer cancel()
	l, err := h.parsePastList(ctx, c, "subscriptions", "queue", "consumerGroup")
	if err != nil {
		return err
	}
	filter := queries.SubscriptionFilter{Queue: c.QueryParam("queue"), ConsumerGroup: c.QueryParam("consumerGroup")}
	rows, next, err := queries.SubscriptionsAsOf(ctx, h.deps.DB(l.tenantID), h.deps.AllTenants(), l.tenantID, filter, l.asOf, l.page)
	if err != nil {
		return h.failed(c, err, nil)
	}
	return answerPast(h, c, l, rows, next, showAsOfShards(l.asOf), showSubscriptionThen)
}

func (h *Handlers) subscriptionAsOf(c echo.Context) error {
	ctx, cancel := withTimeout(c)
	defer cancel()
	id, asOf, err := h.parseSubscriptionThen(ctx, c)
	if err != nil {
		return err
	}
	s, err := h.subscribedThen(ctx, c, id, asOf)
	if err != nil {
		return err
	}
	c.Response().Header().Set("ETag", web.ETag(s.Version))
	return web.WriteRawJSON(c, http.StatusOK, subscriptionThenDetail{subscriptionThen: showSubscriptionThen(s), AsOf: showAsOf(asOf.Of(s.Shard))})
}

// parseSubscriptionThen reads which subscription is asked for, as of when.
func (h *Handlers) parseSubscriptionThen(ctx context.Context, c echo.Context) (id string, asOf queries.AsOf, err error) {
	if err := web.CheckQuery(c, asOfParam); err != nil {
		return "", asOf, err
	}
	if id, err = pathID(c); err != nil {
		return "", asOf, err
	}
	asOf, err = h.asOf(ctx, c, web.IdentityOf(c).TenantID)
	return id, asOf, err
}

// subscribedThen returns the caller's subscription as it was, or the API's error.
func (h *Handlers) subscribedThen(ctx context.Context, c echo.Context, id string, asOf queries.AsOf) (queries.SubscriptionThen, error) {
	tenantID := web.IdentityOf(c).TenantID
	s, err := queries.SubscriptionAsOf(ctx, h.deps.DB(tenantID), h.deps.AllTenants(), tenantID, id, asOf)
	if err != nil {
		return s, h.failed(c, err, subscriptionMissing(id))
	}
	return s, nil
}
