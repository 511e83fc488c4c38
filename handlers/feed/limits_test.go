package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/queries"
)

// A wake-up that is lost is made good by looking.
func TestAStreamLooksForItself(t *testing.T) {
	t.Parallel()
	b := setup(t, func(h *Handlers) {
		h.recheck = 50 * time.Millisecond
		h.deps.Changed = func() <-chan struct{} { return nil }
	})
	r, _ := b.follow("?from=now", tenant)
	want := b.logs[0].publish(tenant, newID(t), "1")
	_, i := b.next(r)
	require.Equal(t, want, i.ID)
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t, func(h *Handlers) {
		require.Equal(t, StreamsMax, cap(h.streams))
		h.streams = make(chan struct{}, 3)
	})
	var leave context.CancelFunc
	for range 3 {
		_, leave = b.follow("", tenant)
	}
	resp := b.open(t.Context(), "", tenant, "Accept", "text/html, text/event-stream;q=0.9")
	_ = resp.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Equal(t, "5", resp.Header.Get("Retry-After"))
	status, _ := b.get("", tenant) // pages still are
	require.Equal(t, http.StatusOK, status)
	leave()
	require.Eventually(t, func() bool { return len(b.handlers.streams) == 2 }, time.Minute, time.Millisecond)
	b.follow("", tenant)
}

func TestAReaderThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	b := setup(t, func(h *Handlers) { h.writeTimeout = 300 * time.Millisecond })
	l := b.logs[0]
	payload := `"` + strings.Repeat("x", 500_000) + `"`
	for range 40 {
		l.publish(tenant, newID(t), payload)
	}
	l.fold()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	_, err = fmt.Fprintf(conn, "GET %s/events HTTP/1.1\r\nHost: x\r\nX-Tenant-Id: %s\r\nAccept: text/event-stream\r\n\r\n", prefix, tenant)
	require.NoError(t, err)
	select {
	case <-b.ended:
	case <-time.After(time.Minute):
		require.FailNow(t, "the stream goes on")
	}
	require.Empty(t, b.handlers.streams)
	// one who reads gets everything
	r, _ := b.follow("", tenant)
	for range 40 {
		b.next(r)
	}
}

func TestStreamsEndWithTheInstance(t *testing.T) {
	t.Parallel()
	b := setup(t, func(h *Handlers) { h.writeTimeout = 200 * time.Millisecond })
	mixed(b, 4)
	r, _ := b.follow("", tenant)
	for range b.history(tenant) {
		b.next(r)
	}
	// the last write's deadline is over by then
	last := time.Now()
	require.Eventually(t, func() bool { return time.Since(last) > 400*time.Millisecond }, time.Minute, 10*time.Millisecond)
	b.stop()
	_, err := readSSE(r)
	require.ErrorIs(t, err, io.EOF, "the answer ends in order")
	b.refused(http.StatusServiceUnavailable, web.CodeUnavailable, "", tenant, "Accept", mimeEventStream)
}

// While the database does not answer, a stream lives on and misses nothing.
func TestAStreamOutlivesTheDatabase(t *testing.T) {
	t.Parallel()
	b := setup(t)
	db := &flaky{DB: postgres.ForTenant(b.pool, tenant)}
	b.handlers.deps.DB = func(string, bool) queries.DB { return db }
	db.away.Store(true)
	b.refused(http.StatusServiceUnavailable, web.CodeUnavailable, "", tenant)
	b.refused(http.StatusServiceUnavailable, web.CodeUnavailable, "", tenant, "Accept", mimeEventStream)
	db.away.Store(false)
	r, _ := b.follow("", tenant)
	db.away.Store(true)
	want := b.logs[0].publish(tenant, newID(t), "1")
	b.fold()
	require.Eventually(t, func() bool { return db.refused.Load() > 2 }, time.Minute, time.Millisecond)
	db.away.Store(false)
	_, i := b.next(r)
	require.Equal(t, want, i.ID)
}

// flaky is a database that can be away.
type flaky struct {
	queries.DB

	away    atomic.Bool
	refused atomic.Int64
}

func (f *flaky) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if f.away.Load() {
		f.refused.Add(1)
		return nil, errors.New("away")
	}
	return f.DB.Query(ctx, sql, args...)
}

// Streams ask one after another, and each not more often than it may.
func TestStreamsLeaveTheDatabaseToOthers(t *testing.T) {
	t.Parallel()
	always := make(chan struct{})
	close(always)
	b := setup(t, func(h *Handlers) { h.deps.Changed = func() <-chan struct{} { return always } })
	db := &counted{DB: postgres.ForTenant(b.pool, tenant), pass: make(chan struct{})}
	b.handlers.deps.DB = func(string, bool) queries.DB { return db }
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 3 * streamQueriesMax {
		readers.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+prefix+"/events", nil)
			if err != nil {
				return
			}
			req.Header.Set("Accept", mimeEventStream)
			req.Header.Set("X-Tenant-Id", tenant)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	require.Eventually(t, func() bool { return len(b.handlers.streams) == 3*streamQueriesMax }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { return db.now.Load() == streamQueriesMax }, time.Minute, time.Millisecond)
	close(db.pass)
	began, before := time.Now(), db.all.Load()
	require.Eventually(t, func() bool { return db.all.Load() > before+100 }, time.Minute, time.Millisecond)
	gaps := int64(time.Since(began)/queryGap) + 2
	require.LessOrEqual(t, db.all.Load()-before, gaps*3*streamQueriesMax)
	cancel()
	readers.Wait()
	db.mu.Lock()
	defer db.mu.Unlock()
	require.LessOrEqual(t, db.most, int64(streamQueriesMax))
}

// counted is a database that counts the queries that begin at once, and holds them
// until pass is closed.
type counted struct {
	queries.DB

	pass     chan struct{}
	now, all atomic.Int64
	mu       sync.Mutex
	most     int64
}

func (c *counted) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c.all.Add(1)
	n := c.now.Add(1)
	defer c.now.Add(-1)
	c.mu.Lock()
	c.most = max(c.most, n)
	c.mu.Unlock()
	<-c.pass
	return c.DB.Query(ctx, sql, args...) //nolint:sqlclosecheck // the caller closes them
}
