package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

const tenant = "00000000-0000-0000-0000-000000000001"

func TestMain(m *testing.M) { os.Exit(devstack.Main(m)) }

var quiet = slog.New(slog.DiscardHandler)

// store is a schema of its own on a real Postgres.
type store struct {
	url    string
	pool   *pgxpool.Pool
	shards []*shard
}

// emptyStore has no tables.
func emptyStore(t testing.TB) *store {
	t.Helper()
	s := &store{url: devstack.TestPostgres(t)}
	pool, err := postgres.Open(t.Context(), s.url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s.pool = pool
	return s
}

// newStore is one that a service has used.
func newStore(t testing.TB, shards int) *store {
	t.Helper()
	s := emptyStore(t)
	require.NoError(t, postgres.Migrate(t.Context(), s.pool, quiet))
	require.NoError(t, postgres.EnsurePartitions(t.Context(), s.pool, time.Now()))
	s.settings(t, shards)
	for n := range shards {
		s.shards = append(s.shards, newShard(t, n))
	}
	return s
}

func (s *store) settings(t testing.TB, shards int) {
	t.Helper()
	for name, value := range map[string]string{"shards": fmt.Sprint(shards), "log_epoch": newID(t)} {
		_, err := postgres.FixSetting(t.Context(), s.pool, name, value)
		require.NoError(t, err)
	}
	for _, name := range []string{"ack-tokens", "cursors", "webhook-secrets"} {
		_, err := postgres.ServiceKey(t.Context(), s.pool, name)
		require.NoError(t, err)
	}
}

func (s *store) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// others gives the tables that are not folded rows with values of all kinds.
func (s *store) others(t testing.TB) {
	t.Helper()
	s.exec(t, `INSERT INTO tenant_keys VALUES ($1, 1, 'key', 'master', '\x00ff5c0a09', '2026-01-02 03:04:05.678901+02', NULL),
		($1, 2, 'key2', 'master', NULL, now(), '2026-01-02 03:04:05.000001+00')`, tenant)
	s.exec(t, `INSERT INTO handover_checkpoints VALUES ('audit', 0, 42, '0044-03-15 00:00:00.5+00 BC')`)
	s.exec(t, `INSERT INTO delivery_jobs (id, tenant_id, kind, spec, status, done, total, state, error, created_by, created_at, updated_at, finished_at, idempotency_key)
		VALUES ($1, $2, 'replay', '{"a": 1e400, "b": "\u0001\n\\\"", "c": [null, true, 1.50]}', 'done', 7, NULL, '{}', E'tab\tline\nback\\slash "é" \\N \\.', 'me', now(), now(), 'infinity', '')`,
		newID(t), tenant)
}

// fold has projectors fold what the shards have, and waits for it.
func (s *store) fold(t testing.TB) {
	t.Helper()
	for _, h := range s.shards {
		s.projector(t, h, h.at)()
	}
}

// projector folds a shard's records until wait, which returns once a position is committed.
func (s *store) projector(t testing.TB, h *shard, until events.Position) (wait func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	committed := make(chan struct{})
	ended := make(chan struct{})
	isThere := false
	p := projections.New(projections.Config{
		Shard: h.shard, Logger: quiet,
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, s.url) },
		Source: func(after events.Position) (message.Subscriber, string) {
			return replay{h.records, after}, "log"
		},
		Committed: func(upTo events.Position) {
			if upTo >= until && !isThere {
				isThere = true
				close(committed)
			}
		},
	})
	go func() {
		defer close(ended)
		p.Run(ctx)
	}()
	return func() {
		t.Helper()
		defer func() {
			cancel()
			<-ended
		}()
		select {
		case <-committed:
		case <-time.After(2 * time.Minute):
			require.FailNow(t, "not folded in time")
		}
	}
}

// sums are the SHA-256 of each table's rows, in order.
func (s *store) sums(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	var tables []string
	require.NoError(t, pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		var err error
		tables, err = tablesThere(t.Context(), tx)
		return err
	}))
	for _, table := range tables {
		if slices.Contains(leftOut, table) {
			continue
		}
		rows, err := s.pool.Query(t.Context(), `SELECT t::text FROM `+table+` t ORDER BY t::text COLLATE "C"`)
		require.NoError(t, err)
		sum, n := sha256.New(), 0
		var row string
		_, err = pgx.ForEachRow(rows, []any{&row}, func() error {
			n++
			_, _ = fmt.Fprintln(sum, row)
			return nil
		})
		require.NoError(t, err)
		out[table] = fmt.Sprint(n, " rows ", hex.EncodeToString(sum.Sum(nil)))
	}
	return out
}

// verified requires that the read tables are the fold of the history.
func (s *store) verified(t testing.TB) {
	t.Helper()
	conn, err := postgres.Connect(t.Context(), s.url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	shards, err := postgres.Setting(t.Context(), s.pool, "shards")
	require.NoError(t, err)
	var n int
	_, err = fmt.Sscan(shards, &n)
	require.NoError(t, err)
	report, err := projections.Verify(t.Context(), conn, projections.VerifyOptions{
		Shards: n, Batch: 700, HorizonSetting: postgres.HorizonSetting, MessageIDBound: postgres.MessageIDBound,
	})
	require.NoError(t, err)
	require.True(t, report.OK(), report)
}

func (s *store) backup(t testing.TB, dir string) Summary {
	t.Helper()
	summary, err := Run(t.Context(), s.pool, s.options(dir))
	require.NoError(t, err)
	return summary
}

// options have segments small enough for many.
func (s *store) options(dir string) Options {
	return Options{Dir: dir, ServiceVersion: "test", Projection: projections.Name, segmentBytesMax: 50_000}
}

func (s *store) restore(t testing.TB, dir string) (Restored, error) {
	t.Helper()
	return Restore(t.Context(), s.pool, s.restoreOptions(dir))
}

func (s *store) restoreOptions(dir string) RestoreOptions {
	return RestoreOptions{Dir: dir, Logger: quiet, Fold: func(ctx context.Context, shards int, progress func(int64)) error {
		return projections.FoldAll(ctx, projections.FoldAllOptions{
			Shards: shards, Workers: 2, Progress: progress,
			Connect: func(ctx context.Context) (*pgx.Conn, error) { return postgres.Connect(ctx, s.url) },
		})
	}}
}

// restored is a new store, restored from a directory.
func restored(t testing.TB, dir string) *store {
	t.Helper()
	s := emptyStore(t)
	_, err := s.restore(t, dir)
	require.NoError(t, err)
	return s
}

// files are the names and contents of a directory's files.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // the test's own directory
		out[name] = string(content)
		return err
	}))
	return out
}

