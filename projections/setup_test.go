package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/devstack"
	"github.com/tallymq/tallymq/infra/postgres"
)

const tenant = "00000000-0000-0000-0000-000000000001"

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// testBundle is a migrated schema of its own on a real Postgres.
type testBundle struct {
	url  string
	pool *pgxpool.Pool
}

func setup(t testing.TB) *testBundle {
	t.Helper()
	url := devstack.TestPostgres(t)
	pool, err := postgres.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	require.NoError(t, postgres.EnsurePartitions(t.Context(), pool, time.Now()))
	return &testBundle{url: url, pool: pool}
}

func (b *testBundle) connect(ctx context.Context) (*pgx.Conn, error) {
	return postgres.Connect(ctx, b.url)
}

func (b *testBundle) conn(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := b.connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// dump returns all rows of the read tables, as JSON, in a fixed order.
func (b *testBundle) dump(t testing.TB) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, table := range append([]string{"event_history"}, readTables...) {
		rows, err := b.pool.Query(t.Context(), "SELECT to_jsonb(t)::text FROM "+table+" t ORDER BY 1")
		require.NoError(t, err)
		out[table], err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
	}
	return out
}

func (b *testBundle) verify(t testing.TB, batch uint64) Report {
	t.Helper()
	report, err := Verify(t.Context(), b.conn(t), VerifyOptions{Shards: 1, Batch: batch})
	require.NoError(t, err)
	return report
}

// projector is one that folds records until stop is called.
func (b *testBundle) projector(t testing.TB, source func(events.Position) (message.Subscriber, string)) (committed chan events.Position, stop func()) {
	t.Helper()
	committed = make(chan events.Position, 100_000)
	p := New(Config{
		Connect: b.connect, Source: source, Logger: slog.New(slog.DiscardHandler),
		Committed: func(upTo events.Position) { committed <- upTo },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return committed, stop
}

func awaitPosition(t testing.TB, committed <-chan events.Position, want events.Position) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case at := <-committed:
			if at >= want {
				return
			}
		case <-deadline:
			require.FailNow(t, "not folded in time")
		}
	}
}

// history makes records, as the log would.
type history struct {
	t       testing.TB
	at      events.Position
	records []events.Record
	offsets int64
	topicID string
	subs    []events.SubscriptionCreated
}

// newHistory begins with a topic and subscriptions of different groups.
func newHistory(t testing.TB, groups int) *history {
	return newHistoryAt(t, groups, time.Now())
}

