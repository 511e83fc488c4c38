package commands_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
)

func (i *instance) purge(t testing.TB) {
	t.Helper()
	_, err := i.PurgeQueue(t.Context(), async, "orders", nil)
	require.NoError(t, err)
}

func (i *instance) deleteQueue(t testing.TB) {
	t.Helper()
	_, err := i.DeleteQueue(t.Context(), async, "orders", nil)
	require.NoError(t, err)
}

func (i *instance) unsubscribe(t testing.TB, id string) {
	t.Helper()
	_, err := i.DeleteSubscription(t.Context(), async, id, nil)
	require.NoError(t, err)
}

// park has a message wait for another attempt.
func (i *instance) park(t testing.TB, id, token string, delay time.Duration) {
	t.Helper()
	out, err := i.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{token}, DelayMs: new(delay.Milliseconds())})
	require.NoError(t, err)
	require.Equal(t, "retrying", out[0].Status)
}

// makeDue has everything that waits on a queue's shard be due now.
func (b *testBundle) makeDue(t testing.TB) {
	t.Helper()
	for shard := range shards {
		key := fmt.Sprintf("%s{%d}:due", b.prefix, shard)
		members, err := b.client.ZRange(t.Context(), key, 0, -1).Result()
		require.NoError(t, err)
		for _, m := range members {
			require.NoError(t, b.client.ZIncrBy(t.Context(), key, -1e12, m).Err())
		}
	}
}

// due is how much waits for its time, on all shards.
func (b *testBundle) due(t testing.TB) (n int64) {
	t.Helper()
	for shard := range shards {
		k, err := b.client.ZCard(t.Context(), fmt.Sprintf("%s{%d}:due", b.prefix, shard)).Result()
		require.NoError(t, err)
		n += k
	}
	return n
}

// last is the last of a queue's first n events.
func (i *instance) last(t testing.TB, b *testBundle, n int) events.Event {
	t.Helper()
	return i.history(t, b, "orders", n)[n-1].Event
}

func TestAPurgeTakesAllThatIsNotSettled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	i.queue(t, "orders", 2)
	id, idle := i.subscribe(t, "orders", "g"), i.subscribe(t, "orders", "idle")
	for n := range 8 {
		i.publish(t, "orders", fmt.Sprint(n))
	}
	// given one consumed, one ready to retry, one parked, one leased, one extended, one leased as a retry, the rest new
	held := i.pull(t, id, 6)
	require.Equal(t, "acked", i.ack(t, id, held[0].AckToken)[0].Status)
	i.nack(t, id, held[1].AckToken)
	retried := i.pull(t, id, 1)[0]
	require.Equal(t, 2, retried.Attempt)
	i.nack(t, id, held[2].AckToken)
	i.park(t, id, held[3].AckToken, time.Hour)
	_, err := i.Extend(t.Context(), async, id, []string{held[4].AckToken}, 60_000)
	require.NoError(t, err)
	before := 3 + 8 + 4
	other.purge(t)
	// then what each group had not settled is counted
	purged := i.last(t, b, before+1).(events.TopicPurged)
	require.Equal(t, map[string]int64{"g": 7, "idle": 8}, purged.Discarded.Groups)
	// and nothing comes, not even what was due later, nor are leases good
	for _, token := range []string{held[4].AckToken, held[5].AckToken, retried.AckToken} {
		out, err := other.Extend(t.Context(), async, id, []string{token}, 60_000)
		require.NoError(t, err)
		requireRefusal(t, out[0].Err, commands.CodeLeaseLost)
		requireRefusal(t, i.nack(t, id, token)[0].Err, commands.CodeLeaseLost)
		requireRefusal(t, other.ack(t, id, token)[0].Err, commands.CodeLeaseLost)
	}
	b.makeDue(t)
	require.Eventually(t, func() bool { return b.due(t) == 0 }, soon, time.Millisecond)
	i.requireNothing(t, id)
	i.requireNothing(t, idle)
	// what is published after is delivered, and offsets go on
	waiting := other.poll(t, async, id)
	after := i.publish(t, "orders", "99")
	require.Equal(t, int64(4), after.Offset)
	p := await(t, waiting)
	require.NoError(t, p.err)
	require.Equal(t, []any{"99", 1}, []any{string(p.messages[0].Payload), p.messages[0].Attempt})
	require.Equal(t, int64(4), i.pull(t, idle, 1)[0].Offset)
	require.Equal(t, "acked", i.ack(t, id, p.messages[0].AckToken)[0].Status)
	// a second purge takes what came since: of one group nothing
	i.purge(t)
	require.Equal(t, map[string]int64{"g": 0, "idle": 1}, i.last(t, b, before+4).(events.TopicPurged).Discarded.Groups)
	i.purge(t)
	require.Equal(t, map[string]int64{"g": 0, "idle": 0}, i.last(t, b, before+5).(events.TopicPurged).Discarded.Groups)
}

