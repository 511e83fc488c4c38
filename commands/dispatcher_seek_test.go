package commands_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// seek moves a subscription and returns what the log says of it.
func (i *instance) seek(t testing.TB, b *testBundle, id, to string) events.Moved {
	t.Helper()
	out, err := i.Seek(t.Context(), async, commands.Seek{SubscriptionID: id, To: to})
	require.NoError(t, err)
	records := i.all(t, b, "orders")
	e := records[len(records)-1].Event.(events.SubscriptionSought)
	require.Equal(t, []any{id, to, "g", out.Older}, []any{e.SubscriptionID, e.To, e.Moved.Group, e.Moved.Older})
	require.Equal(t, e.Moved.After, i.state(t, "orders").Unsettled["g"])
	// Where it goes on adds up to what it is to get.
	after := int64(0)
	for p, place := range i.state(t, "orders").Partitions {
		after += place.NextOffset - e.Moved.Offsets[p]
	}
	require.Equal(t, e.Moved.After, after)
	e.Moved.Offsets, e.Moved.AttemptsBefore = nil, 0
	return e.Moved
}

// drain pulls all there is and acks it, in no order among partitions.
func (i *instance) drain(t testing.TB, id string) (pulled []commands.Pulled) {
	t.Helper()
	for {
		some, err := i.Pull(t.Context(), async, commands.Pull{SubscriptionID: id, MessagesMax: new(50)})
		require.NoError(t, err)
		if len(some) == 0 {
			return pulled
		}
		for _, s := range i.ack(t, id, tokens(some)...) {
			require.NoError(t, s.Err)
		}
		pulled = append(pulled, some...)
	}
}

func TestASeekMovesAGroup(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.instance(t).run(t)
	i.queue(t, "orders", 3)
	id, other := i.subscribe(t, "orders", "g"), i.subscribe(t, "orders", "other")
	var published []commands.Published
	for n := range 12 { // four to each partition
		published = append(published, i.publish(t, "orders", fmt.Sprint(n)))
	}
	middle := published[6].Position.Time()
	for published[len(published)-1].Position.Time().Equal(middle) {
		published = append(published, i.publish(t, "orders", "more"))
	}
	total := int64(len(published))
	since := func(at time.Time) (n int64) {
		for _, p := range published {
			if !p.Position.Time().Before(at) {
				n++
			}
		}
		return n
	}
	behind := func(offset int64) (n int64) {
		for _, p := range published {
			if p.Offset >= offset {
				n++
			}
		}
		return n
	}
	require.Len(t, i.drain(t, id), int(total))
	attempts := map[string]bool{}
	unsettled := int64(0)
	for _, place := range []struct {
		to   string
		want int64
	}{
		{"earliest", total},
		{"latest", 0},
		{middle.Format(time.RFC3339Nano), since(middle)},
		{"2", behind(2)},
		{"1000", 0},
		{"0", total},
		{time.Now().Add(time.Hour).Format(time.RFC3339), 0},
		{time.Now().Add(-time.Hour).Format(time.RFC3339), total},
	} {
		moved := i.seek(t, b, id, place.to)
		require.Equal(t, events.Moved{Group: "g", Before: unsettled, After: place.want}, moved, place.to)
		got := i.drain(t, id)
		require.Len(t, got, int(place.want), place.to)
		for _, m := range got {
			name := fmt.Sprint(m.MessageID, m.Attempt)
			require.False(t, attempts[name], "attempt %d again", m.Attempt)
			require.Equal(t, m.Attempt-1, m.AttemptsBefore)
			attempts[name] = true
		}
		unsettled = 0
	}
	require.Equal(t, total, i.state(t, "orders").Unsettled["other"], "another group stays where it is")
	i.seek(t, b, id, "latest")
	i.publish(t, "orders", "99")
	require.Equal(t, []string{"99"}, payloads(i.drain(t, id)))
	require.Len(t, i.drain(t, other), int(total)+1)
	for _, to := range []string{"", "yesterday", "-1", "1.5", strings.Repeat("9", 30), "2026-01-01"} {
		_, err := i.Seek(t.Context(), async, commands.Seek{SubscriptionID: id, To: to})
		require.Equal(t, "to", refusalOf(t, err, commands.CodeValidationFailed).Problems[0].Field, to)
	}
	_, err := i.Seek(t.Context(), commands.Caller{TenantID: otherTenant}, commands.Seek{SubscriptionID: id, To: "latest"})
	requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	_, err = i.Seek(t.Context(), async, commands.Seek{SubscriptionID: id, To: "latest", IfVersion: new(int64(7))})
	requireRefusal(t, err, commands.CodeVersionMismatch)
}

