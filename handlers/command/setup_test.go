package command_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/handlers/command"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/cron"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/redis"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

const (
	shards     = 2
	tenant     = "00000000-0000-0000-0000-000000000001"
	payloadMax = 2000
	api        = "/api/v1/mq"
)

// testBundle is the command API on a store of a test's own.
type testBundle struct {
	http.Handler

	client *goredis.Client
	log    *redis.Log
	prefix string
}

func setup(t testing.TB, change ...func(*command.Deps)) *testBundle {
	t.Helper()
	url, prefix := devstack.TestRedis(t)
	client, err := redis.Open(url)
	require.NoError(t, err)
	log := redis.New(redis.Config{
		Client: client, Prefix: prefix, Shards: shards, IdempotencyTTL: time.Minute, Logger: slog.Default(),
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	t.Cleanup(func() {
		log.Close()
		_ = client.Close()
	})
	deps := command.Deps{
		Commands: commands.NewDispatcher(log, dispatcherConfig()),
		NewID:    newID, PayloadBytesMax: payloadMax, Logger: slog.New(slog.DiscardHandler), NextTick: cron.Next,
		Secret:        func(info string) string { return "whsec_" + info },
		MessageStatus: func(context.Context, string, string) (string, error) { return "", nil },
		Jobs:          &fakeJobs{},
	}
	for _, c := range change {
		c(&deps)
	}
	e := echo.New()
	e.HTTPErrorHandler = web.ErrorHandler(slog.Default())
	e.Use(web.RequestIDs, web.Recover, identify)
	command.New(deps).Register(e.Group(api))
	return &testBundle{Handler: e, client: client, log: log, prefix: prefix}
}

func dispatcherConfig() commands.Config {
	return commands.Config{
		Shards: shards, AckTimeout: 10 * time.Second, SessionTimeout: 30 * time.Second, PayloadBytesMax: payloadMax, PullBytesMax: 1 << 20,
		TokenKey: []byte("key"), Logger: slog.Default(), Now: time.Now, NewID: newID, Rand: func() float64 { return 0 },
		NextTick: cron.Next, Filter: compileFilter,
	}
}

// identify believes what a test says of its caller.
func identify(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		header := c.Request().Header
		who := web.Identity{TenantID: tenant, Subject: header.Get("X-Test-Subject"), Scopes: header.Values("X-Test-Scope")}
		if other := header.Get("X-Test-Tenant"); other != "" {
			who.TenantID = other
		}
		who.Platform = who.Subject == ""
		web.SetIdentity(c, who)
		return next(c)
	}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// fold stands for the projectors: what is in the log is folded at once.
func (b *testBundle) fold(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var background sync.WaitGroup
	for shard := range shards {
		messages, err := b.log.Reader(shard, 0).Subscribe(ctx, redis.LogStream(b.prefix, shard))
		require.NoError(t, err)
		background.Go(func() {
			for m := range messages {
				position, err := strconv.ParseInt(m.Metadata.Get(events.MetaPosition), 10, 64)
				if err == nil {
					b.log.Announce(shard, events.Position(position))
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		background.Wait()
	})
}

func newRequest(path, body string, header ...string) *http.Request {
	req := httptest.NewRequest(http.MethodPost, api+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// post sends a request; without a Prefer of its own it does not wait for the fold.
func (b *testBundle) post(path, body string, header ...string) *httptest.ResponseRecorder {
	req := newRequest(path, body, append([]string{"Prefer", "respond-async"}, header...)...)
	rec := httptest.NewRecorder()
	b.ServeHTTP(rec, req)
	return rec
}

// must is post for what must succeed; it decodes the answer.
func (b *testBundle) must(t testing.TB, into any, path, body string, header ...string) {
	t.Helper()
	rec := b.post(path, body, header...)
	require.Contains(t, []int{http.StatusOK, http.StatusAccepted}, rec.Code, rec.Body)
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), into), rec.Body)
}

type created struct {
	ID string `json:"id"`
}

type pulled struct {
	Messages []struct {
		MessageID string          `json:"messageId"`
		AckToken  string          `json:"ackToken"`
		Payload   json.RawMessage `json:"payload"`
		Attempt   int             `json:"attempt"`
	} `json:"messages"`
}

// subscribed makes queue orders with a subscription and returns that one's id.
func (b *testBundle) subscribed(t testing.TB) string {
	t.Helper()
	var c created
	b.must(t, &c, "/queues", `{"name":"orders","partitionCount":2}`)
	b.must(t, &c, "/subscriptions", `{"queue":"orders","consumerGroup":"billing","offsetResetPolicy":"earliest"}`)
	return c.ID
}
