package redis

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack"

	"github.com/tallymq/tallymq/events"
)

// redriven is a message that comes to a group once more.
func (f topicFixture) redriven(t testing.TB, req events.LeaseRequest, m events.Leased, attempt int, job string) events.Append {
	t.Helper()
	return events.Append{
		ID: newID(t), TenantID: tenant, Guard: events.Guard{SubscriptionVersion: 1},
		Meta:    events.Meta{IdempotencyKey: "redrive " + job + " " + m.MessageID, Fingerprint: "redrive"},
		Redrive: events.Redrive{Meta: m.Meta, Payload: m.Payload, Position: m.Position, AttemptsBefore: attempt - 1},
		Event: events.MessageRedriven{
			MessageID: m.MessageID, TopicID: f.id, SubscriptionID: req.SubscriptionID, ConsumerGroup: req.Group, Partition: m.Partition, Offset: m.Offset,
			Attempt: attempt, JobID: job,
		},
	}
}

func TestARedrivenMessageCountsOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 2)
	req := topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.message(t, 1, `"first"`))
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	topic.consume(t, req, leased...)
	unsettled := func() int64 {
		t.Helper()
		s, err := b.log.TopicState(t.Context(), topic.shard, topic.id, 2)
		require.NoError(t, err)
		return s.Unsettled["g"]
	}
	require.Zero(t, unsettled())
	// the same job twice in one call and once more, on another version of the subscription too
	one := topic.redriven(t, req, leased[0], 2, "job")
	out := b.append(t, topic.shard, one, one)
	require.Equal(t, []events.Status{events.StatusAppended, events.StatusDuplicate}, []events.Status{out[0].Status, out[1].Status})
	require.Equal(t, events.StatusDuplicate, b.append(t, topic.shard, one)[0].Status)
	require.Equal(t, int64(1), unsettled())
	stale := topic.redriven(t, req, leased[0], 3, "other")
	stale.Guard.SubscriptionVersion = 2
	require.Equal(t, events.StatusStale, b.append(t, topic.shard, stale)[0].Status)
	require.Equal(t, int64(1), unsettled())
	again, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, again, 1)
	want := leased[0]
	want.Lease, want.Attempt, want.AttemptsBefore, want.LeasedAtMs = again[0].Lease, 2, 1, again[0].LeasedAtMs
	require.Equal(t, want, again[0])
	require.Equal(t, events.StreamRetry, again[0].Stream)
	topic.consume(t, req, again...)
	require.Zero(t, unsettled())
}

// Entries of an earlier release end with the attempt; those of this one go on after it.
func TestRetriesOfAnEarlierReleaseAreTriedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 3)
	req := topic.subscription(t, "g", "earliest")
	out := b.append(t, topic.shard, topic.message(t, 2, `1`))[0]
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[0])}, leased[0])
	retries := b.log.shards[topic.shard].keys.prefix + "retry:" + topic.id + ":g"
	require.NoError(t, b.client.XTrimMaxLen(t.Context(), retries, 0).Err())
	md, err := msgpack.Marshal(map[string]string{"tallymq-tenant": tenant})
	require.NoError(t, err)
	require.NoError(t, b.client.XAdd(t.Context(), &goredis.XAddArgs{Stream: retries, Values: []any{
		"_watermill_message_uuid", out.ID, "metadata", md, "payload", "1", "pos", entryID(out.Position), "off", 0, "part", 2, "att", 2,
	}}).Err())
	for attempt := 2; attempt < 5; attempt++ {
		leased, err = b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		require.Len(t, leased, 1)
		require.Equal(t, []int{attempt, 0, 2}, []int{leased[0].Attempt, leased[0].AttemptsBefore, leased[0].Partition})
		require.Equal(t, events.StatusAppended, topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[0])}, leased[0]).Status)
	}
}
