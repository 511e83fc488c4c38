package redis

import (
	"context"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

func TestWhatIsDueMovesInBoundedSteps(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.For = time.Millisecond
	const heavy, count = 1 << 20, 8
	for range count {
		b.append(t, topic.shard, topic.message(t, 0, text(heavy)))
	}
	due := b.log.shards[topic.shard].keys.due()
	// retries that are due: a step takes so many bytes and leaves the rest
	var leased []events.Leased
	for len(leased) < count {
		some, err := b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		leased = append(leased, some...)
	}
	for _, m := range leased {
		topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, m), RetryDelayMs: 1}, m)
	}
	left := func() int64 { return b.client.ZCard(t.Context(), due).Val() }
	require.Equal(t, int64(count), left())
	none := DueWork{}
	more, err := b.log.moveDueOnce(t.Context(), topic.shard, b.log.shards[topic.shard], none)
	require.NoError(t, err)
	require.True(t, more)
	require.Equal(t, int64(count-4), left())
	b.log.moveDue(t.Context(), topic.shard, b.log.shards[topic.shard], none)
	require.Zero(t, left())
	// leases that ran out: those who decide do not get the payloads
	for n := 0; n < count; {
		some, err := b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		n += len(some)
	}
	steps, handed := 0, 0
	b.log.moveDue(t.Context(), topic.shard, b.log.shards[topic.shard], DueWork{Expired: func(_ context.Context, _ int, expired []events.ExpiredLease) error {
		for _, x := range expired {
			require.Empty(t, x.Payload)
			require.Equal(t, 2, x.Attempt)
			require.NotZero(t, x.Position)
		}
		steps, handed = steps+1, handed+len(expired)
		return nil
	}})
	require.Equal(t, count, handed)
	require.Equal(t, 2, steps)
}

// From the moment a lease's end is being decided on, extending it would be a
// promise that nobody keeps.
func TestALeaseThatRanOutCannotBeExtended(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	b.append(t, topic.shard, topic.message(t, 0, `1`), topic.message(t, 0, `2`))
	req.MessagesMax, req.For = 1, time.Millisecond
	short, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	req.For = time.Hour
	long, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	// given that the first one's end was handed to somebody who has not decided yet
	s := b.log.shards[topic.shard]
	handed := 0
	require.Eventually(t, func() bool {
		b.log.moveDue(t.Context(), topic.shard, s, DueWork{Expired: func(_ context.Context, _ int, expired []events.ExpiredLease) error {
			handed += len(expired)
			return nil
		}})
		return handed == 1
	}, 10*time.Second, time.Millisecond)
	_, held, err := b.log.Extend(t.Context(), topic.shard, topic.id, "g", req.SubscriptionID,
		[]events.Lease{short[0].Lease, long[0].Lease}, time.Hour)
	require.NoError(t, err)
	require.Equal(t, []bool{false, true}, held)
	// its consumer may still be the first to settle it, and then it is over
	out := topic.settle(t, events.MessageConsumed{Delivery: topic.delivery(req, short[0])}, short[0])
	require.Equal(t, events.StatusAppended, out.Status)
	require.Equal(t, int64(1), b.client.ZCard(t.Context(), s.keys.due()).Val(), "only the long lease is left")
}

// A decision that was not taken, because an instance died over it, is asked for
// again.
func TestALeaseThatRanOutIsHandedOutUntilItIsDecided(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.For = time.Millisecond
	b.append(t, topic.shard, topic.message(t, 0, `1`))
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	s := b.log.shards[topic.shard]
	var handed []events.ExpiredLease
	due := func() {
		b.log.moveDue(t.Context(), topic.shard, s, DueWork{Expired: func(_ context.Context, _ int, expired []events.ExpiredLease) error {
			handed = append(handed, expired...)
			return nil
		}})
	}
	require.Eventually(t, func() bool { due(); return len(handed) == 1 }, 10*time.Second, time.Millisecond)
	due()
	require.Len(t, handed, 1, "it is set aside for whoever has it")
	members, err := b.client.ZRange(t.Context(), s.keys.due(), 0, -1).Result()
	require.NoError(t, err)
	require.Len(t, members, 1)
	// when its time comes again
	require.NoError(t, b.client.ZAdd(t.Context(), s.keys.due(), goredis.Z{Score: 1, Member: members[0]}).Err())
	due()
	require.Len(t, handed, 2)
	require.Equal(t, handed[0].Lease, handed[1].Lease)
	require.Equal(t, leased[0].MessageID, handed[1].MessageID)
}

// A retry comes when it is due, not when somebody happens to look.
func TestAParkedRetrySetsTheAlarm(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	req.For = time.Hour
	b.append(t, topic.shard, topic.message(t, 0, `1`), topic.message(t, 0, `2`))
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	alarm := func() time.Time {
		a := &b.log.shards[topic.shard].nextDue
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.next
	}
	for n, delay := range []time.Duration{time.Minute, time.Second} {
		topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, leased[n]), RetryDelayMs: delay.Milliseconds()}, leased[n])
		require.WithinDuration(t, time.Now().Add(delay), alarm(), delay/2)
	}
}
