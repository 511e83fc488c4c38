package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/feed"
	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
	"github.com/tallymq/tallymq/queries"
)

// feedServer serves the feed of a store whose history the test writes.
type feedServer struct {
	*httptest.Server

	t    testing.TB
	pool *pgxpool.Pool
	at   int64
	// headers are the last request's.
	mu      sync.Mutex
	headers http.Header
	// requests counts them.
	requests int
}

func startFeed(t testing.TB) *feedServer {
	t.Helper()
	pool, err := postgres.Open(t.Context(), devstack.TestPostgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	_, err = pool.Exec(t.Context(), `INSERT INTO projection_checkpoints (projection, shard, position) VALUES ('read', 0, 0)`)
	require.NoError(t, err)
	s := &feedServer{t: t, pool: pool, at: time.Now().UnixMilli() << 20}
	e := echo.New()
	e.HTTPErrorHandler = web.ErrorHandler(slog.New(slog.DiscardHandler))
	e.Use(access{}.identify)
	feed.New(feed.Deps{
		DB:      func(string, bool) queries.DB { return pool },
		Cursors: web.Cursors{Key: []byte("key")}, Shards: 1, Logger: slog.New(slog.DiscardHandler), Stopping: context.Background(),
		Changed: func() <-chan struct{} {
			soon := make(chan struct{})
			time.AfterFunc(10*time.Millisecond, func() { close(soon) })
			return soon
		},
	}).Register(e.Group(apiPrefix))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.headers = r.Header.Clone()
		s.requests++
		s.mu.Unlock()
		e.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// add writes an event of a message and returns the message's id.
func (s *feedServer) add(kind, data string) string {
	s.t.Helper()
	id := newID()
	s.at++
	_, err := s.pool.Exec(s.t.Context(), `WITH moved AS (UPDATE projection_checkpoints SET position = $1::bigint)
		INSERT INTO event_history (shard, position, scope, event_id, kind, tenant_id, topic_id, message_id, version, occurred_at, metadata, data)
		VALUES (0, $1, 'message', gen_random_uuid(), $2, $3, $4, $5, 0, '2026-03-31T10:00:00Z', '{"actor":"a"}', $6)`,
		s.at, kind, devTenant, devTenant, id, data)
	require.NoError(s.t, err)
	return id
}

// output is what a command writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// tail runs the command; end asks it to stop and returns what it returned.
func (s *feedServer) tail(args ...string) (out, log *output, end func() error) {
	out, log = &output{}, &output{}
	cmd := tailCommand()
	cmd.SetOut(out)
	cmd.SetErr(log)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(append([]string{"--url", s.URL, "--tenant", devTenant}, args...))
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	end = func() error {
		cancel()
		return <-ended
	}
	s.t.Cleanup(cancel)
	return out, log, end
}

func (s *feedServer) failing(args ...string) string {
	s.t.Helper()
	cmd := tailCommand()
	cmd.SetOut(&output{})
	cmd.SetErr(&output{})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(append([]string{"--url", s.URL, "--tenant", devTenant}, args...))
	err := cmd.ExecuteContext(s.t.Context())
	require.Error(s.t, err)
	return err.Error()
}

func TestTailPrintsEveryEventOnceHoweverOftenItBreaks(t *testing.T) {
	t.Parallel()
	s := startFeed(t)
	var want []string
	first := s.add("message.published", `{"partition":1,"offset":7,"key":"k","payload":{"a":1}}`)
	want = append(want, "2026-03-31T10:00:00.000Z  message.published      "+devTenant+"  "+first+"  partition 1, offset 7, 7 bytes, key k")
	out, log, end := s.tail("--from", "earliest")
	for n := range 4 {
		eventually(t, "the events so far", func() bool { return strings.Count(out.String(), "\n") == len(want) })
		s.CloseClientConnections()
		id := s.add("message.failed", fmt.Sprintf(`{"consumerGroup":"g","consumer":"c","attempt":%d,"reason":"nack","error":"n\u001b[2J"}`, n+1))
		want = append(want, fmt.Sprintf("2026-03-31T10:00:00.000Z  message.failed         %s  %s  group g, consumer c, attempt %d, nack, n\ufffd[2J", devTenant, id, n+1))
	}
	eventually(t, "all events", func() bool { return strings.Count(out.String(), "\n") == len(want) })
	require.NoError(t, end())
	require.Equal(t, strings.Join(want, "\n")+"\n", out.String())
	require.Equal(t, 4, strings.Count(log.String(), "connecting again in 1s"))
}

// From now on, nothing is missed even where the connection breaks before anything came.
func TestTailFromNowMissesNothing(t *testing.T) {
	t.Parallel()
	s := startFeed(t)
	s.add("message.published", `{"payload":1}`)
	out := &output{}
	tl := &tailer{
		client: client{url: s.URL, tenant: devTenant, http: &http.Client{}}, types: "message.consumed", from: "now", raw: true,
		silence: tailSilence, retry: tailRetry, out: out, log: &output{},
	}
	// given a connection that broke when it had just begun
	for range 100 {
		if tl.last != "" {
			break
		}
		broken := make(chan error, 1)
		go func() { broken <- tl.follow(t.Context()) }()
		require.Eventually(t, func() bool {
			s.CloseClientConnections()
			return len(broken) > 0
		}, time.Minute, 20*time.Millisecond)
		require.Error(t, <-broken)
	}
	// when something happens before the next
	s.add("message.published", `{"payload":1}`)
	id := s.add("message.consumed", `{ "html":"<&>" }`)
	// then it is told
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tl.run(ctx) }()
	eventually(t, "the event", func() bool { return strings.Contains(out.String(), "\n") })
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	var e cloudevents.Event
	require.NoError(t, e.UnmarshalJSON([]byte(out.String())))
	require.NoError(t, e.Validate())
	require.Equal(t, id, e.Subject())
	require.Contains(t, out.String(), `,"data":{ "html":"<&>" }}`)
}

func TestTailSaysWhoItIs(t *testing.T) {
	t.Parallel()
	s := startFeed(t)
	out, _, end := s.tail("--token", "service", "--bearer", "own", "--from", "earliest", "--queue", "", "--message", newID())
	eventually(t, "a request", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.headers != nil
	})
	require.NoError(t, end())
	require.Empty(t, out.String())
	require.Equal(t, "Bearer own", s.headers.Get("Authorization"))
	require.Equal(t, "service", s.headers.Get(headerToken))
	require.Equal(t, devTenant, s.headers.Get(headerTenant))
	require.Equal(t, "text/event-stream", s.headers.Get("Accept"))
}

