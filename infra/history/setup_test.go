package history

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
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
	"github.com/tallymq/tallymq/projections"
)

const (
	tenant = "00000000-0000-0000-0000-000000000001"
	other  = "00000000-0000-0000-0000-000000000002"
)

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

// store is a store on a real Postgres, with a log of each shard in memory and a
// projector that folds it.
type store struct {
	t    testing.TB
	url  string
	pool *pgxpool.Pool
	logs []*log
}

func setup(t testing.TB, shards int) *store {
	t.Helper()
	s := &store{t: t, url: devstack.TestPostgres(t)}
	pool, err := postgres.Open(t.Context(), s.url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s.pool = pool
	require.NoError(t, postgres.Migrate(t.Context(), pool, slog.New(slog.DiscardHandler)))
	require.NoError(t, postgres.EnsurePartitions(t.Context(), pool, time.Now()))
	_, err = postgres.FixSetting(t.Context(), pool, "shards", strconv.Itoa(shards))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for shard := range shards {
		l := &log{t: t, shard: shard, at: events.MakePosition(time.Now().UnixMilli(), 0), topicID: newID(t), more: make(chan struct{})}
		s.logs = append(s.logs, l)
		p := projections.New(projections.Config{
			Shard: shard, Logger: slog.New(slog.DiscardHandler),
			Connect:   func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, s.url) },
			Source:    func(after events.Position) (message.Subscriber, string) { return source{l, after}, "log" },
			Committed: func(events.Position) {},
		})
		running.Go(func() { p.Run(ctx) })
	}
	return s
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

func (s *store) exec(sql string, args ...any) {
	s.t.Helper()
	_, err := s.pool.Exec(s.t.Context(), sql, args...)
	require.NoError(s.t, err)
}

// place puts a reader where no event is that it has read.
func (s *store) place(r reader, at int64) {
	s.t.Helper()
	s.exec(createReaders)
	s.exec(`INSERT INTO history_readers VALUES ($1, $2, $3, $4, 'epoch') ON CONFLICT (consumer_group, tenant_id, shard) DO UPDATE SET position = $4`, append(r.args(), at)...)
}

// awaitFolded waits until all that is in a log is history.
func (s *store) awaitFolded(shard int) {
	s.t.Helper()
	want := s.logs[shard].all()
	require.Eventually(s.t, func() bool {
		var at int64
		err := s.pool.QueryRow(s.t.Context(), `SELECT position FROM projection_checkpoints WHERE shard = $1`, shard).Scan(&at)
		return err == nil && at >= int64(want[len(want)-1].Position)
	}, time.Minute, 5*time.Millisecond)
}

// log is a shard's log.
type log struct {
	t       testing.TB
	shard   int
	topicID string

	mu      sync.Mutex
	at      events.Position
	records []events.Record
	more    chan struct{}
	offsets int64
}

func (l *log) all() []events.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clip(l.records)
}

func (l *log) add(tenantID string, e events.Event, id, completion string, version int64) {
	frame, err := events.Encode(e)
	require.NoError(l.t, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at++
	l.records = append(l.records, events.Record{
		Shard: l.shard, Position: l.at, ID: id, TenantID: tenantID, Version: version, Event: e, Data: frame.Join(completion),
		Meta: events.Meta{Actor: "tester", RequestID: "r\"1", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", IdempotencyKey: "key", Fingerprint: "f"},
	})
	close(l.more)
	l.more = make(chan struct{})
}

// create begins with a topic: an admin event.
func (l *log) create(tenantID string) {
	l.add(tenantID, events.TopicCreated{TopicConfig: events.TopicConfig{
		TopicID: l.topicID, Name: fmt.Sprint("orders-", l.shard), TopicType: "redis_stream", PartitionCount: 1, ReplicationFactor: 1, RetentionMs: 60_000,
		MessageFormat: "json", CompressionType: "none", AllowedProducers: []string{}, AllowedConsumers: []string{}, Status: "active",
	}}, l.topicID, "", 1)
}

// publish adds n messages.
func (l *log) publish(n int) {
	for range n {
		id := newID(l.t)
		l.add(tenant, events.MessagePublished{
			MessageID: id, TopicID: l.topicID, Headers: map[string]string{"h": "ä,{}\"\\"}, ContentType: "application/json",
			Payload: json.RawMessage(`{"a": [1.50, "\u00e9", null]}`),
		}, id, strconv.FormatInt(l.offsets, 10), 0)
		l.offsets++
	}
}

// source follows a log as a projector does.
type source struct {
	log   *log
	after events.Position
}

func (s source) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for n := 0; ; {
			s.log.mu.Lock()
			records, more := s.log.records, s.log.more
			s.log.mu.Unlock()
			for ; n < len(records); n++ {
				if records[n].Position <= s.after {
					continue
				}
				select {
				case out <- toMessage(records[n]):
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (source) Close() error { return nil }

// toMessage is a record as the log's reader has it.
func toMessage(r events.Record) *message.Message {
	m := message.NewMessage(r.ID, r.Data)
	m.Metadata = r.Meta.Metadata(r.Event.Kind(), r.TenantID, r.Version)
	m.Metadata[events.MetaShard] = strconv.Itoa(r.Shard)
	m.Metadata[events.MetaPosition] = strconv.FormatInt(int64(r.Position), 10)
	return m
}

// open opens a subscriber that looks again soon.
func (s *store) open(cfg Config) *Subscriber {
	s.t.Helper()
	cfg.DatabaseURL, cfg.PollInterval, cfg.NackDelay = s.url, 5*time.Millisecond, time.Millisecond
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sub, err := Open(s.t.Context(), cfg)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = sub.Close() })
	return sub
}

// heard is what handlers were given, in order.
type heard struct {
	mu       sync.Mutex
	messages map[string][]*message.Message
}

func (h *heard) add(topic string, m *message.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.messages == nil {
		h.messages = map[string][]*message.Message{}
	}
	h.messages[topic] = append(h.messages[topic], m)
}

func (h *heard) of(shard int) []*message.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.messages[Topic(shard)]
	return slices.Clip(list)
}

// follow acks all that comes from a shard.
func (h *heard) follow(t testing.TB, sub *Subscriber, shards ...int) {
	t.Helper()
	for _, shard := range shards {
		messages, err := sub.Subscribe(t.Context(), Topic(shard))
		require.NoError(t, err)
		go func() {
			for m := range messages {
				h.add(Topic(shard), m)
				m.Ack()
			}
		}()
	}
}

func (h *heard) await(t testing.TB, shard, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return len(h.of(shard)) >= n }, time.Minute, 2*time.Millisecond, "heard %v of %v", len(h.of(shard)), n)
}

// requireRecords holds what was heard against the log: every event, once, in order, in full.
func requireRecords(t testing.TB, want []events.Record, got []*message.Message) {
	t.Helper()
	require.Len(t, got, len(want))
	for i, m := range got {
		r, err := events.ParseRecord(m.UUID, m.Metadata, m.Payload)
		require.NoError(t, err)
		wanted := toMessage(want[i])
		require.Equal(t, want[i].Position, r.Position, "event %d", i)
		require.Equal(t, fmt.Sprint(wanted.UUID, wanted.Metadata, string(wanted.Payload)), fmt.Sprint(m.UUID, m.Metadata, string(m.Payload)))
	}
}