func TestAPurgeWithoutGroups(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.purgeEmpty(t, b)
	first := i.publish(t, "orders", "1")
	i.purge(t)
	e := i.last(t, b, 4).(events.TopicPurged)
	require.Empty(t, e.Discarded.Groups)
	require.Equal(t, fmt.Sprintf("%d-%d", first.Position.Ms(), first.Position.Seq()), e.Discarded.From)
	id := i.subscribe(t, "orders", "g")
	i.requireNothing(t, id)
	require.Equal(t, int64(1), i.publish(t, "orders", "2").Offset)
	require.Equal(t, "2", string(i.pull(t, id, 2)[0].Payload))
}

func (i *instance) purgeEmpty(t testing.TB, b *testBundle) {
	t.Helper()
	i.queue(t, "orders", 1)
	i.purge(t)
	require.Equal(t, events.Discarded{}, i.last(t, b, 2).(events.TopicPurged).Discarded)
}

// The account of a queue under fire: of each group, every message was consumed or
// purged, and the log has the numbers.
func TestPurgesPublishersAndConsumersKeepAccount(t *testing.T) {
	t.Parallel()
	const publishers, each, purges = 2, 150, 8
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 2)
	groups := []string{"a", "b"}
	consumed := map[string]int64{}
	stop := make(chan struct{})
	var publishing, consuming sync.WaitGroup
	var mu sync.Mutex
	for _, group := range groups {
		id, on := i.subscribe(t, "orders", group), b.instance(t).run(t)
		consuming.Go(func() {
			for n := 0; ; n++ {
				got, err := on.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, MessagesMax: new(5)})
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					if len(got) == 0 {
						return
					}
				default:
				}
				var tokens []string
				for k, m := range got {
					if k == 0 && n%3 == 0 && m.Attempt == 1 {
						_, _ = on.Nack(t.Context(), async, commands.Nack{SubscriptionID: id, AckTokens: []string{m.AckToken}, DelayMs: new(int64(n % 2))})
						continue
					}
					tokens = append(tokens, m.AckToken)
				}
				if len(tokens) == 0 {
					continue
				}
				out, err := on.Ack(t.Context(), async, id, tokens)
				if err != nil {
					t.Error(err)
					return
				}
				for _, s := range out {
					if s.Err == nil {
						mu.Lock()
						consumed[group]++
						mu.Unlock()
					}
				}
			}
		})
	}
	for range publishers {
		on := b.instance(t)
		publishing.Go(func() {
			for range each {
				if out, err := on.Publish(t.Context(), async, []commands.Publish{message("orders", "1")}, false); err != nil || out[0].Err != nil {
					t.Error(err, out)
				}
			}
		})
	}
	for range purges {
		i.purge(t)
	}
	publishing.Wait()
	// what is parked is due and settled, or purged with the rest
	i.purge(t)
	close(stop)
	consuming.Wait()
	purged, settled := map[string]int64{}, map[string]int64{}
	n, err := b.client.XLen(t.Context(), redis.LogStream(b.prefix, events.ShardOf(tenant, "orders", shards))).Result()
	require.NoError(t, err)
	open := map[string]events.Position{} // neither consumed by anybody nor purged
	for _, r := range i.history(t, b, "orders", int(n)) {
		if e, ok := r.Event.(events.MessagePublished); ok {
			open[e.MessageID] = r.Position
		}
		if e, ok := r.Event.(events.TopicPurged); ok {
			for group, k := range e.Discarded.Groups {
				purged[group] += k
			}
			for _, position := range open {
				require.GreaterOrEqual(t, position, positionOf(t, e.Discarded.From), "the read tables would miss it")
			}
			clear(open)
		}
		if e, ok := r.Event.(events.MessageConsumed); ok {
			settled[e.ConsumerGroup]++
			delete(open, e.MessageID)
		}
	}
	require.Empty(t, open)
	for _, group := range groups {
		require.Equal(t, consumed[group], settled[group])
		require.Equal(t, int64(publishers*each), settled[group]+purged[group], group)
	}
}