// shard makes records as a shard's log would.
type shard struct {
	t       testing.TB
	shard   int
	at      events.Position
	records []events.Record
	offset  int64
	topicID string
	sub     events.SubscriptionConfig
}

func newShard(t testing.TB, n int) *shard {
	return newShardAt(t, n, time.Now())
}

func newShardAt(t testing.TB, n int, at time.Time) *shard {
	h := &shard{t: t, shard: n, at: events.MakePosition(at.UnixMilli(), 0), topicID: newID(t)}
	h.add(events.TopicCreated{TopicConfig: events.TopicConfig{
		TopicID: h.topicID, Name: fmt.Sprint("orders-", n), TopicType: "redis_stream", PartitionCount: 1, ReplicationFactor: 1, RetentionMs: 60_000,
		MessageFormat: "json", CompressionType: "none", AllowedProducers: []string{"a"}, AllowedConsumers: []string{}, Status: "active",
		SchemaDefinition: json.RawMessage(`{"type":"object"}`),
	}}, h.topicID, 1)
	h.sub = events.SubscriptionConfig{
		SubscriptionID: newID(t), TopicID: h.topicID, ConsumerGroup: "g", ConsumerName: "c", SubscriptionType: "redis_consumer",
		OffsetResetPolicy: "earliest", MaxPollRecords: 500, SessionTimeoutMs: 30_000, HeartbeatIntervalMs: 3000,
		HandlerConfig: json.RawMessage("{}"), MaxRetryAttempts: 3, RetryDelayMs: 1000, Status: "active",
	}
	h.add(events.SubscriptionCreated{
		SubscriptionConfig: h.sub, Joined: events.Joined{Group: h.sub.ConsumerGroup, Began: true},
	}, h.sub.SubscriptionID, 1)
	return h
}

func newID(t testing.TB) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return id.String()
}

func (h *shard) add(e events.Event, id string, version int64) {
	h.t.Helper()
	h.at += 1 << 16
	frame, err := events.Encode(e)
	require.NoError(h.t, err)
	var completion any
	if published, ok := e.(events.MessagePublished); ok {
		completion = published.Offset
	}
	if created, ok := e.(events.SubscriptionCreated); ok {
		completion = created.Joined
	}
	completed, err := json.Marshal(completion)
	require.NoError(h.t, err)
	h.records = append(h.records, events.Record{
		Shard: h.shard, Position: h.at, ID: id, TenantID: tenant, Version: version, Event: e, Data: frame.Join(string(completed)),
		Meta: events.Meta{Actor: "tester", RequestID: "r1"},
	})
}

// message publishes one and has it meet its fate.
func (h *shard) message(id string) {
	h.t.Helper()
	m := events.MessagePublished{
		MessageID: id, TopicID: h.topicID, Key: "k'\"\\", Headers: map[string]string{"h": "ä,{}\"\\"}, ContentType: "application/json",
		Payload: json.RawMessage(`{"a": [1.50, "\u00e9é", null],  "line" : "\n\\\t\u0001 ` + strings.Repeat("order ", int(h.offset%40)) + `"}`), Offset: h.offset,
	}
	h.offset++
	h.add(m, id, 0)
	d := events.Delivery{
		MessageID: id, TopicID: h.topicID, SubscriptionID: h.sub.SubscriptionID, ConsumerGroup: h.sub.ConsumerGroup,
		Consumer: h.sub.ConsumerName, Offset: m.Offset, Attempt: 1, LeasedAtMs: h.at.Ms(),
	}
	switch h.offset % 5 {
	case 0: // not settled
	case 1:
		h.add(events.MessageFailed{Delivery: d, Reason: events.ReasonNack, Error: "no\ttime", RetryDelayMs: 10}, newID(h.t), 0)
		d.Attempt = 2
		h.add(events.MessageDeadLettered{Delivery: d, Reason: events.ReasonLeaseExpired}, newID(h.t), 0)
	default:
		h.add(events.MessageConsumed{Delivery: d}, newID(h.t), 0)
	}
}

// messages publishes n messages, over all shards.
func (s *store) messages(t testing.TB, n int) {
	for i := range n {
		s.shards[i%len(s.shards)].message(newID(t))
	}
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
			m := message.NewMessage(record.ID, record.Data)
			m.Metadata = record.Meta.Metadata(record.Event.Kind(), record.TenantID, record.Version)
			m.Metadata[events.MetaShard] = fmt.Sprint(record.Shard)
			m.Metadata[events.MetaPosition] = fmt.Sprint(int64(record.Position))
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
		<-ctx.Done()
	}()
	return out, nil
}

func (replay) Close() error { return nil }
