package projections

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/queries"
)

// topic is a queue's configuration.
func (h *history) topic(name string) events.TopicConfig {
	return events.TopicConfig{
		TopicID: newID(h.t), Name: name, TopicType: "redis_stream", PartitionCount: 1, ReplicationFactor: 1, RetentionMs: 60_000,
		MessageFormat: "json", CompressionType: "none", AllowedProducers: []string{}, AllowedConsumers: []string{}, Status: "active",
	}
}

// entry is a position as the log writes it.
func entry(p events.Position) string { return fmt.Sprintf("%d-%d", p.Ms(), p.Seq()) }

// foldSame folds a history in batches of a size. The history folded in any other
// batches must come to the same, row by row.
func (b *testBundle) foldSame(t *testing.T, h *history, size int) {
	t.Helper()
	b.foldAll(t, h, size)
	for _, other := range []uint64{1, 7, 1000} {
		report := b.verify(t, other)
		require.True(t, report.OK(), "batches of %d and %d: %v", size, other, report.Tables)
	}
	require.Empty(t, b.rebuild(t, 1))
}

func (b *testBundle) strings(t testing.TB, sql string, args ...any) []string {
	t.Helper()
	rows, err := b.pool.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return out
}

func TestWhatAdminsChangeIsFolded(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 2)
	created := h.at.Time().Add(-2 * time.Millisecond) // two subscriptions followed
	topic := h.records[0].Event.(events.TopicCreated).TopicConfig
	topic.DisplayName, topic.Description, topic.PartitionCount, topic.RetentionMs = "D", "d", 5, 70_000
	topic.SchemaDefinition, topic.IsPublic, topic.AllowedProducers, topic.AllowedConsumers = nil, true, []string{}, []string{"c"}
	h.add(events.TopicUpdated{TopicConfig: topic}, newID(t), 2)
	topic.Status = "paused"
	h.add(events.TopicUpdated{TopicConfig: topic}, newID(t), 3)
	changed := h.at.Time()
	// one subscription changed whole, then paused; the other paused, changed, resumed
	for n := range 2 {
		c := h.subs[n].SubscriptionConfig
		c.MaxPollRecords, c.SessionTimeoutMs, c.HeartbeatIntervalMs, c.MaxRetryAttempts, c.RetryDelayMs = 7, 5000, 200, 0, 0
		c.HandlerConfig, c.MessageFilter, c.DeadLetterQueue = json.RawMessage(`{"a": 1}`), json.RawMessage(`{"f": 1}`), "dead"
		id := c.SubscriptionID
		if n == 1 {
			h.add(events.SubscriptionPaused{SubscriptionID: id, TopicID: h.topicID}, newID(t), 2)
			c.Status, c.MessageFilter, c.DeadLetterQueue = "paused", nil, ""
		}
		h.add(events.SubscriptionUpdated{SubscriptionConfig: c}, newID(t), int64(2+n))
		if n == 1 {
			h.add(events.SubscriptionResumed{SubscriptionID: id, TopicID: h.topicID}, newID(t), 4)
			continue
		}
		h.add(events.SubscriptionPaused{SubscriptionID: id, TopicID: h.topicID}, newID(t), 3)
	}
	b := setup(t)
	b.foldSame(t, h, 1000)
	q, err := queries.QueueByName(t.Context(), b.pool, tenant, "orders")
	require.NoError(t, err)
	require.Equal(t, []any{"D", "d", 5, int64(70_000), true, []string{}, []string{"c"}, "paused", int64(3)},
		[]any{*q.DisplayName, *q.Description, q.PartitionCount, q.RetentionMs, q.IsPublic, q.AllowedProducers, q.AllowedConsumers, q.Status, q.Version})
	require.Nil(t, q.SchemaDefinition)
	require.WithinDuration(t, created, q.CreatedAt, 0)
	require.WithinDuration(t, changed, q.UpdatedAt, 0)
	for n, want := range []string{"paused", "active"} {
		s, err := queries.SubscriptionByID(t.Context(), b.pool, tenant, h.subs[n].SubscriptionID)
		require.NoError(t, err)
		require.Equal(t, []any{want, int64(3 + n), 7, 5000, 200, 0, 0}, []any{s.Status, s.Version, s.MaxPollRecords, s.SessionTimeoutMs, s.HeartbeatIntervalMs, s.MaxRetryAttempts, s.RetryDelayMs})
		require.JSONEq(t, `{"a":1}`, string(s.HandlerConfig))
		require.Equal(t, n == 0, s.MessageFilter != nil && s.DeadLetterQueue != nil)
		require.True(t, s.UpdatedAt.After(s.CreatedAt))
	}
}

