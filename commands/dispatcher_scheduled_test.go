package commands_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

func delayed(payload string, d time.Duration) commands.Publish {
	m := message("orders", payload)
	m.DelayMs = new(d.Milliseconds())
	return m
}

func at(payload string, when time.Time) commands.Publish {
	m := message("orders", payload)
	m.ScheduledAt = &when
	return m
}

// schedule publishes a message that is to wait.
func (i *instance) schedule(t testing.TB, m commands.Publish) commands.Published {
	t.Helper()
	out := i.publishBatch(t, async, false, m)
	require.NoError(t, out[0].Err)
	require.NotZero(t, out[0].ReleaseAtMs)
	require.Zero(t, out[0].Offset)
	return out[0]
}

// all are a queue's shard's events so far.
func (i *instance) all(t testing.TB, b *testBundle, queue string) []events.Record {
	t.Helper()
	n, err := b.client.XLen(t.Context(), fmt.Sprintf("%s{%d}:log", b.prefix, events.ShardOf(tenant, queue, shards))).Result()
	require.NoError(t, err)
	return i.history(t, b, queue, int(n))
}

func TestAScheduledMessageComesInItsTimeAndNotBefore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// given that who schedules moves nothing by itself
	i, mover := b.instance(t), b.instance(t).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	waiting := mover.poll(t, async, id)
	s := i.schedule(t, delayed("1", 300*time.Millisecond))
	state := i.state(t, "orders")
	require.Equal(t, []int64{1, 0, 0}, []int64{state.Scheduled, state.Unsettled["g"], state.Partitions[0].NextOffset})
	m := await(t, waiting).messages[0]
	require.Equal(t, []any{s.MessageID, "1", int64(0), 1}, []any{m.MessageID, string(m.Payload), m.Offset, m.Attempt})
	require.GreaterOrEqual(t, m.LeasedAtMs, s.ReleaseAtMs)
	require.GreaterOrEqual(t, m.Position.Ms(), s.ReleaseAtMs)
	require.InDelta(t, s.Position.Ms()+300, s.ReleaseAtMs, 1)
	// its life begins when it is released
	require.InDelta(t, s.ReleaseAtMs+time.Hour.Milliseconds(), m.Meta.ExpiresAtMs, 100)
	records := i.all(t, b, "orders")
	scheduled, released := records[2].Event.(events.MessageScheduled), records[3].Event.(events.MessageReleased)
	require.Equal(t, []any{s.MessageID, s.ReleaseAtMs, "1"}, []any{scheduled.MessageID, scheduled.ReleaseAtMs, string(scheduled.Payload)})
	require.Equal(t, events.MessageReleased{MessageID: s.MessageID, TopicID: scheduled.TopicID}, released)
	require.Equal(t, []any{tenant, "system", m.Position}, []any{records[3].TenantID, records[3].Meta.Actor, records[3].Position})
	require.NotEqual(t, s.MessageID, records[3].ID)
	state = i.state(t, "orders")
	require.Equal(t, []int64{0, 1, 1}, []int64{state.Scheduled, state.Unsettled["g"], state.Partitions[0].NextOffset})
	// a time is as good as a delay, and a part of a millisecond is not taken away from it
	when := time.UnixMilli(time.Now().UnixMilli() + 100).Add(time.Microsecond)
	s = i.schedule(t, at("2", when))
	require.Equal(t, when.UnixMilli()+1, s.ReleaseAtMs)
	m = mover.pull(t, id, 1)[0]
	require.Equal(t, s.MessageID, m.MessageID)
	require.GreaterOrEqual(t, m.Position.Ms(), s.ReleaseAtMs)
}

