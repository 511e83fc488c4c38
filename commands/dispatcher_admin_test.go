package commands_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/infra/redis"
)

// soon is when a waiting poll must have noticed: long before its time and the slow
// re-check for lost wake-ups.
const soon = 3 * time.Second

// polled is how a long poll ended.
type polled struct {
	messages []commands.Pulled
	err      error
}

// asking is a store that says when it was first asked for messages.
type asking struct {
	*redis.Log

	asked chan<- struct{}
}

func (s asking) Lease(ctx context.Context, req events.LeaseRequest, wait time.Duration) ([]events.Leased, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	return s.Log.Lease(ctx, req, wait)
}

// poll starts a long poll and returns once it asks.
func (i *instance) poll(t testing.TB, caller commands.Caller, id string) <-chan polled {
	t.Helper()
	done, asked := make(chan polled, 1), make(chan struct{}, 1)
	go func() {
		d := dispatcher(asking{i.log, asked})
		got, err := d.Pull(t.Context(), caller, commands.Pull{SubscriptionID: id, WaitMs: commands.PullWaitMsMax})
		done <- polled{got, err}
	}()
	<-asked
	return done
}

// await returns how a poll ended, which must be soon.
func await(t testing.TB, done <-chan polled) polled {
	t.Helper()
	select {
	case p := <-done:
		return p
	case <-time.After(soon):
		require.FailNow(t, "the poll goes on waiting")
		return polled{}
	}
}

// kinds are the kinds of a queue's first n events.
func (i *instance) kinds(t testing.TB, b *testBundle, queue string, n int) []events.Kind {
	t.Helper()
	var kinds []events.Kind
	for _, r := range i.history(t, b, queue, n) {
		kinds = append(kinds, r.Event.Kind())
	}
	return kinds
}

// sees waits until an instance has heard of a queue's version, and of a subscription's.
func (i *instance) sees(t testing.TB, queueVersion int64, id string, version int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		q, err := i.log.Topic(t.Context(), tenant, "orders")
		if err != nil || q.Version != queueVersion {
			return false
		}
		s, err := i.log.Subscription(t.Context(), id)
		return err == nil && s.Version == version
	}, soon, time.Millisecond)
}

func (i *instance) update(t testing.TB, cmd commands.UpdateQueue) commands.Topic {
	t.Helper()
	cmd.Queue = "orders"
	topic, _, err := i.UpdateQueue(t.Context(), async, cmd)
	require.NoError(t, err)
	return topic
}

func as(tenantID, subject string) commands.Caller {
	return commands.Caller{TenantID: tenantID, Subject: subject, Async: true}
}

func TestAQueueIsUpdatedOnEveryInstance(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	created, _, err := i.CreateQueue(t.Context(), async, commands.CreateQueue{
		ID: newID(), Name: "orders", Description: "d", SchemaDefinition: json.RawMessage(`{"a": "<b>"}`), AllowedProducers: []string{"p"},
	})
	require.NoError(t, err)
	// the same in other words is no change
	same := i.update(t, commands.UpdateQueue{Description: new("d"), SchemaDefinition: json.RawMessage("{\n\"a\":\"<b>\"}")})
	require.Equal(t, int64(1), same.Version)
	require.Equal(t, created.CreatedAtMs, same.ChangedAtMs)
	// a change counts, and leaves the rest
	changed := i.update(t, commands.UpdateQueue{Description: new("e"), IfVersion: new(int64(1)), SchemaDefinition: json.RawMessage("null")})
	want := created.Config
	want.Description, want.SchemaDefinition = "e", nil
	require.Equal(t, want, changed.Config)
	require.Equal(t, int64(2), changed.Version)
	require.Equal(t, created.CreatedAtMs, changed.CreatedAtMs)
	// and is seen elsewhere
	seen := other.update(t, commands.UpdateQueue{})
	require.Equal(t, changed.Config, seen.Config)
	require.GreaterOrEqual(t, seen.ChangedAtMs, created.ChangedAtMs)
	third := other.update(t, commands.UpdateQueue{Description: new("f"), IfVersion: new(int64(2))})
	require.Equal(t, int64(3), third.Version)
	history := i.history(t, b, "orders", 3)
	require.Equal(t, []int64{1, 2, 3}, []int64{history[0].Version, history[1].Version, history[2].Version})
	require.Equal(t, events.TopicUpdated{TopicConfig: third.Config}, history[2].Event)
	// who saw an older one is told
	r := refusalOf(t, must3(i.UpdateQueue(t.Context(), async, commands.UpdateQueue{Queue: "orders", IfVersion: new(int64(2)), Description: new("g")})), commands.CodeVersionMismatch)
	require.Equal(t, "If-Match", r.Problems[0].Field)
}

