package feed

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/projections"
	"github.com/tallymq/tallymq/queries"
)

const (
	tenant = "00000000-0000-0000-0000-000000000001"
	other  = "00000000-0000-0000-0000-000000000002"
	shards = 4
	prefix = "/api/v1/mq"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// testBundle is the feed of a store of its own, which real projectors fold from logs
// in memory.
type testBundle struct {
	t        testing.TB
	pool     *pgxpool.Pool
	logs     [shards]*shardLog
	handlers *Handlers
	url      string
	stop     context.CancelFunc
	ended    chan struct{}
	changed  broadcast
}

// setup starts everything; change adjusts the handlers before they serve.
func setup(t testing.TB, change ...func(*Handlers)) *testBundle {
	t.Helper()
	url := devstack.TestPostgres(t)
	pool, err := postgres.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	require.NoError(t, postgres.EnsurePartitions(t.Context(), pool, time.Now()))
	b := &testBundle{t: t, pool: pool, ended: make(chan struct{}, 1000)}
	b.changed.ch = make(chan struct{})
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); work.Wait() })
	for shard := range shards {
		l := &shardLog{t: t, shard: shard, more: make(chan struct{})}
		b.logs[shard] = l
		p := projections.New(projections.Config{
			Shard: shard, Logger: slog.New(slog.DiscardHandler),
			Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, url) },
			Source:  func(after events.Position) (message.Subscriber, string) { return replay{l, after}, "log" },
			Committed: func(upTo events.Position) {
				l.committedUpTo(upTo)
				b.changed.fire()
			},
		})
		work.Go(func() { p.Run(ctx) })
	}
	b.serve(change)
	return b
}

// serve has a server whose own timeouts are shorter than any stream.
func (b *testBundle) serve(change []func(*Handlers)) {
	stopping, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.handlers = New(Deps{
		// behind the fence of row-level security
		DB: func(tenantID string, allTenants bool) queries.DB {
			if allTenants {
				return postgres.AllTenants(b.pool)
			}
			return postgres.ForTenant(b.pool, tenantID)
		},
		Shards: shards, Changed: b.changed.wait, Cursors: web.Cursors{Key: []byte("key")}, Stopping: stopping,
		Logger: slog.New(slog.DiscardHandler),
	})
	for _, f := range change {
		f(b.handlers)
	}
	e := echo.New()
	e.HTTPErrorHandler = web.ErrorHandler(slog.New(slog.DiscardHandler))
	e.Use(web.RequestIDs, web.Recover, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			tenant := c.Request().Header.Get(web.HeaderTenant)
			web.SetIdentity(c, web.Identity{TenantID: tenant, Platform: true, AllTenants: tenant == ""})
			return next(c)
		}
	})
	b.handlers.Register(e.Group(prefix))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.ServeHTTP(w, r)
		select {
		case b.ended <- struct{}{}:
		default:
		}
	}))
	server.Config.ReadTimeout, server.Config.WriteTimeout = 500*time.Millisecond, 10*time.Second
	server.Start()
	b.url = server.URL
	b.t.Cleanup(func() { stop(); server.CloseClientConnections(); server.Close() })
}

// broadcast tells all who wait.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *broadcast) fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}

func (b *testBundle) fold() {
	for _, l := range b.logs {
		l.fold()
	}
}

// history is what the feed of a tenant, "" for all, must show, in its order.
func (b *testBundle) history(tenantID string) []events.Record {
	var all []events.Record
	for _, l := range b.logs {
		for _, r := range l.records {
			if tenantID == "" || r.TenantID == tenantID {
				all = append(all, r)
			}
		}
	}
	slices.SortFunc(all, func(a, b events.Record) int {
		if a.Position != b.Position {
			return int(min(max(a.Position-b.Position, -1), 1))
		}
		return a.Shard - b.Shard
	})
	return all
}

// item is an event as the feed shows it.
type item struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	Subject string          `json:"subject"`
	Shard   int             `json:"shard"`
	Data    json.RawMessage `json:"data"`
}

type pageBody struct {
	Data       []json.RawMessage `json:"data"`
	NextCursor string            `json:"nextCursor"`
}

// get asks for the feed; header is keys and values in turn.
func (b *testBundle) get(query, tenantID string, header ...string) (int, []byte) {
	b.t.Helper()
	resp := b.open(b.t.Context(), query, tenantID, header...)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	return resp.StatusCode, body
}

func (b *testBundle) open(ctx context.Context, query, tenantID string, header ...string) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+prefix+"/events"+query, nil)
	require.NoError(b.t, err)
	req.Header.Set("X-Tenant-Id", tenantID)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	return resp
}

func (b *testBundle) page(query, tenantID string) ([]item, string) {
	b.t.Helper()
	status, body := b.get(query, tenantID)
	require.Equal(b.t, http.StatusOK, status, "%s", body)
	var p pageBody
	require.NoError(b.t, json.Unmarshal(body, &p))
	items := make([]item, len(p.Data))
	for i, raw := range p.Data {
		require.NoError(b.t, json.Unmarshal(raw, &items[i]))
	}
	require.NotEmpty(b.t, p.NextCursor)
	return items, p.NextCursor
}

// refused requires an answer in the error format and returns the first detail's field.
func (b *testBundle) refused(status int, code, query, tenantID string, header ...string) (field string) {
	b.t.Helper()
	got, body := b.get(query, tenantID, header...)
	require.Equal(b.t, status, got, "%s: %s", query, body)
	var e web.Error
	require.NoError(b.t, json.Unmarshal(body, &e))
	require.Equal(b.t, code, e.Code)
	if len(e.Details) > 0 {
		field = e.Details[0].Field
	}
	return field
}

func ids[T any](list []T, id func(T) string) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = id(v)
	}
	return out
}

func itemIDs(list []item) []string { return ids(list, func(i item) string { return i.ID }) }

func recordIDs(list []events.Record) []string {
	return ids(list, func(r events.Record) string { return r.ID })
}
