package redis

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

func leases(list []events.Leased) []events.Lease {
	out := make([]events.Lease, len(list))
	for i, m := range list {
		out[i] = m.Lease
	}
	return out
}

func (f topicFixture) due(t testing.TB) []string {
	t.Helper()
	members, err := f.b.client.ZRange(t.Context(), f.b.log.shards[f.shard].keys.due(), 0, -1).Result()
	require.NoError(t, err)
	return members
}

func TestResumeReturnsWhatIsLeasedInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 3)
	req := topic.subscription(t, "g", "earliest")
	for _, partition := range []int{2, 0, 1, 0, 2, 1} {
		b.append(t, topic.shard, topic.message(t, partition, `{"p" : 1}`))
	}
	resumed, err := b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, resumed, "nothing is leased yet")
	first, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, first, 6)
	// given a retry, and one more that nobody has taken
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, first[0])}, first[0])
	retried, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, retried, 1)
	b.append(t, topic.shard, topic.message(t, 0, `7`))

	resumed, err = b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, resumed, 6)
	require.Equal(t, retried[0].Lease, resumed[0].Lease)
	require.Equal(t, 2, resumed[0].Attempt)
	require.Equal(t, first[0].MessageID, resumed[0].MessageID)
	require.ElementsMatch(t, leases(append(retried, first[1:]...)), leases(resumed))
	for i := 2; i < len(resumed); i++ {
		before, m := resumed[i-1], resumed[i]
		require.True(t, before.Partition < m.Partition || before.Partition == m.Partition && before.Offset < m.Offset, "%d", i)
		require.Equal(t, `{"p" : 1}`, string(m.Payload))
		require.Equal(t, map[string]string{"h": "v"}, m.Meta.Headers)
	}
	require.Len(t, topic.due(t), 6, "each lease once")
	// it is as good as the lease it renewed, and over once that is settled
	for _, m := range resumed {
		require.Equal(t, events.StatusAppended, topic.settle(t, events.MessageConsumed{Delivery: topic.delivery(req, m)}, m).Status)
	}
	require.Empty(t, topic.due(t))
	resumed, err = b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, resumed)
	last, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, last, 1)
	require.Equal(t, `7`, string(last[0].Payload))
}

func TestResumeIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	const count = 250 // more than the script lists at once
	batch := make([]events.Append, count)
	for i := range batch {
		batch[i] = topic.message(t, 0, text(1000))
	}
	b.append(t, topic.shard, batch...)
	req.MessagesMax = count
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, leased, count)
	resumed, err := b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, leases(leased), leases(resumed))
	req.MessagesMax = 120
	resumed, err = b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, leases(leased[:120]), leases(resumed))
	req.BytesMax = 10_000
	resumed, err = b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, resumed, 10)
}

func TestResumeRenewsLeases(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.message(t, 0, `1`))
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	req.For = time.Hour
	resumed, err := b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, resumed, 1)
	require.GreaterOrEqual(t, resumed[0].LeasedAtMs, leased[0].LeasedAtMs)
	ends, err := b.client.ZScore(t.Context(), b.log.shards[topic.shard].keys.due(), topic.due(t)[0]).Result()
	require.NoError(t, err)
	require.Equal(t, resumed[0].LeasedAtMs+time.Hour.Milliseconds(), int64(ends))
}

// The decision on a lease that ran out may come before it is resumed, after, or never.
func TestResumeOfALeaseThatRanOut(t *testing.T) {
	t.Parallel()
	for name, decides := range map[string]bool{"is decided all the same": true, "is never decided": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			topic := b.topic(t, "orders", 1)
			req := topic.subscription(t, "g", "earliest")
			b.append(t, topic.shard, topic.message(t, 0, `1`))
			req.For = time.Millisecond
			_, err := b.log.Lease(t.Context(), req, 0)
			require.NoError(t, err)
			s := b.log.shards[topic.shard]
			var handed []events.ExpiredLease
			require.Eventually(t, func() bool {
				b.log.moveDue(t.Context(), topic.shard, s, DueWork{Expired: func(_ context.Context, _ int, expired []events.ExpiredLease) error {
					handed = append(handed, expired...)
					return nil
				}})
				return len(handed) == 1
			}, 10*time.Second, time.Millisecond)
			require.Equal(t, "x|", topic.due(t)[0][:2])
			req.For = time.Hour
			resumed, err := b.log.Resume(t.Context(), req)
			require.NoError(t, err)
			require.Len(t, resumed, 1)
			members := topic.due(t)
			require.Len(t, members, 1)
			require.Equal(t, "l|", members[0][:2], "it can be extended again")
			consumed := events.MessageConsumed{Delivery: topic.delivery(req, resumed[0])}
			if !decides {
				require.Equal(t, events.StatusAppended, topic.settle(t, consumed, resumed[0]).Status)
				require.Empty(t, topic.due(t))
				return
			}
			out := topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, handed[0].Leased)}, handed[0].Leased)
			require.Equal(t, events.StatusAppended, out.Status)
			require.Equal(t, events.StatusLeaseLost, topic.settle(t, consumed, resumed[0]).Status)
			again, err := b.log.Lease(t.Context(), req, 0)
			require.NoError(t, err)
			require.Len(t, again, 1)
			require.Equal(t, 2, again[0].Attempt)
		})
	}
}

func TestResumeLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	mine, other := topic.subscription(t, "g", "earliest"), topic.subscription(t, "g", "earliest")
	stranger := topic.subscription(t, "h", "earliest")
	b.append(t, topic.shard, topic.message(t, 0, `1`), topic.message(t, 0, `2`))
	mine.MessagesMax, other.MessagesMax = 1, 1
	got := map[string][]events.Leased{}
	for _, req := range []events.LeaseRequest{other, mine, stranger} {
		leased, err := b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		got[req.SubscriptionID] = leased
	}
	mine.MessagesMax, other.MessagesMax = 10, 10
	for _, req := range []events.LeaseRequest{mine, other, stranger} {
		resumed, err := b.log.Resume(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, leases(got[req.SubscriptionID]), leases(resumed))
	}
	require.Len(t, topic.due(t), 4)
}

func TestResumeOfAStaleSubscription(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.SubscriptionVersion = 2
	_, err := b.log.Resume(t.Context(), req)
	require.ErrorIs(t, err, events.ErrStale)
}

// What a purge took is not resumed, and leaves nothing behind.
func TestResumeAfterAPurge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.message(t, 0, `1`))
	_, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	out := b.append(t, topic.shard, events.Append{
		ID: newID(t), TenantID: tenant, Version: 2, State: []byte(`{"name":"s"}`), Guard: events.Guard{TopicVersion: 1}, Event: events.TopicPurged{TopicID: topic.id},
	})
	require.Equal(t, events.StatusAppended, out[0].Status)
	resumed, err := b.log.Resume(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, resumed)
}
