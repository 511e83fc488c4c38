package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/queries"
)

// stream follows the feed for one reader until it leaves, does not read, or the
// instance stops. What can be refused is refused before the first byte.
func (h *Handlers) stream(c echo.Context, r request) error {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		refused := web.Unavailable(fmt.Sprintf("this instance has its %d readers of the feed; try another or later", cap(h.streams)))
		refused.RetryAfterS = fullRetryS
		return refused
	}
	ctx, cancel := context.WithCancel(c.Request().Context())
	defer cancel()
	stop := context.AfterFunc(h.deps.Stopping, cancel)
	defer stop()
	if h.deps.Stopping.Err() != nil {
		return web.Unavailable("this instance is stopping")
	}
	f := &follower{h: h, r: r}
	first, err := f.start(ctx)
	if err != nil {
		return h.failed(c, err)
	}
	f.sent = h.cursor(f.r, f.r.place)
	if f.out, err = openSSE(c, f.sent, h.writeTimeout); err == nil {
		err = f.run(ctx, first)
	}
	if !errors.Is(err, errReader) {
		f.out.end()
	}
	// The answer is under way: whatever ended it is for the log alone.
	switch {
	case ctx.Err() != nil || errors.Is(err, errReader):
		h.deps.Logger.Debug("a reader of the feed is gone", "requestId", web.RequestID(c), "error", err)
	default:
		h.deps.Logger.Error("a stream of the feed failed", "requestId", web.RequestID(c), "error", err)
	}
	return nil
}

// follower is one stream under way.
type follower struct {
	h   *Handlers
	r   request
	out *sseWriter
	// changed is closed when there is something that the last query did not see.
	changed <-chan struct{}
	beat    *time.Ticker
	// sent is the cursor that the reader has.
	sent string
}

func (f *follower) start(ctx context.Context) (queries.FeedPage, error) {
	begin, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if err := f.h.begin(begin, &f.r); err != nil {
		return queries.FeedPage{}, err
	}
	return f.read(ctx)
}

// read asks for what comes next. Whoever says afterwards that something changed says
// it on a channel taken before the query.
func (f *follower) read(ctx context.Context) (queries.FeedPage, error) {
	f.changed = f.h.deps.Changed()
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	select {
	case f.h.queries <- struct{}{}:
		defer func() { <-f.h.queries }()
	case <-ctx.Done():
		return queries.FeedPage{}, fmt.Errorf("wait for a place to query: %w", ctx.Err())
	}
	limits := queries.FeedLimits{Events: streamEventsMax, Bytes: streamBytesMax}
	return queries.Feed(ctx, f.r.db, f.r.filter, f.r.place, limits) //nolint:wrapcheck // says what it asked
}

// run sends pages as they come.
func (f *follower) run(ctx context.Context, page queries.FeedPage) error {
	f.beat = time.NewTicker(f.h.heartbeat)
	defer f.beat.Stop()
	for {
		if err := f.send(ctx, page); err != nil {
			return err
		}
		if err := f.wait(ctx, nil, queryGap); err != nil {
			return err
		}
		if page.CaughtUp {
			if err := f.wait(ctx, f.changed, f.h.recheck); err != nil {
				return err
			}
		}
		var err error
		for page, err = f.read(ctx); err != nil; page, err = f.read(ctx) {
			if ctx.Err() != nil || (!errors.Is(err, queries.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded)) {
				return err
			}
			// The reader has lost nothing: it gets heartbeats until the database is back.
			f.h.deps.Logger.Debug("a stream of the feed waits for the database", "error", err)
			if err := f.wait(ctx, nil, failedRetry); err != nil {
				return err
			}
		}
	}
}

// send sends a page and goes to its end.
func (f *follower) send(ctx context.Context, page queries.FeedPage) error {
	for i, e := range page.Events {
		if ctx.Err() != nil {
			return ctx.Err() //nolint:wrapcheck // asked to stop
		}
		text, err := f.h.show(ctx, e)
		if err != nil {
			return err
		}
		cursor := f.h.cursor(f.r, page.Place(i))
		if err := f.out.event(cursor, cloudevents.TypePrefix+e.Kind, text); err != nil {
			return err
		}
		f.sent = cursor
	}
	f.r.place = page.End()
	if len(page.Events) == 0 {
		return nil
	}
	f.beat.Reset(f.h.heartbeat)
	return f.out.flush()
}

// wait returns when changed is closed or time is over, and keeps the stream alive.
func (f *follower) wait(ctx context.Context, changed <-chan struct{}, atMost time.Duration) error {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // asked to stop
		case <-changed:
			return nil
		case <-timer.C:
			return nil
		case <-f.beat.C:
			if err := f.heartbeat(); err != nil {
				return err
			}
		}
	}
}

// heartbeat tells the reader that the stream lives, and how far it has come: whoever
// connects again need not search what had nothing for it a second time.
func (f *follower) heartbeat() error {
	cursor := f.h.cursor(f.r, f.r.place)
	if cursor == f.sent {
		cursor = ""
	}
	if err := f.out.heartbeat(cursor); err != nil {
		return err
	}
	if cursor != "" {
		f.sent = cursor
	}
	return nil
}
