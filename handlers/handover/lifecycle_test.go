package handover

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/feed"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/queries"
)

func (b *testBundle) eventsTo(s *service) Config {
	cfg := b.config()
	cfg.EventsURL = s.url()
	return cfg
}

// tenants makes queues of two tenants, so many that each shard has some, and publishes
// to them.
func (b *testBundle) tenants(round, messages int) {
	b.t.Helper()
	for _, owner := range []string{platform, tenant} {
		caller := commands.Caller{TenantID: owner, Platform: true}
		for i := range 4 {
			name := "q" + strconv.Itoa(round) + "-" + strconv.Itoa(i)
			_, _, err := b.CreateQueue(b.t.Context(), caller, commands.CreateQueue{ID: newID(), Name: name})
			require.NoError(b.t, err)
			batch := make([]commands.Publish, messages)
			for n := range batch {
				batch[n] = commands.Publish{ID: newID(), Queue: name, Payload: json.RawMessage(`{"html" : "<&>é", "n":` + strconv.Itoa(n) + `.0}`)}
			}
			_, err = b.Publish(b.t.Context(), caller, batch, false)
			require.NoError(b.t, err)
		}
	}
}

// history is what all shards have, each in the order of its log.
func (b *testBundle) history() [shards][]string {
	b.t.Helper()
	var out [shards][]string
	rows, err := b.pool.Query(b.t.Context(), `SELECT shard, event_id::text FROM event_history ORDER BY shard, position`)
	require.NoError(b.t, err)
	defer rows.Close()
	for rows.Next() {
		var shard int
		var id string
		require.NoError(b.t, rows.Scan(&shard, &id))
		out[shard] = append(out[shard], id)
	}
	require.NoError(b.t, rows.Err())
	return out
}

// firsts are events in the order in which they came first, by shard.
func firsts(all []lifecycleEvent) [shards][]string {
	var out [shards][]string
	seen := map[string]bool{}
	for _, e := range all {
		// A queue's first event and the queue have the same id, and so a message's.
		if key := strconv.Itoa(e.Shard) + "/" + e.Position; !seen[key] {
			seen[key] = true
			out[e.Shard] = append(out[e.Shard], e.ID)
		}
	}
	return out
}

func (b *testBundle) requireEvents(s *service) {
	b.t.Helper()
	want := b.history()
	require.Eventually(b.t, func() bool {
		got := firsts(s.events(false))
		return slices.EqualFunc(got[:], want[:], slices.Equal)
	}, 2*time.Minute, 20*time.Millisecond)
	require.Equal(b.t, want, firsts(s.events(true)), "also counting what was not answered well")
}

func TestEventsAreThoseOfTheFeed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, nil)
	b.tenants(0, 60)
	f, _ := b.forward(b.eventsTo(s))
	b.requireEvents(s)
	require.Positive(t, b.status(f, EventsName, StateIdle).HandedOn)
	// each event is as the feed shows it, byte for byte
	e := echo.New()
	e.HTTPErrorHandler = web.ErrorHandler(slog.Default())
	e.Use(web.RequestIDs, func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			web.SetIdentity(c, web.Identity{Platform: true, AllTenants: true})
			return next(c)
		}
	})
	feed.New(feed.Deps{
		DB:      func(string, bool) queries.DB { return postgres.AllTenants(b.pool) },
		Cursors: web.Cursors{Key: []byte("key")}, Shards: shards, Changed: b.log.Moved, Logger: slog.Default(), Stopping: context.Background(),
	}).Register(e.Group(""))
	shown := map[string]bool{}
	for cursor := ""; ; {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/events?limit=200&cursor="+cursor, nil))
		var page struct {
			Data       []json.RawMessage `json:"data"`
			NextCursor string            `json:"nextCursor"`
		}
		require.Equal(t, http.StatusOK, w.Code, w.Body)
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
		for _, event := range page.Data {
			shown[string(event)] = true
		}
		if cursor = page.NextCursor; len(page.Data) == 0 {
			break
		}
	}
	sent := 0
	for _, r := range s.got() {
		var batch []json.RawMessage
		require.NoError(t, json.Unmarshal(r.body, &batch))
		require.LessOrEqual(t, len(batch), BatchEventsMax)
		require.Equal(t, token, r.header.Get("X-Service-Token"))
		for _, event := range batch {
			require.True(t, shown[string(event)], "%s", event)
			sent++
		}
	}
	require.Len(t, shown, sent)
	// what comes later follows by itself
	b.tenants(1, 3)
	b.requireEvents(s)
}

func TestEventsAreCompleteAndInOrderAcrossRestartsOfBothSides(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := newService(t, moody)
	cfg := b.eventsTo(s)
	_, stop := b.forward(cfg, func(p *pace) { p.timeout = 300 * time.Millisecond })
	for round := range 6 {
		before := len(s.events(false))
		b.tenants(round, 50)
		_, next := b.forward(cfg, func(p *pace) { p.timeout = 300 * time.Millisecond })
		enough := before + chance(100)
		require.Eventually(t, func() bool { return len(s.events(false)) >= enough }, time.Minute, time.Millisecond)
		if round%2 == 0 {
			s.down()
		}
		stop()
		stop = next
		if round%2 == 0 {
			s.up()
		}
	}
	b.requireEvents(s)
}

// Losing the lock's connection ends what its holder does; another one goes on.
func TestLosingTheConnectionIsLosingTheLock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, audit := newService(t, nil), newService(t, nil)
	b.queue("user-events", 2)
	cfg := b.eventsTo(audit)
	cfg.Queues = []Queue{{Name: "user-events", URL: s.url()}}
	unhurried := func(p *pace) { p.takeover = 200 * time.Millisecond }
	first, _ := b.forward(cfg, unhurried)
	b.status(first, EventsName, StateIdle)
	second, _ := b.forward(cfg, unhurried)
	b.status(second, EventsName, StateStandby)
	var ids []string
	for range 5 {
		ids = append(ids, b.publish("user-events", 20, 4)...)
		_, err := b.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND ((classid::bigint << 32) | objid::bigint) = hashtextextended('tallymq:handover:' || current_schema(), 0)`)
		require.NoError(t, err)
	}
	s.requireAll(ids)
	s.requireOrder()
	b.count(len(ids), consumedSQL)
	b.requireEvents(audit)
}
