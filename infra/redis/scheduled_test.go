package redis

import (
	"fmt"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// scheduled is a message that is to be published after a delay.
func (f topicFixture) scheduled(t testing.TB, partition int, delay time.Duration) events.Append {
	t.Helper()
	a := f.message(t, partition, `1`)
	e, _ := a.Event.(events.MessagePublished)
	a.Event, a.DelayMs, a.ReleaseID = events.MessageScheduled{MessagePublished: e}, delay.Milliseconds(), newID(t)
	return a
}

// wakes listens to what the shard's scripts say to instances.
func (f topicFixture) wakes(t testing.TB) <-chan *goredis.Message {
	t.Helper()
	sub := f.b.client.Subscribe(t.Context(), f.b.log.shards[f.shard].keys.wake())
	_, err := sub.Receive(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = sub.Close() })
	return sub.Channel()
}

func (f topicFixture) field(t testing.TB, name string) string {
	t.Helper()
	return f.b.client.HGet(t.Context(), f.b.log.shards[f.shard].keys.topic(f.id), name).Val()
}

// makeDue has everything that waits on the topic's shard be due now.
func (f topicFixture) makeDue(t testing.TB) {
	t.Helper()
	due := f.b.log.shards[f.shard].keys.due()
	for _, m := range f.b.client.ZRange(t.Context(), due, 0, -1).Val() {
		require.NoError(t, f.b.client.ZIncrBy(t.Context(), due, -1e12, m).Err())
	}
}

func (f topicFixture) moveDue(t testing.TB, work DueWork) {
	t.Helper()
	f.b.log.moveDue(t.Context(), f.shard, f.b.log.shards[f.shard], work)
}

// Whoever sleeps until something is due is woken where that is sooner than it knows.
func TestInstancesHearWhenSomethingIsDue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	wakes := topic.wakes(t)
	hears := func(want time.Duration) {
		t.Helper()
		line := (<-wakes).Payload
		var ms int64
		_, err := fmt.Sscanf(line, "d %d", &ms)
		require.NoError(t, err, "%q", line)
		require.Equal(t, want.Milliseconds(), ms)
	}
	b.append(t, topic.shard, topic.scheduled(t, 0, time.Minute))
	hears(time.Minute)
	b.append(t, topic.shard, topic.scheduled(t, 0, time.Hour)) // no news
	b.append(t, topic.shard, topic.scheduled(t, 0, time.Hour), topic.scheduled(t, 0, time.Second))
	hears(time.Second)
	// and who waits for messages hears that one is there
	topic.makeDue(t)
	topic.moveDue(t, DueWork{})
	require.Equal(t, "q "+topic.id, (<-wakes).Payload)
	// an alarm is set where it is heard
	s := &shard{}
	s.nextDue.init()
	before := time.Now()
	b.log.woken(s, "d 50")
	require.False(t, s.nextDue.next.Before(before.Add(50*time.Millisecond)) || s.nextDue.next.After(time.Now().Add(50*time.Millisecond)))
}

func TestAReleaseIsOneStep(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 2)
	req := topic.subscription(t, "g", "earliest")
	a := topic.scheduled(t, 1, time.Hour)
	out := b.append(t, topic.shard, topic.message(t, 1, `0`), a)[1]
	require.Equal(t, []any{events.StatusAppended, a.ID, 1}, []any{out.Status, out.ID, out.Partition})
	// the script's clock and the log's are read one after the other
	require.InDelta(t, out.Position.Ms()+time.Hour.Milliseconds(), -out.Offset, 10)
	require.Equal(t, []string{"1", "1", "1"}, []string{topic.field(t, "n"), topic.field(t, "sc"), topic.field(t, "o:1")})
	s := b.log.shards[topic.shard]
	more, err := b.log.moveDueOnce(t.Context(), topic.shard, s, DueWork{})
	require.NoError(t, err)
	require.False(t, more)
	require.Equal(t, "1", topic.field(t, "sc"), "its time has not come")
	topic.makeDue(t)
	topic.moveDue(t, DueWork{})
	topic.moveDue(t, DueWork{})
	require.Equal(t, []string{"2", "0", "2"}, []string{topic.field(t, "n"), topic.field(t, "sc"), topic.field(t, "o:1")})
	records := b.records(t, topic.shard, 5)
	require.Equal(t, events.MessageReleased{MessageID: a.ID, TopicID: topic.id, Partition: 1, Offset: 1}, records[4].Event)
	require.Equal(t, a.ReleaseID, records[4].ID)
	leased, err := b.log.Lease(t.Context(), req, 0)
	require.NoError(t, err)
	require.Len(t, leased, 2)
	require.Equal(t, []any{a.ID, int64(1), records[4].Position, "v"}, []any{leased[1].MessageID, leased[1].Offset, leased[1].Position, leased[1].Meta.Headers["h"]})
	require.Equal(t, "k", leased[1].Meta.Key)
	keys := b.client.Keys(t.Context(), b.prefix+"*scheduled*").Val()
	require.Empty(t, keys)
	cancelled := b.append(t, topic.shard, events.Append{ID: newID(t), TenantID: tenant, Event: events.MessageCancelled{MessageID: a.ID, TopicID: topic.id}})[0]
	require.Equal(t, events.StatusNotScheduled, cancelled.Status)
}

// While the clock is behind the log releases number entries on, and leave room.
func TestReleasesLeaveRoomInTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	b.append(t, topic.shard, topic.scheduled(t, 0, time.Hour))
	ahead := time.Now().Add(24 * time.Hour).UnixMilli()
	log := LogStream(b.prefix, topic.shard)
	require.NoError(t, b.client.Do(t.Context(), "XSETID", log, fmt.Sprintf("%d-%d", ahead, 1<<20-1<<14)).Err())
	topic.makeDue(t)
	topic.moveDue(t, DueWork{})
	require.Equal(t, fmt.Sprintf("%d-0", ahead+1), b.client.XInfoStream(t.Context(), log).Val().LastGeneratedID)
}

// What was released late was accepted before what stands before it: a purge says so as
// long as it may be there.
func TestAPurgeKnowsWhatWasScheduledBeforeIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	topic.subscription(t, "g", "earliest")
	purge := func() string {
		t.Helper()
		n := b.client.XLen(t.Context(), LogStream(b.prefix, topic.shard)).Val()
		b.append(t, topic.shard, events.Append{ID: newID(t), TenantID: tenant, Guard: events.Guard{TopicVersion: 1}, Event: events.TopicPurged{TopicID: topic.id}})
		e, _ := b.records(t, topic.shard, int(n)+1)[n].Event.(events.TopicPurged)
		return e.Discarded.From
	}
	release := func() events.Position {
		t.Helper()
		at := b.append(t, topic.shard, topic.scheduled(t, 0, time.Hour))[0].Position
		topic.makeDue(t)
		return at
	}
	first, second := release(), release()
	b.append(t, topic.shard, topic.message(t, 0, `1`))
	topic.moveDue(t, DueWork{})
	require.Less(t, first, second)
	require.Equal(t, entryID(first), purge())
	published := b.append(t, topic.shard, topic.message(t, 0, `1`))[0].Position
	require.Equal(t, entryID(published), purge(), "what was purged is not there")
	third := release()
	topic.moveDue(t, DueWork{})
	require.Equal(t, entryID(third), purge())
	require.False(t, strings.HasPrefix(entryID(third), "0-"))
}
