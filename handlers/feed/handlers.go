package feed

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// Limits of the feed.
const (
	// StreamsMax is how many readers follow the feed on one instance.
	StreamsMax = 200
	// Heartbeat is how long a stream is silent at most.
	Heartbeat = 15 * time.Second
	// PageBytesMax is where a page's events end, in bytes of their data; one that is
	// larger still goes, alone.
	PageBytesMax = 4 << 20

	// streamEventsMax and streamBytesMax bound what a stream holds at once.
	streamEventsMax = 500
	streamBytesMax  = 256 << 10
	// streamQueriesMax is how many streams ask the database at once, so that they
	// leave its connections to others.
	streamQueriesMax = 4
	// queryGap is how far apart a stream's queries are at least.
	queryGap = 50 * time.Millisecond
	// recheck is how long a stream waits for the word that something was folded
	// before it looks for itself.
	recheck = 5 * time.Second
	// failedRetry is how long a stream waits where the database does not answer.
	failedRetry = time.Second
	// writeTimeout is how long a reader may leave a write of a stream waiting.
	writeTimeout = 10 * time.Second
	// queryTimeout bounds one query, and lookTime how long a page goes on looking
	// for a first event that passes its filter.
	queryTimeout = 10 * time.Second
	lookTime     = 3 * time.Second
	// fullRetryS is when, in seconds, a reader that found no room may try again.
	fullRetryS = 5
)

// Deps is what the handlers need.
type Deps struct {
	// DB returns what one caller's queries run on: one tenant's rows, or all tenants'.
	DB      func(tenantID string, allTenants bool) queries.DB
	Cursors web.Cursors
	// Shards is how many the store has. It never changes.
	Shards int
	// Changed returns a channel that is closed when something more is folded, on
	// whichever instance. It may miss some: see recheck.
	Changed func() <-chan struct{}
	// OpenEvent decrypts the payload within an event's data; it returns what is not
	// encrypted as it is. nil is for stores where nothing is.
	OpenEvent func(ctx context.Context, tenantID, kind string, data []byte) ([]byte, error)
	Logger    *slog.Logger
	// Stopping ends when the instance takes no more work: streams end with it.
	Stopping context.Context //nolint:containedctx // a lifetime, not a call's
}

// Handlers serves the feed.
type Handlers struct {
	deps Deps
	// streams has a place for each stream, queries one for each query of theirs.
	streams, queries chan struct{}
	// Set in tests only.
	heartbeat, recheck, writeTimeout time.Duration
}

// New returns handlers.
func New(deps Deps) *Handlers {
	return &Handlers{
		deps: deps, streams: make(chan struct{}, StreamsMax), queries: make(chan struct{}, streamQueriesMax),
		heartbeat: Heartbeat, recheck: recheck, writeTimeout: writeTimeout,
	}
}

// Register adds the route to the API's group.
func (h *Handlers) Register(g *echo.Group) {
	g.GET("/events", h.events, web.RequireScope(web.ScopeRead, web.ScopeAdmin))
}

func (h *Handlers) events(c echo.Context) error {
	r, err := h.parse(c)
	if err != nil {
		return err
	}
	if r.follow {
		return h.stream(c, r)
	}
	return h.page(c, r)
}

// pageAnswer is a page as the API shows it. Other than in other lists, nextCursor is
// always there: whoever has read everything comes back with it for more.
type pageAnswer struct {
	Data       []web.Raw `json:"data"`
	NextCursor string    `json:"nextCursor"`
}

func (h *Handlers) page(c echo.Context, r request) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), queryTimeout)
	defer cancel()
	if err := h.begin(ctx, &r); err != nil {
		return h.failed(c, err)
	}
	limits := queries.FeedLimits{Events: r.limit, Bytes: PageBytesMax}
	began := time.Now()
	var got queries.FeedPage
	for {
		var err error
		if got, err = queries.Feed(ctx, r.db, r.filter, r.place, limits); err != nil {
			return h.failed(c, err)
		}
		r.place = got.End()
		if len(got.Events) > 0 || got.CaughtUp || time.Since(began) > lookTime {
			break
		}
	}
	out := pageAnswer{Data: make([]web.Raw, len(got.Events)), NextCursor: h.cursor(r, r.place)}
	for i, e := range got.Events {
		text, err := h.show(ctx, e)
		if err != nil {
			return err
		}
		out.Data[i] = text
	}
	return web.WriteRawJSON(c, http.StatusOK, out)
}

// failed turns an error into the API's.
func (h *Handlers) failed(c echo.Context, err error) error {
	if _, answer := errors.AsType[*web.Error](err); answer {
		return err
	}
	switch {
	case c.Request().Context().Err() != nil:
		h.deps.Logger.Debug("the caller left", "path", c.Path(), "error", err)
	case h.deps.Stopping.Err() != nil && errors.Is(err, context.Canceled):
		return web.Unavailable("this instance is stopping")
	case !errors.Is(err, queries.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
		return err // a fault of ours, which the edge logs
	default:
		h.deps.Logger.Warn("query not answered", "path", c.Path(), "requestId", web.RequestID(c), "error", err)
	}
	return web.Unavailable("the read side does not answer; try again")
}