// Whoever holds a message when its group is moved has lost it for good, though the same
// message may come again.
func TestASeekVoidsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t)
	i.queue(t, "orders", 1)
	id := i.subscribe(t, "orders", "g")
	for n := range 6 {
		i.publish(t, "orders", fmt.Sprint(n))
	}
	// given one acked, one ready to be tried again, one parked, one of a second attempt, one leased, one new
	held := i.pull(t, id, 5)
	i.ack(t, id, held[0].AckToken)
	i.nack(t, id, held[1].AckToken)
	again := i.pull(t, id, 1)[0]
	i.nack(t, id, held[2].AckToken)
	i.park(t, id, held[3].AckToken, time.Hour)
	old := []string{held[0].AckToken, again.AckToken, held[4].AckToken}
	require.Equal(t, events.Moved{Group: "g", Before: 5, After: 6}, i.seek(t, b, id, "earliest"))
	requireLost := func() {
		for _, token := range old {
			requireRefusal(t, other.ack(t, id, token)[0].Err, commands.CodeLeaseLost)
			requireRefusal(t, other.nack(t, id, token)[0].Err, commands.CodeLeaseLost)
			out, err := other.DeadLetter(t.Context(), async, id, []string{token}, "no")
			require.NoError(t, err)
			requireRefusal(t, out[0].Err, commands.CodeLeaseLost)
		}
	}
	requireLost()
	b.makeDue(t)
	require.Eventually(t, func() bool { return b.due(t) == 0 }, soon, time.Millisecond)
	// when all of them come again, under the same entries, the old tokens are still no good
	now := i.pull(t, id, 10)
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5"}, payloads(now))
	require.Equal(t, []int{3, 2}, []int{now[0].Attempt, now[0].AttemptsBefore})
	requireLost()
	i.requireNothing(t, id)
	for _, s := range i.ack(t, id, tokens(now)...) {
		require.NoError(t, s.Err)
	}
	require.Zero(t, i.state(t, "orders").Unsettled["g"])
	// nor does a decision on a lease that ran out before count after
	i.seek(t, b, id, "5")
	require.Len(t, i.pull(t, id, 1), 1)
	i.seek(t, b, id, "5")
	last := i.pull(t, id, 1)[0]
	require.NoError(t, i.ExpireLeases(t.Context(), events.ShardOf(tenant, "orders", shards), []events.ExpiredLease{{
		SubscriptionID: id, TopicID: i.topicID(t), Group: "g", Consumer: "g", Leased: events.Leased{Lease: last.Lease, MessageID: last.MessageID, Attempt: 1},
	}}))
	require.Equal(t, "acked", i.ack(t, id, last.AckToken)[0].Status)
}

func (i *instance) topicID(t testing.TB) string {
	t.Helper()
	a, err := i.log.Topic(t.Context(), tenant, "orders")
	require.NoError(t, err)
	return a.ID
}

func TestASeekCountsForAFullQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i := b.bounded(t, 5).run(t)
	i.queue(t, "orders", 2)
	id := i.subscribe(t, "orders", "g")
	i.requireRoom(t, 5)
	i.seek(t, b, id, "latest")
	i.requireRoom(t, 5)
	i.drain(t, id)
	i.seek(t, b, id, "1") // of each five, four
	require.Equal(t, int64(8), i.state(t, "orders").Unsettled["g"])
	i.requireRoom(t, 0)
	i.drain(t, id)
	i.requireRoom(t, 5)
	i.purge(t)
	// what was purged cannot be sought but in history
	require.Equal(t, events.Moved{Group: "g", Older: true}, i.seek(t, b, id, "earliest"))
	require.Equal(t, events.Moved{Group: "g", Older: true}, i.seek(t, b, id, "0"))
	require.Equal(t, events.Moved{Group: "g"}, i.seek(t, b, id, "latest"))
	require.Equal(t, events.Moved{Group: "g"}, i.seek(t, b, id, time.Now().Add(time.Hour).Format(time.RFC3339)))
	require.Equal(t, events.Moved{Group: "g", Older: true}, i.seek(t, b, id, time.Now().Add(-time.Hour).Format(time.RFC3339)))
}