func newHistoryAt(t testing.TB, groups int, at time.Time) *history {
	h := &history{t: t, at: events.MakePosition(at.UnixMilli(), 0), topicID: newID(t)}
	h.add(events.TopicCreated{TopicConfig: events.TopicConfig{
		TopicID: h.topicID, Name: "orders", TopicType: "redis_stream", PartitionCount: 1, ReplicationFactor: 1, RetentionMs: 60_000,
		MessageFormat: "json", CompressionType: "none", AllowedProducers: []string{"a"}, AllowedConsumers: []string{}, Status: "active",
		SchemaDefinition: json.RawMessage(`{"type":"object"}`),
	}}, h.topicID, 1)
	for n := range groups {
		s := events.SubscriptionCreated{SubscriptionConfig: events.SubscriptionConfig{
			SubscriptionID: newID(t), TopicID: h.topicID, ConsumerGroup: fmt.Sprint("g", n), ConsumerName: "c", SubscriptionType: "redis_consumer",
			OffsetResetPolicy: "earliest", MaxPollRecords: 500, SessionTimeoutMs: 30_000, HeartbeatIntervalMs: 3000,
			HandlerConfig: json.RawMessage("{}"), MaxRetryAttempts: 3, RetryDelayMs: 1000, Status: "active",
		}}
		h.subs = append(h.subs, s)
		h.add(s, s.SubscriptionID, 1)
	}
	return h
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

func (h *history) add(e events.Event, id string, version int64) events.Record {
	h.t.Helper()
	h.at += 1 << 20
	frame, err := events.Encode(e)
	require.NoError(h.t, err)
	completed, err := json.Marshal(completion(e))
	require.NoError(h.t, err)
	r := events.Record{
		Position: h.at, ID: id, TenantID: tenant, Version: version, Event: e, Data: frame.Join(string(completed)),
		Meta: events.Meta{Actor: "tester", RequestID: "r1"},
	}
	h.records = append(h.records, r)
	return r
}

// completion is what the log adds to an event.
func completion(e events.Event) any {
	if e, ok := e.(events.MessagePublished); ok {
		return e.Offset
	}
	if e, ok := e.(events.TopicPurged); ok {
		return e.Discarded
	}
	if e, ok := e.(events.TopicDeleted); ok {
		return e.Discarded
	}
	if e, ok := e.(events.SubscriptionDeleted); ok {
		return e.Discarded
	}
	if e, ok := e.(events.MessageErased); ok {
		return e.Discarded
	}
	return nil
}

func (h *history) publish() events.MessagePublished {
	h.t.Helper()
	e := events.MessagePublished{
		MessageID: newID(h.t), TopicID: h.topicID, Key: "k'\"\\", Headers: map[string]string{"h": "ä,{}\"\\"}, ContentType: "application/json",
		CorrelationID: "c", ProducerID: "p", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		TTLMs: 1000, Payload: json.RawMessage(`{"a": [1.50, "\u00e9", null]}`), Offset: h.offsets,
	}
	h.offsets++
	h.add(e, e.MessageID, 0)
	return e
}

func (h *history) delivery(m events.MessagePublished, sub, attempt int) events.Delivery {
	s := h.subs[sub]
	return events.Delivery{
		MessageID: m.MessageID, TopicID: h.topicID, SubscriptionID: s.SubscriptionID, ConsumerGroup: s.ConsumerGroup,
		Consumer: s.ConsumerName, Offset: m.Offset, Attempt: attempt, LeasedAtMs: h.at.Ms(),
	}
}

// life is a random history of n messages in which every message and group has its
// own fate, all interleaved.
func life(t testing.TB, n int, seed uint64) *history {
	h := newHistory(t, 2)
	rng := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test's dice
	type open struct {
		m            events.MessagePublished
		sub, attempt int
	}
	var todo []open
	for published := 0; published < n || len(todo) > 0; {
		if published < n && (len(todo) == 0 || rng.IntN(3) == 0) {
			m := h.publish()
			todo = append(todo, open{m, 0, 1}, open{m, 1, 1})
			published++
			continue
		}
		i := rng.IntN(len(todo))
		d := h.delivery(todo[i].m, todo[i].sub, todo[i].attempt)
		switch {
		case rng.IntN(3) > 0:
			h.add(events.MessageConsumed{Delivery: d}, newID(t), 0)
		case d.Attempt < 3:
			h.add(events.MessageFailed{Delivery: d, Reason: events.ReasonNack, Error: "no\ttime", RetryDelayMs: 10}, newID(t), 0)
			todo[i].attempt++
			continue
		default:
			h.add(events.MessageDeadLettered{Delivery: d, Reason: events.ReasonLeaseExpired}, newID(t), 0)
		}
		todo = append(todo[:i], todo[i+1:]...)
	}
	return h
}

// source serves records to a projector, as the log does.
func (h *history) source() func(events.Position) (message.Subscriber, string) {
	return func(after events.Position) (message.Subscriber, string) { return replay{h.records, after}, "log" }
}

type replay struct {
	records []events.Record
	after   events.Position
}

func (r replay) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for _, record := range r.records {
			if record.Position <= r.after {
				continue
			}
			select {
			case out <- toMessage(record):
			case <-ctx.Done():
				return
			}
		}
		<-ctx.Done()
	}()
	return out, nil
}

func (replay) Close() error { return nil }

func toMessage(r events.Record) *message.Message {
	m := message.NewMessage(r.ID, r.Data)
	m.Metadata = r.Meta.Metadata(r.Event.Kind(), r.TenantID, r.Version)
	m.Metadata[events.MetaShard] = fmt.Sprint(r.Shard)
	m.Metadata[events.MetaPosition] = fmt.Sprint(int64(r.Position))
	return m
}
