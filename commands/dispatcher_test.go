package commands_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
)

func TestAQueueNameIsTakenOncePerTenant(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	first := i.queue(t, "orders", 1)
	_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: "orders"})
	require.Contains(t, refusalOf(t, err, commands.CodeConflict).Reason, `"orders"`)
	// another tenant does not notice
	theirs, _, err := i.CreateQueue(t.Context(), commands.Caller{TenantID: otherTenant, Async: true}, commands.CreateQueue{ID: newID(), Name: "orders"})
	require.NoError(t, err)
	require.NotEqual(t, first.Config.TopicID, theirs.Config.TopicID)
}

func TestCreateQueueUnderAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	create := func(caller commands.Caller, partitions int) (commands.Topic, commands.Receipt, error) {
		return i.CreateQueue(t.Context(), caller, commands.CreateQueue{ID: newID(), Name: "orders", PartitionCount: &partitions})
	}
	// given a queue made under a key
	first, receipt, err := create(under("k"), 3)
	require.NoError(t, err)
	require.False(t, receipt.Duplicate)
	// when the same comes again, on another instance too, then it is the same queue
	for _, on := range []*instance{i, b.instance(t)} {
		again, repeated, err := on.CreateQueue(t.Context(), under("k"), commands.CreateQueue{ID: newID(), Name: "orders", PartitionCount: new(3)})
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.Equal(t, commands.Receipt{Position: receipt.Position, Duplicate: true}, repeated)
	}
	// another request under that key is a mistake; without the key it is a conflict
	_, _, err = create(under("k"), 4)
	requireRefusal(t, err, commands.CodeIdempotencyKeyReused)
	_, _, err = create(async, 3)
	requireRefusal(t, err, commands.CodeConflict)
	_, _, err = create(under("other"), 3)
	requireRefusal(t, err, commands.CodeConflict)
	// keys are a tenant's own
	theirs := under("k")
	theirs.TenantID = otherTenant
	topic, receipt, err := create(theirs, 3)
	require.NoError(t, err)
	require.False(t, receipt.Duplicate)
	require.NotEqual(t, first.Config.TopicID, topic.Config.TopicID)
	// and the log has one event of it
	require.Equal(t, events.TopicCreated{TopicConfig: first.Config}, i.history(t, b, "orders", 1)[0].Event)
}

func TestCreateSubscriptionUnderAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 2)
	create := func(caller commands.Caller, group string) (commands.Subscription, commands.Receipt, error) {
		return i.CreateSubscription(t.Context(), caller, commands.CreateSubscription{ID: newID(), Queue: "orders", ConsumerGroup: group})
	}
	first, receipt, err := create(under("k"), "g")
	require.NoError(t, err)
	require.Equal(t, "orders", first.QueueName())
	again, repeated, err := create(under("k"), "g")
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, commands.Receipt{Position: receipt.Position, Duplicate: true}, repeated)
	_, _, err = create(under("k"), "h")
	requireRefusal(t, err, commands.CodeIdempotencyKeyReused)
	_, _, err = create(async, "g")
	requireRefusal(t, err, commands.CodeConflict)
	// a key that made a queue may make a subscription
	_, _, err = i.CreateQueue(t.Context(), under("k"), commands.CreateQueue{ID: newID(), Name: "orders2"})
	require.NoError(t, err)
}

func TestSubscriptionsNeedAQueueOfTheirTenant(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	i.queue(t, "orders", 1)
	cmd := commands.CreateSubscription{ID: newID(), Queue: "orders", ConsumerGroup: "g"}
	_, _, err := i.CreateSubscription(t.Context(), commands.Caller{TenantID: otherTenant, Async: true}, cmd)
	requireRefusal(t, err, commands.CodeQueueNotFound)
	cmd.Queue = "Orders"
	_, _, err = i.CreateSubscription(t.Context(), async, cmd)
	require.Equal(t, "queue", refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field)
}

func TestQueuesSayWhoMayUseThem(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	_, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{
		ID: newID(), Name: "orders", AllowedProducers: []string{"shop"}, AllowedConsumers: []string{"billing"},
	})
	require.NoError(t, err)
	as := func(subject string) commands.Caller {
		return commands.Caller{TenantID: tenant, Subject: subject, Platform: subject == "", Async: true}
	}
	for subject, may := range map[string]bool{"shop": true, "billing": false, "": true} {
		out := i.publishBatch(t, as(subject), false, message("orders", "1"))
		require.Equal(t, may, out[0].Err == nil, "%q", subject)
		if !may {
			requireRefusal(t, out[0].Err, commands.CodeForbidden)
		}
	}
	for subject, may := range map[string]bool{"shop": false, "billing": true, "": true} {
		_, _, err := i.CreateSubscription(t.Context(), as(subject), commands.CreateSubscription{ID: newID(), Queue: "orders", ConsumerGroup: "g" + subject})
		require.Equal(t, may, err == nil, "%q", subject)
		if !may {
			requireRefusal(t, err, commands.CodeForbidden)
		}
	}
}

func TestInstancesThatRaceMakeOneQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	instances := []*instance{b.instance(t), b.instance(t)}
	for round := range 20 {
		name := fmt.Sprintf("race-%d", round)
		ids := make(chan string, 8)
		conflicts := make(chan error, 8)
		var racers sync.WaitGroup
		for n := range cap(ids) {
			racers.Go(func() {
				topic, _, err := instances[n%2].CreateQueue(t.Context(), async, commands.CreateQueue{ID: newID(), Name: name})
				if err != nil {
					conflicts <- err
					return
				}
				ids <- topic.Config.TopicID
			})
		}
		racers.Wait()
		require.Len(t, ids, 1)
		require.Len(t, conflicts, cap(ids)-1)
		for range cap(ids) - 1 {
			requireRefusal(t, <-conflicts, commands.CodeConflict)
		}
		// and all instances see the one that won
		id := <-ids
		for _, i := range instances {
			a, err := i.log.Topic(t.Context(), tenant, name)
			require.NoError(t, err)
			require.Equal(t, id, a.ID)
		}
	}
}

// An answer without error means that the event is folded; in time or not at all.
func TestAnswersWaitForTheFold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, func(c *commands.Config) { c.AckTimeout = 100 * time.Millisecond })
	i.queue(t, "orders", 1)
	shard := events.ShardOf(tenant, "orders", shards)
	waiting := commands.Caller{TenantID: tenant, IdempotencyKey: "k"}
	publish := func(caller commands.Caller) commands.Published {
		return i.publishBatch(t, caller, false, message("orders", "1"))[0]
	}
	requireUnknown := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, commands.ErrUnavailable)
		require.ErrorIs(t, err, events.ErrOutcomeUnknown)
		require.True(t, commands.IsUnavailable(err))
	}
	// given nobody who folds, the outcome is unknown
	requireUnknown(publish(waiting).Err)
	// though it is in the log, as a retry finds
	stands := publish(under("k"))
	require.NoError(t, stands.Err)
	require.True(t, stands.Duplicate)
	require.False(t, stands.Folded)
	// a fold up to the event before it is not enough
	i.log.Announce(shard, stands.Position-1)
	requireUnknown(publish(waiting).Err)
	// its own is
	i.log.Announce(shard, stands.Position)
	folded := publish(waiting)
	require.NoError(t, folded.Err)
	require.True(t, folded.Folded)
	require.Equal(t, stands.MessageID, folded.MessageID)
	// queues and subscriptions wait alike
	_, _, err := i.CreateQueue(t.Context(), commands.Caller{TenantID: tenant}, commands.CreateQueue{ID: newID(), Name: "orders2"})
	requireUnknown(err)
	_, _, err = i.CreateSubscription(t.Context(), commands.Caller{TenantID: tenant}, commands.CreateSubscription{ID: newID(), Queue: "orders", ConsumerGroup: "g"})
	requireUnknown(err)
}

func TestAnswersHearOfFoldsOnOtherInstances(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]bool{"by wake-up": true, "by looking, wake-ups being lost": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			i, other := b.instance(t), b.instance(t)
			if run {
				i.run(t)
			}
			i.queue(t, "orders", 1)
			stands := i.publishBatch(t, under("k"), false, message("orders", "1"))[0]
			other.log.Announce(events.ShardOf(tenant, "orders", shards), stands.Position)
			folded := i.publishBatch(t, commands.Caller{TenantID: tenant, IdempotencyKey: "k"}, false, message("orders", "1"))[0]
			require.NoError(t, folded.Err)
			require.True(t, folded.Folded)
		})
	}
}

// spyStore is the log, watched and disturbed.
type spyStore struct {
	commands.Store

	mu        sync.Mutex
	deadlines []time.Time
	appends   int
	appendErr error
}

func (s *spyStore) WaitFolded(ctx context.Context, shard int, _ uint64, position events.Position) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		return fmt.Errorf("waits for %d/%d without a deadline", shard, position)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadlines = append(s.deadlines, deadline)
	return context.DeadlineExceeded
}

func (s *spyStore) Append(ctx context.Context, shard int, batch []events.Append) ([]events.Outcome, error) {
	s.mu.Lock()
	s.appends++
	s.mu.Unlock()
	if s.appendErr != nil {
		return nil, s.appendErr
	}
	return s.Store.Append(ctx, shard, batch)
}