func TestTailEndsWhereNoTryingAgainHelps(t *testing.T) {
	t.Parallel()
	s := startFeed(t)
	require.Equal(t, "404 MQ_QUEUE_NOT_FOUND: no queue none", s.failing("--queue", "none"))
	require.Contains(t, s.failing("--type", "x"), "400 MQ_VALIDATION_FAILED: type has one that is none of them; allowed: topic.created")
	require.Contains(t, s.failing("--from", "yesterday"), "from is none of them")
	url := s.URL
	s.Close()
	s.URL = url
	require.Contains(t, s.failing(), "is it running?")
}

// A service that is full is asked again when it says.
func TestTailWaitsForAPlace(t *testing.T) {
	t.Parallel()
	calls := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls <- struct{}{}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"code":"MQ_UNAVAILABLE","message":"full","retryAfter":2}`))
	}))
	t.Cleanup(server.Close)
	s := &feedServer{t: t, Server: server}
	_, log, end := s.tail()
	<-calls
	eventually(t, "it says so", func() bool {
		return log.String() == "tallymq: 503 MQ_UNAVAILABLE: full; connecting again in 2s\n"
	})
	require.NoError(t, end())
}

// A connection that is dead without a word is given up.
func TestTailGivesUpASilentConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("retry: 5\nid: x\n\nid: unfinished\n"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	tl := &tailer{client: client{url: server.URL, http: &http.Client{}}, silence: 100 * time.Millisecond, retry: tailRetry, out: &output{}, log: &output{}}
	err := tl.follow(t.Context())
	require.ErrorContains(t, err, "the stream broke")
	require.Equal(t, "x", tl.last)
	require.Equal(t, 5*time.Millisecond, tl.retry)
}

func TestTailColoursKinds(t *testing.T) {
	t.Parallel()
	tl := &tailer{colour: true}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.Equal(t, "2026-01-02T03:04:05.000Z  \x1b[31mmessage.dead_lettered\x1b[0m  t  m  "+strings.Repeat("é", tailDetailMax-1)+"…",
		tl.line(feedEvent{Type: "tallymq.message.dead_lettered", Time: at, TopicID: "t", MessageID: "m", Data: feedData{Error: strings.Repeat("é", 200)}}))
	require.Equal(t, "2026-01-02T03:04:05.000Z  \x1b[35mtopic.created        \x1b[0m  orders  -  active",
		tl.line(feedEvent{Type: "tallymq.topic.created", Time: at, TopicID: "t", Data: feedData{Name: "orders", Status: "active"}}))
	require.False(t, isTerminal(&output{}))
}

// FuzzTailRead: whatever a service sends, nothing is printed but whole events, each on
// a line.
func FuzzTailRead(f *testing.F) {
	for _, seed := range []string{
		"retry: 1\nid: a\n\nid: b\nevent: x\ndata: {\"type\":\"tallymq.topic.created\"}\n\n", "data: x\n\n", ": c\n\n", "data: {}\r\n\r\n",
		"data: {}\n", "id\n\n", "data: {\"data\":{\"error\":\"\\u001b\\n\"}}\n\n", "retry: 9223372036854775\n\n", "retry: -1\n\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stream string) {
		out := &output{}
		tl := &tailer{out: out, retry: tailRetry}
		require.Error(t, tl.read(strings.NewReader(stream), func() {}))
		require.LessOrEqual(t, strings.Count(out.String(), "\n"), strings.Count(stream, "data"))
		require.NotContains(t, strings.ReplaceAll(out.String(), "\n", ""), "\x1b")
		require.True(t, tl.retry > 0 && tl.retry <= tailWaitMax)
	})
}