// A change and the deletion in one batch is a change and a deletion.
func TestADeletedQueueKeepsWhatItLastWas(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 1)
	topic := h.records[0].Event.(events.TopicCreated).TopicConfig
	topic.Description, topic.PartitionCount = "last", 3
	h.add(events.TopicUpdated{TopicConfig: topic}, newID(t), 2)
	h.add(events.TopicDeleted{TopicID: h.topicID, Name: "orders"}, newID(t), 3)
	// given also one that only lives within the batch
	brief := h.topic("brief")
	h.add(events.TopicCreated{TopicConfig: brief}, newID(t), 1)
	h.add(events.TopicDeleted{TopicID: brief.TopicID, Name: "brief"}, newID(t), 2)
	b := setup(t)
	b.foldSame(t, h, 1000)
	require.Equal(t, []string{"brief//1/archived/2", "orders/last/3/archived/3"},
		b.strings(t, `SELECT concat_ws('/', name, coalesce(description, ''), partition_count, status, version) FROM message_topics ORDER BY 1`))
	require.Empty(t, b.strings(t, `SELECT id::text FROM message_subscriptions`))
}

func TestAPurgeMarksWhatNobodySettled(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 2)
	other := h.topicID
	names := map[string]string{}
	first := h.at + 1<<20
	publish := func(name string) events.MessagePublished {
		m := h.publish()
		names[m.MessageID] = name
		return m
	}
	publish("new")
	failed, consumed, half, dead := publish("failed"), publish("consumed"), publish("consumed by one"), publish("dead")
	h.add(events.MessageFailed{Delivery: h.delivery(failed, 0, 1)}, newID(t), 0)
	for sub := range 2 {
		h.add(events.MessageConsumed{Delivery: h.delivery(consumed, sub, 1)}, newID(t), 0)
	}
	h.add(events.MessageConsumed{Delivery: h.delivery(half, 0, 1)}, newID(t), 0)
	h.add(events.MessageDeadLettered{Delivery: h.delivery(dead, 1, 4)}, newID(t), 0)
	// given another queue, which is not concerned
	second := h.topic("other")
	h.add(events.TopicCreated{TopicConfig: second}, newID(t), 1)
	h.topicID = second.TopicID
	publish("other queue")
	h.topicID = other
	h.add(events.TopicPurged{TopicID: h.topicID, Discarded: events.Discarded{Groups: map[string]int64{"g0": 2, "g1": 3}, From: entry(first)}}, newID(t), 1)
	publish("after")
	publish("after, then purged")
	h.add(events.MessageConsumed{Delivery: h.delivery(publish("after, consumed"), 0, 1)}, newID(t), 0)
	b := setup(t)
	b.foldSame(t, h, 1000)
	require.Equal(t, map[string]string{
		"new": "purged", "failed": "purged", "consumed": "consumed", "consumed by one": "consumed", "dead": "dead_letter",
		"other queue": "published", "after": "published", "after, then purged": "published", "after, consumed": "consumed",
	}, b.statuses(t, names))
	folded := len(h.records)
	// a second purge, of what the queue says its oldest is
	h.add(events.TopicPurged{TopicID: h.topicID, Discarded: events.Discarded{From: "0-0"}}, newID(t), 1)
	h.add(events.TopicPurged{TopicID: h.topicID}, newID(t), 1)
	more := history{t: t, records: h.records[folded:]}
	b.foldSame(t, &more, 1)
	after := b.statuses(t, names)
	require.Equal(t, []string{"purged", "purged", "consumed", "published"}, []string{after["after"], after["after, then purged"], after["after, consumed"], after["other queue"]})
	require.Equal(t, []string{"1"}, b.strings(t, `SELECT retry_count::text FROM message_records WHERE message_id = $1`, failed.MessageID))
}