// must3 is the error of a command that returns three things.
func must3[A, B any](_ A, _ B, err error) error { return err }

func TestOfRacingUpdatesWithOneVersionOneWins(t *testing.T) {
	t.Parallel()
	const racers, rounds = 4, 20
	b := setup(t)
	var instances []*instance
	for range racers {
		instances = append(instances, b.instance(t))
	}
	instances[0].queue(t, "orders", 1)
	sub := instances[0].subscribe(t, "orders", "g")
	race := func(update func(n int, i *instance) error) (won int) {
		errs := make([]error, racers)
		var wg sync.WaitGroup
		for n, i := range instances {
			wg.Go(func() { errs[n] = update(n, i) })
		}
		wg.Wait()
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			requireRefusal(t, err, commands.CodeVersionMismatch)
		}
		return won
	}
	for round := range rounds {
		version := new(int64(round + 1))
		require.Equal(t, 1, race(func(n int, i *instance) error {
			return must3(i.UpdateQueue(t.Context(), async, commands.UpdateQueue{Queue: "orders", IfVersion: version, Description: new(fmt.Sprint(round, n))}))
		}))
		require.Equal(t, 1, race(func(n int, i *instance) error {
			return must3(i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: sub, IfVersion: version, MaxPollRecords: new(100 + 10*round + n)}))
		}))
	}
	// without a version all happen, and none undoes another's field
	require.Equal(t, 2, race(func(n int, i *instance) error {
		cmd := commands.UpdateQueue{Queue: "orders"}
		switch n {
		case 0:
			cmd.Description = new("last")
		case 1:
			cmd.DisplayName = new("Last")
		default:
			cmd.IfVersion = new(int64(1))
		}
		return must3(i.UpdateQueue(t.Context(), async, cmd))
	}))
	topic := b.instance(t).update(t, commands.UpdateQueue{})
	require.Equal(t, []any{int64(rounds + 3), "last", "Last"}, []any{topic.Version, topic.Config.Description, topic.Config.DisplayName})
}

func TestNewPartitionsAreConsumedAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	i.queue(t, "orders", 1)
	early := i.subscribe(t, "orders", "early")
	late := i.subscribe(t, "orders", "late", func(c *commands.CreateSubscription) { c.OffsetResetPolicy = "latest" })
	waiting := []<-chan polled{i.poll(t, async, early), other.poll(t, async, late)}
	require.Equal(t, 3, i.update(t, commands.UpdateQueue{PartitionCount: new(3)}).Config.PartitionCount)
	other.sees(t, 2, early, 1)
	for n, offset := range []int64{0, 1} {
		m := message("orders", fmt.Sprint(n))
		m.Partition = new(2)
		out := other.publishBatch(t, async, false, m)
		require.NoError(t, out[0].Err)
		require.Equal(t, offset, out[0].Offset)
	}
	for _, w := range waiting {
		p := await(t, w)
		require.NoError(t, p.err)
		require.Equal(t, 2, p.messages[0].Partition)
	}
}

func TestGrowingLosesNoPublish(t *testing.T) {
	t.Parallel()
	const publishers, each = 3, 60
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	var wg sync.WaitGroup
	var published atomic.Int64
	for n := range publishers {
		on := b.instance(t).run(t)
		wg.Go(func() {
			for k := range each {
				m := message("orders", fmt.Sprint(n*each+k))
				m.Key = fmt.Sprint(k % 7)
				out, err := on.Publish(t.Context(), async, []commands.Publish{m}, false)
				if err != nil || out[0].Err != nil {
					t.Error(err, out)
				}
				published.Add(1)
			}
		})
	}
	for partitions := 2; partitions <= 12; partitions++ {
		i.update(t, commands.UpdateQueue{PartitionCount: &partitions})
		more := min(published.Load()+5, publishers*each)
		require.Eventually(t, func() bool { return published.Load() >= more }, 10*time.Second, 100*time.Microsecond)
	}
	wg.Wait()
	next := map[int]int64{}
	got := map[string]bool{}
	for len(got) < publishers*each {
		for _, m := range i.pull(t, id, 500) {
			require.False(t, got[string(m.Payload)])
			got[string(m.Payload)] = true
			require.Equal(t, next[m.Partition], m.Offset, "partition %d", m.Partition)
			next[m.Partition]++
		}
	}
	i.requireNothing(t, id)
	require.Greater(t, len(next), 1)
}

