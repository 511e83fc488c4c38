package redis

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// keyed is a message of a key.
func (f topicFixture) keyed(t testing.TB, key string) events.Append {
	t.Helper()
	a := f.message(t, 0, `1`)
	e, _ := a.Event.(events.MessagePublished)
	e.Key = key
	a.Event = e
	return a
}

// publish appends n messages of a key, in large steps.
func (f topicFixture) publish(t testing.TB, key string, n int) {
	t.Helper()
	for n > 0 {
		batch := make([]events.Append, min(n, AppendOpsMax))
		for i := range batch {
			batch[i] = f.keyed(t, key)
		}
		f.b.append(t, f.shard, batch...)
		n -= len(batch)
	}
}

// consume settles leased messages.
func (f topicFixture) consume(t testing.TB, req events.LeaseRequest, leased ...events.Leased) {
	t.Helper()
	batch := make([]events.Append, len(leased))
	for i, m := range leased {
		d := f.delivery(req, m)
		d.AttemptsBefore = m.AttemptsBefore
		batch[i] = events.Append{ID: newID(t), TenantID: tenant, Event: events.MessageConsumed{Delivery: d}, Guard: events.Guard{Lease: m.Lease}}
	}
	for _, out := range f.b.append(t, f.shard, batch...) {
		require.Equal(t, events.StatusAppended, out.Status)
	}
}

func (f topicFixture) held(t testing.TB) int64 {
	t.Helper()
	s, err := f.b.log.TopicState(t.Context(), f.shard, f.id, f.partitions)
	require.NoError(t, err)
	return s.Retries[0].Held
}

// One key that is behind keeps no other back, nor does a call look at all of it.
func TestAHotKeyStarvesNoOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.Ordered, req.MessagesMax = true, 2
	const hot, heldMax = 5000, 1000
	topic.publish(t, "hot", 1)
	first, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, first, 1)
	topic.publish(t, "hot", hot)
	topic.publish(t, "other", 1)
	one, more, err := b.log.leaseNow(t.Context(), req)
	require.NoError(t, err)
	require.True(t, more)
	require.Empty(t, one)
	require.InDelta(t, heldMax, topic.held(t), 8)
	// a lease goes on where there is more, although it is not to wait
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, leased, 1)
	require.Equal(t, "other", leased[0].Meta.Key)
	require.Equal(t, int64(hot), topic.held(t))
	s, err := b.log.TopicState(t.Context(), topic.shard, topic.id, 1)
	require.NoError(t, err)
	require.Equal(t, int64(hot+2), s.Unsettled["g"])
	// one answer ends at one, others follow one by one, in order
	topic.consume(t, req, first[0])
	for offset := range int64(5) {
		leased, err = b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		require.Len(t, leased, 1)
		require.Equal(t, []any{offset + 1, 1, 0}, []any{leased[0].Offset, leased[0].Attempt, leased[0].AttemptsBefore})
		topic.consume(t, req, leased[0])
	}
	require.Equal(t, int64(hot-6), topic.held(t))
}

// What is held stands elsewhere: a partition of which nearly all is held is trimmed too.
func TestAPartitionOfOneKeyIsTrimmed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.Ordered = true
	topic.publish(t, "k", keptPerPartition+3000)
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, leased, 1)
	topic.consume(t, req, leased...)
	for topic.held(t) < keptPerPartition+2000 {
		_, more, err := b.log.leaseNow(t.Context(), req)
		require.NoError(t, err)
		require.True(t, more || topic.held(t) > keptPerPartition)
	}
	require.Less(t, b.client.XLen(t.Context(), QueueStream(b.prefix, topic.shard, topic.id, 0)).Val(), int64(keptPerPartition+1000))
}

// A purge says from where on: what is held may be older than all that a partition has.
func TestAPurgeKnowsWhatIsHeld(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.Ordered = true
	topic.publish(t, "k", 1)
	oldest := b.append(t, topic.shard, topic.keyed(t, "k"))[0].Position
	topic.publish(t, "k", 3)
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	topic.consume(t, req, leased...)
	// given that the partition's stream has nothing of it any more
	require.NoError(t, b.client.XTrimMaxLen(t.Context(), QueueStream(b.prefix, topic.shard, topic.id, 0), 0).Err())
	n := b.client.XLen(t.Context(), LogStream(b.prefix, topic.shard)).Val()
	b.append(t, topic.shard, events.Append{ID: newID(t), TenantID: tenant, Guard: events.Guard{TopicVersion: 1}, Event: events.TopicPurged{TopicID: topic.id}})
	e, _ := b.records(t, topic.shard, int(n)+1)[n].Event.(events.TopicPurged)
	require.Equal(t, map[string]int64{"g": 4}, e.Discarded.Groups)
	require.Equal(t, entryID(oldest), e.Discarded.From)
	for _, kind := range []string{"busy", "held", "heldn", "waiting", "parked"} {
		require.Empty(t, b.client.Keys(t.Context(), fmt.Sprintf("%s*}:%s:*", b.prefix, kind)).Val(), kind)
	}
}

// A wake-up wakes one poll: what a limited answer leaves behind is another one's.
func TestWhatAHotKeyLeavesBehindIsAnothersTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.Ordered, req.MessagesMax = true, 5
	topic.publish(t, "hot", 1500)
	topic.publish(t, "other", 1)
	p := b.log.hub.enter(topic.id, "g")
	defer b.log.hub.leave(topic.id, "g", p)
	seen := b.log.hub.seen(p)
	leased, err := b.log.Lease(t.Context(), req, time.Second)
	require.NoError(t, err)
	require.Len(t, leased, 1, "the hot key's first")
	require.Greater(t, b.log.hub.seen(p), seen)
}