func (b *testBundle) statuses(t testing.TB, names map[string]string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for id, name := range names {
		got := b.strings(t, `SELECT status FROM message_records WHERE message_id = $1`, id)
		require.Len(t, got, 1, name)
		out[name] = got[0]
	}
	return out
}

// The log says from where on a purge is concerned; what it does not know to be
// concerned stays, in the batch as before it.
func TestAPurgeGoesByWhatTheLogSays(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 1)
	names := map[string]string{}
	for _, from := range []string{"", entry(events.MakePosition(h.at.Ms()+2*time.Hour.Milliseconds(), 0)), "0-0"} {
		topic := h.topic("q" + from)
		h.add(events.TopicCreated{TopicConfig: topic}, newID(t), 1)
		h.topicID = topic.TopicID
		names[h.publish().MessageID] = from
		h.add(events.TopicPurged{TopicID: h.topicID, Discarded: events.Discarded{From: from}}, newID(t), 1)
	}
	b := setup(t)
	b.foldSame(t, h, 1000)
	for from, status := range b.statuses(t, names) {
		require.Equal(t, from == "0-0", status == "purged", "%q: %s", from, status)
	}
	_, err := fold([]events.Record{{Event: events.TopicPurged{Discarded: events.Discarded{From: "x"}}}})
	require.ErrorContains(t, err, `discarded from "x"`)
}

func TestNamesAreFreeAtOnce(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 2)
	m := h.publish()
	h.add(events.MessageConsumed{Delivery: h.delivery(m, 0, 1)}, newID(t), 0)
	// given a subscription that is deleted and made again, twice, and keeps consuming
	again := h.subs[0]
	for n := range 2 {
		h.add(events.SubscriptionDeleted{SubscriptionID: again.SubscriptionID, TopicID: h.topicID, ConsumerGroup: "g0", ConsumerName: "c"}, newID(t), int64(2+n))
		again.SubscriptionID = newID(t)
		h.add(again, newID(t), 1)
	}
	h.subs[0] = again
	h.add(events.MessageConsumed{Delivery: h.delivery(m, 0, 1)}, newID(t), 0)
	lastConsumed := h.at.Time()
	// and a queue that is deleted and made again, with the same subscription
	gone := h.topicID
	other := h.topic("short")
	h.add(events.TopicCreated{TopicConfig: other}, newID(t), 1)
	sub := again
	sub.SubscriptionID, sub.TopicID = newID(t), other.TopicID
	h.add(sub, newID(t), 1)
	h.topicID = other.TopicID
	hidden := h.publish()
	h.add(events.TopicDeleted{TopicID: other.TopicID, Name: "short", Discarded: events.Discarded{Groups: map[string]int64{"g0": 1}, From: "0-0"}}, newID(t), 2)
	made := h.topic("short")
	h.add(events.TopicCreated{TopicConfig: made}, newID(t), 1)
	sub.SubscriptionID, sub.TopicID = newID(t), made.TopicID
	h.add(sub, newID(t), 1)
	h.topicID = gone
	b := setup(t)
	b.foldSame(t, h, 1000)

	ctx := t.Context()
	queues, _, err := queries.Queues(ctx, b.pool, tenant, queries.Page{Limit: 10})
	require.NoError(t, err)
	require.Len(t, queues, 2)
	require.Equal(t, []string{gone, made.TopicID}, []string{queues[0].ID, queues[1].ID})
	subs, _, err := queries.Subscriptions(ctx, b.pool, tenant, queries.SubscriptionFilter{}, queries.Page{Limit: 10})
	require.NoError(t, err)
	ids := map[string]string{}
	for _, s := range subs {
		ids[s.ID] = s.Queue
		if s.ID == again.SubscriptionID {
			require.WithinDuration(t, lastConsumed, *s.LastConsumedAt, 0)
		}
	}
	require.Equal(t, map[string]string{again.SubscriptionID: "orders", h.subs[1].SubscriptionID: "orders", sub.SubscriptionID: "short"}, ids)
	// of a deleted queue's messages only the history is left to see
	messages, _, err := queries.Messages(ctx, b.pool, tenant, queries.MessageFilter{}, queries.Page{Limit: 10})
	require.NoError(t, err)
	require.Len(t, messages, 1)
	require.Equal(t, m.MessageID, messages[0].MessageID)
	messages, _, err = queries.Messages(ctx, b.pool, tenant, queries.MessageFilter{Queue: "short"}, queries.Page{Limit: 10})
	require.NoError(t, err)
	require.Empty(t, messages)
	_, err = queries.MessageByID(ctx, b.pool, tenant, hidden.MessageID)
	require.ErrorIs(t, err, queries.ErrNotFound)
	past, _, err := queries.MessageEvents(ctx, b.pool, tenant, hidden.MessageID, queries.Page{Limit: 10})
	require.NoError(t, err)
	require.Len(t, past, 1)
	require.Equal(t, []string{"purged"}, b.strings(t, `SELECT status FROM message_records WHERE message_id = $1`, hidden.MessageID))
}