func TestHowLateAMessageMayBe(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := time.UnixMilli(time.Now().UnixMilli())
	i := b.instance(t, func(c *commands.Config) { c.Now = func() time.Time { return now } })
	i.queue(t, "orders", 1)
	const most = commands.DelayMsMax * time.Millisecond
	for name, one := range map[string]struct {
		message     commands.Publish
		isScheduled bool
		field       string
	}{
		"no delay":               {message: delayed("1", 0)},
		"the least delay":        {message: delayed("1", time.Millisecond), isScheduled: true},
		"the longest delay":      {message: delayed("1", most), isScheduled: true},
		"too long a delay":       {message: delayed("1", most+time.Millisecond), field: "delayMs"},
		"a delay below zero":     {message: delayed("1", -time.Millisecond), field: "delayMs"},
		"the last time":          {message: at("1", now.Add(most)), isScheduled: true},
		"too late a time":        {message: at("1", now.Add(most+time.Millisecond)), field: "scheduledAt"},
		"now":                    {message: at("1", now)},
		"as late as clocks may":  {message: at("1", now.Add(-time.Minute+time.Millisecond))},
		"long past":              {message: at("1", now.Add(-time.Minute)), field: "scheduledAt"},
		"the next millisecond":   {message: at("1", now.Add(time.Millisecond)), isScheduled: true},
		"part of a millisecond":  {message: at("1", now.Add(time.Microsecond)), isScheduled: true},
		"a past that is no time": {message: at("1", time.Time{}), field: "scheduledAt"},
	} {
		out := i.publishBatch(t, async, false, one.message)[0]
		if one.field != "" {
			require.Equal(t, one.field, refusalOf(t, out.Err, commands.CodeValidationFailed).Problems[0].Field, name)
			continue
		}
		require.NoError(t, out.Err, name)
		require.Equal(t, one.isScheduled, out.ReleaseAtMs > 0, name)
	}
	// all or none are published at once
	_, err := i.Publish(t.Context(), async, []commands.Publish{message("orders", "1"), delayed("2", time.Second)}, true)
	require.Equal(t, "messages[1].scheduledAt", refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field)
}

func TestTenThousandAtOnceAreReleasedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	i.queue(t, "orders", 3)
	i.subscribe(t, "orders", "g")
	const count = 10_000
	want := make(map[string]bool, count)
	for range count / commands.BatchMessagesMax {
		batch := make([]commands.Publish, commands.BatchMessagesMax)
		for n := range batch {
			batch[n] = delayed("1", time.Hour)
			want[batch[n].ID] = true
		}
		for _, out := range i.publishBatch(t, async, false, batch...) {
			require.NoError(t, out.Err)
		}
	}
	b.makeDue(t)
	for range 3 {
		b.instance(t).run(t)
	}
	require.Eventually(t, func() bool { return i.state(t, "orders").Scheduled == 0 }, 20*time.Second, 10*time.Millisecond)
	next := [3]int64{}
	for _, r := range i.all(t, b, "orders") {
		if e, ok := r.Event.(events.MessageReleased); ok {
			require.True(t, want[e.MessageID], "released twice, or never scheduled")
			delete(want, e.MessageID)
			require.Equal(t, next[e.Partition], e.Offset)
			next[e.Partition]++
		}
	}
	require.Empty(t, want)
	require.Equal(t, int64(count), i.state(t, "orders").Unsettled["g"])
	require.Zero(t, b.due(t))
	b.requireNoKeysLike(t, "scheduled")
}

func TestAScheduledMessageIsCancelledOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.bounded(t, 2).run(t), b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	s := i.schedule(t, delayed("1", time.Hour))
	// what waits counts as what is published
	i.schedule(t, delayed("2", time.Hour))
	i.requireRoom(t, 0)
	requireRefusal(t, i.publishBatch(t, async, false, delayed("3", time.Hour))[0].Err, commands.CodeQueueFull)
	// whose it is not, finds nothing
	_, err := other.CancelMessage(t.Context(), commands.Caller{TenantID: otherTenant}, s.MessageID)
	requireRefusal(t, err, commands.CodeMessageNotFound)
	_, err = other.CancelMessage(t.Context(), async, s.MessageID)
	require.NoError(t, err)
	for _, gone := range []string{s.MessageID, newID()} {
		_, err = i.CancelMessage(t.Context(), async, gone)
		requireRefusal(t, err, commands.CodeMessageNotFound)
	}
	records := i.all(t, b, "orders")
	require.Equal(t, events.MessageCancelled{MessageID: s.MessageID, TopicID: records[0].Event.(events.TopicCreated).TopicID}, records[len(records)-1].Event)
	require.Equal(t, int64(1), i.state(t, "orders").Scheduled)
	i.requireRoom(t, 1)
	// what is released is not cancelled
	b.makeDue(t)
	m := i.pull(t, id, 2)
	for len(m) < 2 {
		m = append(m, i.pull(t, id, 2)...)
	}
	require.ElementsMatch(t, []string{"1", "2"}, payloads(m)) // the one that found room, and the other one
	for _, one := range m {
		_, err = i.CancelMessage(t.Context(), async, one.MessageID)
		requireRefusal(t, err, commands.CodeMessageNotFound)
	}
	require.Zero(t, b.due(t)-2) // their leases
}