func TestABatchWaitsForAllItsShardsAtOnce(t *testing.T) {
	t.Parallel()
	i := setup(t).instance(t)
	queues := i.queuePerShard(t)
	spy := &spyStore{Store: i.log}
	// when the folds of two shards do not come
	out, err := dispatcher(spy).Publish(t.Context(), commands.Caller{TenantID: tenant},
		[]commands.Publish{message(queues[0], "1"), message(queues[1], "2")}, false)
	require.NoError(t, err)
	// then one AckTimeout is over, not one after another
	require.Len(t, spy.deadlines, 2)
	require.Equal(t, spy.deadlines[0], spy.deadlines[1])
	for _, r := range out {
		require.ErrorIs(t, r.Err, events.ErrOutcomeUnknown)
	}
}

// queuePerShard makes a queue on each shard and returns their names.
func (i *instance) queuePerShard(t testing.TB) [shards]string {
	t.Helper()
	var names [shards]string
	for n := 0; names[0] == "" || names[1] == ""; n++ {
		name := fmt.Sprintf("q%d", n)
		if shard := events.ShardOf(tenant, name, shards); names[shard] == "" {
			names[shard] = name
			i.queue(t, name, 1)
		}
	}
	return names
}

// change writes an aggregate's next state into Redis, as another instance's append
// would, without the wake-up.
func (b *testBundle) change(t testing.TB, queue, kind, id string, version int64, state any) {
	t.Helper()
	text, err := json.Marshal(state)
	require.NoError(t, err)
	key := fmt.Sprintf("%s{%d}:%s:%s", b.prefix, events.ShardOf(tenant, queue, shards), kind, id)
	require.NoError(t, b.client.HSet(t.Context(), key, "v", version, "s", text).Err())
}

func TestAStaleCacheIsNoticed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	topic := i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publish(t, "orders", "1")
	i.requireCached(t, id)
	// when another instance pauses the subscription, a pull is decided on that
	a, err := b.instance(t).log.Subscription(t.Context(), id)
	require.NoError(t, err)
	s := a.Value.(commands.Subscription)
	s.Version, s.Config.Status = 2, commands.StatusPaused
	b.change(t, "orders", "sub", id, 2, s)
	_, err = i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id})
	requireRefusal(t, err, commands.CodeConsumerError)
	// and when it gives the queue partitions, so is a publish, alone or atomic
	topic.Version, topic.Config.PartitionCount = 2, 3
	b.change(t, "orders", "topic", topic.Config.TopicID, 2, topic)
	keyed := message("orders", "1")
	keyed.Key = "g" // the third of three partitions
	out := i.publishBatch(t, async, true, message("orders", "1"), keyed)
	require.NoError(t, out[0].Err)
	require.NoError(t, out[1].Err)
	require.Equal(t, 2, out[1].Partition, "decided on one partition")
	topic.Version, topic.Config.Status = 3, commands.StatusPaused
	b.change(t, "orders", "topic", topic.Config.TopicID, 3, topic)
	out = i.publishBatch(t, async, false, message("orders", "1"))
	requireRefusal(t, out[0].Err, commands.CodePublishFailed)
}

// requireCached makes sure that a test of stale caches has one to begin with.
func (i *instance) requireCached(t testing.TB, subscriptionID string) {
	t.Helper()
	first, err := i.log.Subscription(t.Context(), subscriptionID)
	require.NoError(t, err)
	second, err := i.log.Subscription(t.Context(), subscriptionID)
	require.NoError(t, err)
	require.Same(t, first, second)
}

func TestAStateThatNeverSettlesIsGivenUpOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	topic := i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	// given versions that are always ahead of the states
	b.change(t, "orders", "topic", topic.Config.TopicID, 9, topic)
	a, err := i.log.Subscription(t.Context(), id)
	require.NoError(t, err)
	b.change(t, "orders", "sub", id, 9, a.Value)
	for _, atomic := range []bool{false, true} {
		for _, r := range i.publishBatch(t, async, atomic, message("orders", "1"), message("orders", "2")) {
			requireRefusal(t, r.Err, commands.CodeUnavailable)
		}
	}
	_, err = i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id})
	requireRefusal(t, err, commands.CodeUnavailable)
	_, _, err = i.CreateSubscription(t.Context(), async, commands.CreateSubscription{ID: newID(), Queue: "orders", ConsumerGroup: "h"})
	requireRefusal(t, err, commands.CodeUnavailable)
	n, err := b.client.XLen(t.Context(), redis.QueueStream(b.prefix, a.Shard, topic.Config.TopicID, 0)).Result()
	require.NoError(t, err)
	require.Zero(t, n)
}
