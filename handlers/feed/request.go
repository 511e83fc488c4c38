package feed

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

const (
	mimeEventStream   = "text/event-stream"
	headerLastEventID = "Last-Event-ID"
	codeQueueNotFound = "MQ_QUEUE_NOT_FOUND"
	// allTenants stands for the tenant in cursors that are good for all of them.
	allTenants = "*"
)

// request is what a caller asks for.
type request struct {
	// tenant and list are what a cursor is bound to: whose feed, and its filters.
	tenant, list string
	filter       queries.FeedFilter
	db           queries.DB
	limit        int
	follow       bool
	// place is where to begin; nil as long as begin has not found it.
	place []int64
	from  string
	// queue is the filter as given; filter has the queue's id once begin found it.
	queue string
}

// parse reads a request without asking the database.
func (h *Handlers) parse(c echo.Context) (request, error) {
	r := request{follow: wantsStream(c.Request())}
	err := web.CheckQuery(c, "limit", "cursor", "type", "queue", "messageId", "from")
	if err != nil {
		return r, err
	}
	if r.limit, err = web.ParseLimit(c); err != nil {
		return r, err
	}
	who := web.IdentityOf(c)
	r.tenant, r.filter.AllTenants = who.TenantID, who.AllTenants
	r.filter.TenantID = r.tenant
	r.db = h.deps.DB(r.tenant, r.filter.AllTenants)
	if r.filter.AllTenants {
		r.tenant = allTenants
	}
	if r.filter.Kinds, err = parseTypes(c.QueryParam("type")); err != nil {
		return r, err
	}
	if r.filter.MessageID = c.QueryParam("messageId"); r.filter.MessageID != "" && !web.ValidUUID(r.filter.MessageID) {
		return r, web.Invalid(web.Detail{Field: "messageId", Limit: "a UUID in lower case", Problem: "is not one"})
	}
	r.queue = c.QueryParam("queue")
	r.list = strings.Join([]string{"feed", c.QueryParam("type"), r.queue, r.filter.MessageID}, "\x00")
	if r.from = c.QueryParam("from"); r.from != "" && r.from != "now" && r.from != "earliest" {
		if r.place, err = h.placeAt(r.from); err != nil {
			return r, err
		}
	}
	return r, h.resume(c, &r)
}

// wantsStream reports whether the caller takes server-sent events.
func wantsStream(req *http.Request) bool {
	for _, accept := range req.Header.Values(echo.HeaderAccept) {
		for item := range strings.SplitSeq(accept, ",") {
			if media, _, err := mime.ParseMediaType(item); err == nil && media == mimeEventStream {
				return true
			}
		}
	}
	return false
}

// placeAt is the place before the first event of an instant or later.
func (h *Handlers) placeAt(text string) ([]int64, error) {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || !events.IsPosition(at.UnixMilli(), 0) {
		return nil, web.Invalid(web.Detail{Field: "from", Limit: "now, earliest or a time as in RFC 3339, such as 2026-01-31T08:00:00Z", Problem: "is none of them"})
	}
	place := make([]int64, h.deps.Shards)
	for shard := range place {
		place[shard] = int64(events.MakePosition(at.UnixMilli(), 0)) - 1
	}
	return place, nil
}

// A cursor is a place and, where the feed is a queue's, the queue: it goes on with
// the same queue even after that is deleted.

// cursor returns the cursor of a place.
func (h *Handlers) cursor(r request, place []int64) string {
	parts := make([]string, 1, 1+len(place))
	if r.filter.TopicID != "" {
		parts[0] = strconv.Itoa(r.filter.TopicShard) + "/" + r.filter.TopicID
	}
	for _, at := range place {
		parts = append(parts, strconv.FormatInt(at, cursorBase))
	}
	return h.deps.Cursors.Encode(r.tenant, r.list, parts...)
}

const cursorBase = 36

// resume goes on from Last-Event-ID or else ?cursor=, where there is one: it is what
// counts then, whatever ?from= says. A browser that connects again sends its first
// query and the header.
func (h *Handlers) resume(c echo.Context, r *request) error {
	field := "cursor"
	if id := c.Request().Header.Get(headerLastEventID); id != "" && r.follow {
		field = headerLastEventID
		c.QueryParams().Set("cursor", id)
	}
	parts, err := h.deps.Cursors.Decode(c, r.tenant, r.list, 1+h.deps.Shards)
	if err == nil && parts == nil {
		return nil
	}
	refused := web.Invalid(web.Detail{Field: field, Limit: "a cursor of this feed with these filters", Problem: "is not one"})
	if err != nil {
		return refused
	}
	if shard, id, ok := strings.Cut(parts[0], "/"); ok {
		r.filter.TopicID = id
		if r.filter.TopicShard, err = strconv.Atoi(shard); err != nil {
			return refused
		}
	}
	r.place = make([]int64, h.deps.Shards)
	for shard, text := range parts[1:] {
		if r.place[shard], err = strconv.ParseInt(text, cursorBase, 64); err != nil {
			return refused
		}
	}
	return nil
}

// begin finds what only the database knows: the queue of that name, and where now is.
func (h *Handlers) begin(ctx context.Context, r *request) error {
	if r.queue != "" && r.filter.TopicID == "" {
		if err := h.findQueue(ctx, r); err != nil {
			return err
		}
	}
	switch {
	case r.place != nil:
		return nil
	case r.from == "now":
		var err error
		r.place, err = queries.FeedHead(ctx, r.db, h.deps.Shards)
		return err //nolint:wrapcheck // says what it asked
	default:
		r.place = make([]int64, h.deps.Shards)
		return nil
	}
}

// findQueue looks a queue up by its name, or by tenantId:name in the feed of all
// tenants.
func (h *Handlers) findQueue(ctx context.Context, r *request) error {
	tenant, name := r.filter.TenantID, r.queue
	if r.filter.AllTenants {
		var ok bool
		if tenant, name, ok = strings.Cut(r.queue, ":"); !ok || !web.ValidUUID(tenant) {
			return web.Invalid(web.Detail{Field: "queue", Limit: "tenantId:name in the feed of all tenants", Problem: "names no tenant"})
		}
	}
	q, err := queries.QueueByName(ctx, r.db, tenant, name)
	if errors.Is(err, queries.ErrNotFound) {
		return &web.Error{Status: http.StatusNotFound, Code: codeQueueNotFound, Message: "no queue " + r.queue}
	}
	if err != nil {
		return err //nolint:wrapcheck // says what it asked
	}
	r.filter.TopicID, r.filter.TopicShard = q.ID, q.Shard
	return nil
}
