package redis

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/events"
)

// seek moves a group, and returns what the log says and whether more was asked for.
func (f topicFixture) seek(t testing.TB, req events.LeaseRequest, to string) (events.Moved, bool) {
	t.Helper()
	out := f.b.append(t, f.shard, events.Append{
		ID: newID(t), TenantID: tenant, Version: 1, Group: req.Group, Guard: events.Guard{SubscriptionVersion: 1},
		Event: events.SubscriptionSought{SubscriptionID: req.SubscriptionID, TopicID: f.id, To: to},
	})[0]
	require.Equal(t, events.StatusAppended, out.Status)
	last, err := f.b.client.XRevRangeN(t.Context(), LogStream(f.b.prefix, f.shard), "+", "-", 1).Result()
	require.NoError(t, err)
	e, err := events.Decode(events.KindSubscriptionSought, []byte(last[0].Values["payload"].(string)))
	require.NoError(t, err)
	return e.(events.SubscriptionSought).Moved, out.Offset == 1
}

// Of what was trimmed there is nothing to go to: a seek says whether it was asked for.
func TestASeekKnowsWhatWasTrimmed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	moved, older := topic.seek(t, req, "earliest")
	require.Equal(t, events.Moved{Group: "g", Offsets: []int64{0}, AttemptsBefore: 1}, moved)
	require.False(t, older)
	topic.publish(t, "", keptPerPartition+2000)
	// given that the first ones are settled and trimmed, and others are not
	req.MessagesMax = 500
	for n := 0; n < keptPerPartition+2000; {
		leased, err := b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		topic.consume(t, req, leased...)
		n += len(leased)
	}
	stream := QueueStream(b.prefix, topic.shard, topic.id, 0)
	kept := b.client.XLen(t.Context(), stream).Val()
	first := keptPerPartition + 2000 - kept
	require.Positive(t, first)
	head, err := b.client.XRangeN(t.Context(), stream, "-", "+", 1).Result()
	require.NoError(t, err)
	at, err := parsePosition(head[0].Values["pos"].(string))
	require.NoError(t, err)
	trimmedMs, err := strconv.ParseInt(topic.field(t, "ts:0"), 10, 64)
	require.NoError(t, err)
	require.LessOrEqual(t, trimmedMs, at.Ms())
	at1 := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano) }
	for _, place := range []struct {
		to    string
		after int64
		older bool
	}{
		{"earliest", kept, true},
		{"latest", 0, false},
		{strconv.FormatInt(first, 10), kept, false},
		{strconv.FormatInt(first-1, 10), kept, true},
		{strconv.FormatInt(first+1, 10), kept - 1, false},
		{at1(trimmedMs), kept, true},
		{at1(trimmedMs + 1_000_000), 0, false},
		{at1(0), kept, true},
	} {
		moved, older := topic.seek(t, req, place.to)
		require.Equal(t, []any{place.after, place.older, place.older}, []any{moved.After, moved.Older, older}, place.to)
	}
	// between the last one that was trimmed and the first that is there nothing was asked for
	require.NoError(t, b.client.HSet(t.Context(), b.log.shards[topic.shard].keys.topic(topic.id), "ts:0", at.Ms()-10).Err())
	_, older = topic.seek(t, req, at1(at.Ms()-9))
	require.False(t, older)
	_, older = topic.seek(t, req, at1(at.Ms()-10))
	require.True(t, older)
}

// Attempts of a group are of one count, whatever begins anew.
func TestAttemptsNeverRepeat(t *testing.T) {
	t.Parallel()
	b := setup(t)
	topic := b.topic(t, "orders", 1)
	req := topic.subscription(t, "g", "earliest")
	topic.publish(t, "", 1)
	next := func() events.Leased {
		t.Helper()
		leased, err := b.log.Lease(t.Context(), req, 0)
		require.NoError(t, err)
		require.Len(t, leased, 1)
		return leased[0]
	}
	fail := func(m events.Leased) events.Status {
		d := topic.delivery(req, m)
		d.AttemptsBefore = m.AttemptsBefore
		return topic.settle(t, events.MessageFailed{Delivery: d}, m).Status
	}
	m := next()
	require.Equal(t, events.StatusAppended, fail(m))
	old := next()
	require.Equal(t, []int{2, 0}, []int{old.Attempt, old.AttemptsBefore})
	topic.seek(t, req, "earliest")
	require.Equal(t, events.StatusLeaseLost, fail(old))
	again := next()
	require.Equal(t, m.Lease, again.Lease, "the same entry")
	require.Equal(t, []int{3, 2}, []int{again.Attempt, again.AttemptsBefore})
	require.Equal(t, events.StatusLeaseLost, fail(m), "an old attempt under the same name")
	reserved, err := b.log.ReserveAttempt(t.Context(), topic.shard, topic.id, "g")
	require.NoError(t, err)
	require.Equal(t, int64(4), reserved)
	topic.seek(t, req, "earliest")
	require.Equal(t, []int{5, 4}, []int{next().Attempt, 4})
	_, err = b.log.ReserveAttempt(t.Context(), topic.shard, topic.id, "none")
	require.ErrorIs(t, err, events.ErrNoAggregate)
}
