package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// erased is the erasure of a published message.
func (f topicFixture) erased(t testing.TB, out events.Outcome) events.Append {
	t.Helper()
	return events.Append{
		ID: newID(t), TenantID: tenant, Erase: events.EraseFrom{Partition: out.Partition, Offset: out.Offset, Key: "k"},
		Event: events.MessageErased{MessageID: out.ID, TopicID: f.id, Entry: entryID(out.Position)},
	}
}

func (f topicFixture) retained(t testing.TB, version int64, before time.Time) events.Append {
	t.Helper()
	return events.Append{
		ID: newID(t), TenantID: tenant, Version: version, Guard: events.Guard{TopicVersion: version},
		Event: events.TopicRetained{TopicID: f.id, BeforeMs: before.UnixMilli(), UpTo: newID(t)},
	}
}

func (f topicFixture) published(t testing.TB, n int) (out []events.Outcome) {
	t.Helper()
	for k := range n {
		out = append(out, f.b.append(t, f.shard, f.message(t, 0, fmt.Sprintf(`"canary-%d"`, k)))...)
	}
	return out
}

func (f topicFixture) holes(t testing.TB) []string {
	t.Helper()
	out, err := f.b.client.ZRange(t.Context(), f.b.log.shards[f.shard].keys.prefix+"holes:"+f.id+":0", 0, -1).Result()
	require.NoError(t, err)
	return out
}

// An erased message leaves a hole that counts for nobody; the hole goes with what stands
// before it.
func TestAnErasedMessageLeavesAHole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	ahead, behind := topic.subscription(t, "ahead", "earliest"), topic.subscription(t, "behind", "earliest")
	out := topic.published(t, 5)
	for _, m := range topic.lease(t, ahead, 5) {
		b.append(t, topic.shard, topic.consumed(t, ahead, m))
	}
	held := topic.lease(t, behind, 2)
	// given one that one group has done with and the other one holds, and one that waits
	erased := b.append(t, topic.shard, topic.erased(t, out[1]), topic.erased(t, out[3]))
	require.Equal(t, []events.Status{events.StatusAppended, events.StatusAppended}, statuses(erased))
	require.Equal(t, []int64{1, 1}, []int64{erased[0].Offset, erased[1].Offset})
	require.Equal(t, []events.Discarded{{Groups: map[string]int64{"behind": 1}}, {Groups: map[string]int64{"behind": 1}}}, topic.discarded(t))
	require.Equal(t, events.StatusLeaseLost, b.append(t, topic.shard, topic.consumed(t, behind, held[1]))[0].Status)
	s, err := b.log.TopicState(t.Context(), topic.shard, topic.id, 1)
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"ahead": 0, "behind": 3}, s.Unsettled)
	require.Equal(t, []int64{3, 5, 0}, []int64{s.Partitions[0].Held, s.Partitions[0].NextOffset, s.Partitions[0].FirstOffset})
	for _, g := range s.Partitions[0].Groups {
		require.Equal(t, map[string]int64{"ahead": 0, "behind": 1}[g.Group], g.Missing)
	}
	place, err := b.log.Where(t.Context(), topic.shard, topic.id, "behind", out[4].ID, 0, 4)
	require.NoError(t, err)
	require.Equal(t, []any{"waiting", int64(1)}, []any{place.State, place.Ahead}, "the erased one is not ahead of it")
	// again: nothing is left to be discarded
	again := b.append(t, topic.shard, topic.erased(t, out[1]))
	require.Zero(t, again[0].Offset)
	require.Equal(t, []string{"2", "4"}, topic.holes(t))
	// whoever brings it back from what they have read before is refused
	redrive := events.Append{
		ID: newID(t), TenantID: tenant, Guard: events.Guard{SubscriptionVersion: 1}, Redrive: events.Redrive{Payload: []byte(`"canary-1"`), Position: out[1].Position},
		Event: events.MessageRedriven{MessageID: out[1].ID, TopicID: topic.id, SubscriptionID: ahead.SubscriptionID, ConsumerGroup: "ahead", Offset: 1, Attempt: 7},
	}
	require.Equal(t, events.StatusErased, b.append(t, topic.shard, redrive)[0].Status)
	for _, m := range append(held[:1], topic.lease(t, behind, 5)...) {
		require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.consumed(t, behind, m))[0].Status)
	}
	// retention trims holes too
	require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.retained(t, 1, time.UnixMilli(out[2].Position.Ms()+1)))[0].Status)
	require.LessOrEqual(t, len(topic.holes(t)), 1)
	b.append(t, topic.shard, topic.purged(1))
	require.Empty(t, topic.holes(t))
}

