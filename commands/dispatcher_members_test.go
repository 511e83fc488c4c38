package commands_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
)

// requireCode is requireRefusal for goroutines of a test's own.
func requireCode(t testing.TB, err error, code commands.Code) {
	t.Helper()
	r, ok := errors.AsType[*commands.Refusal](err)
	assert.True(t, ok && r.Code == code, "%v", err)
}

func TestTheLastMembersEndIsTheGroups(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	i.queue(t, "orders", 2)
	create := func() (string, error) {
		s, _, err := i.CreateSubscription(t.Context(), under("made"), commands.CreateSubscription{ID: newID(), Queue: "orders", ConsumerGroup: "g", OffsetResetPolicy: "earliest"})
		return s.Config.SubscriptionID, err
	}
	id, err := create()
	require.NoError(t, err)
	for n := range 6 {
		i.publish(t, "orders", fmt.Sprint(n))
	}
	held := i.pull(t, id, 4)
	i.ack(t, id, held[0].AckToken)
	i.park(t, id, held[1].AckToken, time.Hour)
	i.nack(t, id, held[2].AckToken)
	waiting := other.poll(t, async, i.subscribe(t, "orders", "idle", func(c *commands.CreateSubscription) { c.OffsetResetPolicy = "latest" }))
	i.unsubscribe(t, id)
	require.Equal(t, map[string]int64{"g": 5}, i.last(t, b, 13).(events.SubscriptionDeleted).Discarded.Groups)
	for _, on := range []*instance{i, other} {
		_, err := on.Pull(t.Context(), async, commands.Pull{SubscriptionID: id})
		requireRefusal(t, err, commands.CodeSubscriptionNotFound)
		_, err = on.DeleteSubscription(t.Context(), async, id, nil)
		requireRefusal(t, err, commands.CodeSubscriptionNotFound)
	}
	_, err = create()
	require.Contains(t, refusalOf(t, err, commands.CodeConflict).Reason, "has been deleted")
	// under the same name it begins anew, and what was parked or leased before is void
	id = other.subscribe(t, "orders", "g")
	again := other.pull(t, id, 10)
	require.Len(t, again, 6)
	b.makeDueOf(t, held[1].MessageID)
	for _, m := range again {
		require.Equal(t, 1, m.Attempt)
		require.Equal(t, "acked", other.ack(t, id, m.AckToken)[0].Status)
	}
	other.requireNothing(t, id)
	require.Eventually(t, func() bool { return b.due(t) == 0 }, soon, time.Millisecond)
	other.requireNothing(t, id)
	// another group's poll went on all the time
	i.publish(t, "orders", "77")
	require.Equal(t, "77", string(await(t, waiting).messages[0].Payload))
}

// makeDueOf has a message's retry be due now.
func (b *testBundle) makeDueOf(t testing.TB, messageID string) {
	t.Helper()
	for shard := range shards {
		key := fmt.Sprintf("%s{%d}:due", b.prefix, shard)
		members, err := b.client.ZRange(t.Context(), key, 0, -1).Result()
		require.NoError(t, err)
		for _, m := range members {
			if strings.Contains(m, "|"+messageID+"/") {
				require.NoError(t, b.client.ZIncrBy(t.Context(), key, -1e12, m).Err())
			}
		}
	}
}

func TestOtherMembersGetWhatADeletedOneHeld(t *testing.T) {
	t.Parallel()
	b := setup(t)
	i, other := b.instance(t).run(t), b.instance(t).run(t)
	i.queue(t, "orders", 2)
	member := func(name string) func(*commands.CreateSubscription) {
		return func(c *commands.CreateSubscription) {
			c.ConsumerName, c.SessionTimeoutMs, c.MaxRetryAttempts = name, new(commands.SessionTimeoutMsMax), new(0)
		}
	}
	first, second := i.subscribe(t, "orders", "g", member("first")), i.subscribe(t, "orders", "g", member("second"))
	for n := range 5 {
		i.publish(t, "orders", fmt.Sprint(n))
	}
	held := i.pull(t, first, 4)
	require.Len(t, held, 4)
	i.ack(t, first, held[0].AckToken)
	mine := other.pull(t, second, 1)[0]
	waiting := other.poll(t, async, second)
	i.unsubscribe(t, first)
	require.Equal(t, events.Discarded{}, i.last(t, b, 10).(events.SubscriptionDeleted).Discarded)
	// then they come at once, not when a lease of hours runs out, and it was nobody's last attempt
	p := await(t, waiting)
	require.NoError(t, p.err)
	got := p.messages
	for len(got) < 3 {
		got = append(got, other.pull(t, second, 3)...)
	}
	for _, m := range got {
		require.Equal(t, 2, m.Attempt)
		require.Equal(t, "acked", other.ack(t, second, m.AckToken)[0].Status)
	}
	require.Equal(t, "acked", other.ack(t, second, mine.AckToken)[0].Status, "the other member's own is untouched")
	require.Equal(t, events.ReasonReleased, i.history(t, b, "orders", 13)[10].Event.(events.MessageFailed).Reason)
	// the name may be taken again, and shares the group's place
	first = i.subscribe(t, "orders", "g", member("first"))
	i.requireNothing(t, first)
	i.publish(t, "orders", "77")
	require.Equal(t, "77", string(i.pull(t, first, 5)[0].Payload))
	require.Equal(t, int64(1), b.due(t), "nothing is left of leases but this one")
}