// positionOf is where an entry of the log stands.
func positionOf(t testing.TB, entry string) events.Position {
	t.Helper()
	var ms, seq int64
	_, err := fmt.Sscanf(entry, "%d-%d", &ms, &seq)
	require.NoError(t, err, "%q", entry)
	return events.MakePosition(ms, seq)
}

func TestADeletedQueueLeavesItsNameAndNothingElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	create := func() (commands.Topic, error) {
		topic, _, err := i.CreateQueue(t.Context(), under("made"), commands.CreateQueue{ID: newID(), Name: "orders", PartitionCount: new(2)})
		return topic, err
	}
	first, err := create()
	require.NoError(t, err)
	id, idle := i.subscribe(t, "orders", "g"), i.subscribe(t, "orders", "idle", func(c *commands.CreateSubscription) { c.OffsetResetPolicy = "latest" })
	for n := range 4 {
		other.publish(t, "orders", fmt.Sprint(n))
	}
	held := i.pull(t, id, 4)
	i.park(t, id, held[0].AckToken, time.Hour)
	i.ack(t, id, held[1].AckToken)
	i.pull(t, idle, 4)
	waiting := []<-chan polled{i.poll(t, async, idle), other.poll(t, async, id)}
	i.deleteQueue(t)
	require.Equal(t, map[string]int64{"g": 3, "idle": 4}, i.last(t, b, 10).(events.TopicDeleted).Discarded.Groups)
	for _, w := range waiting {
		requireRefusal(t, await(t, w).err, commands.CodeSubscriptionNotFound)
	}
	// what it was is not there any more, on any instance
	for _, on := range []*instance{i, other} {
		requireRefusal(t, on.publishBatch(t, async, false, message("orders", "1"))[0].Err, commands.CodeQueueNotFound)
		_, err = on.Pull(t.Context(), async, commands.Pull{SubscriptionID: id})
		requireRefusal(t, err, commands.CodeSubscriptionNotFound)
		_, err = on.Ack(t.Context(), async, id, []string{held[2].AckToken})
		requireRefusal(t, err, commands.CodeSubscriptionNotFound)
		_, err = on.DeleteQueue(t.Context(), async, "orders", nil)
		requireRefusal(t, err, commands.CodeQueueNotFound)
	}
	// not in Redis either, but for what vanishes when it is due
	b.requireNoKeys(t, first.Config.TopicID, id, idle)
	b.makeDue(t)
	require.Eventually(t, func() bool { return b.due(t) == 0 }, soon, time.Millisecond)
	for shard := range shards {
		require.Empty(t, b.client.Keys(t.Context(), fmt.Sprintf("%s{%d}:parked:*", b.prefix, shard)).Val())
	}
	// the request that made it is over; the name is free
	_, err = create()
	require.Contains(t, refusalOf(t, err, commands.CodeConflict).Reason, "has been deleted")
	again := other.queue(t, "orders", 1)
	require.NotEqual(t, first.Config.TopicID, again.Config.TopicID)
	require.Equal(t, int64(1), again.Version)
	_, err = create()
	require.Contains(t, refusalOf(t, err, commands.CodeConflict).Reason, "has been deleted")
	id = other.subscribe(t, "orders", "g")
	other.requireNothing(t, id)
	require.Zero(t, other.publish(t, "orders", "77").Offset)
	require.Equal(t, 1, other.pull(t, id, 1)[0].Attempt)
}

// requireNoKeys says that no key of the store has one of these ids in its name.
func (b *testBundle) requireNoKeys(t testing.TB, ids ...string) {
	t.Helper()
	keys, err := b.client.Keys(t.Context(), b.prefix+"*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		for _, id := range ids {
			require.NotContains(t, key, id)
		}
	}
}

// A publish that was decided on a queue which is gone meets another, or none.
func TestPublishesWhileAQueueComesAndGoes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	for range 3 {
		on := b.instance(t).run(t)
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				out, err := on.Publish(t.Context(), async, []commands.Publish{message("orders", "1")}, false)
				if err != nil {
					t.Error(err)
					return
				}
				if out[0].Err != nil {
					requireCode(t, out[0].Err, commands.CodeQueueNotFound)
				}
			}
		})
	}
	for range 10 {
		topic := i.queue(t, "orders", 2)
		id := i.subscribe(t, "orders", "g")
		i.pull(t, id, 1)
		i.deleteQueue(t)
		b.requireNoKeys(t, topic.Config.TopicID, id)
	}
	close(stop)
	publishing.Wait()
}