func TestPurgesAndDeletionsTakeWhatIsScheduled(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t)
	topic := i.queue(t, "orders", 2)
	id := i.subscribe(t, "orders", "g")
	first := i.schedule(t, delayed("1", time.Hour))
	i.schedule(t, delayed("2", time.Hour))
	i.purge(t)
	purged := i.last(t, b, 5).(events.TopicPurged).Discarded
	require.Equal(t, events.Discarded{Groups: map[string]int64{"g": 0}, Scheduled: 2, From: fmt.Sprintf("%d-%d", first.Position.Ms(), first.Position.Seq())}, purged)
	require.Zero(t, i.state(t, "orders").Scheduled)
	require.Zero(t, b.due(t))
	b.requireNoKeysLike(t, "scheduled")
	_, err := i.CancelMessage(t.Context(), async, first.MessageID)
	requireRefusal(t, err, commands.CodeMessageNotFound)
	// a message that was scheduled long before it was released is older than what stands before it
	early := i.schedule(t, delayed("3", time.Hour))
	i.publish(t, "orders", "4")
	b.makeDue(t)
	i.run(t)
	require.Eventually(t, func() bool { return i.state(t, "orders").Unsettled["g"] == 2 }, soon, time.Millisecond)
	i.purge(t)
	records := i.all(t, b, "orders")
	from := records[len(records)-1].Event.(events.TopicPurged).Discarded.From
	require.LessOrEqual(t, positionOf(t, from), early.Position)
	// in a retry, too; and what is gone is not looked for any more
	late := i.schedule(t, delayed("5", time.Hour))
	b.makeDue(t)
	m := i.pull(t, id, 1)[0]
	require.Equal(t, late.MessageID, m.MessageID)
	i.park(t, id, m.AckToken, time.Hour)
	i.purge(t)
	records = i.all(t, b, "orders")
	require.Equal(t, late.Position, positionOf(t, records[len(records)-1].Event.(events.TopicPurged).Discarded.From))
	i.schedule(t, delayed("6", time.Hour))
	i.deleteQueue(t)
	records = i.all(t, b, "orders")
	require.Equal(t, int64(1), records[len(records)-1].Event.(events.TopicDeleted).Discarded.Scheduled)
	b.requireNoKeys(t, topic.Config.TopicID)
	b.requireNoKeysLike(t, "scheduled")
}

// The time may come between a request and its repetition: it is one message all the same.
func TestAScheduledMessageIsOneHoweverOftenItIsAskedFor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := time.Now()
	i := b.instance(t, func(c *commands.Config) { c.Now = func() time.Time { return now } })
	i.queue(t, "orders", 1)
	request := at("1", now.Add(10*time.Second))
	first := i.publishBatch(t, under("k"), false, request)[0]
	require.NoError(t, first.Err)
	for _, later := range []time.Duration{0, 20 * time.Second} {
		now = now.Add(later)
		request.ID = newID()
		again := i.publishBatch(t, under("k"), false, request)[0]
		require.NoError(t, again.Err)
		require.True(t, again.Duplicate)
		require.Equal(t, []any{first.MessageID, first.ReleaseAtMs, first.Position, int64(0)}, []any{again.MessageID, again.ReleaseAtMs, again.Position, again.Offset})
	}
	require.Equal(t, int64(1), i.state(t, "orders").Scheduled)
	requireRefusal(t, i.publishBatch(t, under("k"), false, at("2", now.Add(time.Second)))[0].Err, commands.CodeIdempotencyKeyReused)
}

func TestSealedMessagesWaitSealed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t, reversing).run(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	s := i.schedule(t, delayed(`"abc"`, time.Hour))
	require.Equal(t, `"cba"`, string(i.last(t, b, 3).(events.MessageScheduled).Payload))
	b.makeDue(t)
	m := i.pull(t, id, 1)[0]
	require.Equal(t, []string{s.MessageID, `"abc"`}, []string{m.MessageID, string(m.Payload)})
}

// reversing is an encryption for tests.
func reversing(c *commands.Config) {
	c.Seal = func(_ context.Context, _, _, _ string, payload []byte) ([]byte, error) {
		out := bytes.Clone(payload)
		slices.Reverse(out)
		return out, nil
	}
	c.Open = c.Seal
}