func TestAPausedSubscriptionGetsNothingAndKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	for n := range 4 {
		i.publish(t, "orders", fmt.Sprint(n))
	}
	held := i.pull(t, id, 4)
	waiting := []<-chan polled{i.poll(t, async, id), other.poll(t, async, id)}
	paused, _, err := i.PauseSubscription(t.Context(), async, id, new(int64(1)))
	require.NoError(t, err)
	require.Equal(t, []any{"paused", int64(2)}, []any{paused.Config.Status, paused.Version})
	for _, w := range waiting {
		requireRefusal(t, await(t, w).err, commands.CodeConsumerError)
	}
	for _, on := range []*instance{i, other} {
		_, err := on.Pull(t.Context(), async, commands.Pull{SubscriptionID: id})
		requireRefusal(t, err, commands.CodeConsumerError)
	}
	// what is held can be settled
	out, err := i.Extend(t.Context(), async, id, []string{held[0].AckToken}, 60_000)
	require.NoError(t, err)
	require.Equal(t, "extended", out[0].Status)
	require.Equal(t, "acked", other.ack(t, id, held[0].AckToken)[0].Status)
	require.Equal(t, "retrying", i.nack(t, id, held[1].AckToken)[0].Status)
	i.publish(t, "orders", "4")
	// pausing again is nothing, also where another instance does it
	again, _, err := other.PauseSubscription(t.Context(), async, id, nil)
	require.NoError(t, err)
	require.Equal(t, int64(2), again.Version)
	resumed, _, err := other.ResumeSubscription(t.Context(), async, id, nil)
	require.NoError(t, err)
	require.Equal(t, []any{"active", int64(3)}, []any{resumed.Config.Status, resumed.Version})
	i.sees(t, 1, id, 3)
	got := i.pull(t, id, 10)
	require.Len(t, got, 2)
	require.Equal(t, []string{"1", "4"}, []string{string(got[0].Payload), string(got[1].Payload)})
	require.Equal(t, []events.Kind{events.KindSubscriptionPaused, events.KindMessageConsumed, events.KindMessageFailed, events.KindMessagePublished, events.KindSubscriptionResumed},
		i.kinds(t, b, "orders", 11)[6:])
}

func TestAPausedQueueStillDelivers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	other.publish(t, "orders", "1")
	i.update(t, commands.UpdateQueue{Status: new("paused")})
	for _, on := range []*instance{i, other} {
		requireRefusal(t, on.publishBatch(t, async, false, message("orders", "2"))[0].Err, commands.CodePublishFailed)
	}
	require.NoError(t, other.ack(t, id, other.pull(t, id, 1)[0].AckToken)[0].Err)
	i.update(t, commands.UpdateQueue{Status: new("active")})
	i.publish(t, "orders", "2")
	require.Equal(t, "2", string(other.pull(t, id, 1)[0].Payload))
}

// A changed subscription is leased by its new terms at once, on every instance.
func TestAnUpdatedSubscriptionHasItsNewTerms(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t), b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	i.publish(t, "orders", "1")
	other.requireNothing(t, other.subscribe(t, "orders", "h", func(c *commands.CreateSubscription) { c.OffsetResetPolicy = "latest" }))
	s, _, err := i.UpdateSubscription(t.Context(), async, commands.UpdateSubscription{SubscriptionID: id, SessionTimeoutMs: new(77_000), Queue: new("orders")})
	require.NoError(t, err)
	require.Equal(t, int64(2), s.Version)
	m := other.pull(t, id, 1)[0]
	require.Equal(t, m.LeasedAtMs+77_000, m.LeaseExpiresAtMs)
}
