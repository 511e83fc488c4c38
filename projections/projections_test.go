package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/postgres"
)

// foldAll folds a history in batches of a size.
func (b *testBundle) foldAll(t testing.TB, h *history, size int) {
	t.Helper()
	conn := b.conn(t)
	w := newWriter(conn.PgConn())
	shard := h.records[0].Shard
	at, err := checkpoint(t.Context(), conn, shard)
	require.NoError(t, err)
	for rest := h.records; len(rest) > 0; {
		batch := rest[:min(size, len(rest))]
		rest = rest[len(batch):]
		c, err := fold(batch)
		require.NoError(t, err)
		require.NoError(t, w.commit(t.Context(), shard, at, batch, &c))
		at = batch[len(batch)-1].Position
	}
}

func TestTheSizeOfBatchesMakesNoDifference(t *testing.T) {
	t.Parallel()
	h := life(t, 60, 1)
	one := setup(t)
	one.foldAll(t, h, 1)
	want := one.dump(t)
	require.Len(t, want["message_records"], 60)
	for _, size := range []int{2, 7, 1000} {
		b := setup(t)
		b.foldAll(t, h, size)
		require.Equal(t, want, b.dump(t), "batches of %d", size)
		require.True(t, b.verify(t, 13).OK())
	}
}

func TestWhatBecomesOfAMessage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := newHistory(t, 2)
	m := h.publish()
	published := h.at
	leased := h.at
	h.add(events.MessageFailed{Delivery: h.delivery(m, 0, 1), Reason: events.ReasonNack, Error: "busy", RetryDelayMs: 5000}, newID(t), 0)
	failed := h.at
	h.add(events.MessageConsumed{Delivery: h.delivery(m, 0, 2)}, newID(t), 0)
	consumed := h.at
	b.foldAll(t, h, 1000)

	var status, payload, traceID string
	var retries, size int
	var publishedAt, consumedAt, expiresAt time.Time
	row := b.pool.QueryRow(t.Context(), `SELECT status, payload::text, trace_id, retry_count, payload_size, published_at, consumed_at, expires_at FROM message_records`)
	require.NoError(t, row.Scan(&status, &payload, &traceID, &retries, &size, &publishedAt, &consumedAt, &expiresAt))
	require.Equal(t, "consumed", status)
	require.JSONEq(t, string(m.Payload), payload)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", traceID)
	require.Equal(t, 1, retries)
	require.Equal(t, len(m.Payload), size)
	require.WithinDuration(t, published.Time(), publishedAt, 0)
	require.WithinDuration(t, consumed.Time(), consumedAt, 0)
	require.WithinDuration(t, published.Time().Add(time.Second), expiresAt, 0)

	rows, err := b.pool.Query(t.Context(), `SELECT id::text, status, coalesce(error_message, ''), retry_count, processing_time_ms, consumed_at, processed_at, next_retry_at
		FROM consumption_records ORDER BY retry_count`)
	require.NoError(t, err)
	type attempt struct {
		ID, Status, Error       string
		Retries, TookMs         int
		ConsumedAt, ProcessedAt time.Time
		RetryAt                 *time.Time
	}
	attempts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[attempt])
	require.NoError(t, err)
	require.Len(t, attempts, 2)
	first, second := attempts[0], attempts[1]
	require.Equal(t, []string{"retrying", "busy"}, []string{first.Status, first.Error})
	require.Equal(t, AttemptID(events.Delivery{SubscriptionID: h.subs[0].SubscriptionID, MessageID: m.MessageID, Attempt: 1}), first.ID)
	require.Equal(t, int(failed.Ms()-leased.Ms()), first.TookMs)
	require.WithinDuration(t, leased.Time(), first.ConsumedAt, 0)
	require.WithinDuration(t, failed.Time(), first.ProcessedAt, 0)
	require.WithinDuration(t, failed.Time().Add(5*time.Second), *first.RetryAt, 0)
	require.Equal(t, []any{"success", 1}, []any{second.Status, second.Retries})
	require.Nil(t, second.RetryAt)

	var last time.Time
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT last_consumed_at FROM message_subscriptions WHERE consumer_group = 'g0'`).Scan(&last))
	require.WithinDuration(t, consumed.Time(), last, 0)
}

func TestStatusOnlyRises(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		then func(h *history, m events.MessagePublished) events.Event
		want string
	}{
		"a failure of another group after it was consumed": {
			func(h *history, m events.MessagePublished) events.Event {
				return events.MessageFailed{Delivery: h.delivery(m, 1, 1)}
			}, "consumed",
		},
		"a dead letter of another group after it was consumed": {
			func(h *history, m events.MessagePublished) events.Event {
				return events.MessageDeadLettered{Delivery: h.delivery(m, 1, 4)}
			}, "dead_letter",
		},
	} {
		for _, size := range []int{1, 1000} {
			t.Run(fmt.Sprintf("%s, batches of %d", name, size), func(t *testing.T) {
				t.Parallel()
				b := setup(t)
				h := newHistory(t, 2)
				m := h.publish()
				h.add(events.MessageConsumed{Delivery: h.delivery(m, 0, 1)}, newID(t), 0)
				h.add(tc.then(h, m), newID(t), 0)
				b.foldAll(t, h, size)
				var status string
				require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT status FROM message_records`).Scan(&status))
				require.Equal(t, tc.want, status)
			})
		}
	}
}

func TestHistoryReadsBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 20, 2)
	b.foldAll(t, h, 50)
	var got []events.Record
	after := events.Position(0)
	for {
		page, err := ReadHistory(t.Context(), b.pool, 0, after, 7)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1].Position
	}
	require.Equal(t, h.records, got)
}

func TestACheckpointThatMovedStopsTheWrite(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 5, 3)
	b.foldAll(t, h, 1000)
	before := b.dump(t)
	more := h.records[len(h.records)-1:]
	c, err := fold(more)
	require.NoError(t, err)
	err = newWriter(b.conn(t).PgConn()).commit(t.Context(), 0, more[0].Position-1, more, &c)
	require.ErrorContains(t, err, "checkpoint of read/0 is not at")
	require.Equal(t, before, b.dump(t))
}

func TestABatchIsWrittenWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 5, 4)
	conn := b.conn(t)
	w := newWriter(conn.PgConn())
	_, err := checkpoint(t.Context(), conn, 0)
	require.NoError(t, err)
	// given a statement that fails after all others were fine
	_, err = b.pool.Exec(t.Context(), `ALTER TABLE message_subscriptions ADD CHECK (last_consumed_at IS NULL)`)
	require.NoError(t, err)
	c, err := fold(h.records)
	require.NoError(t, err)
	require.Error(t, w.commit(t.Context(), 0, 0, h.records, &c))
	for table, rows := range b.dump(t) {
		require.Empty(t, rows, table)
	}
	// and the connection is good for the next try
	_, err = b.pool.Exec(t.Context(), `ALTER TABLE message_subscriptions DROP CONSTRAINT message_subscriptions_last_consumed_at_check`)
	require.NoError(t, err)
	require.NoError(t, w.commit(t.Context(), 0, 0, h.records, &c))
	require.True(t, b.verify(t, 100).OK())
}

