package commands_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// redriven is a message as it was handed out, to come once more.
func redriven(m commands.Pulled, letters int64) commands.Redriven {
	return commands.Redriven{
		MessageID: m.MessageID, Meta: m.Meta, Payload: m.Payload, Partition: m.Partition, Offset: m.Offset, Position: m.Position, DeadLetters: letters,
	}
}

// redrive has messages come to a subscription once more, as a job of its own.
func (i *instance) redrive(t testing.TB, id, job string, messages ...commands.Redriven) int64 {
	t.Helper()
	attempt, err := i.ReserveAttempt(t.Context(), id)
	require.NoError(t, err)
	n, err := i.Redrive(t.Context(), commands.Redrive{SubscriptionID: id, JobID: job, Attempt: attempt, Messages: messages})
	require.NoError(t, err)
	require.Equal(t, len(messages), n)
	return attempt
}

func TestARedrivenMessageBeginsAnew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.bounded(t, 3).run(t), b.instance(t)
	i.queue(t, "orders", 2)
	id := i.subscribe(t, "orders", "g", func(c *commands.CreateSubscription) { c.MaxRetryAttempts = new(1) })
	m := keyed("orders", "k", "1")
	m.Headers = map[string]string{"h": "v"}
	require.NoError(t, i.publishBatch(t, async, false, m)[0].Err)
	first := i.pull(t, id, 1)[0]
	i.nack(t, id, first.AckToken)
	require.Equal(t, "dead_letter", i.nack(t, id, i.pull(t, id, 1)[0].AckToken)[0].Status)
	require.Zero(t, i.state(t, "orders").Unsettled["g"])
	// when it is redriven, by a job that is done twice, on two instances
	attempt, err := i.ReserveAttempt(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, int64(3), attempt)
	job := commands.Redrive{SubscriptionID: id, JobID: "job", Attempt: attempt, Messages: []commands.Redriven{redriven(first, 1)}}
	for _, on := range []*instance{i, other} {
		n, err := on.Redrive(t.Context(), job)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	// then it comes once, as it was, and has its retries again
	e := i.all(t, b, "orders")
	require.Equal(t, events.MessageRedriven{
		MessageID: first.MessageID, TopicID: i.topicID(t), SubscriptionID: id, ConsumerGroup: "g", Partition: first.Partition, Offset: first.Offset,
		Attempt: 3, DeadLetters: 1, JobID: "job",
	}, e[len(e)-1].Event)
	require.Equal(t, int64(1), i.state(t, "orders").Unsettled["g"])
	again := i.pull(t, id, 5)
	require.Len(t, again, 1)
	got := again[0]
	require.Equal(t, []any{3, 2, first.MessageID, first.Payload, first.Meta, first.Partition, first.Offset, first.Position},
		[]any{got.Attempt, got.AttemptsBefore, got.MessageID, got.Payload, got.Meta, got.Partition, got.Offset, got.Position})
	require.Equal(t, "retrying", i.nack(t, id, got.AckToken)[0].Status)
	got = i.pull(t, id, 1)[0]
	require.Equal(t, []int{4, 2}, []int{got.Attempt, got.AttemptsBefore})
	require.Equal(t, "dead_letter", i.nack(t, id, got.AckToken)[0].Status)
	// another job is another number, and what it brings counts in a full queue
	require.Equal(t, int64(5), i.redrive(t, id, "second", redriven(first, 1)))
	i.requireRoom(t, 2)
	got = i.pull(t, id, 1)[0]
	require.Equal(t, 5, got.Attempt)
	i.ack(t, id, got.AckToken)
	i.requireRoom(t, 1)
	// a group that has as much to settle as a queue may hold gets no more
	full := commands.Redrive{SubscriptionID: id, JobID: "full", Attempt: attempt, Messages: []commands.Redriven{redriven(first, 0)}}
	_, err = i.Redrive(t.Context(), full)
	requireRefusal(t, err, commands.CodeQueueFull)
	i.ack(t, id, i.pull(t, id, 1)[0].AckToken)
	// a purge says from where on: a redriven message may be older than all that is there
	i.redrive(t, id, "third", redriven(first, 0))
	i.purge(t)
	e = i.all(t, b, "orders")
	require.Equal(t, first.Position, positionOf(t, e[len(e)-1].Event.(events.TopicPurged).Discarded.From))
	i.requireNothing(t, id)
	// and without a subscription there is nobody to get it
	stale := b.instance(t)
	_, err = stale.ReserveAttempt(t.Context(), id)
	require.NoError(t, err)
	topicID := i.topicID(t)
	i.unsubscribe(t, id)
	job.JobID = "fourth"
	_, err = other.Redrive(t.Context(), job)
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	_, err = other.ReserveAttempt(t.Context(), id)
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	// nor does who has not heard of it leave anything behind
	i.deleteQueue(t)
	_, err = stale.ReserveAttempt(t.Context(), id)
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	b.requireNoKeys(t, topicID)
}

func TestARedrivenMessageWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g", ordered, func(c *commands.CreateSubscription) { c.MaxRetryAttempts = new(0) })
	for n := range 3 {
		i.publishKeyed(t, "k", fmt.Sprint(n))
	}
	dead := i.pull(t, id, 5)[0]
	i.nack(t, id, dead.AckToken)
	out := i.pull(t, id, 5)
	require.Equal(t, []string{"1"}, payloads(out))
	i.redrive(t, id, "job", redriven(dead, 1))
	i.requireNothing(t, id)
	i.ack(t, id, out[0].AckToken)
	out = i.pull(t, id, 5)
	require.Equal(t, []string{"2"}, payloads(out))
	i.ack(t, id, out[0].AckToken)
	out = i.pull(t, id, 5)
	require.Equal(t, []string{"0"}, payloads(out))
	// and what is published meanwhile waits for it
	i.publishKeyed(t, "k", "3")
	i.requireNothing(t, id)
	i.ack(t, id, out[0].AckToken)
	require.Equal(t, []string{"3"}, payloads(i.drain(t, id)))
	// where nothing of its key is out it comes at once, and has the turn
	i.redrive(t, id, "again", redriven(dead, 0))
	i.publishKeyed(t, "k", "4")
	out = i.pull(t, id, 5)
	require.Equal(t, []string{"0"}, payloads(out))
	i.ack(t, id, out[0].AckToken)
	require.Equal(t, []string{"4"}, payloads(i.drain(t, id)))
	b.requireNoKeysLike(t, "busy:", "held:")
}

// A group may be ordered without anybody having asked for a message yet.
func TestWhatComesToAnOrderedGroupBeforeItsConsumer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 2)
	plain := i.subscribe(t, "orders", "plain")
	for n := range 3 {
		i.publishKeyed(t, "k", fmt.Sprint(n))
	}
	seen := i.drain(t, plain)
	id := i.subscribe(t, "orders", "g", ordered, func(c *commands.CreateSubscription) { c.OffsetResetPolicy = "latest" })
	i.redrive(t, id, "job", redriven(seen[0], 0), redriven(seen[1], 0), redriven(seen[2], 0))
	i.publishKeyed(t, "k", "3")
	for n := range 4 {
		out := i.pull(t, id, 10)
		require.Equal(t, []string{fmt.Sprint(n)}, payloads(out))
		i.requireNothing(t, id)
		i.ack(t, id, out[0].AckToken)
	}
	require.Zero(t, i.state(t, "orders").Unsettled["g"])
	b.requireNoKeysLike(t, "busy:", "held:")
}

// A message may be replayed while an earlier delivery of it is under way, each with
// retries that wait for their time: neither is lost.
func TestTwoLivesOfAMessage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publish(t, "orders", "1")
	first := i.pull(t, id, 1)[0]
	i.nack(t, id, first.AckToken)
	require.Equal(t, int64(3), i.redrive(t, id, "job", redriven(first, 0)))
	both := i.pull(t, id, 5)
	for len(both) < 2 {
		both = append(both, i.pull(t, id, 5)...)
	}
	require.Equal(t, []int{2, 0, 3, 2}, []int{both[0].Attempt, both[0].AttemptsBefore, both[1].Attempt, both[1].AttemptsBefore})
	i.nack(t, id, both[0].AckToken) // now both are of a third attempt
	third := i.pull(t, id, 1)[0]
	require.Equal(t, []int{3, 0}, []int{third.Attempt, third.AttemptsBefore})
	i.park(t, id, third.AckToken, time.Hour)
	i.park(t, id, both[1].AckToken, time.Hour)
	require.Equal(t, int64(2), i.state(t, "orders").Retries[0].Waiting)
	b.makeDue(t)
	require.Eventually(t, func() bool { return i.state(t, "orders").Retries[0].Waiting == 0 }, soon, time.Millisecond)
	require.Len(t, i.drain(t, id), 2)
	require.Zero(t, i.state(t, "orders").Unsettled["g"])
}
