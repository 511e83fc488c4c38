package redis

import (
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// A Redis whose clock was set back goes on: what was to wait for a while waits for that while,
// positions go on rising, and times of day stay.
func TestTheClockGoesBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	s, none := b.log.shards[topic.shard], DueWork{}
	b.append(t, topic.shard, topic.message(t, 0, `1`), topic.message(t, 0, `2`), topic.message(t, 0, `3`))
	req.MessagesMax, req.For = 1, time.Minute
	first, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	topic.settle(t, events.MessageFailed{Delivery: topic.delivery(req, first[0]), RetryDelayMs: 30_000}, first[0])
	_, err = b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	schedule := newID(t)
	tick := time.Now().Add(2 * time.Hour).UnixMilli()
	require.NoError(t, b.client.HSet(t.Context(), s.keys.schedule(schedule), "n", tick).Err())
	require.NoError(t, b.client.ZAdd(t.Context(), s.keys.due(), goredis.Z{Score: float64(tick), Member: "c|" + schedule}).Err())
	_, err = b.log.moveDueOnce(t.Context(), topic.shard, s, none)
	require.NoError(t, err)
	scores := func() (retry, lease, ticks time.Duration) {
		for _, z := range b.client.ZRangeWithScores(t.Context(), s.keys.due(), 0, -1).Val() {
			in := time.Until(time.UnixMilli(int64(z.Score)))
			switch z.Member.(string)[0] {
			case 'r':
				retry = in
			case 'l':
				lease = in
			case 'c':
				ticks = in
			}
		}
		return retry, lease, ticks
	}
	retry, lease, _ := scores()
	require.InDelta(t, 30, retry.Seconds(), 5)
	require.InDelta(t, 60, lease.Seconds(), 5)
	// given that all of this was noted by a clock that was an hour ahead
	const ahead = time.Hour
	for _, z := range b.client.ZRangeWithScores(t.Context(), s.keys.due(), 0, -1).Val() {
		if z.Member.(string)[0] != 'c' {
			require.NoError(t, b.client.ZIncrBy(t.Context(), s.keys.due(), float64(ahead.Milliseconds()), z.Member.(string)).Err())
		}
	}
	seen, err := b.client.IncrBy(t.Context(), s.keys.prefix+"clock", ahead.Milliseconds()).Result()
	require.NoError(t, err)
	end := events.MakePosition(seen, 7)
	require.NoError(t, b.client.Do(t.Context(), "XSETID", s.keys.log(), entryID(end)).Err())
	// when what is due is moved
	_, err = b.log.moveDueOnce(t.Context(), topic.shard, s, none)
	require.NoError(t, err)
	// then each waits as long as it was to
	retry, lease, ticks := scores()
	require.InDelta(t, 30, retry.Seconds(), 5)
	require.InDelta(t, 60, lease.Seconds(), 5)
	require.InDelta(t, 2*60*60, ticks.Seconds(), 5)
	// and a second time nothing moves
	_, err = b.log.moveDueOnce(t.Context(), topic.shard, s, none)
	require.NoError(t, err)
	again, _, _ := scores()
	require.InDelta(t, retry.Seconds(), again.Seconds(), 5)
	out := b.append(t, topic.shard, topic.message(t, 0, `4`))
	require.Greater(t, out[0].Position, end)
}