func TestProjectorFoldsExactlyOnceWhileItsConnectionsAreKilled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 1500, 5)
	// given two projectors of one shard: one active, one standing by
	first, _ := b.projector(t, h.source())
	second, _ := b.projector(t, h.source())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	last := h.records[len(h.records)-1].Position
	kills := 0
	for at := events.Position(0); at < last; {
		select {
		case at = <-first:
		case at = <-second:
		case <-ctx.Done():
			require.FailNow(t, "not folded in time")
		}
		// when whoever is active loses its connection, now and then
		if kills < 10 {
			_, err := b.pool.Exec(ctx, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
				WHERE l.locktype = 'advisory' AND a.application_name = 'tallymq projector' AND a.query LIKE '%' AND l.granted
				  AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended('tallymq:projector:' || current_schema() || ':read/0', 0)`)
			require.NoError(t, err)
			kills++
		}
	}
	// then everything was folded exactly once
	require.Equal(t, 10, kills)
	report := b.verify(t, 333)
	require.True(t, report.OK(), report)
	require.Equal(t, int64(len(h.records)), report.Events)
	require.Len(t, b.dump(t)["message_records"], 1500)
}

func TestTheStandbyTakesOver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 50, 6)
	active, stop := b.projector(t, h.source())
	awaitPosition(t, active, h.records[len(h.records)-1].Position)
	standby, _ := b.projector(t, h.source())
	require.Never(t, func() bool { return len(standby) > 0 }, 2*lockRetry, lockRetry/4, "two are active")
	stop()
	awaitPosition(t, standby, h.records[len(h.records)-1].Position)
}

func TestAnEventThatCannotBeFoldedStopsTheShard(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 10, 7)
	bad := len(h.records) / 2
	broken := append([]events.Record(nil), h.records...)
	source := func(after events.Position) (message.Subscriber, string) {
		return garbled{replay{broken, after}, broken[bad].Position}, "log"
	}
	committed, stop := b.projector(t, source)
	awaitPosition(t, committed, broken[bad-1].Position)
	require.Never(t, func() bool { return len(committed) > 0 && <-committed > broken[bad-1].Position }, time.Second, 50*time.Millisecond)
	stop()
	// and goes on where it stopped once the event can be read
	resumed, _ := b.projector(t, h.source())
	awaitPosition(t, resumed, h.records[len(h.records)-1].Position)
	require.True(t, b.verify(t, 100).OK())
}

// garbled makes one event unreadable.
type garbled struct {
	replay

	bad events.Position
}

func (g garbled) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := g.replay.Subscribe(ctx, topic)
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for m := range in {
			if m.Metadata[events.MetaPosition] == fmt.Sprint(int64(g.bad)) {
				m.Payload = []byte("{")
			}
			select {
			case out <- m:
			case <-ctx.Done():
			}
		}
	}()
	return out, err
}

// BenchmarkCommit folds a published and a consumed event per message, in batches
// as the projector makes them under light and under heavy load.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{64, 1000} {
		b.Run(fmt.Sprintf("%d events", size), func(b *testing.B) {
			bundle := setup(b)
			conn := bundle.conn(b)
			w := newWriter(conn.PgConn())
			at, err := checkpoint(b.Context(), conn, 0)
			require.NoError(b, err)
			h := newHistory(b, 1)
			n := 0
			for b.Loop() {
				b.StopTimer()
				for len(h.records) < size {
					m := h.publish()
					h.add(events.MessageConsumed{Delivery: h.delivery(m, 0, 1)}, newID(b), 0)
				}
				b.StartTimer()
				c, err := fold(h.records)
				require.NoError(b, err)
				require.NoError(b, w.commit(b.Context(), 0, at, h.records, &c))
				at = h.records[len(h.records)-1].Position
				n += len(h.records)
				h.records = h.records[:0]
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// Retention takes history and rows of whole days; what is left still equals its fold.
func TestVerifyKnowsWhatRetentionDropped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := time.Now().UTC()
	const day = 24 * time.Hour
	h := newHistoryAt(t, 2, now.Add(-10*day))
	consume := func(id string, group int) {
		require.NoError(t, postgres.EnsurePartitions(t.Context(), b.pool, h.at.Time()))
		m := events.MessagePublished{
			MessageID: id, TopicID: h.topicID, ContentType: "application/json", Payload: json.RawMessage("1"), Offset: h.offsets,
		}
		h.offsets++
		h.add(m, id, 0)
		h.add(events.MessageConsumed{Delivery: h.delivery(m, group, 1)}, newID(t), 0)
	}
	consume(postgres.MessageIDBound(h.at.Time())+"-7000-8000-000000000001", 0)
	h.at = events.MakePosition(now.UnixMilli(), 0)
	consume(newID(t), 1)
	b.foldAll(t, h, 1000)
	require.NoError(t, postgres.DropExpired(t.Context(), b.pool, now, 3*day, slog.New(slog.DiscardHandler)))
	require.Len(t, b.dump(t)["message_records"], 1)

	o := VerifyOptions{Shards: 1, Batch: 100}
	report, err := Verify(t.Context(), b.conn(t), o)
	require.NoError(t, err)
	require.False(t, report.OK(), "the old group's last_consumed_at has lost its event")
	o.HorizonSetting, o.MessageIDBound = postgres.HorizonSetting, postgres.MessageIDBound
	report, err = Verify(t.Context(), b.conn(t), o)
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	// and a fault in what is left is still found
	_, err = b.pool.Exec(t.Context(), `UPDATE message_subscriptions SET last_consumed_at = last_consumed_at + interval '1 second' WHERE consumer_group = 'g1'`)
	require.NoError(t, err)
	report, err = Verify(t.Context(), b.conn(t), o)
	require.NoError(t, err)
	require.False(t, report.OK())
}

func TestHistoryIsReadInPagesOfBoundedWeight(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := newHistory(t, 1)
	large, err := json.Marshal(strings.Repeat("x", 3<<20))
	require.NoError(t, err)
	for range 5 {
		id := newID(t)
		h.add(events.MessagePublished{MessageID: id, TopicID: h.topicID, ContentType: "application/json", Payload: large, Offset: h.offsets}, id, 0)
		h.offsets++
	}
	b.foldAll(t, h, 2)
	page, err := ReadHistory(t.Context(), b.pool, 0, 0, 1000)
	require.NoError(t, err)
	require.Len(t, page, 2+3, "the topic, the subscription, and messages up to the one that passes 8 MiB")
	rest, err := ReadHistory(t.Context(), b.pool, 0, page[len(page)-1].Position, 1000)
	require.NoError(t, err)
	require.Len(t, rest, 2)
	require.True(t, b.verify(t, 1000).OK())
}

// Partitions are made and dropped while a projector folds, and neither waits for the
// other in a circle.
func TestPartitionsComeAndGoWhileItFolds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := life(t, 600, 9)
	committed, _ := b.projector(t, h.source())
	for n := range 40 {
		at := time.Now().AddDate(0, 0, 10+5*n)
		require.NoError(t, postgres.EnsurePartitions(t.Context(), b.pool, at))
		require.NoError(t, postgres.DropExpired(t.Context(), b.pool, time.Now().AddDate(0, 0, -20), time.Hour, slog.New(slog.DiscardHandler)))
	}
	awaitPosition(t, committed, h.records[len(h.records)-1].Position)
	var deadlocks int
	require.NoError(t, b.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_database WHERE datname = current_database() AND deadlocks > 0`).Scan(&deadlocks))
	require.Zero(t, deadlocks)
	require.True(t, b.verify(t, 500).OK())
}

func TestVerifyFoldsEveryShard(t *testing.T) {
	t.Parallel()
	b := setup(t)
	w := newWriter(b.conn(t).PgConn())
	total := 0
	for shard := range 3 {
		h := life(t, 5, uint64(shard))
		inShard(t, h, shard)
		_, err := checkpoint(t.Context(), b.conn(t), shard)
		require.NoError(t, err)
		c, err := fold(h.records)
		require.NoError(t, err)
		require.NoError(t, w.commit(t.Context(), shard, 0, h.records, &c))
		total += len(h.records)
	}
	report, err := Verify(t.Context(), b.conn(t), VerifyOptions{Shards: 3, Batch: 7})
	require.NoError(t, err)
	require.True(t, report.OK(), report)
	require.Equal(t, int64(total), report.Events)
}