func TestAnErasureIsRefusedWhereItCannotBeWhole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	topic.subscription(t, "g", "earliest")
	out := topic.published(t, 1)[0]
	scheduled := topic.erased(t, out)
	scheduled.Erase.Offset = events.OffsetScheduled
	require.Equal(t, events.StatusNotScheduled, b.append(t, topic.shard, scheduled)[0].Status, "it is published by now")
	// so many are tried again that a call would take long
	parked := b.log.shards[topic.shard].keys.prefix + "parked:" + topic.id + ":g"
	fields := make([]any, 0, 20_002)
	for n := range 10_001 {
		fields = append(fields, fmt.Sprint("r|", n), "x")
	}
	require.NoError(t, b.client.HSet(t.Context(), parked, fields...).Err())
	require.Equal(t, events.StatusTooMany, b.append(t, topic.shard, topic.erased(t, out))[0].Status)
	require.NoError(t, b.client.Del(t.Context(), parked).Err())
	require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.erased(t, out))[0].Status)
}

// What a group has not settled bounds what is retained, wherever it is.
func TestRetentionStopsAtWhatIsNotSettled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	topic.published(t, 2)
	// nobody is to settle anything
	require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.retained(t, 1, time.Now().Add(time.Hour)))[0].Status)
	s, err := b.log.TopicState(t.Context(), topic.shard, topic.id, 1)
	require.NoError(t, err)
	require.Zero(t, s.Partitions[0].Held)
	req := topic.subscription(t, "g", "earliest")
	require.Empty(t, topic.lease(t, req, 5), "they are gone")

	out := topic.published(t, 3)
	refused := func() int64 {
		t.Helper()
		got := b.append(t, topic.shard, topic.retained(t, 1, time.Now().Add(time.Hour)))[0]
		require.Equal(t, events.StatusStale, got.Status)
		return got.Offset
	}
	require.Equal(t, out[0].Position.Ms(), refused(), "it waits")
	leased := topic.lease(t, req, 3)
	require.Equal(t, out[0].Position.Ms(), refused(), "it is leased")
	b.append(t, topic.shard, topic.consumed(t, req, leased[0]))
	require.Equal(t, out[1].Position.Ms(), refused())
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[1]), RetryDelayMs: 60_000}, leased[1])
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[2])}, leased[2])
	require.Equal(t, out[1].Position.Ms(), refused(), "it waits for its time")
	require.Equal(t, events.StatusStale, b.append(t, topic.shard, topic.retained(t, 9, time.Now()))[0].Status, "of another version of the topic")
	b.append(t, topic.shard, topic.erased(t, out[1]))
	require.Equal(t, out[2].Position.Ms(), refused(), "it is to be tried again; the one before it is not")
	again := topic.lease(t, req, 3)
	require.Len(t, again, 1)
	b.append(t, topic.shard, topic.consumed(t, req, again[0]))
	require.Equal(t, events.StatusAppended, b.append(t, topic.shard, topic.retained(t, 1, time.Now().Add(time.Hour)))[0].Status)
}

// A dead letter that is still to be published to another queue is not published any more.
func TestAnErasedDeadLetterIsNotForwarded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	out := topic.published(t, 2)
	for _, m := range topic.lease(t, req, 2) {
		b.append(t, topic.shard, events.Append{
			ID: newID(t), TenantID: tenant, Event: events.MessageDeadLettered{Delivery: topic.delivery(req, m)}, Guard: events.Guard{Lease: m.Lease}, Forward: true,
		})
	}
	outbox := b.log.shards[topic.shard].keys.outbox()
	require.EqualValues(t, 2, b.client.HLen(t.Context(), outbox).Val())
	require.Zero(t, b.append(t, topic.shard, topic.erased(t, out[0]))[0].Offset, "the group has settled it")
	left, err := b.client.HVals(t.Context(), outbox).Result()
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Contains(t, left[0], "canary-1")
	require.EqualValues(t, 1, b.client.ZCard(t.Context(), b.log.shards[topic.shard].keys.due()).Val())
}
