package commands_test

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/infra/redis"
)

// bounded is an instance on which a queue holds so many unconsumed messages.
func (b *testBundle) bounded(t testing.TB, most int64) *instance {
	t.Helper()
	client, err := redis.Open(b.url)
	require.NoError(t, err)
	log := redis.New(redis.Config{
		Client: client, Prefix: b.prefix, Shards: shards, IdempotencyTTL: time.Minute, Logger: slog.Default(), QueueLengthMax: most,
		DecodeTopic: commands.DecodeTopic, DecodeSubscription: commands.DecodeSubscription, DecodeSchedule: commands.DecodeSchedule,
	})
	t.Cleanup(func() {
		log.Close()
		_ = client.Close()
	})
	return &instance{log: log, Dispatcher: dispatcher(log)}
}

// requireRoom says that a queue takes exactly n more messages.
func (i *instance) requireRoom(t testing.TB, n int) {
	t.Helper()
	for k := range n {
		require.NoError(t, i.publishBatch(t, async, false, message("orders", "1"))[0].Err, "message %d of %d", k+1, n)
	}
	requireRefusal(t, i.publishBatch(t, async, false, message("orders", "1"))[0].Err, commands.CodeQueueFull)
}

func tokens(pulled []commands.Pulled) (out []string) {
	for _, m := range pulled {
		out = append(out, m.AckToken)
	}
	return out
}

func TestAFullQueueTakesAsManyAsAreSettled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.bounded(t, 10).run(t)
	i.queue(t, "orders", 3)
	// with no group nothing is consumed
	i.requireRoom(t, 10)
	first := i.subscribe(t, "orders", "first", func(c *commands.CreateSubscription) { c.MaxRetryAttempts = new(0) })
	i.requireRoom(t, 0)
	// leased, ready to retry and parked are not consumed
	held := i.pull(t, first, 10)
	require.Len(t, held, 10)
	i.requireRoom(t, 0)
	// acks and dead letters make room for as many
	i.ack(t, first, tokens(held[:3])...)
	i.requireRoom(t, 3)
	require.Equal(t, "dead_letter", i.nack(t, first, held[3].AckToken)[0].Status)
	i.requireRoom(t, 1)
	i.ack(t, first, held[3].AckToken, held[0].AckToken)
	i.requireRoom(t, 0)
	_, _, err := i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: first, MaxRetryAttempts: new(5)})
	require.NoError(t, err)
	i.nack(t, first, held[4].AckToken)
	i.park(t, first, held[5].AckToken, time.Hour)
	i.requireRoom(t, 0)
	// a group from the latest on is behind nobody, one from the earliest holds all that is there
	latest := i.subscribe(t, "orders", "latest", func(c *commands.CreateSubscription) { c.OffsetResetPolicy = "latest" })
	i.ack(t, first, held[6].AckToken)
	i.requireRoom(t, 1)
	earliest := i.subscribe(t, "orders", "earliest")
	i.ack(t, first, tokens(held[7:])...)
	i.requireRoom(t, 0) // 15 are there, all of them new to it
	slow := i.pull(t, earliest, 50)
	require.Len(t, slow, 15)
	i.ack(t, earliest, tokens(slow[:6])...)
	i.requireRoom(t, 1)
	// until it is gone: then the next slowest counts, which has 3 less
	i.unsubscribe(t, earliest)
	i.requireRoom(t, 2)
	require.Len(t, i.pull(t, latest, 50), 4)
	i.unsubscribe(t, first)
	i.requireRoom(t, 6)
	// a purge makes room for all
	i.purge(t)
	i.requireRoom(t, 10)
	i.unsubscribe(t, latest)
	i.requireRoom(t, 0)
	i.purge(t)
	i.requireRoom(t, 10)
}

func TestBatchesAndAFullQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.bounded(t, 10)
	i.queue(t, "orders", 2)
	i.queue(t, "other", 1)
	batch := func(n int, queue string) (out []commands.Publish) {
		for k := range n {
			out = append(out, message(queue, fmt.Sprint(k)))
		}
		return out
	}
	// all or none, at the boundary too
	for _, m := range i.publishBatch(t, async, true, batch(7, "orders")...) {
		require.NoError(t, m.Err)
	}
	refused := i.publishBatch(t, async, true, batch(4, "orders")...)
	for n, m := range refused {
		require.Equal(t, n < 3, commands.IsAborted(m.Err), "%d: %v", n, m.Err)
		if n == 3 {
			requireRefusal(t, m.Err, commands.CodeQueueFull)
		}
	}
	whole := batch(3, "orders")
	taken := i.publishBatch(t, under("whole"), true, whole...)
	for n, m := range taken {
		require.NoError(t, m.Err)
		require.Less(t, m.Offset, int64(10), n)
	}
	i.requireRoom(t, 0)
	// what was taken is answered again although it is full
	for n, m := range i.publishBatch(t, under("whole"), true, whole...) {
		require.NoError(t, m.Err)
		require.Equal(t, []any{true, taken[n].Offset, taken[n].MessageID}, []any{m.Duplicate, m.Offset, m.MessageID})
	}
	// message by message: other queues have room
	mixed := []commands.Publish{message("orders", "1"), message("other", "1"), message("orders", "1"), message("other", "1")}
	for n, m := range i.publishBatch(t, async, false, mixed...) {
		if n%2 == 1 {
			require.NoError(t, m.Err)
			continue
		}
		requireRefusal(t, m.Err, commands.CodeQueueFull)
	}
	// as many as there is room for
	i.purge(t)
	full := 0
	for n, m := range i.publishBatch(t, async, false, batch(14, "orders")...) {
		if m.Err != nil {
			requireRefusal(t, m.Err, commands.CodeQueueFull)
			require.GreaterOrEqual(t, n, 10)
			full++
		}
	}
	require.Equal(t, 4, full)
}

func TestInstancesTogetherDoNotOverfillAQueue(t *testing.T) {
	t.Parallel()
	const most, publishers, each = 50, 3, 120
	b := setup(t)
	i := b.bounded(t, most).run(t)
	i.queue(t, "orders", 4)
	id := i.subscribe(t, "orders", "g")
	var taken, acked, full atomic.Int64
	var publishing sync.WaitGroup
	for range publishers {
		on := b.bounded(t, most)
		publishing.Go(func() {
			for range each {
				out, err := on.Publish(t.Context(), async, []commands.Publish{message("orders", "1"), message("orders", "2")}, false)
				if err != nil {
					t.Error(err)
					return
				}
				for _, m := range out {
					if m.Err == nil {
						taken.Add(1)
						continue
					}
					requireCode(t, m.Err, commands.CodeQueueFull)
					full.Add(1)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		publishing.Wait()
		close(done)
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		pulled, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, MessagesMax: new(20)})
		require.NoError(t, err)
		require.LessOrEqual(t, len(pulled), most)
		if len(pulled) > 0 && running {
			i.ack(t, id, tokens(pulled)...)
			acked.Add(int64(len(pulled)))
		}
	}
	require.LessOrEqual(t, taken.Load()-acked.Load(), int64(most))
	require.Equal(t, int64(publishers*each*2), taken.Load()+full.Load())
	i.requireRoom(t, most-int(taken.Load()-acked.Load()))
}

func TestAQueueWithoutALimit(t *testing.T) {
	t.Parallel()
	i := setup(t).bounded(t, 0)
	i.queue(t, "orders", 1)
	for range 3 {
		var batch []commands.Publish
		for range 1000 {
			batch = append(batch, message("orders", "1"))
		}
		for _, m := range i.publishBatch(t, async, false, batch...) {
			require.NoError(t, m.Err)
		}
	}
}