// lively is a random history in which queues and subscriptions come, change and go
// while messages live and are purged.
func lively(t testing.TB, n int, seed uint64) *history {
	h := newHistory(t, 2)
	rng := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test's dice
	topic, versions := h.records[0].Event.(events.TopicCreated).TopicConfig, map[string]int64{}
	next := func(id string) int64 { versions[id]++; return versions[id] + 1 }
	var open []events.MessagePublished
	for range n {
		sub := rng.IntN(len(h.subs))
		s := &h.subs[sub]
		switch dice := rng.IntN(20); {
		case dice < 8:
			open = append(open, h.publish())
		case dice < 14 && len(open) > 0:
			m := open[rng.IntN(len(open))]
			d := h.delivery(m, sub, 1+len(h.records))
			for _, e := range []events.Event{events.MessageConsumed{Delivery: d}, events.MessageFailed{Delivery: d}, events.MessageDeadLettered{Delivery: d}}[rng.IntN(3):][:1] {
				h.add(e, newID(t), 0)
			}
		case dice == 14:
			h.add(events.TopicPurged{TopicID: h.topicID, Discarded: events.Discarded{From: "0-0"}}, newID(t), 1)
			open = nil
		case dice == 15:
			topic.Description = fmt.Sprint("d", len(h.records))
			h.add(events.TopicUpdated{TopicConfig: topic}, newID(t), next(topic.TopicID))
		case dice == 16:
			h.add(events.SubscriptionPaused{SubscriptionID: s.SubscriptionID, TopicID: h.topicID}, newID(t), next(s.SubscriptionID))
		case dice == 17:
			s.RetryDelayMs++
			h.add(events.SubscriptionUpdated{SubscriptionConfig: s.SubscriptionConfig}, newID(t), next(s.SubscriptionID))
		case dice == 18:
			h.add(events.SubscriptionDeleted{SubscriptionID: s.SubscriptionID, TopicID: h.topicID, ConsumerGroup: s.ConsumerGroup, ConsumerName: "c"}, newID(t), next(s.SubscriptionID))
			s.SubscriptionID = newID(t)
			h.add(*s, newID(t), 1)
		case dice == 19 && rng.IntN(3) == 0:
			h.add(events.TopicDeleted{TopicID: h.topicID, Name: "orders", Discarded: events.Discarded{From: "0-0"}}, newID(t), next(topic.TopicID))
			topic.TopicID = newID(t)
			h.topicID, open = topic.TopicID, nil
			h.add(events.TopicCreated{TopicConfig: topic}, newID(t), 1)
			for k := range h.subs {
				h.subs[k].SubscriptionID, h.subs[k].TopicID = newID(t), topic.TopicID
				h.add(h.subs[k], newID(t), 1)
			}
		}
	}
	return h
}

func TestTheSizeOfBatchesMakesNoDifferenceToAdmins(t *testing.T) {
	t.Parallel()
	for seed, size := range []int{1, 7, 1000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.foldSame(t, lively(t, 150, 10+uint64(seed)), size) //nolint:gosec // small
			require.Len(t, b.strings(t, `SELECT id::text FROM message_topics WHERE status <> 'archived'`), 1)
			require.Len(t, b.strings(t, `SELECT id::text FROM message_subscriptions`), 2)
		})
	}
}
